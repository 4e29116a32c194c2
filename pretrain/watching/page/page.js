// What the page shows now: its state, its controls, and fresh data while the run is live.

const REFRESH_SECONDS = 5, READING_SECONDS = 1;
const byId = (id) => document.getElementById(id);
const state = { axis: "step", smoothing: 0.6, log: false, filter: "", range: null, hidden: new Set() };
let data = JSON.parse(byId("data").textContent);
const { live } = data, places = new Map();

const shownRuns = () => data.runs.filter((run) => !state.hidden.has(run.name));

function wanted(panel) {
  const text = state.filter.trim().toLowerCase();
  return !text || panel.metric.toLowerCase().includes(text) || panel.title.toLowerCase().includes(text);
}

// val/loss/* stands for all metrics that begin so and have no panel of their own.
const isFamily = (panel) => panel.metric.endsWith("/*"), beginning = (panel) => panel.metric.slice(0, -1);
const inNaturalOrder = (one, other) => one.localeCompare(other, "en", { numeric: true });

// The table's sections, then every metric that no section names; only what some shown run has logged.
function sections() {
  const logged = new Set(shownRuns().flatMap((run) => Object.keys(run.curves)));
  const table = data.sections.flatMap((section) => section.panels), named = new Set(table.map((panel) => panel.metric));
  const rest = [...logged].filter((metric) => !named.has(metric)).sort(inNaturalOrder);
  const isLayer = (metric) => metric.startsWith("layers/"), families = table.filter(isFamily).map(beginning);
  const group = (title, fits, panel) => ({ title, panels: rest.filter(fits).map((metric) => ({ metric, unit: "", help: "", ...panel(metric) })) });
  const members = (panel) => rest.filter((metric) => metric.startsWith(beginning(panel))).map((metric) => ({ ...panel, metric, title: metric.slice(beginning(panel).length) }));
  return [...data.sections.map(({ title, panels }) => ({ title, panels: panels.flatMap((panel) => (isFamily(panel) ? members(panel) : [panel])) })),
    group("Layers", isLayer, (metric) => ({ title: metric.slice(7) })),
    group("More", (metric) => !isLayer(metric) && !families.some((start) => metric.startsWith(start)), (metric) => ({ title: metric }))]
    .map(({ title, panels }) => ({ title, panels: panels.filter((panel) => logged.has(panel.metric) && wanted(panel)) }))
    .filter(({ panels }) => panels.length);
}

function arrange() {
  const now = sections(), key = JSON.stringify(now.map(({ title, panels }) => [title, panels.map((panel) => panel.metric)]));
  if (byId("panels").dataset.key !== key) {
    byId("panels").dataset.key = key;
    byId("panels").replaceChildren(...now.flatMap(({ title, panels }) => [
      element("h2", { text: title }),
      element("div", { class: "grid" }, ...panels.map((panel) => (cards.get(panel.metric) ?? makeCard(panel)).root)),
    ]));
    if (!now.length) byId("panels").append(emptyNote());
  }
  for (const card of cards.values()) { card.stale = true; if (card.seen && card.root.isConnected) draw(card); }
}

function emptyNote() {
  const [title, text] = data.runs.length && !shownRuns().length ? ["No run is chosen", "Choose one above."]
    : state.filter ? ["No metric fits the filter", "Clear the field above to see them all."]
    : data.reading ? ["The records are being read", "The runs will appear here."]
    : ["No step has been reported yet", live ? "This page looks for news every few seconds." : "Make the page again when the run has taken its first steps."];
  return element("div", { class: "card empty" }, element("b", { text: title }), text);
}

function showHead() {
  const shown = shownRuns(), one = data.runs.length === 1 && !data.reading ? data.runs[0] : null;
  byId("title").textContent = one ? one.name : `${data.runs.length} run${data.runs.length === 1 ? "" : "s"}${data.reading ? `, ${data.reading} still being read` : ""}`;
  byId("title").title = byId("title").textContent;
  document.title = one ? `${one.name}: ${one.summary.state}` : `${data.runs.length} runs`;
  byId("state").replaceChildren(...(one ? [pill(one.summary)] : []));
  byId("age").textContent = live ? "" : `as of ${clock(data.made_at)}`;
  byId("runs").hidden = data.runs.length < 2;
  byId("runs").replaceChildren(...data.runs.map((run) => {
    const chip = element("button", { class: "chip", "aria-pressed": String(!state.hidden.has(run.name)), title: run.name, style: { "--run": colorOf(run) } },
      element("span", { class: "dot" }), element("span", { text: run.name }));
    chip.onclick = () => { if (!state.hidden.delete(run.name)) state.hidden.add(run.name); state.range = null; show(); };
    return chip;
  }));
  byId("figures").replaceChildren(...(shown.length === 1 ? [tiles(shown[0])] : shown.length ? [comparison(shown)] : []));
  byId("time").replaceChildren(...(shown.length === 1 ? timeSplit(shown[0]) : []));
}

function showDetails() {
  const open = byId("details").querySelector("details")?.open ?? false;
  byId("details").replaceChildren(...details(shownRuns()));
  const settings = byId("details").querySelector("details");
  if (settings) settings.open = open;
}

function show() {
  for (const run of data.runs) { // a run keeps its colour when others appear before it
    if (!places.has(run.name)) places.set(run.name, places.size);
    run.index = places.get(run.name);
  }
  byId("reset").hidden = state.range === null;
  for (const button of byId("axis").children) button.setAttribute("aria-pressed", String(button.dataset.axis === state.axis));
  showHead();
  arrange();
  showDetails();
}

function zoom(range) { state.range = range; byId("reset").hidden = range === null; arrange(); }

function chooseTheme(name) { document.documentElement.dataset.theme = name; }

async function refresh() {
  try {
    const answer = await fetch("data.json", { headers: { "If-None-Match": refresh.tag ?? "" } });
    if (answer.status === 200) {
      refresh.tag = answer.headers.get("ETag");
      data = await answer.json();
      show();
    }
    byId("age").textContent = `checked ${new Date().toLocaleTimeString("en-GB")}`;
  } catch {
    byId("age").textContent = "the dashboard's server does not answer";
  }
  later();
}

function later() { setTimeout(refresh, (data.reading ? READING_SECONDS : REFRESH_SECONDS) * 1000); }

const dark = matchMedia("(prefers-color-scheme: dark)");
chooseTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => { chooseTheme(dark.matches ? "dark" : "light"); show(); });
byId("theme").onclick = () => { chooseTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); show(); };
byId("axis").onclick = (event) => { if (event.target.dataset.axis) { state.axis = event.target.dataset.axis; state.range = null; show(); } };
byId("smoothing").oninput = (event) => { state.smoothing = Number(event.target.value); arrange(); };
byId("log").onchange = (event) => { state.log = event.target.checked; arrange(); };
byId("filter").oninput = (event) => { state.filter = event.target.value; arrange(); };
byId("reset").onclick = () => zoom(null);
addEventListener("resize", () => { clearTimeout(show.later); show.later = setTimeout(arrange, 120); });
document.body.classList.toggle("live", live);
show();
if (live) later();
