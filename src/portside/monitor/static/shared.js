// What all parts of the page use: elements, numbers in words, requests, the live stream.
// Everything shown comes through textContent: names are never markup.
"use strict";

export const prefix = document.querySelector("meta[name=prefix]").content;
export const $ = (id) => document.getElementById(id);
export const natural = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" }).compare;
const api = `${prefix}/api/portside/v1/`;
export const state = { about: null, index: {}, paused: false, window: "10m" };

export function element(tag, text, attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (text !== null && text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const probe = element("i", null, { class: "probe", "aria-hidden": "true" });

/** A colour of the style sheet, as canvases understand it. */
export function color(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

// -- numbers in words -------------------------------------------------------------------------

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (value >= 1023.5 && unit < units.length - 1) { value /= 1024; unit += 1; }
  const shown = unit === 0 ? Math.round(value) : value >= 99.95 ? Math.round(value) : value.toFixed(1);
  return `${shown} ${units[unit]}`;
}

export const rate = (value) => `${bytes(value)}/s`;
export const cores = (value) => (value < 0.0005 ? "0" : value.toFixed(value >= 9.995 ? 1 : value < 0.095 ? 3 : 2));
export const percent = (value) => `${value >= 9.95 || value === 0 ? Math.round(value) : value.toFixed(1)} %`;
const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const whole = (value) => numbers.format(value);
export const plural = (number, word, several = `${word}s`) => `${whole(number)} ${number === 1 ? word : several}`;

export function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
  const at = Math.max(0, parts.findIndex(([size]) => seconds >= size));
  if (seconds < 1) return "0 s";
  const [size, unit] = parts[at];
  const first = `${Math.floor(seconds / size)} ${unit}`;
  const next = parts[at + 1];
  const rest = next ? Math.floor((seconds % size) / next[0]) : 0;
  return rest ? `${first} ${rest} ${next[1]}` : first;
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
export const seconds = (text) => Number(text.slice(0, -1)) * { s: 1, m: 60, h: 3600, d: 86400 }[text.at(-1)];

// -- requests -----------------------------------------------------------------------------------

export async function ask(path, query = {}) {
  const url = new URL(api + path, location.origin);
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) url.searchParams.append(name, one);
  }
  const answer = await fetch(url);
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Error(body.message || `HTTP ${answer.status}`);
  }
  return answer.json();
}

/** What came with the document itself, once. */
export function taken() {
  const node = $("first");
  const found = JSON.parse(node?.textContent || "null");
  node?.remove();
  return found;
}

export function fail(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
}

export function groupAddress(row) {
  if (row.container) return `${prefix}/docker/${encodeURIComponent(row.shown === row.name ? row.container : row.shown)}`;
  return `${prefix}/containers${row.name.split("/").map(encodeURIComponent).join("/")}`;
}

export const value = (point, name) => point[state.index[name]];

// -- the live stream ------------------------------------------------------------------------------

const handlers = { points: [], groups: [], happened: [], alert: [] };
export const on = (event, handler) => handlers[event].push(handler);

export function follow(query) {
  const url = new URL(`${api}live`, location.origin);
  for (const [name, one] of query) url.searchParams.append(name, one);
  const stream = new EventSource(url);
  const badge = $("live");
  const show = (text, kind) => { setText(badge, text); badge.className = `badge ${kind}`; };
  let again = false;
  stream.addEventListener("open", () => {
    show(state.paused ? "paused" : "live", state.paused ? "" : "good");
    $("error").hidden = true;
    for (const kind of again ? ["groups", "alert"] : ["alert"]) for (const handler of handlers[kind]) handler(); // what was missed
    again = true;
  });
  stream.addEventListener("error", () => show("not connected", "bad"));
  for (const name of Object.keys(handlers)) {
    stream.addEventListener(name, (event) => {
      if (state.paused && name === "points") return;
      const data = JSON.parse(event.data);
      for (const handler of handlers[name]) handler(data);
    });
  }
  $("pause").addEventListener("click", () => {
    state.paused = !state.paused;
    $("pause").setAttribute("aria-pressed", String(state.paused));
    setText($("pause"), state.paused ? "Continue" : "Pause");
    show(state.paused ? "paused" : "live", state.paused ? "" : "good");
  });
  return stream;
}

export function eventSource(path, query) {
  const url = new URL(api + path, location.origin);
  for (const [name, one] of Object.entries(query)) url.searchParams.append(name, one);
  return new EventSource(url);
}

/** Calls ``act`` at most once in so many milliseconds, and once more for what came meanwhile. */
export function calm(act, pause) {
  let timer = 0;
  let again = false;
  const run = () => {
    if (timer) { again = true; return; }
    act();
    timer = setTimeout(() => { timer = 0; if (again) { again = false; run(); } }, pause);
  };
  return run;
}
