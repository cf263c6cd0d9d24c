// One group's page: gauges against limits, charts, processes, and what the engine says of it.
"use strict";

import { Chart, ChartFeed } from "./charts.js";
import { ask, bytes, clock, cores, duration, element, eventSource, fail, on, percent, plural, prefix, setText, state, value, whole } from "./shared.js";

const MOST_LINES = 2000;
const ENGINE_AGE = 9000; // milliseconds after which the engine is asked again
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])/g;
const line = (label, key, color, more = {}) => ({ label, key, color, ...more });

// -- gauges ---------------------------------------------------------------------------------------

class Gauge {
  constructor(place, title) {
    this.title = title;
    this.number = element("b");
    this.note = element("span", null, { class: "quiet" });
    this.fill = element("i");
    this.meter = element("div", null, { class: "bar", role: "meter", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": title }, this.fill);
    this.box = element("div", null, { class: "gauge" }, element("h3", title), this.number, this.meter, this.note);
    place.append(this.box);
  }

  /** share: 0 to 1 of the limit, or null where there is none. */
  show(text, note, share) {
    setText(this.number, text);
    setText(this.note, note);
    this.meter.hidden = share === null;
    if (share === null) return;
    const whole = Math.round(Math.min(1, Math.max(0, share)) * 100);
    this.fill.style.width = `${whole}%`;
    this.fill.classList.toggle("high", whole > 90);
    this.meter.setAttribute("aria-valuenow", whole);
    this.meter.setAttribute("aria-valuetext", `${text}, ${note}`);
  }
}

// -- tables -----------------------------------------------------------------------------------------

export function table(titles, rows, { numbers = [], caption = null } = {}) {
  const head = element("tr", null, {}, ...titles.map((title, at) => element("th", title, { scope: "col", class: numbers.includes(at) ? "number" : null })));
  const body = element("tbody", null, {}, ...rows.map((row) => element("tr", null, {}, ...row.map((cell, at) => {
    const made = element("td", cell instanceof Node ? null : String(cell), { class: numbers.includes(at) ? "number" : null });
    if (cell instanceof Node) made.append(cell);
    return made;
  }))));
  const made = element("table", null, {}, element("thead", null, {}, head), body);
  if (caption) made.prepend(element("caption", caption));
  return element("div", null, { class: "scroll tall", tabindex: "0", role: "region", "aria-label": caption ?? titles.join(", ") }, made);
}

const pairs = (list) => element("dl", null, {}, ...list.flatMap(({ name, value: one }) => [element("dt", name), element("dd", one)]));

function panel(place, title, id = null) {
  const body = element("div");
  const box = element("section", null, { class: "panel", id, "aria-label": title }, element("h2", title), body);
  place.append(box);
  return { box, body };
}

function folded(place, title, id, opened) {
  const body = element("div");
  const box = element("details", null, { class: "panel", id }, element("summary", null, {}, element("h2", title)), body);
  let begun = false;
  box.addEventListener("toggle", () => { if (box.open && !begun) { begun = true; opened(body); } });
  place.append(box);
  const linked = () => { if (location.hash === `#${id}`) { box.open = true; box.scrollIntoView(); } };
  addEventListener("hashchange", linked);
  linked();
}

// -- logs ---------------------------------------------------------------------------------------------

function logView(place, name) {
  if (!state.about.logs) {
    place.append(element("p", "Logs are shown to authenticated users only. Start the monitor with --htpasswd, --token-file or --tls-client-ca, or with --logs to show them to everybody who reaches it.", { class: "quiet" }));
    return;
  }
  const filter = element("input", null, { type: "search", class: "field", placeholder: "Filter lines", "aria-label": "Filter lines" });
  const stick = element("input", null, { type: "checkbox", checked: true });
  const status = element("span", "", { class: "quiet", role: "status" });
  const output = element("div", null, { class: "log", tabindex: "0", role: "log", "aria-label": `Log of ${name}` });
  place.append(element("div", null, { class: "tools" }, filter, element("label", null, {}, stick, " Follow"), status), output);
  const hits = (text) => text.toLowerCase().includes(filter.value.trim().toLowerCase());
  filter.addEventListener("input", () => { for (const one of output.children) one.hidden = !hits(one.textContent); });
  const source = eventSource("logs", { name, tail: 500 });
  source.addEventListener("lines", (event) => {
    const made = JSON.parse(event.data).map(([text, isError]) => {
      const shown = text.replace(ESCAPES, "");
      return element("div", shown || "\u00a0", { class: isError ? "stderr" : null, hidden: !hits(shown) });
    });
    output.append(...made);
    while (output.childElementCount > MOST_LINES) output.firstElementChild.remove();
    setText(status, plural(output.childElementCount, "line"));
    if (stick.checked) output.scrollTop = output.scrollHeight;
  });
  source.addEventListener("end", (event) => {
    source.close();
    const { message } = JSON.parse(event.data);
    setText(status, message || "the log has ended");
  });
  source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) setText(status, "the log could not be read"); });
}

// -- explain: values as they come, in tables and lists -----------------------------------------------

function shown(found) {
  if (Array.isArray(found)) {
    if (!found.length) return element("span", "none", { class: "quiet" });
    if (typeof found[0] !== "object") return element("span", found.join(", "));
    if (Array.isArray(found[0])) return element("span", found.map((one) => JSON.stringify(one)).join(", "));
    const titles = [...new Set(found.flatMap(Object.keys))];
    return table(titles, found.map((one) => titles.map((title) => (typeof one[title] === "object" && one[title] !== null ? shown(one[title]) : one[title] ?? ""))));
  }
  if (found && typeof found === "object") {
    return element("dl", null, {}, ...Object.entries(found).flatMap(([name, one]) => [element("dt", name.replaceAll("_", " ")), element("dd", null, {}, shown(one))]));
  }
  return element("span", String(found ?? ""));
}

async function explainView(place, name) {
  place.append(element("p", `What “portside explain ${name}” says.`, { class: "quiet" }));
  try {
    place.append(shown(await ask("explain", { name })));
  } catch (error) {
    place.append(element("p", error.message, { class: "quiet" }));
  }
}

// -- the page ---------------------------------------------------------------------------------------

export class GroupPage {
  constructor(place, detail) {
    this.place = place;
    this.detail = detail;
    this.name = detail.row.name;
    this.isMachine = this.name === "/";
    this.head();
    this.gauges = element("div", null, { class: "gauges" });
    this.charts = element("div", null, { class: "charts" });
    place.append(this.gauges, this.charts);
    this.makeGauges();
    this.feed = new ChartFeed([this.name], this.makeCharts());
    this.parts = element("div", null, { class: "parts" });
    place.append(this.parts);
    this.makeParts();
    this.showGauges();
    this.feed.load().catch(fail);
    this.timer = setInterval(() => this.refresh(), 5000);
  }

  head() {
    const { row } = this.detail;
    this.title = element("h2", this.isMachine ? this.machineName() : row.container ? row.shown : row.name, { tabindex: "-1" });
    this.badges = element("span", null, { class: "badges" });
    const links = element("nav", null, { class: "links", "aria-label": "Parts of this page" });
    if (row.container) {
      for (const [id, text] of [["processes", "Processes"], ["logs", "Logs"], ["explain", "Explain"], ["events", "Events"]]) links.append(element("a", text, { href: `#${id}` }));
      links.append(element("a", "Control group", { href: `${prefix}/containers${row.name.split("/").map(encodeURIComponent).join("/")}` }));
    } else if (!this.isMachine) this.path(links);
    this.place.append(element("div", null, { class: "title" }, this.title, this.badges, links));
    document.title = `${this.title.textContent} – Monitor`;
    this.showBadges();
  }

  machineName() {
    const { machine } = state.about;
    return machine.hostname || "Machine";
  }

  path(links) {
    let so = "";
    const parts = this.name.split("/").filter(Boolean).slice(0, -1);
    links.append(element("a", "/", { href: `${prefix}/containers/` }));
    for (const part of parts) {
      so += `/${encodeURIComponent(part)}`;
      links.append(element("a", part, { href: `${prefix}/containers${so}` }));
    }
  }

  showBadges() {
    const { row } = this.detail;
    const made = [];
    const badge = (text, kind = "") => made.push(element("span", text, { class: `badge ${kind}` }));
    if (row.container) {
      badge(row.state || "running", row.state === "running" ? "good" : "warn");
      if (row.health) badge(row.health, { healthy: "good", unhealthy: "bad" }[row.health] ?? "warn");
      if (row.image) badge(row.image);
      if (row.restarts) badge(plural(row.restarts, "restart"), "warn");
      if (row.started) badge(`up ${duration(Date.now() / 1000 - row.started)}`);
    } else if (this.isMachine) {
      const { machine, cgroup, containers } = state.about;
      badge(plural(machine.num_cores, "processor"));
      badge(bytes(machine.memory_capacity));
      badge(`cgroup ${cgroup}`);
      badge(plural(containers, "container"));
    }
    this.badges.replaceChildren(...made);
  }

  // -- limits and gauges

  get memoryLimit() { return this.isMachine ? state.about.machine.memory_capacity : this.detail.row.memory_limit; }

  get coresLimit() { return this.detail.row.cores || (this.isMachine ? state.about.machine.num_cores : 0); }

  makeGauges() {
    this.gauge = {};
    for (const [key, title] of [["cpu", "CPU"], ["memory", "Memory"], ["pids", "Processes and threads"], ["files", "Open files"]]) this.gauge[key] = new Gauge(this.gauges, title);
    this.disks = new Map();
  }

  showGauges() {
    const { row, sample } = this.detail;
    const at = (name) => value(row.point, name);
    const limit = this.coresLimit || state.about.machine.num_cores;
    this.gauge.cpu.show(`${cores(at("cpu"))} cores`, this.detail.row.cores ? `${percent(100 * at("cpu") / limit)} of the quota of ${limit}` : `${percent(100 * at("cpu") / limit)} of the machine's ${limit}`, at("cpu") / limit);
    const set = at("working_set");
    const memory = this.memoryLimit;
    this.gauge.memory.show(bytes(set), memory ? `${percent(100 * set / memory)} of ${bytes(memory)}${this.isMachine ? "" : ", the limit"}; ${bytes(at("cache"))} cache` : `no limit; ${bytes(at("cache"))} cache`, memory ? set / memory : null);
    const details = sample?.details;
    if (!details) return;
    const threads = this.isMachine ? details.processes : at("threads");
    const most = row.pids_limit || details.threads_max;
    this.gauge.pids.show(whole(threads), most ? `${percent(100 * threads / most)} of ${whole(most)}` : "no limit", most ? threads / most : null);
    const files = details.descriptors_limit < 1e9 ? details.descriptors_limit : 0;
    const fullest = files ? `${this.isMachine ? "" : "fullest process: "}${percent(100 * details.descriptors_highest / files)} of ${whole(files)} limit` : "no limit";
    this.gauge.files.show(whole(details.descriptors), `${plural(details.sockets, "socket")}; ${fullest}`, files ? details.descriptors_highest / files : null);
    for (const disk of details.filesystems.filter((one) => one.capacity && !["/dev/shm", "/run", "/tmp"].includes(one.mountpoint)).slice(0, 4)) {
      const title = this.isMachine ? `Disk ${disk.mountpoint}` : "Layer and volumes";
      if (!this.disks.has(title)) this.disks.set(title, new Gauge(this.gauges, title));
      this.disks.get(title).show(bytes(disk.usage), this.isMachine ? `${percent(100 * disk.usage / disk.capacity)} of ${bytes(disk.capacity)}, ${disk.type}` : `${bytes(disk.base_usage)} in the layer; ${bytes(disk.available)} free`, this.isMachine ? disk.usage / disk.capacity : null);
    }
  }

  // -- charts

  makeCharts() {
    const make = (options) => new Chart(this.charts, options);
    const charts = [
      make({ title: "CPU", kind: "cores", note: "cores", limit: () => this.coresLimit, limitLabel: this.isMachine ? "processors" : "quota", lines: [line("in use", "cpu", "--c0", { fill: true }), line("highest", "cpu", "--c1", { from: "max", thin: true })] }),
      make({ title: "Memory", kind: "bytes", limit: () => this.memoryLimit, lines: [line("with cache", "memory", "--c0", { fill: true }), line("without cache", "memory", "--c2", { less: "cache" }), line("working set", "working_set", "--c1", { dash: [4, 3] })] }),
      make({ title: "Network", kind: "rate", lines: [line("received", "net_rx", "--c0", { fill: true }), line("sent", "net_tx", "--c1")] }),
      make({ title: "Disk", kind: "rate", lines: [line("read", "io_read", "--c0", { fill: true }), line("written", "io_write", "--c1")] }),
      make({ title: "Pressure", kind: "percent", note: "time in which something waited", lines: [line("CPU", "pressure_cpu", "--c0"), line("memory", "pressure_memory", "--c1"), line("I/O", "pressure_io", "--c2")] }),
    ];
    if (this.isMachine) charts.push(make({ title: "Load", kind: "cores", note: "tasks that run or wait", lines: [line("load", "load", "--c0", { fill: true })] }));
    else charts.push(make({ title: "Processes and threads", kind: "whole", limit: () => this.detail.row.pids_limit, lines: [line("threads", "threads", "--c0", { fill: true })] }));
    if (this.detail.row.cores) charts.push(make({ title: "Throttled", kind: "percent", note: "periods in which the quota held it back", lines: [line("throttled", "throttled", "--c4", { factor: 100, fill: true })] }));
    return charts;
  }

  take({ time, points }) {
    if (points[this.name]) { this.detail.row.point = points[this.name]; this.showGauges(); }
    this.feed.take(time, points);
  }

  // -- the rest

  makeParts() {
    const { row } = this.detail;
    this.processes = panel(this.parts, "Processes", "processes");
    this.processOrder = "percent_cpu";
    if (row.container) {
      const name = row.container;
      folded(this.parts, "Logs", "logs", (body) => logView(body, name));
      folded(this.parts, "Explain", "explain", (body) => explainView(body, name));
      this.engineParts = element("div", null, { class: "pair" });
      this.parts.append(this.engineParts);
      this.engineTime = Date.now();
      this.showEngine().catch((error) => this.engineParts.append(element("p", `The engine was not asked: ${error.message}`, { class: "quiet" })));
    }
    if (this.isMachine) this.showDisks();
    this.events = panel(this.parts, "Recent events", "events");
    this.showEvents().catch(fail);
    this.showProcesses().catch(() => {});
    on("happened", (event) => { if (event.group === this.name && event.type === "containerDeletion") this.end(); });
    on("happened", (event) => { if (this.isMachine || event.group === this.name) this.showEvents().catch(fail); });
  }

  /** The group is gone: what was seen of it stays. */
  end() {
    clearInterval(this.timer);
    clearTimeout(this.feed.timer);
    this.badges.replaceChildren(element("span", "gone", { class: "badge bad" }));
  }

  async refresh() {
    if (document.hidden || state.paused) return;
    try {
      const point = this.detail.row.point;
      this.detail = await ask("group", { name: this.detail.row.container || this.name });
      if (!this.detail.row.point.length) this.detail.row.point = point;
    } catch {
      this.end();
      return;
    }
    this.showBadges();
    this.showGauges();
    await this.showProcesses().catch(() => {});
    if (this.engineParts && Date.now() - this.engineTime > ENGINE_AGE) {
      this.engineTime = Date.now();
      await this.showEngine().catch(() => {});
    }
  }

  async showProcesses() {
    const found = await ask("processes", { name: this.name });
    const columns = [["PID", "pid"], ["User", "user"], ["Command", "cmd"], ["CPU %", "percent_cpu"], ["Memory", "rss"], ["Virtual", "virtual_size"], ["Files", "fd_count"], ["State", "status"], ["Started", "started"]];
    const key = this.processOrder;
    found.sort((a, b) => (typeof a[key] === "number" ? b[key] - a[key] : String(a[key]).localeCompare(String(b[key]))) || a.pid - b.pid);
    const show = (one, name) => (name === "rss" || name === "virtual_size" ? bytes(one[name]) : name === "started" ? clock(one[name]) : one[name]);
    const most = 100;
    const made = table(columns.map(([title]) => title), found.slice(0, most).map((one) => columns.map(([, name]) => show(one, name))), { numbers: [0, 3, 4, 5, 6] });
    const had = document.activeElement?.dataset?.process;
    [...made.querySelectorAll("th")].forEach((cell, at) => {
      const name = columns[at][1];
      const button = element("button", columns[at][0], { type: "button", class: "sort", "data-process": name });
      button.addEventListener("click", () => { this.processOrder = name; this.showProcesses().catch(fail); });
      if (name === key) cell.setAttribute("aria-sort", typeof found[0]?.[name] === "number" ? "descending" : "ascending");
      cell.replaceChildren(button);
    });
    this.processes.body.replaceChildren(made);
    if (found.length > most) this.processes.body.append(element("p", `${whole(found.length - most)} more`, { class: "quiet" }));
    if (!found.length) this.processes.body.replaceChildren(element("p", "No processes of its own.", { class: "quiet" }));
    if (had) this.processes.body.querySelector(`[data-process="${had}"]`)?.focus();
  }

  async showEvents() {
    const query = this.isMachine ? { limit: 50 } : { limit: 50, name: this.name };
    const found = await ask("events", query);
    const rows = found.reverse().map((event) => [clock(event.time_ns / 1e9), event.type === "engine" ? event.action : event.type, ...(this.isMachine ? [event.text || event.group] : []), event.process ? `${event.process} (${event.pid}) ${event.constraint}` : event.type === "kernel" ? event.text : event.exit_code >= 0 ? `exit code ${event.exit_code}` : ""]);
    const titles = ["Time", "Event", ...(this.isMachine ? ["Of"] : []), "Details"];
    this.events.body.replaceChildren(rows.length ? table(titles, rows) : element("p", "Nothing happened since the monitor started.", { class: "quiet" }));
  }

  showDisks() {
    const found = this.detail.sample?.details.filesystems ?? [];
    const { body } = panel(this.parts, "File systems");
    body.append(table(["Mount point", "Device", "Type", "Used", "Free", "Inodes used"], found.map((one) => [one.mountpoint, one.device, one.type, `${bytes(one.usage)} of ${bytes(one.capacity)}`, bytes(one.available), one.inodes ? percent(100 * (1 - one.inodes_free / one.inodes)) : ""]), { numbers: [3, 4, 5] }));
  }

  async showEngine() {
    const found = await ask("container", { name: this.detail.row.container });
    const text = JSON.stringify(found);
    if (text === this.engineText) return;
    this.engineText = text;
    this.engineParts.replaceChildren();
    const add = (title, content) => panel(this.engineParts, title).body.append(content);
    add("Limits", found.limits.length ? pairs(found.limits) : this.noLimits());
    add("Ports and networks", this.portsOf(found));
    add("Mounts", found.mounts.length ? table(["In the container", "From", "Type", ""], found.mounts.map((one) => [one.target, one.source, one.type, one.writable ? "" : "read-only"])) : element("p", "None.", { class: "quiet" }));
    if (found.health) {
      const { body } = panel(this.engineParts, "Health checks");
      body.append(element("p", `${found.health}${found.failing ? `, ${plural(found.failing, "failure")} in a row` : ""}`));
      body.append(table(["Start", "Exit code", "Output"], [...found.probes].reverse().map((one) => [clock(Date.parse(one.start) / 1000), one.exit_code, element("code", one.output.trim())])));
    }
    add("Settings", pairs(found.settings.map((one) => (one.name === "Created" ? { ...one, value: clock(Date.parse(one.value) / 1000) } : one))));
    const labels = Object.entries(this.detail.row.labels).map(([name, one]) => ({ name, value: one }));
    if (labels.length) add("Labels", pairs(labels));
    add("Layers of the image", found.layers.length ? table(["Digest", "Size", "Made by"], found.layers.map((one) => [element("code", one.digest.replace("sha256:", "").slice(0, 12), { title: one.digest }), one.size < 0 ? "" : bytes(one.size), element("code", one.created_by)]), { numbers: [1] }) : element("p", "The image is not there.", { class: "quiet" }));
  }

  noLimits() {
    return element("p", null, { class: "quiet" }, "No limits. Set one: ", element("code", `docker update -m 512m --memory-swap 512m ${this.detail.row.shown}`));
  }

  portsOf(found) {
    const box = element("div");
    if (found.networks.length) box.append(pairs(found.networks));
    box.append(found.ports.length ? table(["In the container", "On the machine"], found.ports.map((one) => [one.container, one.host || "not published"])) : element("p", "No ports.", { class: "quiet" }));
    return box;
  }
}
