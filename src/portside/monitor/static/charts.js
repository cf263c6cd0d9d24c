// Charts over one time with one cursor: uPlot, our colours, live points, the keyboard.
"use strict";

import { ask, bytes, color, cores, element, fail, percent, prefix, rate, seconds, state, whole } from "./shared.js";

const GAP = 65; // seconds: an idle group is looked at this often at least
const WHOLE = Array.from({ length: 36 }, (_, at) => [1, 2, 5][at % 3] * 10 ** Math.floor(at / 3));
const BINARY = Array.from({ length: 60 }, (_, n) => 2 ** n);
const KINDS = {
  cores: { show: cores, ticks: (splits) => alike(splits), title: "cores" },
  bytes: { show: bytes, ticks: (splits) => sizes(splits, ""), incrs: BINARY },
  rate: { show: rate, ticks: (splits) => sizes(splits, "/s"), incrs: BINARY },
  percent: { show: percent, ticks: (splits) => alike(splits).map((text) => `${text} %`) },
  whole: { show: whole, ticks: (splits) => splits.map(whole), incrs: WHOLE },
};
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const all = new Set();

/** The library: only pages with charts load it. Whoever imports this file waits for it. */
await Promise.all([
  window.uPlot ? null : loaded(element("script", null, { src: `${prefix}/static/uplot.min.js` })),
  document.querySelector("link[href$='uplot.min.css']") ? null : loaded(element("link", null, { rel: "stylesheet", href: `${prefix}/static/uplot.min.css` })),
]);

function loaded(node) {
  return new Promise((done, failed) => {
    node.addEventListener("load", done);
    node.addEventListener("error", () => failed(new Error("the library of the charts cannot be loaded")));
    document.head.append(node);
  });
}

/** Numbers of one axis, all with as many decimals as one of them needs. */
function alike(splits) {
  const least = Math.abs((splits[1] ?? 1) - (splits[0] ?? 0)) / 1000;
  let digits = 0;
  while (digits < 4 && splits.some((one) => Math.abs(one - Number(one.toFixed(digits))) > least)) digits += 1;
  return splits.map((one) => one.toFixed(digits));
}

/** Sizes of one axis in one unit. */
function sizes(splits, per) {
  const top = Math.max(0, ...splits);
  const unit = Math.min(UNITS.length - 1, top > 0 ? Math.max(0, Math.floor(Math.log2(top) / 10)) : 0);
  return alike(splits.map((one) => one / 1024 ** unit)).map((text) => `${text} ${UNITS[unit]}${per}`);
}

/** Times of the axis in the reader's language and time zone, as everywhere on the page. */
function moments(splits, step) {
  const parts = step >= 86400 ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) };
  const format = new Intl.DateTimeFormat(undefined, parts);
  return splits.map((one) => format.format(one * 1000));
}

/** The width of an axis: that of its longest text. */
const fitting = (_plot, texts) => (texts?.length ? Math.max(44, 18 + 7 * Math.max(...texts.map((text) => text.length))) : 44);

const faded = (text) => text.replace(/^rgb\((.*)\)$/, "rgba($1, 0.14)");

/** Values with the last one carried over the time in which an idle group was not looked at. */
function carried(values, times) {
  const found = values.slice();
  let last = -1;
  for (let at = 0; at < found.length; at += 1) {
    if (found[at] !== null) last = at;
    else if (last >= 0 && times[at] - times[last] <= GAP) found[at] = found[last];
  }
  return found;
}

export class Chart {
  /** lines: [{label, key, from: "mean" | "max", factor, color, fill, dash}]; limit: () => number or 0. */
  constructor(place, { title, kind, lines, limit = null, limitLabel = "limit", note = "" }) {
    Object.assign(this, { kind: KINDS[kind], lines, limit, limitLabel, title });
    this.box = element("div", null, { class: "chart", tabindex: "0", role: "group", "aria-roledescription": "chart", "aria-label": title });
    this.area = element("div", null, { class: "area" });
    this.box.append(element("h3", title, {}, element("span", note || "", { class: "quiet" })), this.area);
    place.append(this.box);
    this.data = [[], ...lines.map(() => [])];
    this.make();
    new ResizeObserver(() => this.resize()).observe(this.area);
    this.box.addEventListener("keydown", (event) => this.key(event));
    all.add(this);
  }

  make() {
    this.plot?.destroy();
    const quiet = color("--quiet");
    const grid = { stroke: color("--line"), width: 1 };
    const { show, ticks, incrs } = this.kind;
    const series = this.lines.map((line) => {
      const stroke = color(line.color);
      return {
        label: line.label, stroke, width: line.thin ? 1 : 1.75, dash: line.dash, spanGaps: false,
        fill: line.fill ? faded(stroke) : undefined, points: { show: false },
        value: (_plot, found) => (found === null || found === undefined ? "–" : show(found)),
      };
    });
    const drawLimit = (plot) => this.drawLimit(plot);
    this.plot = new window.uPlot({
      width: Math.max(200, this.area.clientWidth), height: 190,
      cursor: { sync: { key: "monitor" }, y: false, drag: { setScale: false, x: false, y: false } },
      legend: { live: true },
      scales: { x: { time: true, range: () => this.span() }, y: { range: (_plot, _low, high) => this.range(high) } },
      axes: [
        { stroke: quiet, grid, ticks: grid, font: "12px system-ui", size: 28, space: 80, values: (_plot, splits, _axis, _space, step) => moments(splits, step) },
        { stroke: quiet, grid, ticks: grid, font: "12px system-ui", size: fitting, ...(incrs ? { incrs } : {}), values: (_plot, splits) => ticks(splits) },
      ],
      series: [{ value: (_plot, found) => (found ? new Date(found * 1000).toLocaleTimeString() : "–") }, ...series],
      hooks: { draw: [drawLimit], setCursor: [(plot) => this.said(plot)] },
    }, this.data, this.area);
    this.latest();
  }

  span() {
    const times = this.data[0];
    const end = times.length ? times[times.length - 1] : Date.now() / 1000;
    return [end - seconds(state.window), end];
  }

  range(high) {
    const limit = this.limit?.() || 0;
    let top = high || 0;
    if (limit && top > limit / 5) top = Math.max(top, limit);
    return [0, top > 0 ? top * 1.1 : 1];
  }

  drawLimit(plot) {
    const limit = this.limit?.() || 0;
    if (!limit || limit > plot.scales.y.max) return;
    const { ctx, bbox } = plot;
    const y = plot.valToPos(limit, "y", true);
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color("--danger");
    ctx.setLineDash([6, 4]);
    ctx.lineWidth = devicePixelRatio;
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.font = `${12 * devicePixelRatio}px system-ui`;
    ctx.textAlign = "right";
    ctx.fillText(`${this.limitLabel} ${this.kind.show(limit)}`, bbox.left + bbox.width - 4, y - 5 * devicePixelRatio);
    ctx.restore();
  }

  resize() {
    const width = this.area.clientWidth;
    if (width && width !== this.plot.width) this.plot.setSize({ width, height: 190 });
  }

  put(data) {
    this.data = data;
    this.plot.setData(data);
    this.latest();
  }

  /** Where no cursor is, the legend shows the last values. */
  latest() {
    const last = this.data[0].length - 1;
    if (last >= 0 && (this.plot.cursor.left ?? -1) < 0) this.plot.setLegend({ idx: last });
  }

  said(plot) {
    if ((plot.cursor.left ?? -1) < 0) { this.latest(); return; }
    if (document.activeElement !== this.box) return;
    const at = plot.cursor.idx;
    const texts = this.lines.map((line, n) => `${line.label} ${this.data[n + 1][at] === null ? "no value" : this.kind.show(this.data[n + 1][at] ?? 0)}`);
    this.box.setAttribute("aria-label", `${this.title}, ${new Date((this.data[0][at] ?? 0) * 1000).toLocaleTimeString()}: ${texts.join(", ")}`);
  }

  key(event) {
    const times = this.data[0];
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") { for (const chart of all) chart.plot.setCursor({ left: -10, top: -10 }); return; }
    if (!(event.key in steps) || !times.length) return;
    event.preventDefault();
    const has = (this.plot.cursor.left ?? -1) >= 0;
    const from = has ? this.plot.cursor.idx ?? times.length - 1 : times.length;
    const at = Math.min(times.length - 1, Math.max(0, from + steps[event.key]));
    for (const chart of all) {
      if (chart.data[0].length) chart.plot.setCursor({ left: Math.max(0, chart.plot.valToPos(times[at], "x")), top: 20 });
    }
  }
}

// the canvases are painted anew in the other colours
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const chart of all) chart.make(); });

/** Fills charts from the history and keeps them current. Lines' keys are series, or [group, series]. */
export class ChartFeed {
  constructor(names, charts) {
    this.names = names;
    this.charts = charts;
    this.columns = new Map(); // "name\nseries\nmean" -> values
    this.times = [];
    this.last = new Map();
    this.timer = 0;
  }

  get isFull() { return seconds(state.window) <= state.about.full; }

  async load() {
    clearTimeout(this.timer);
    const series = [...new Set(this.charts.flatMap((chart) => chart.lines.flatMap((line) => (line.less ? [line.key, line.less] : [line.key]))))];
    const found = await ask("history", { name: this.names, window: state.window, points: this.isFull ? 600 : 360, series: series.join(",") });
    if (!found.length) return; // all of them are gone
    this.columns.clear();
    this.times = found[0].times;
    for (const chart of found) {
      for (const [name, column] of Object.entries(chart.series)) {
        for (const kind of ["mean", "max"]) this.columns.set(`${chart.name}\n${name}\n${kind}`, carried(column[kind], chart.times));
      }
    }
    this.draw();
    if (!this.isFull) {
      const step = Math.max(15, found[0].step);
      this.timer = setTimeout(() => this.again(), step * 1000);
    }
  }

  again() {
    if (state.paused || document.hidden) { this.timer = setTimeout(() => this.again(), 2000); return; }
    this.load().catch(fail);
  }

  /** Points of the live stream; in the full resolution they are appended. */
  take(time, points) {
    for (const name of this.names) if (points[name]) this.last.set(name, points[name]);
    if (!this.isFull || !this.times.length || time <= this.times[this.times.length - 1]) return;
    const oldest = time - seconds(state.window);
    let cut = 0;
    while (cut < this.times.length && this.times[cut] < oldest) cut += 1;
    this.times = this.times.slice(cut);
    this.times.push(time);
    for (const [key, values] of this.columns) {
      const [name, series] = key.split("\n");
      const point = this.last.get(name);
      const next = values.slice(cut);
      next.push(point ? point[state.index[series]] : values[values.length - 1] ?? null);
      this.columns.set(key, next);
    }
    if (!document.hidden) this.draw();
  }

  draw() {
    for (const chart of this.charts) {
      const values = chart.lines.map((line) => {
        const found = this.columns.get(`${line.group ?? this.names[0]}\n${line.key}\n${line.from ?? "mean"}`) ?? [];
        const factor = line.factor ?? 1;
        const less = line.less ? this.columns.get(`${line.group ?? this.names[0]}\n${line.less}\nmean`) : null;
        if (less) return found.map((one, at) => (one === null ? null : Math.max(0, one - (less[at] ?? 0))));
        return factor === 1 ? found : found.map((one) => (one === null ? null : one * factor));
      });
      chart.put([this.times, ...values]);
    }
  }
}
