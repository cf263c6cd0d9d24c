// Tables of groups: containers as a list, control groups as a tree. Sort, filter, compare.
"use strict";

import { sparkline } from "./charts.js";
import { ask, bytes, calm, cores, element, groupAddress, natural, percent, plural, rate, setText, state, value, whole } from "./shared.js";

const TREND = 60; // values of a sparkline, one a second
const MOST_COMPARED = 8;
const FIRST_SEEN = 20; // rows that are complete before anything is painted
const HISTORY_NAMES = 99;
const shareOf = (row) => (row.memory_limit ? value(row.point, "working_set") / row.memory_limit : 0);
const cpuShare = (row) => value(row.point, "cpu") / (row.cores || state.about.machine.num_cores || 1);
const parentOf = (name) => (name === "/" ? null : name.slice(0, name.lastIndexOf("/")) || "/");

// key, title, how it is sorted, how it is shown; rank: hidden first on narrow screens
const COLUMNS = [
  { key: "name", title: "Name", text: true, order: (row) => row.shown },
  { key: "image", title: "Image", text: true, order: (row) => row.image, show: (row) => row.image, rank: 2, containers: true },
  { key: "state", title: "State", text: true, order: (row) => `${row.health === "unhealthy" ? 0 : 1}${row.state}`, show: (row) => [row.state, row.health].filter(Boolean).join(", "), rank: 1, containers: true },
  { key: "cpu", title: "CPU", unit: "cores", order: (row) => value(row.point, "cpu"), show: (row) => cores(value(row.point, "cpu")), bar: cpuShare },
  { key: "memory", title: "Memory", order: (row) => value(row.point, "memory"), show: (row) => bytes(value(row.point, "memory")), bar: shareOf },
  { key: "limit", title: "of limit", order: shareOf, show: (row) => (row.memory_limit ? `${percent(100 * shareOf(row))} of ${bytes(row.memory_limit)}` : ""), rank: 2 },
  { key: "rx", title: "Received", order: (row) => value(row.point, "net_rx"), show: (row) => rate(value(row.point, "net_rx")), rank: 3, containers: true },
  { key: "tx", title: "Sent", order: (row) => value(row.point, "net_tx"), show: (row) => rate(value(row.point, "net_tx")), rank: 3, containers: true },
  { key: "read", title: "Read", order: (row) => value(row.point, "io_read"), show: (row) => rate(value(row.point, "io_read")), rank: 3 },
  { key: "written", title: "Written", order: (row) => value(row.point, "io_write"), show: (row) => rate(value(row.point, "io_write")), rank: 3 },
  { key: "threads", title: "Threads", order: (row) => value(row.point, "threads"), show: (row) => whole(value(row.point, "threads")), rank: 1 },
];

export class GroupTable {
  constructor(place, { tree = false, below = "/", compared = null }) {
    Object.assign(this, { tree, below, compared });
    this.columns = COLUMNS.filter((column) => !tree || !column.containers);
    this.rows = new Map(); // name -> {row, node, cells, trend, visible}
    this.order = tree ? "name" : "cpu";
    this.descending = !tree;
    this.open = new Set();
    this.build(place);
    this.seen = new IntersectionObserver((entries) => this.appeared(entries), { rootMargin: "200px" });
    this.sortSoon = calm(() => this.arrange(), 3000);
    this.askTrends = calm(() => this.fetchTrends(), 400);
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
    head.append(element("th", "CPU, last minute", { scope: "col", class: "rank1" }));
    this.body = element("tbody");
    this.table = element("table", null, { class: `groups ${this.tree ? "tree" : ""}`, "aria-label": this.tree ? "Control groups" : "Containers" }, element("thead", null, {}, head), this.body);
    this.empty = element("p", "", { class: "quiet", hidden: true });
    place.append(element("div", null, { class: "tools" }, this.filter, this.count), element("div", null, { class: "scroll" }, this.table), this.empty);
    this.filter.addEventListener("focus", () => this.onMore?.());
    this.filter.addEventListener("input", () => this.arrange());
    document.addEventListener("keydown", (event) => this.key(event));
  }

  // -- rows ---------------------------------------------------------------------------------

  set(list) {
    const names = new Set();
    for (const row of list) {
      if (this.below !== "/" && !row.name.startsWith(`${this.below}/`)) continue;
      if (this.tree && row.name === this.below) continue;
      names.add(row.name);
      const known = this.rows.get(row.name);
      if (known) { known.row = row; this.fillTexts(known); this.fill(known); } else this.rows.set(row.name, this.made(row));
    }
    for (const [name, known] of this.rows) {
      if (!names.has(name)) { this.seen.unobserve(known.node); known.node.remove(); this.rows.delete(name); }
    }
    this.arrange();
  }

  made(row) {
    const node = element("tr");
    const known = { row, node, cells: {}, bars: {}, trend: null, visible: false, canvas: null };
    if (this.compared) node.append(element("td", null, { class: "check" }));
    node.append(element("td", null, { class: "rank0" }, this.nameOf(known)));
    node.known = known;
    this.fillTexts(known);
    this.seen.observe(node);
    return known;
  }

  /** The cells beside the name: a row gets them when it is about to be seen, and keeps them. */
  complete(known) {
    if (known.canvas) return;
    const { row, node } = known;
    if (this.compared) {
      const box = element("input", null, { type: "checkbox", "aria-label": `Compare ${row.shown}` });
      box.checked = this.compared.has(row.name);
      box.addEventListener("change", () => this.compare(row.name, box));
      known.box = box;
      node.cells[0].append(box);
    }
    for (const column of this.columns) {
      if (column.key === "name") continue;
      const cell = element("td", null, { class: `${column.text ? "" : "number"} rank${column.rank ?? 0}` });
      known.cells[column.key] = element("span");
      cell.append(known.cells[column.key]);
      if (column.bar) {
        known.bars[column.key] = element("i");
        cell.append(element("span", null, { class: "bar", "aria-hidden": "true" }, known.bars[column.key]));
      }
      node.append(cell);
    }
    known.canvas = element("canvas", null, { class: "trend", "aria-hidden": "true" });
    node.append(element("td", null, { class: "rank1" }, known.canvas));
    this.fill(known);
  }

  nameOf(known) {
    const { row } = known;
    const link = element("a", "", { href: groupAddress(row), class: "name" });
    known.link = link;
    if (!this.tree) return link;
    known.toggle = element("button", "▸", { type: "button", class: "toggle" });
    known.toggle.addEventListener("click", () => this.toggle(row.name));
    const depth = row.name.slice(this.below === "/" ? 0 : this.below.length).split("/").length - 2;
    const box = element("span", null, { class: "branch" }, known.toggle, link);
    box.style.paddingInlineStart = `${Math.min(depth, 8) * 1.1}rem`;
    known.depth = depth;
    return box;
  }

  fillTexts(known) {
    const { row } = known;
    const text = this.tree && !row.container ? row.name.slice(row.name.lastIndexOf("/") + 1) : row.shown === row.name ? row.container.slice(0, 12) : row.shown;
    setText(known.link, text);
    known.link.title = row.name;
    known.link.href = groupAddress(row);
    known.node.classList.toggle("bad", row.health === "unhealthy" || row.state === "dead");
    known.text = `${row.shown} ${row.name} ${row.image} ${row.state} ${row.health} ${Object.entries(row.labels).map((pair) => pair.join("=")).join(" ")} ${row.ports.join(" ")}`.toLowerCase();
  }

  fill(known) {
    if (!known.canvas) return;
    const { row } = known;
    for (const column of this.columns) {
      if (!column.show) continue;
      setText(known.cells[column.key], column.show(row));
      if (column.bar) {
        const share = Math.min(1, column.bar(row));
        const width = `${Math.round(share * 100)}%`;
        const bar = known.bars[column.key];
        if (bar.style.width !== width) { bar.style.width = width; bar.classList.toggle("high", share > 0.9); }
      }
    }
  }

  take(points) {
    for (const [name, point] of Object.entries(points)) {
      const known = this.rows.get(name);
      if (!known) continue;
      known.row.point = point;
      if (known.visible) this.fill(known);
    }
    if (!this.columns.find((column) => column.key === this.order).text) this.sortSoon();
  }

  tick() {
    if (document.hidden || state.paused) return;
    for (const known of this.rows.values()) {
      if (!known.trend) continue;
      known.trend.push(value(known.row.point, "cpu"));
      if (known.trend.length > TREND) known.trend.shift();
      if (known.visible) sparkline(known.canvas, known.trend, TREND);
    }
  }

  appeared(entries) {
    for (const entry of entries) {
      const known = entry.target.known;
      known.visible = entry.isIntersecting;
      if (!known.visible) continue;
      if (known.canvas) this.fill(known); else this.complete(known);
      if (known.trend) sparkline(known.canvas, known.trend, TREND);
      else this.askTrends();
    }
  }

  async fetchTrends() {
    const wanted = [...this.rows.values()].filter((known) => known.visible && !known.trend).slice(0, HISTORY_NAMES);
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
      sparkline(known.canvas, known.trend, TREND);
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
    // what somebody points at or types in must not move away
    if (!asked && this.order !== "name" && this.body.matches(":hover") && this.body.children.length) { this.choose(); return; }
    const column = this.columns.find((one) => one.key === this.order);
    const sign = this.descending ? -1 : 1;
    const by = column.text
      ? (a, b) => sign * natural(column.order(a.row), column.order(b.row)) || natural(a.row.shown, b.row.shown)
      : (a, b) => sign * (column.order(a.row) - column.order(b.row)) || natural(a.row.shown, b.row.shown);
    const sorted = this.tree ? this.branches(by) : [...this.rows.values()].sort(by);
    if (!this.body.firstElementChild) for (const known of sorted.slice(0, FIRST_SEEN)) this.complete(known);
    const active = document.activeElement;
    let after = this.body.firstElementChild;
    for (const known of sorted) {
      if (known.node === after) after = after.nextElementSibling;
      else this.body.insertBefore(known.node, after);
    }
    if (active && active !== document.activeElement && this.body.contains(active)) active.focus({ preventScroll: true });
    for (const cell of this.table.tHead.rows[0].cells) {
      if (cell.dataset.key === this.order) cell.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    this.choose();
  }

  /** The tree in order: each group's children sorted, beneath it. */
  branches(by) {
    const below = new Map();
    for (const known of this.rows.values()) {
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
    const words = this.filter.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    const hits = new Set();
    for (const known of this.rows.values()) {
      known.hit = words.every((word) => known.text.includes(word));
      if (known.hit && words.length && this.tree) {
        for (let name = known.row.name; name && !hits.has(name); name = parentOf(name)) hits.add(name);
      }
    }
    for (const known of this.rows.values()) {
      const { name } = known.row;
      const visible = !this.tree ? known.hit : words.length ? hits.has(name) : known.depth === 0 || this.isOpen(parentOf(name));
      if (known.node.hidden === visible) known.node.hidden = !visible;
      shown += visible;
      if (known.toggle) {
        const has = known.row.is_parent;
        const open = has && (words.length > 0 || this.open.has(name));
        known.toggle.style.visibility = has ? "visible" : "hidden";
        setText(known.toggle, open ? "▾" : "▸");
        known.toggle.setAttribute("aria-expanded", String(open));
        known.toggle.setAttribute("aria-label", `${open ? "Close" : "Open"} ${name}`);
      }
    }
    const total = this.rows.size;
    setText(this.count, words.length ? `${whole(shown)} of ${whole(total)}` : plural(total, this.tree ? "group" : "container"));
    this.empty.hidden = shown > 0;
    if (!shown) setText(this.empty, total ? `Nothing matches “${this.filter.value.trim()}”.` : this.tree ? "No control groups below this one." : "No containers are running. Start one: docker run -d IMAGE");
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

  // -- the keyboard -----------------------------------------------------------------------------

  key(event) {
    const inField = event.target.matches("input[type=search], select, textarea");
    if (event.key === "/" && !inField) { event.preventDefault(); this.filter.focus(); this.filter.select(); return; }
    if (event.key === "Escape" && event.target === this.filter) { this.filter.value = ""; this.arrange(); return; }
    const known = event.target.closest?.("tr")?.known;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (!known && event.target !== this.filter) return;
      const rows = [...this.body.rows].filter((row) => !row.hidden);
      const at = known ? rows.indexOf(known.node) + (event.key === "ArrowDown" ? 1 : -1) : 0;
      const next = rows[at];
      event.preventDefault();
      if (next) { next.known.link.focus(); next.scrollIntoView({ block: "nearest" }); } else if (at < 0) this.filter.focus();
      return;
    }
    if (!known) return;
    if (event.key === "c" && known.box) known.box.click();
    if (known.toggle && event.key === "ArrowRight" && !this.open.has(known.row.name)) { event.preventDefault(); this.toggle(known.row.name); }
    if (known.toggle && event.key === "ArrowLeft" && this.open.has(known.row.name)) { event.preventDefault(); this.toggle(known.row.name); }
  }
}

