// Below the diagrams: what happened, what the model writes, how it was set up.

const DESCRIBED = {
  checkpoint: (event) => `checkpoint at step ${whole(event.step)}${event.seconds ? ` (${duration(event.seconds)})` : ""}`,
  resumed: (event) => `resumed at step ${whole(event.step)}`,
  finished: () => "finished",
  begun: () => "began",
  stopped: (event) => (event.reason ? `stopped at step ${whole(event.step)} by ${event.reason}` : `ended with exit code ${event.exit_code}`),
};
const NOT_SAID = new Set(["event", "time", "attempt"]);

function described(event) {
  if (DESCRIBED[event.event]) return DESCRIBED[event.event](event);
  const rest = Object.entries(event).filter(([name]) => !NOT_SAID.has(name)).map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`);
  return [event.event, ...rest].join(" ");
}

function eventList(runs) {
  const lines = runs.flatMap((run) => [
    ...run.events.filter((event) => event.event !== "sample").map((event) => ({ run, time: event.time, text: described(event), tone: "" })),
    ...run.alerts.map((alert) => ({ run, time: alert.time, text: `${alert.alert}: ${alert.text ?? ""}`, tone: alert.level })),
  ]).sort((one, other) => other.time - one.time).slice(0, 400);
  if (!lines.length) return [];
  const rows = lines.map(({ run, time, text, tone }) => element("tr", {}, element("td", { class: "when", text: clock(time) }),
    ...(runs.length > 1 ? [element("td", {}, element("span", { class: "dot", style: { "--run": colorOf(run), display: "inline-block" }, title: run.name }))] : []),
    element("td", { class: `what ${["WARN", "ERROR"].includes(tone) ? tone : ""}`, text })));
  return [element("div", {}, element("h2", { text: "Events and alerts" }), element("div", { class: "card list" }, element("table", {}, element("tbody", {}, ...rows))))];
}

function sampleList(runs) {
  const samples = runs.flatMap((run) => run.events.filter((event) => event.event === "sample").slice(-20).map((event) => ({ run, ...event })));
  if (!samples.length) return [];
  const shown = samples.sort((one, other) => other.time - one.time).map(({ run, step, prompt, text }) => element("div", { class: "sample" },
    element("i", { text: `${runs.length > 1 ? `${run.name}, ` : ""}step ${whole(step)}` }), element("b", { text: prompt ?? "" }), String(text ?? "")));
  return [element("div", {}, element("h2", { text: "Samples" }), element("div", { class: "card list" }, ...shown))];
}

function settingsTable(runs) {
  const known = runs.filter((run) => Object.keys(run.settings).length);
  if (!known.length) return [];
  const shown = (value) => (value === undefined ? "" : value === null ? "null" : typeof value === "object" ? JSON.stringify(value) : String(value));
  const names = [...new Set(known.flatMap((run) => Object.keys(run.settings)))];
  const differs = (name) => new Set(known.map((run) => shown(run.settings[name]))).size > 1;
  const rows = names.map((name) => element("tr", { class: differs(name) ? "differs" : "" }, element("td", { text: name }), ...known.map((run) => element("td", { text: shown(run.settings[name]) }))));
  const head = known.length > 1 ? [element("thead", {}, element("tr", {}, element("th"), ...known.map((run) => element("th", { text: run.name, style: { "text-align": "left" } }))))] : [];
  const note = known.length > 1 ? `${names.filter(differs).length} of ${names.length} differ` : `${names.length}`;
  return [element("details", { class: "card" }, element("summary", { text: "Settings" }, element("small", { text: note })),
    element("div", { class: "scroll settings" }, element("table", {}, ...head, element("tbody", {}, ...rows))))];
}

function details(runs) {
  const columns = [...eventList(runs), ...sampleList(runs)];
  return [...(columns.length ? [element("div", { class: "columns" }, ...columns)] : []), ...settingsTable(runs)];
}
