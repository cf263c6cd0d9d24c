// Tables of groups: containers as a list, control groups as a tree. Sort, filter, compare.
// What is known of all groups is in arrays; the document has only the rows that are about to be
// seen (all rows have one height), so that the number of groups does not matter.
"use strict";

import { bytes, calm, cores, natural, percent, plural, rate, setText, state, value, whole, ask, element, groupAddress } from "./shared.js";
import { sparkline } from "./sparkline.js";

const TREND = 60; // values of a sparkline, one a second
const MOST_COMPARED = 8;
const BEYOND = 6; // rows above and below the window that are in the document, too
const LEAST = 30; // rows that are in the document wherever the window is
const HISTORY_NAMES = 99;
const shareOf = (row) => (row.memory_limit ? value(row.point, "working_set") / row.memory_limit : 0);
const cpuShare = (row) => value(row.point, "cpu") / (row.cores || state.about.machine.num_cores || 1);
const parentOf = (name) => (name === "/" ? null : name.slice(0, name.lastIndexOf("/")) || "/");

// key, title, how it is sorted, how it is shown; rank: hidden first on narrow screens
const COLUMNS = [
  { key: "name", title: "Name", text: true, order: (row) => row.shown },
  { key: "image", title: "Image", text: true, order: (row) => row.image, show: (row) => row.image, rank: 2, containers: true },
  { key: "state", title: "State", text: true, order: (row) => `${row.health === "unhealthy" ? 0 : 1}${row.state}`, show: (row) => (row.state === "running" && row.health) || row.state, rank: 1, containers: true },
  { key: "cpu", title: "CPU", unit: "cores", order: (row) => value(row.point, "cpu"), show: (row) => cores(value(row.point, "cpu")), bar: cpuShare },
  { key: "memory", title: "Memory", order: (row) => value(row.point, "memory"), show: (row) => bytes(value(row.point, "memory")), bar: shareOf },
  { key: "limit", title: "of limit", order: shareOf, show: (row) => (row.memory_limit ? `${percent(100 * shareOf(row))} of ${bytes(row.memory_limit)}` : ""), rank: 2 },
  { key: "rx", title: "Received", order: (row) => value(row.point, "net_rx"), show: (row) => rate(value(row.point, "net_rx")), rank: 3, containers: true },
  { key: "tx", title: "Sent", order: (row) => value(row.point, "net_tx"), show: (row) => rate(value(row.point, "net_tx")), rank: 3, containers: true },
  { key: "read", title: "Read", order: (row) => value(row.point, "io_read"), show: (row) => rate(value(row.point, "io_read")), rank: 3 },
  { key: "written", title: "Written", order: (row) => value(row.point, "io_write"), show: (row) => rate(value(row.point, "io_write")), rank: 3 },
  { key: "threads", title: "Threads", order: (row) => value(row.point, "threads"), show: (row) => whole(value(row.point, "threads")), rank: 1 },
];

/** One row of the document. It shows one group now and another one later. */
class Line {
  constructor(table) {
    this.table = table;
    this.known = null;
    this.node = element("tr");
    this.node.line = this;
    if (table.compared) {
      this.box = element("input", null, { type: "checkbox" });
      this.box.addEventListener("change", () => table.compare(this.known.row.name, this.box));
      this.node.append(element("td", null, { class: "check" }, this.box));
    }
    this.link = element("a", "", { class: "name" });
    this.node.append(element("td", null, { class: "rank0" }, table.tree ? this.branch() : this.link));
    this.cells = table.columns.filter((column) => column.show).map((column) => this.cell(column));
    this.canvas = element("canvas", null, { class: "trend", "aria-hidden": "true" });
    this.node.append(element("td", null, { class: "rank1" }, this.canvas));
  }

  branch() {
    this.toggle = element("button", "▸", { type: "button", class: "toggle" });
    this.toggle.addEventListener("click", () => this.table.toggle(this.known.row.name));
    this.indented = element("span", null, { class: "branch" }, this.toggle, this.link);
    return this.indented;
  }

  cell(column) {
    const text = element("span");
    const cell = element("td", null, { class: `${column.text ? "" : "number"} rank${column.rank ?? 0}` }, text);
    const bar = column.bar ? element("i") : null;
    if (bar) cell.append(element("span", null, { class: "bar", "aria-hidden": "true" }, bar));
    this.node.append(cell);
    return { column, text, bar };
  }

  bind(known) {
    this.known = known;
    this.name();
    this.fill();
    this.trend();
  }

  /** What changes with the group, not with each sample. */
  name() {
    const { row, depth } = this.known;
    const text = this.table.tree && !row.container ? row.name.slice(row.name.lastIndexOf("/") + 1) : row.shown === row.name ? row.container.slice(0, 12) : row.shown;
    setText(this.link, text);
    this.link.title = text === row.name ? text : `${text}\n${row.name}`;
    this.link.href = groupAddress(row);
    this.node.classList.toggle("bad", row.health === "unhealthy" || row.state === "dead");
    if (this.box) {
      this.box.checked = this.table.compared.has(row.name);
      this.box.setAttribute("aria-label", `Compare ${row.shown}`);
    }
    if (this.indented) this.indented.style.paddingInlineStart = `${Math.min(depth, 8) * 1.1}rem`;
  }

  opened() {
    if (!this.toggle) return;
    const { name, is_parent: has } = this.known.row;
    const open = has && (this.table.words.length > 0 || this.table.open.has(name));
    this.toggle.style.visibility = has ? "visible" : "hidden";
    setText(this.toggle, open ? "▾" : "▸");
    this.toggle.setAttribute("aria-expanded", String(open));
    this.toggle.setAttribute("aria-label", `${open ? "Close" : "Open"} ${name}`);
  }

  fill() {
    const { row } = this.known;
    for (const { column, text, bar } of this.cells) {
      const shown = column.show(row);
      if (text.shown !== shown) {
        text.shown = shown;
        text.textContent = shown;
        if (column.text) text.title = shown;
      }
      if (!bar) continue;
      const share = Math.round(Math.min(1, column.bar(row)) * 100);
      if (bar.share !== share) { bar.share = share; bar.style.width = `${share}%`; bar.classList.toggle("high", share > 90); }
    }
  }

  trend() {
    sparkline(this.canvas, this.known.trend ?? [], TREND);
  }
}

export class GroupTable {
  constructor(place, { tree = false, below = "/", compared = null }) {
    Object.assign(this, { tree, below, compared });
    this.columns = COLUMNS.filter((column) => !tree || !column.containers);
    this.rows = new Map(); // name -> {row, text, rank, key, depth, trend}
    this.shown = []; // those that the filter and open branches leave, in order
    this.lines = new Map(); // name -> Line in the document
    this.spare = [];
    this.words = [];
    this.total = 0; // how many there are, when not all are known yet
    this.order = tree ? "name" : "cpu";
    this.descending = !tree;
    this.open = new Set();
    this.height = 50;
    this.current = null; // the row that had the focus last
    this.build(place);
    this.sortSoon = calm(() => this.arrange(), 3000);
    this.askTrends = calm(() => this.fetchTrends(), 400);
    this.frame = 0;
    const soon = () => { this.frame ||= requestAnimationFrame(() => { this.frame = 0; this.draw(); }); };
    addEventListener("scroll", soon, { passive: true });
    addEventListener("resize", () => { this.measured = false; soon(); });
    setInterval(() => this.tick(), 1000);
  }

  build(place) {
    this.filter = element("input", null, { type: "search", class: "field", placeholder: this.tree ? "Filter control groups" : "Filter: name, image, label, state", "aria-label": "Filter", autocomplete: "off", "aria-keyshortcuts": "/" });
    this.filter.value = new URL(location).searchParams.get("filter") ?? "";
    this.count = element("span", null, { class: "quiet", role: "status" });
    const head = element("tr");
    if (this.compared) head.append(element("th", null, { scope: "col", class: "check" }, element("span", "Compare", { class: "away" })));
    for (const column of this.columns) {
      const button = element("button", column.title, { type: "button", class: "sort", title: column.unit ? `in ${column.unit}` : null });
      button.addEventListener("click", () => this.sortBy(column.key));
      head.append(element("th", null, { scope: "col", "data-key": column.key, class: `${column.text ? "" : "number"} rank${column.rank ?? 0}` }, button));
    }
    head.append(element("th", "CPU, last minute", { scope: "col", class: "rank1 trend-head" }));
    const space = () => element("tr", null, { class: "space", "aria-hidden": "true", hidden: true });
    this.above = space();
    this.under = space();
    this.body = element("tbody", null, {}, this.above, this.under);
    this.table = element("table", null, { class: `groups ${this.tree ? "tree" : ""}`, "aria-label": this.tree ? "Control groups" : "Containers" }, element("thead", null, {}, head), this.body);
    this.empty = element("p", "", { class: "quiet", hidden: true });
    place.append(element("div", null, { class: "tools" }, this.filter, this.count), element("div", null, { class: "scroll" }, this.table), this.empty);
    this.filter.addEventListener("focus", () => this.onMore?.());
    this.filter.addEventListener("input", () => this.choose());
    this.body.addEventListener("focusin", (event) => { this.current = event.target.closest("tr").line?.known ?? null; });
    document.addEventListener("keydown", (event) => this.key(event));
  }

  // -- groups -------------------------------------------------------------------------------

  /** All groups that there are, or the first of them when ``total`` is more. */
  set(list, total = 0) {
    this.total = total;
    const names = new Set();
    let isNew = false;
    for (const row of list) {
      if (this.below !== "/" && !row.name.startsWith(`${this.below}/`)) continue;
      if (this.tree && row.name === this.below) continue;
      names.add(row.name);
      let known = this.rows.get(row.name);
      if (!known) { known = { row, shown: "", rank: 0, key: 0, trend: null, depth: this.depth(row) }; this.rows.set(row.name, known); }
      isNew ||= known.shown !== row.shown;
      Object.assign(known, { row, shown: row.shown });
      known.text = `${row.shown} ${row.name} ${row.image} ${row.state} ${row.health} ${Object.entries(row.labels).map((pair) => pair.join("=")).join(" ")} ${row.ports.join(" ")}`.toLowerCase();
    }
    for (const name of this.rows.keys()) if (!names.has(name)) this.rows.delete(name);
    if (isNew) [...this.rows.values()].sort((a, b) => natural(a.shown, b.shown)).forEach((known, at) => { known.rank = at; });
    for (const line of this.lines.values()) if (names.has(line.known.row.name)) { line.name(); line.fill(); }
    this.arrange();
  }

  depth(row) {
    return row.name.slice(this.below === "/" ? 0 : this.below.length).split("/").length - 2;
  }

  take(points) {
    for (const name in points) {
      const known = this.rows.get(name);
      if (!known) continue;
      known.row.point = points[name];
      this.lines.get(name)?.fill();
    }
    if (!this.columns.find((column) => column.key === this.order).text) this.sortSoon();
  }

  tick() {
    if (document.hidden || state.paused) return;
    for (const known of this.rows.values()) {
      if (!known.trend) continue;
      known.trend.push(value(known.row.point, "cpu"));
      if (known.trend.length > TREND) known.trend.shift();
    }
    for (const line of this.lines.values()) line.trend();
    this.draw(); // what is above the table may have become higher
  }

  async fetchTrends() {
    const wanted = [...this.lines.values()].map((line) => line.known).filter((known) => !known.trend).slice(0, HISTORY_NAMES);
    if (!wanted.length) return;
    for (const known of wanted) known.trend = [];
    // of several names those that are gone are left out, of a single one it is an error
    const found = await ask("history", { name: ["/", ...wanted.map((known) => known.row.name)], window: "1m", points: TREND, series: "cpu" }).catch(() => []);
    for (const chart of found) {
      const known = this.rows.get(chart.name);
      if (!known?.trend) continue;
      let last = 0;
      const before = chart.series.cpu.mean.map((one) => { last = one ?? last; return last; });
      known.trend.unshift(...before.slice(0, TREND - known.trend.length));
      this.lines.get(chart.name)?.trend();
    }
    this.askTrends();
  }

  // -- order and choice -------------------------------------------------------------------------

  sortBy(key) {
    const column = this.columns.find((one) => one.key === key);
    this.descending = this.order === key ? !this.descending : !column.text;
    this.order = key;
    this.arrange(true);
  }

  arrange(asked = false) {
    // what somebody points at must not move away
    if (!asked && this.sorted && this.order !== "name" && this.lines.size && this.body.matches(":hover")) {
      const still = this.sorted.filter((known) => this.rows.get(known.row.name) === known);
      const had = new Set(still);
      this.sorted = [...still, ...[...this.rows.values()].filter((known) => !had.has(known))];
      if (this.tree) this.sorted = this.branches(() => 0, this.sorted);
      this.choose();
      return;
    }
    const column = this.columns.find((one) => one.key === this.order);
    const sign = this.descending ? -1 : 1;
    const all = [...this.rows.values()];
    for (const known of all) known.key = column.key === "name" ? known.rank : column.order(known.row);
    const differ = column.text && column.key !== "name" ? natural : (a, b) => a - b;
    const by = (a, b) => (a.key === b.key ? 0 : sign * differ(a.key, b.key)) || a.rank - b.rank;
    this.sorted = this.tree ? this.branches(by, all) : all.sort(by);
    this.choose();
    for (const cell of this.table.tHead.rows[0].cells) {
      if (cell.dataset.key === this.order) cell.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  /** The tree in order: each group's children sorted, beneath it. */
  branches(by, all) {
    const below = new Map();
    for (const known of all) {
      const parent = parentOf(known.row.name);
      if (!below.has(parent)) below.set(parent, []);
      below.get(parent).push(known);
    }
    const found = [];
    const walk = (name) => {
      for (const known of (below.get(name) ?? []).sort(by)) { found.push(known); walk(known.row.name); }
    };
    walk(this.below);
    return found;
  }

  choose() {
    const text = this.filter.value.trim();
    const words = this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const hit = (known) => words.every((word) => known.text.includes(word));
    if (!this.tree) this.shown = words.length ? this.sorted.filter(hit) : this.sorted;
    else if (!words.length) this.shown = this.sorted.filter((known) => known.depth === 0 || this.isOpen(parentOf(known.row.name)));
    else {
      const hits = new Set();
      for (const known of this.sorted) {
        if (hit(known)) for (let name = known.row.name; name && !hits.has(name); name = parentOf(name)) hits.add(name);
      }
      this.shown = this.sorted.filter((known) => hits.has(known.row.name));
    }
    this.draw();
    const shown = this.shown.length;
    const total = Math.max(this.total, this.rows.size);
    setText(this.count, words.length ? `${whole(shown)} of ${whole(total)}` : plural(total, this.tree ? "group" : "container"));
    this.empty.hidden = shown > 0;
    if (!shown) setText(this.empty, total ? `Nothing matches “${text}”.` : this.tree ? "No control groups below this one." : "No containers are running. Start one: docker run -d IMAGE");
  }

  isOpen(name) {
    for (let at = name; at && at !== this.below && at !== "/"; at = parentOf(at)) if (!this.open.has(at)) return false;
    return true;
  }

  async toggle(name) {
    await this.onMore?.();
    if (!this.open.delete(name)) this.open.add(name);
    this.choose();
  }

  compare(name, box) {
    if (box.checked && this.compared.size >= MOST_COMPARED) { box.checked = false; return; }
    if (box.checked) this.compared.add(name); else this.compared.delete(name);
    this.onCompare?.();
  }

  // -- what is in the document ------------------------------------------------------------------

  draw() {
    const { shown, lines } = this;
    const top = shown.length ? this.body.getBoundingClientRect().top : 0;
    const count = shown.length;
    const from = Math.max(0, Math.min(count - LEAST, Math.floor(-top / this.height) - BEYOND));
    const to = Math.min(count, Math.max(from + LEAST, Math.ceil((innerHeight - top) / this.height) + BEYOND));
    const wanted = shown.slice(from, to);
    const names = new Set(wanted.map((known) => known.row.name));
    const spare = new Set(this.spare);
    for (const [name, line] of lines) if (!names.has(name)) { lines.delete(name); spare.add(line); }
    let at = this.above.nextElementSibling;
    let isPlain = false;
    wanted.forEach((known, number) => {
      let line = lines.get(known.row.name);
      if (!line) {
        // the one at this place, so that few have to be moved
        line = spare.has(at.line) ? at.line : spare.values().next().value ?? new Line(this);
        spare.delete(line);
        line.bind(known);
        lines.set(known.row.name, line);
      } else if (line.known !== known) line.bind(known);
      line.opened();
      const index = String(from + number + 2);
      if (line.index !== index) { line.index = index; line.node.setAttribute("aria-rowindex", index); }
      if (line.node === at) at = at.nextElementSibling; else this.body.insertBefore(line.node, at);
      isPlain ||= !known.trend;
    });
    this.spare = [...spare];
    while (at !== this.under) { const next = at.nextElementSibling; at.remove(); at = next; }
    this.space(this.above, from);
    this.space(this.under, count - to);
    this.table.setAttribute("aria-rowcount", String(count + 1));
    if (isPlain) this.askTrends();
    if (!this.measured && wanted.length) requestAnimationFrame(() => this.measure());
  }

  space(row, count) {
    if (row.count === count) return;
    row.count = count;
    row.hidden = count <= 0;
    row.style.height = `${Math.max(0, count) * this.height}px`;
  }

  /** The height of a row depends on the font that the user chose. */
  measure() {
    const height = this.lines.values().next().value?.node.getBoundingClientRect().height;
    if (!height) return;
    this.measured = true;
    if (Math.abs(height - this.height) < 0.01) return;
    this.height = height;
    this.above.count = this.under.count = -1;
    this.draw();
  }

  /** The focus goes to a row, which comes into the window first. */
  focus(known, at) {
    const { top } = this.body.getBoundingClientRect();
    const header = document.querySelector("header");
    const free = getComputedStyle(header).position === "sticky" ? header.offsetHeight : 0;
    const [upper, lower] = [top + at * this.height, top + (at + 1) * this.height];
    if (upper < free) scrollBy(0, upper - free); else if (lower > innerHeight) scrollBy(0, lower - innerHeight);
    this.draw();
    this.lines.get(known.row.name).link.focus({ preventScroll: true });
  }

  // -- the keyboard -----------------------------------------------------------------------------

  key(event) {
    const inField = event.target.matches("input[type=search], select, textarea");
    if (event.key === "/" && !inField) { event.preventDefault(); this.filter.focus(); this.filter.select(); return; }
    if (event.key === "Escape" && event.target === this.filter) { this.filter.value = ""; this.choose(); return; }
    // a row that was scrolled away lost the focus to the document
    const known = event.target.closest?.("tr")?.line?.known ?? (event.target === document.body ? this.current : null);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const from = known ? this.shown.indexOf(known) : -1;
      if (from < 0 && event.target !== this.filter) return;
      const at = from < 0 ? 0 : from + (event.key === "ArrowDown" ? 1 : -1);
      event.preventDefault();
      if (this.shown[at]) this.focus(this.shown[at], at); else if (at < 0) this.filter.focus();
      return;
    }
    const line = event.target.closest?.("tr")?.line;
    if (!line) return;
    const { name } = line.known.row;
    if (event.key === "c" && line.box) line.box.click();
    if (line.toggle && event.key === (this.open.has(name) ? "ArrowLeft" : "ArrowRight")) { event.preventDefault(); this.toggle(name); }
  }
}
