// From a run's data to the points of a curve on the chosen axis.

const COLORS = 8;

function colorOf(run) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--run-${run.index % COLORS}`).trim();
}

// {x, y, low, high} without gaps; low and high only where the page got means of several rows.
function points(run, metric, axis) {
  const curve = run.curves[metric], xs = run.axes[axis], found = { x: [], y: [], low: null, high: null };
  if (!curve) return found;
  const banded = curve.low !== undefined;
  if (banded) [found.low, found.high] = [[], []];
  curve.y.forEach((value, i) => {
    const x = xs[curve.at ? curve.at[i] : i];
    if (value === null || x === null) return;
    found.x.push(x);
    found.y.push(value);
    if (banded) { found.low.push(curve.low[i]); found.high.push(curve.high[i]); }
  });
  return found;
}

// Exponential moving average, corrected for its start (Kingma & Ba, 2014, section 3).
function smoothed(values, weight) {
  let sum = 0, mass = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

// Index of the x nearest to `at` in ascending `xs`.
function nearest(xs, at) {
  let low = 0, high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < at) low = middle + 1; else high = middle;
  }
  return low > 0 && at - xs[low - 1] < xs[low] - at ? low - 1 : low;
}

// The value nearest to `at`; null well beyond the curve's end.
function valueAt({ x, y }, at) {
  const last = x.at(-1);
  return at > last * 1.02 ? null : y[nearest(x, at)];
}

// Where a step lies on the chosen axis.
function placeOfStep(run, step, axis) {
  if (axis === "step") return step;
  const steps = run.axes.step;
  return steps.length ? run.axes[axis][nearest(steps, step)] : null;
}

// A published curve on the chosen axis of a run: its tokens, the run's steps for them, or when the run saw them.
function referencePoints(run, { tokens, loss }, axis) {
  const perStep = Number(run.settings["batch.tokens"]), seen = run.axes.tokens, found = { x: [], y: [] };
  tokens.forEach((count, i) => {
    const place = nearest(seen, count), hour = seen.length && count >= seen[0] && count <= seen.at(-1) ? run.axes.hours[place] : null;
    const x = { tokens: count, step: perStep > 0 ? count / perStep : null, hours: hour }[axis];
    if (x !== null) { found.x.push(x); found.y.push(loss[i]); }
  });
  return found;
}

// [lowest, highest] x over the runs; one that holds a single point is widened.
function wholeRange(runs, axis) {
  let from = Infinity, to = -Infinity;
  for (const run of runs)
    for (const x of [run.axes[axis][0], run.axes[axis].at(-1)])
      if (x !== null && x !== undefined) { from = Math.min(from, x); to = Math.max(to, x); }
  if (from > to) return [0, 1];
  const near = from < 0.1 * to ? 0 : from;
  return to > near ? [near, to + (to - near) * 0.012] : [near - 0.5, near + 0.5];
}

// [lowest, highest] y of the curves inside an x range, with some air; null if nothing is there. Unless
// one has zoomed in, at least a few per cent of the value are spanned: noise is not to look like news.
function valueRange(curves, [from, to], log, calm) {
  let low = Infinity, high = -Infinity;
  for (const { x, y, low: lows, high: highs } of curves)
    x.forEach((at, i) => {
      if (at < from || at > to) return;
      const floor = lows && (!log || lows[i] > 0) ? lows[i] : y[i];
      if (log && floor <= 0) return;
      low = Math.min(low, floor);
      high = Math.max(high, highs ? highs[i] : y[i]);
    });
  if (low > high) return null;
  if (log) { const air = (high / low) ** 0.06 * 1.02; return [low / air, high * air]; }
  const span = Math.max(high - low, calm ? Math.abs(high) * 0.05 : 0) || Math.abs(high) * 0.1 || 1;
  const air = (span - (high - low)) / 2 + span * 0.07;
  return [low >= 0 && low - air < 0 ? -air / 4 : low - air, high + air];
}
