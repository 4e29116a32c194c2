// The key figures on top: tiles for one run, a table for several; and where the time went.

const PARTS = { productive: "productive", startup: "start-up", checkpoint: "checkpoints", evaluation: "evaluation", lost: "lost" };

function tile(title, value, note, extra = "", inside = null) {
  const figure = element("b", { text: value });
  if (extra) figure.append(" ", element("small", { text: extra }));
  return element("div", { class: "card tile" }, element("i", { text: title }), figure, inside ?? element("em", { text: note }));
}

function tiles(run) {
  const { summary } = run, figure = (name) => summary.figures[name] ?? null;
  const share = summary.total_steps ? (summary.step ?? 0) / summary.total_steps : 0;
  const note = (value, text) => (value === null ? "" : text);
  const bar = element("div", { class: "bar" }, element("div", { style: { width: `${Math.min(100, share * 100)}%` } }));
  const waiting = figure("perf/data_wait_frac"), one = figure("perf/tokens_per_s_per_gpu"), epoch = figure("data/epoch");
  const loss = figure("train/loss"), check = figure("val/loss"), ended = summary.state === "finished";
  const eta = ended ? null : figure("time/eta_h");
  return element("div", { class: "tiles" },
    tile("Step", whole(summary.step), "", summary.total_steps ? `of ${whole(summary.total_steps)}` : "", bar),
    tile("Tokens", number(figure("tokens")), note(epoch, `epoch ${number(epoch, 3)}`)),
    tile("Training loss", note(loss, loss?.toFixed(3)) || MISSING, note(loss, `perplexity ${number(Math.exp(loss), 3)}`)),
    tile("Validation loss", note(check, check?.toFixed(3)) || MISSING, note(check, distance(figure("val/loss_behind")) || `perplexity ${number(Math.exp(check), 3)}`)),
    tile("Tokens per second", number(figure("perf/tokens_per_s")), note(one, `${number(one)} per GPU`)),
    tile("MFU", percent(figure("perf/mfu")), note(waiting, `data wait ${percent(waiting)}`)),
    tile("Goodput", percent(figure("time/goodput")), summary.wall_seconds > 0 ? `of ${duration(summary.wall_seconds)}` : ""),
    tile(ended ? "Took" : "Time to go", ended ? duration(summary.wall_seconds) : eta === null ? MISSING : duration(eta * 3600),
      note(summary.attempts || null, summary.attempts > 1 ? `${summary.attempts} attempts` : "1 attempt")));
}

// How far a validation loss is from the published one at the same number of tokens; "" if there is none.
function distance(behind) {
  if (behind === null) return "";
  return Math.abs(behind) < 5e-4 ? "as the reference" : `${Math.abs(behind).toFixed(3)} ${behind > 0 ? "behind" : "ahead of"} the reference`;
}

function pill({ state: word, detail }, short = false) {
  const text = detail ? `${word}, ${detail}` : word;
  return element("span", { class: `pill ${word}`, text: short ? word : text, title: text });
}

function comparison(runs) {
  const titles = ["Run", "State", "Step", "Tokens", "Training loss", "Validation loss", "Tokens/s", "MFU", "Goodput", "Time to go", "Attempts", "Where the time went"];
  const rows = runs.map((run) => {
    const { summary } = run, figure = (name) => summary.figures[name] ?? null, eta = summary.state === "finished" ? null : figure("time/eta_h");
    const name = element("td", { class: "name", title: run.name }, element("span", { class: "dot", style: { "--run": colorOf(run) } }), run.name);
    const cells = [`${whole(summary.step)}${summary.total_steps ? ` / ${whole(summary.total_steps)}` : ""}`, number(figure("tokens")),
      figure("train/loss")?.toFixed(3) ?? MISSING, figure("val/loss")?.toFixed(3) ?? MISSING, number(figure("perf/tokens_per_s")),
      percent(figure("perf/mfu")), percent(figure("time/goodput")), eta === null ? MISSING : duration(eta * 3600), whole(summary.attempts || null)];
    return element("tr", {}, name, element("td", {}, pill(summary, true)), ...cells.map((text) => element("td", { text })), element("td", { class: "time" }, stack(run)));
  });
  const head = element("tr", {}, ...titles.map((text) => element("th", { text })));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  return element("div", { class: "card scroll" }, table, element("div", { class: "legend foot" }, ...legend(Object.keys(PARTS), (part) => PARTS[part])));
}

const spent = (run) => Object.values(run.summary.seconds).reduce((sum, part) => sum + part, 0);

function stack(run) {
  const { seconds } = run.summary, parts = Object.keys(PARTS).filter((part) => seconds[part] > 0);
  return element("div", { class: "stack" }, ...parts.map((part) => element("div", {
    title: `${PARTS[part]}: ${duration(seconds[part])} (${percent(seconds[part] / spent(run))})`,
    style: { background: `var(--${part})`, flex: `${seconds[part] / spent(run)} 0 0` } })));
}

function legend(parts, text) {
  return parts.map((part) => element("span", { text: text(part), style: { "--part": `var(--${part})` } }));
}

function timeSplit(run) {
  const { seconds } = run.summary, parts = Object.keys(PARTS).filter((part) => seconds[part] > 0);
  if (!parts.length) return [];
  const text = (part) => `${PARTS[part]} ${duration(seconds[part])} (${percent(seconds[part] / spent(run))})`;
  const head = element("div", { class: "legend" }, element("b", { text: "Where the time went" }), ...legend(parts, text));
  return [element("div", { class: "card split" }, head, stack(run))];
}
