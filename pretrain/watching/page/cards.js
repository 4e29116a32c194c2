// The diagrams: one card per metric, drawn when it comes into view; cursor and zoom go through all.

const MARGIN = { l: 50, r: 12, t: 8, b: 24 };
const NOISY = 60; // points from which on a curve is worth smoothing
const FEW = 40; // points up to which each gets a dot
const MOST_MARKED = 3; // runs whose attempts and bands are drawn; more would hide the curves
const cards = new Map();
const inView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const card = cards.get(target.dataset.metric);
    if (card) { card.seen = isIntersecting; if (isIntersecting && card.stale) draw(card); }
  }
}, { rootMargin: "250px" });

function style(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function makeCard({ metric, title, unit, help }) {
  const values = element("div", { class: "values" }), plot = element("div", { class: "plot" });
  const cursor = element("div", { class: "cursor", hidden: "" });
  const top = element("div", { class: "top" }, element("span", { class: "name", text: title }));
  if (unit) top.append(element("span", { class: "unit", text: unit }));
  if (help) top.append(element("span", { class: "help", text: "?", title: `${metric}\n${help}` }));
  const note = element("span", { class: "note" });
  top.append(note, values);
  const root = element("article", { class: "card panel", "data-metric": metric }, top, plot);
  const card = { metric, unit, root, plot, values, note, cursor, stale: true, seen: false, curves: [] };
  plot.addEventListener("mousemove", (event) => pointAt(card, event));
  plot.addEventListener("mouseleave", () => showCursor(null));
  cards.set(metric, card);
  inView.observe(root);
  return card;
}

function traces(curve, run, card) {
  const color = colorOf(run), line = { type: "scatter", x: curve.x, mode: "lines", hoverinfo: "skip" }, found = [];
  const noisy = curve.x.length >= NOISY && state.smoothing > 0;
  const y = noisy ? smoothed(curve.y, state.smoothing) : curve.y;
  if (curve.low) {
    found.push({ ...line, y: curve.low, line: { width: 0 } });
    found.push({ ...line, y: curve.high, line: { width: 0 }, fill: "tonexty", fillcolor: color + "30" });
  } else if (noisy && card.curves.length <= MOST_MARKED) found.push({ ...line, y: curve.y, line: { color: color + "45", width: 1 } });
  const mode = curve.x.length <= FEW ? "lines+markers" : "lines";
  found.push({ ...line, y, mode, line: { color, width: 1.8 }, marker: { color, size: curve.x.length > 1 ? 4.5 : 7 } });
  return found;
}

// Thin lines where attempts begin, ticks at the foot for checkpoints.
function marks(runs) {
  if (runs.length > MOST_MARKED) return [];
  const found = [];
  for (const run of runs) {
    const color = runs.length === 1 ? style("--faint") : colorOf(run) + "90";
    for (const attempt of run.attempts.slice(1))
      found.push({ type: "line", yref: "paper", x0: attempt[state.axis], x1: attempt[state.axis], y0: 0, y1: 1, line: { color, width: 1, dash: "dot" } });
    if (runs.length > 1) continue;
    for (const { step } of run.events.filter((event) => event.event === "checkpoint").slice(-200)) {
      const x = placeOfStep(run, step, state.axis);
      found.push({ type: "line", yref: "paper", x0: x, x1: x, y0: 0, y1: 0.045, line: { color: style("--checkpoint"), width: 1.5 } });
    }
  }
  return found.filter((mark) => mark.x0 !== null && mark.x0 !== undefined);
}

function attemptNames(runs, [from, to]) {
  if (runs.length !== 1) return [];
  let free = -Infinity;
  return runs[0].attempts.slice(1).flatMap((attempt) => {
    const x = attempt[state.axis];
    if (x < from || x > to || x < free) return [];
    free = x + (to - from) * 0.14;
    return [{ x, yref: "paper", y: 1, yanchor: "top", xanchor: x > from + (to - from) * 0.8 ? "right" : "left", text: `attempt ${attempt.number + 1}`, showarrow: false, font: { size: 10, color: style("--faint") } }];
  });
}

function layout(card, range, values) {
  const log = card.log && values[0] > 0, at = log ? logTicks(...values) : ticks(...values, 5);
  const axis = { gridcolor: style("--grid"), zeroline: false, tickfont: { size: 11, color: style("--dim") }, fixedrange: false };
  const runs = shownRuns(), across = ticks(...range, 5);
  return {
    margin: MARGIN, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: false, dragmode: "zoom",
    font: { family: getComputedStyle(document.body).fontFamily },
    xaxis: { ...axis, range, showgrid: false, showline: true, linecolor: style("--line"), tickvals: across, ticktext: across.map((x) => number(x, 4)) },
    yaxis: { ...axis, fixedrange: true, type: log ? "log" : "linear", range: log ? values.map(Math.log10) : values, tickvals: at, ticktext: at.map((y) => (card.unit === "%" ? inUnit(y, "%").replace(" ", "") : number(y, 4))) },
    shapes: marks(runs), annotations: card.root === document.querySelector(".panel") ? attemptNames(runs, range) : [],
  };
}

// Published curves, dashed, once for each way in which a shown run lays its tokens along the axis.
function referenceCurves(card, runs) {
  if (card.metric !== "val/loss") return [];
  const found = new Map();
  for (const run of runs) {
    const published = data.references[run.reference], { x, y } = published ? referencePoints(run, published, state.axis) : { x: [] };
    if (x.length) found.set(`${run.reference} ${x[0]} ${x.at(-1)}`, { title: published.title, x, y });
  }
  return [...found.values()];
}

function draw(card) {
  const runs = shownRuns().filter((run) => run.curves[card.metric]), range = state.range ?? wholeRange(shownRuns(), state.axis);
  const bare = runs.length > MOST_MARKED ? { low: null, high: null } : {};
  card.curves = runs.map((run) => ({ run, ...points(run, card.metric, state.axis), ...bare }));
  const published = referenceCurves(card, runs);
  card.note.textContent = [...new Set(published.map(({ title }) => title))].join("; ");
  card.log = state.log && !card.curves.some(({ y, low }) => (low ?? y).some((value) => value < 0));
  const inSight = [...card.curves, ...published], values = valueRange(inSight, range, card.log, !state.range) ?? valueRange(inSight, range, false, !state.range) ?? [0, 1];
  const first = !card.plot.classList.contains("js-plotly-plot");
  const dashed = published.map(({ x, y }) => ({ type: "scatter", mode: "lines", hoverinfo: "skip", x, y, line: { color: style("--dim"), width: 1.5, dash: "5px,4px" } }));
  Plotly.react(card.plot, [...dashed, ...card.curves.flatMap((curve) => traces(curve, curve.run, card))], layout(card, range, values), { displayModeBar: false, doubleClick: false, showTips: false });
  if (first) {
    card.plot.append(card.cursor);
    card.plot.on("plotly_relayout", (change) => {
      if ("xaxis.range[0]" in change) zoom([change["xaxis.range[0]"], change["xaxis.range[1]"]]);
    });
    card.plot.on("plotly_doubleclick", () => zoom(null));
  }
  card.stale = false;
  showValues(card, null);
}

function showValues(card, x) {
  const many = card.curves.length > MOST_MARKED;
  card.values.replaceChildren(...(many ? [] : card.curves).filter((curve) => curve.x.length).map((curve) => {
    const value = x === null ? curve.y.at(-1) : valueAt(curve, x), one = card.curves.length === 1;
    return element("span", { text: inUnit(value, card.unit), style: one ? {} : { color: colorOf(curve.run) } });
  }));
}

function pointAt(card, event) {
  const box = card.plot.getBoundingClientRect(), width = box.width - MARGIN.l - MARGIN.r;
  const share = (event.clientX - box.left - MARGIN.l) / width;
  if (share < 0 || share > 1 || card.stale) return showCursor(null);
  const [from, to] = state.range ?? wholeRange(shownRuns(), state.axis), x = from + share * (to - from);
  showCursor(x, share);
  const rows = card.curves.filter((curve) => curve.x.length).map((curve) => element("div", {},
    element("span", { class: "dot", style: { "--run": colorOf(curve.run) } }), element("span", { class: "who", text: curve.run.name }),
    element("b", { text: inUnit(valueAt(curve, x), card.unit) })));
  const at = { step: `step ${whole(x)}`, tokens: `${number(x)} tokens`, hours: duration(x * 3600) }[state.axis];
  byId("tip").replaceChildren(element("div", { class: "at", text: at }), ...rows);
  byId("tip").hidden = rows.length === 0;
  const left = event.clientX + 16 + byId("tip").offsetWidth > innerWidth ? event.clientX - 16 - byId("tip").offsetWidth : event.clientX + 16;
  byId("tip").style.left = `${left}px`;
  byId("tip").style.top = `${event.clientY + 14}px`;
}

function showCursor(x, share) {
  for (const card of cards.values()) {
    if (!card.seen || card.stale) continue;
    card.cursor.hidden = x === null;
    if (x !== null) card.cursor.style.left = `calc(${MARGIN.l}px + (100% - ${MARGIN.l + MARGIN.r}px) * ${share})`;
    showValues(card, x);
  }
  if (x === null) byId("tip").hidden = true;
}
