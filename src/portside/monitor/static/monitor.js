// The pages: /containers/ (machine and control groups), /docker/ (containers), one of each.
"use strict";

import { GroupTable } from "./group_table.js";
import { $, ask, bytes, calm, clock, cores, element, fail, follow, on, plural, prefix, seconds, setText, state, taken, value } from "./shared.js";

const FIRST = 50; // rows of the first view; the others follow it
const DEEPEST = 1000; // levels of control groups
const WINDOWS = [["2m", "2 minutes"], ["10m", "10 minutes"], ["1h", "1 hour"], ["6h", "6 hours"], ["1d", "1 day"], ["7d", "7 days"]];
const path = decodeURIComponent(location.pathname.slice(prefix.length));
const [, section, ...parts] = path.split("/");
const wanted = parts.filter(Boolean).join("/");
const isContainers = section === "docker";
const given = taken(); // what the document came with: all that the first view shows

// -- warnings -------------------------------------------------------------------------------------

async function showAlerts(only = null) {
  paintAlerts(await ask("alerts"), only);
}

const SHOWN_ALERTS = 3; // further warnings are folded, so that the page still begins with its subject

function paintAlerts(found, only) {
  // of a container without a group at that moment the ID stands for it
  const mine = (alert) => only === null || alert.group === only || only.endsWith(`/${alert.group}`);
  const critical = (alert) => alert.severity === "critical";
  const firing = found.firing.filter(mine).sort((a, b) => critical(b) - critical(a));
  const made = firing.map((alert) => element("article", null, { class: `alert ${alert.severity}` },
    element("b", critical(alert) ? "Critical: " : "Warning: "), element("span", alert.summary),
    element("p", null, {}, element(/^(docker|mount|du) /.test(alert.advice) ? "code" : "span", alert.advice)), element("small", `since ${clock(alert.started)}, rule ${alert.rule}`)));
  const fold = (name, title, children) => {
    const open = $("alerts").querySelector(`.${name}`)?.open ?? false;
    return element("details", null, { class: name, open }, element("summary", title), ...children);
  };
  const rest = made.splice(SHOWN_ALERTS);
  if (rest.length) made.push(fold("more", plural(rest.length, "more warning", "more warnings"), rest));
  const ended = found.ended.filter(mine).slice(-20).reverse();
  if (ended.length) {
    made.push(fold("ended", plural(ended.length, "warning that ended", "warnings that ended"),
      ended.map((alert) => element("p", `${clock(alert.started)} to ${clock(alert.ended)}: ${alert.summary}`, { class: "quiet" }))));
  }
  $("alerts").replaceChildren(...made);
}

// -- several containers in one chart ------------------------------------------------------------------

class Comparison {
  constructor(place, groups) {
    this.groups = groups;
    this.box = element("section", null, { class: "panel", hidden: true, "aria-label": "Comparison" });
    place.append(this.box);
    this.feed = null;
  }

  async show(names) {
    clearTimeout(this.feed?.timer);
    this.feed = null;
    this.names = names;
    this.box.replaceChildren();
    this.box.hidden = names.length === 0;
    const address = new URL(location);
    if (names.length) address.searchParams.set("compare", names.map((name) => this.groups.get(name)?.row.shown ?? name).join(","));
    else address.searchParams.delete("compare");
    history.replaceState(null, "", address);
    if (!names.length) return;
    const { Chart, ChartFeed } = await import("./charts.js");
    if (this.names !== names) return; // another choice came first
    this.box.append(element("h2", `Comparison of ${plural(names.length, "container")}`));
    const charts = element("div", null, { class: "charts" });
    this.box.append(charts);
    const of = (title, kind, key, note = "") => new Chart(charts, {
      title, kind, note,
      lines: names.map((name, at) => ({ label: this.groups.get(name).row.shown, key, group: name, color: `--c${at % 8}` })),
    });
    this.feed = new ChartFeed(names, [of("CPU", "cores", "cpu", "cores"), of("Memory", "bytes", "memory"), of("Received", "rate", "net_rx"), of("Written", "rate", "io_write")]);
    this.feed.load().catch(fail);
  }
}

// -- the list of containers ---------------------------------------------------------------------------

function showContainers(view, first) {
  document.title = "Containers – Monitor";
  const totals = element("div", null, { class: "gauges" });
  const tile = (title) => {
    const number = element("b");
    const note = element("span", null, { class: "quiet" });
    totals.append(element("div", null, { class: "gauge" }, element("h3", title), number, note));
    return (text, more) => { setText(number, text); setText(note, more); };
  };
  const tiles = { count: tile("Containers"), cpu: tile("CPU"), memory: tile("Memory"), alerts: tile("Warnings") };
  const compared = new Set();
  view.append(element("div", null, { class: "title" }, element("h2", "Containers")), totals);
  const table = new GroupTable(element("div"), { compared });
  const comparison = new Comparison(view, table.rows);
  const place = element("section", null, { class: "panel", "aria-label": "Containers" });
  place.append(...table.table.parentElement.parentElement.childNodes);
  view.append(place, element("p", "/ filter · ↑ ↓ rows · Enter open · c compare", { class: "quiet keys" }));
  table.onCompare = () => comparison.show([...compared]).catch(fail);
  table.set(first.groups, first.total);
  const asked = (new URL(location).searchParams.get("compare") ?? "").split(",").filter(Boolean);
  for (const known of table.rows.values()) {
    if (asked.includes(known.row.shown) && compared.size < 8) compared.add(known.row.name);
  }
  for (const line of table.lines.values()) line.name();
  if (compared.size) table.onCompare();
  const sum = () => {
    let [count, cpu, memory, running] = [table.rows.size, 0, 0, 0];
    if (count < table.total) ({ total: count, cpu, memory, running } = first);
    else for (const { row } of table.rows.values()) { cpu += value(row.point, "cpu"); memory += value(row.point, "working_set"); running += row.state === "running"; }
    const { machine } = state.about;
    tiles.count(String(count), `${running} running`);
    tiles.cpu(`${cores(cpu)} cores`, `of ${machine.num_cores}`);
    tiles.memory(bytes(memory), `of ${bytes(machine.memory_capacity)}`);
    tiles.alerts(String($("alerts").querySelectorAll("article").length), "see above");
  };
  sum();
  on("points", ({ time, points }) => { table.take(points); comparison.feed?.take(time, points); sum(); });
  const again = calm(() => ask("groups", { containers: 1 }).then((rows) => table.set(rows)).catch(fail), 1500);
  on("groups", again);
  if (first.groups.length < first.total) setTimeout(again);
  onWindow(() => comparison.feed?.load().catch(fail));
  follow([["containers", "1"]]);
}

// -- the machine, and control groups -----------------------------------------------------------------

async function showGroup(view, detail) {
  const { GroupPage } = await import("./group_page.js");
  const page = new GroupPage(view, detail);
  on("points", (message) => page.take(message));
  onWindow(() => page.feed.load().catch(fail));
  const { name, container } = detail.row;
  if (isContainers || container) { follow([["name", name]]); return; }
  const place = element("section", null, { class: "panel wide", "aria-label": "Control groups" }, element("h2", "Control groups"));
  page.parts.prepend(place);
  const table = new GroupTable(place, { tree: true, below: name });
  // those directly below, until somebody opens a branch or looks for a name
  let depth = table.filter.value ? DEEPEST : 1;
  const load = () => ask("groups", { below: name, depth }).then((rows) => table.set(rows));
  table.onMore = async () => {
    if (depth === DEEPEST) return;
    depth = DEEPEST;
    await load().catch(fail);
  };
  const first = (depth === 1 && given?.groups) || await ask("groups", { below: name, depth, limit: FIRST });
  table.set(first, given?.total ?? 0);
  if (first.length >= FIRST) load().catch(fail);
  on("points", ({ points }) => table.take(points));
  on("groups", calm(() => load().catch(fail), 1500));
  follow([]);
}

// -- which page ---------------------------------------------------------------------------------------

const windowChanges = [];
const onWindow = (act) => windowChanges.push(act);

function makeWindows() {
  const select = $("window");
  const { kept, disk, full } = state.about;
  for (const [length, text] of WINDOWS) {
    if (disk || seconds(length) <= Math.max(kept, full)) select.append(element("option", text, { value: length }));
  }
  const known = [...select.options].map((option) => option.value);
  const asked = new URL(location).searchParams.get("window") ?? localStorage.getItem("window");
  state.window = known.includes(asked) ? asked : known.includes("10m") ? "10m" : known[0];
  select.value = state.window;
  select.addEventListener("change", () => {
    state.window = select.value;
    localStorage.setItem("window", state.window);
    for (const act of windowChanges) act();
  });
}

async function start() {
  $(isContainers ? "to-containers" : "to-machine").setAttribute("aria-current", "page");
  const name = isContainers ? wanted : `/${wanted}`;
  const isList = isContainers && !wanted;
  const { about, alerts, ...first } = given ?? { about: await ask("about"), alerts: null, detail: await ask("group", { name }) };
  state.about = about;
  about.series.forEach((series, at) => { state.index[series] = at; });
  makeWindows();
  const { engine, version } = about;
  setText($("engine"), engine ? `engine ${engine.version}${engine.name ? ` on ${engine.name}` : ""}` : "no engine answers");
  $("unseen").hidden = !about.unseen.length;
  $("unseen").title = `Not seen: ${about.unseen.join("; ")}`;
  $("engine").title = `Portside monitor ${version}`;
  const view = $("view");
  const only = isList || name === "/" ? null : first.detail.row.name;
  if (alerts) paintAlerts(alerts, only); else await showAlerts(only);
  on("alert", calm(() => showAlerts(only).catch(fail), 1000));
  if (isList) showContainers(view, first); else await showGroup(view, first.detail);
}

start().catch((error) => {
  fail(error);
  $("view").append(element("p", null, {}, element("a", isContainers ? "All containers" : "The machine", { href: `${prefix}/${isContainers ? "docker" : "containers"}/` })));
});
