"use strict";
// Everything shown comes from the registry through textContent: names are never markup.
const $ = (id) => document.getElementById(id);
let repositories = [];
let current = null;

function element(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${unit ? bytes.toPrecision(3) : bytes} ${units[unit]}`;
}

async function ask(path, options = {}) {
  $("error").hidden = true;
  // not relative to the page's own URL: with a user's name in it, fetch refuses
  const url = new URL(path, location.origin + location.pathname);
  const answer = await fetch(url, options);
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    const first = (body.errors || [])[0];
    throw new Error(first ? `${first.code}: ${first.message}` : `HTTP ${answer.status}`);
  }
  return answer.headers.get("Content-Type")?.startsWith("application/json") ? answer.json() : null;
}

function fail(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
}

function confirmed(question) {
  $("question").textContent = question;
  const dialog = $("confirm");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

function showList() {
  const wanted = $("filter").value.trim();
  const list = $("repositories");
  list.replaceChildren();
  for (const repository of repositories.filter((r) => r.name.includes(wanted))) {
    const button = element("button", repository.name, { type: "button" });
    if (repository.name === current) button.setAttribute("aria-current", "true");
    button.append(element("span", `${repository.tags} tags, ${size(repository.size)}`));
    button.addEventListener("click", () => open(repository.name).catch(fail));
    const item = element("li", null);
    item.append(button);
    list.append(item);
  }
  $("empty").hidden = repositories.length > 0;
}

async function load() {
  const answer = await ask("repositories");
  repositories = answer.repositories;
  const host = answer.host.replace(/^https?:\/\//, "");
  $("host").textContent = host;
  $("hint").textContent = host;
  $("user").textContent = answer.user ? `signed in as ${answer.user}` : "";
  showList();
}

function layersOf(tag) {
  const details = element("details", null);
  const what = tag.platforms.length ? tag.platforms.join(", ") : `${tag.layers.length} blobs`;
  details.append(element("summary", what));
  for (const layer of tag.layers) {
    const row = element("div", null);
    row.append(element("code", layer.digest.slice(0, 19)), ` ${size(layer.size)} `,
      element("span", layer.mediaType, { class: "quiet" }));
    details.append(row);
  }
  return details;
}

function rowOf(name, tag, deletable) {
  const row = element("tr", null, { "data-tag": tag.name });
  row.append(element("td", tag.name));
  const digest = element("td", null);
  digest.append(element("code", tag.digest.slice(0, 19), { title: tag.digest }));
  row.append(digest, element("td", size(tag.size), { class: "number" }));
  const layers = element("td", null);
  layers.append(layersOf(tag));
  row.append(layers, element("td", new Date(tag.pushed * 1000).toLocaleString()),
    element("td", tag.pusher));
  const last = element("td", null);
  if (deletable) {
    const button = element("button", "Delete", { type: "button", class: "danger" });
    button.addEventListener("click", () => remove(name, tag.name).catch(fail));
    last.append(button);
  }
  row.append(last);
  return row;
}

async function open(name) {
  current = name;
  showList();
  const answer = await ask(`tags/${name}`);
  const deletable = repositories.find((r) => r.name === name)?.deletable ?? false;
  const detail = $("detail");
  detail.replaceChildren(element("h2", name));
  const table = element("table", null);
  const head = element("tr", null);
  for (const title of ["Tag", "Digest", "Size", "Layers", "Pushed", "By", ""]) head.append(element("th", title));
  table.append(head, ...answer.tags.map((tag) => rowOf(name, tag, deletable)));
  detail.append(answer.tags.length ? table : element("p", "No tags.", { class: "quiet" }));
  if (answer.audit.length) {
    detail.append(element("h3", "Recent changes"));
    const list = element("ul", null, { id: "audit" });
    for (const e of answer.audit) {
      list.append(element("li", `${e.time} ${e.user} ${e.action} ${e.reference}`));
    }
    detail.append(list);
  }
}

async function remove(name, tag) {
  if (!(await confirmed(`Delete the tag ${tag} of ${name}? Others who pull it will get an error.`))) return;
  await ask(`/v2/${name}/manifests/${tag}`, { method: "DELETE" });
  await load();
  await open(name);
}

$("filter").addEventListener("input", showList);
load().catch(fail);
