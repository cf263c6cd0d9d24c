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

const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

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
    button.append(element("span", `${count(repository.tags, "tag")}, ${size(repository.size)}`));
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
  const total = repositories.reduce((sum, repository) => sum + repository.size, 0);
  const shown = repositories.length === 1 ? "1 repository" : `${repositories.length} repositories`;
  $("total").textContent = repositories.length ? `${shown}, ${size(total)}` : "";
  $("user").textContent = answer.user ? `signed in as ${answer.user}` : "";
  if (!answer.user && answer.login) $("user").append(element("a", "Sign in", { href: "login" }));
  showList();
}

function layersOf(tag) {
  const details = element("details", null);
  const platforms = tag.images.map((image) => image.platform).filter(Boolean);
  const layers = tag.images.flatMap((image) => image.layers);
  details.append(element("summary", platforms.join(", ") || count(layers.length, "layer")));
  for (const image of tag.images) {
    const table = element("table", null);
    if (image.platform) table.append(element("caption", `${image.platform} ${image.digest.slice(0, 19)}`));
    for (const layer of image.layers) {
      const row = element("tr", null);
      const digest = element("td", null);
      digest.append(element("code", layer.digest.slice(0, 19), { title: layer.digest }));
      row.append(digest, element("td", size(layer.size), { class: "number" }),
        element("td", layer.mediaType.replace(/^application\/.*\.(?=tar\b)/, ""), { class: "quiet", title: layer.mediaType }));
      table.append(row);
    }
    details.append(table);
  }
  return details;
}

function rowOf(name, tag, deletable) {
  const row = element("tr", null, { "data-tag": tag.name });
  row.append(element("td", tag.name, { class: "name" }));
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
  if (answer.tags.length) detail.append(element("code", `docker pull ${$("host").textContent}/${name}:${answer.tags[0].name}`, { class: "pull" }));
  const table = element("table", null);
  const head = element("tr", null);
  for (const title of ["Tag", "Digest", "Size", "Layers", "Pushed", "By", ""]) head.append(element("th", title));
  table.append(head, ...answer.tags.map((tag) => rowOf(name, tag, deletable)));
  detail.append(answer.tags.length ? table : element("p", "No tags.", { class: "quiet" }));
  if (answer.audit.length) {
    detail.append(element("h3", "Recent changes"));
    const list = element("table", null, { id: "audit" });
    for (const e of answer.audit) {
      const row = element("tr", null);
      const what = e.reference.startsWith("sha256:") ? e.reference.slice(0, 19) : e.reference;
      row.append(element("td", new Date(e.time).toLocaleString(), { class: "quiet" }),
        element("td", e.user), element("td", e.action), element("td", what, { title: e.reference }));
      list.append(row);
    }
    detail.append(list);
  }
}

async function remove(name, tag) {
  if (!(await confirmed(`Delete the tag ${tag} of ${name}? Others who pull it will get an error.`))) return;
  // not beneath /v2, where the challenge may be for a token, which browsers do not know
  await ask(`tags/${name}/${tag}`, { method: "DELETE" });
  await load();
  await open(name);
}

$("filter").addEventListener("input", showList);
load().catch(fail);
