"use strict";
// Everything shown comes from the registry through textContent: names are never markup.
// The address after # tells what is shown: #/team/app is a repository, #/team/app:v1 a tag.
const $ = (id) => document.getElementById(id);
const natural = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" }).compare;
const ORDERS = {
  Tag: (a, b) => natural(a.name, b.name),
  Size: (a, b) => b.size - a.size || natural(a.name, b.name),
  Pushed: (a, b) => b.pushed - a.pushed || natural(b.name, a.name),
};
let repositories = [];
let shown = null; // the repository in the detail, with its tags
let order = "Pushed";

function element(tag, text, attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${unit ? bytes.toPrecision(3) : bytes} ${units[unit]}`;
}

const count = (number, word, several = `${word}s`) => `${number} ${number === 1 ? word : several}`;
const short = (digest) => digest.slice(0, digest.indexOf(":") + 13);
const address = (name, tag = "") => `#/${name}${tag && `:${tag}`}`;

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function ask(path, options = {}) {
  $("error").hidden = true;
  // not relative to the page's own URL: with a user's name in it, fetch refuses
  const url = new URL(path, location.origin + location.pathname);
  const answer = await fetch(url, options);
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    const first = (body.errors || [])[0];
    throw new Refused(answer.status, first ? first.message : `HTTP ${answer.status}`);
  }
  return answer.headers.get("Content-Type")?.startsWith("application/json") ? answer.json() : null;
}

function fail(error) {
  if (error.status === 401) { signIn(); return; }
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

// -- who looks at it ------------------------------------------------------------------------

function signIn() {
  $("login-problem").hidden = true;
  $("login-password").value = "";
  if (!$("login").open) $("login").showModal();
  $("login-user").focus();
}

$("login-cancel").addEventListener("click", () => $("login").close());
$("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = { user: $("login-user").value, password: $("login-password").value };
  ask("session", { method: "POST", body: JSON.stringify(given), headers: { "Content-Type": "application/json" } })
    .then(() => { $("login").close(); return start(); })
    .catch((error) => {
      $("login-problem").textContent = error.message;
      $("login-problem").hidden = false;
      $("login-password").select();
    });
});

async function signOut() {
  await ask("session", { method: "DELETE" });
  repositories = [];
  forget();
  await start();
}

function showUser(answer) {
  const user = $("user");
  user.replaceChildren();
  const button = (text, act) => {
    const made = element("button", text, { type: "button", class: "link" });
    made.addEventListener("click", act);
    return made;
  };
  if (answer.user) user.append(element("span", `signed in as ${answer.user}`));
  if (answer.user && answer.session) user.append(button("Sign out", () => signOut().catch(fail)));
  if (!answer.user && answer.login) user.append(button("Sign in", signIn));
}

// -- the list -------------------------------------------------------------------------------

function showList() {
  const wanted = $("filter").value.trim().toLowerCase();
  const found = repositories.filter((r) => r.name.toLowerCase().includes(wanted));
  const focused = document.activeElement?.dataset?.name;
  const list = $("repositories");
  list.replaceChildren();
  for (const repository of found) {
    const link = element("a", null, { href: address(repository.name), "data-name": repository.name },
      element("b", repository.name),
      element("span", `${count(repository.tags, "tag")}, ${size(repository.size)}`));
    if (repository.name === shown?.name) link.setAttribute("aria-current", "true");
    list.append(element("li", null, {}, link));
    if (repository.name === focused) link.focus();
  }
  $("none").hidden = found.length > 0 || repositories.length === 0;
  $("none").textContent = `No repository has “${$("filter").value.trim()}” in its name.`;
  $("empty").hidden = repositories.length > 0;
}

async function load() {
  const answer = await ask("repositories");
  repositories = answer.repositories.sort((a, b) => natural(a.name, b.name));
  const host = answer.host.replace(/^https?:\/\//, "");
  $("host").textContent = host;
  $("hint").textContent = host;
  const number = count(repositories.length, "repository", "repositories");
  $("total").textContent = repositories.length ? `${number}, ${size(answer.size)} on disk` : "";
  showUser(answer);
  showList();
}

// -- the detail -----------------------------------------------------------------------------

function copyButton(text, what) {
  const button = element("button", "Copy", { type: "button", class: "copy", title: `Copy ${what}`, "aria-label": `Copy ${what}` });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // without TLS there is no clipboard for scripts: select and let the browser copy
      const field = element("textarea", text, { class: "away", readonly: "" });
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

const digestOf = (digest) => element("span", null, { class: "digest" },
  element("code", short(digest), { title: digest }), copyButton(digest, "the digest"));

function kindOf(mediaType) {
  const known = /(?:^|\.)(tar(?:[.+](?:gzip|zstd))?)$/.exec(mediaType);
  return known ? known[1].replace(".", "+") : mediaType;
}

function layersOf(tag) {
  const details = element("details", null);
  const platforms = tag.images.map((image) => image.platform).filter(Boolean);
  const layers = tag.images.flatMap((image) => image.layers);
  details.append(element("summary", platforms.join(", ") || count(layers.length, "layer")));
  for (const image of tag.images) {
    const table = element("table", null, { class: "layers" });
    if (image.platform) table.append(element("caption", null, {}, element("b", image.platform), " ", digestOf(image.digest)));
    table.append(element("tr", null, {}, element("th", "Layer"), element("th", "Size", { class: "number" }), element("th", "Format")));
    for (const layer of image.layers) {
      table.append(element("tr", null, {},
        element("td", null, {}, digestOf(layer.digest)),
        element("td", size(layer.size), { class: "number" }),
        element("td", kindOf(layer.mediaType), { class: "quiet", title: layer.mediaType })));
    }
    details.append(table);
  }
  return details;
}

function rowOf(name, tag, deletable) {
  const cell = (label, content, attributes = {}) =>
    element("td", typeof content === "string" ? content : null, { "data-label": label, ...attributes }, ...(typeof content === "string" ? [] : [content]));
  const pull = `docker pull ${$("host").textContent}/${name}:${tag.name}`;
  const own = element("span", null, {}, element("a", tag.name, { href: address(name, tag.name) }), " ", copyButton(pull, "the pull command"));
  const row = element("tr", null, { "data-tag": tag.name },
    cell("Tag", own, { class: "name" }), cell("Digest", digestOf(tag.digest)),
    cell("Size", size(tag.size), { class: "number" }), cell("Layers", layersOf(tag)),
    cell("Pushed", new Date(tag.pushed * 1000).toLocaleString()), cell("By", tag.pusher));
  if (deletable) {
    const button = element("button", "Delete", { type: "button", class: "danger", "aria-label": `Delete the tag ${tag.name}` });
    button.addEventListener("click", () => remove(name, tag.name).catch(fail));
    row.append(cell("", button));
  } else row.append(cell("", ""));
  return row;
}

function tableOf(deletable) {
  const head = element("tr", null);
  for (const title of ["Tag", "Digest", "Size", "Layers", "Pushed", "By", ""]) {
    const cell = element("th", ORDERS[title] ? null : title, title === "Size" ? { class: "number" } : {});
    if (ORDERS[title]) {
      const button = element("button", title, { type: "button", class: "sort" });
      button.addEventListener("click", () => { order = title; showTags(); $("tags").querySelector(`[data-order="${title}"]`).focus(); });
      button.dataset.order = title;
      if (order === title) cell.setAttribute("aria-sort", title === "Tag" ? "ascending" : "descending");
      cell.append(button);
    }
    head.append(cell);
  }
  const rows = [...shown.tags].sort(ORDERS[order]).map((tag) => rowOf(shown.name, tag, deletable));
  return element("table", null, { id: "tags" }, element("thead", null, {}, head), element("tbody", null, {}, ...rows));
}

function showTags() {
  const deletable = repositories.find((r) => r.name === shown.name)?.deletable ?? false;
  $("tags")?.replaceWith(tableOf(deletable));
}

function forget() {
  shown = null;
  document.body.classList.remove("open");
  document.title = "Registry";
  $("detail").replaceChildren(element("p", "Choose a repository.", { class: "quiet" }));
}

async function open(name, wanted = "", moves = true) {
  const answer = await ask(`tags/${name}`);
  shown = answer;
  document.title = `${name} – Registry`;
  document.body.classList.add("open");
  showList();
  const title = element("h2", name, { tabindex: "-1" });
  const detail = $("detail");
  detail.replaceChildren(element("a", "‹ All repositories", { href: "#/", class: "back" }), title);
  if (answer.tags.length) {
    const newest = [...answer.tags].sort(ORDERS.Pushed)[0];
    const pull = `docker pull ${$("host").textContent}/${name}:${wanted || newest.name}`;
    detail.append(element("p", null, { class: "line" }, element("code", pull, { class: "pull" }), copyButton(pull, "the pull command")),
      element("table", null, { id: "tags" }));
    showTags();
  } else detail.append(element("p", "No tags.", { class: "quiet" }));
  showAudit(answer.audit);
  const row = wanted && [...detail.querySelectorAll("tr[data-tag]")].find((r) => r.dataset.tag === wanted);
  if (row) {
    row.classList.add("wanted");
    row.querySelector("details").open = true;
    row.scrollIntoView({ block: "center" });
  } else if (wanted) fail(new Error(`${name} has no tag ${wanted}`));
  if (moves) (row ? row.querySelector("a") : title).focus({ preventScroll: Boolean(row) });
}

function showAudit(entries) {
  if (!entries.length) return;
  const list = element("table", null, { id: "audit" });
  for (const e of entries) {
    const what = e.reference.startsWith("sha256:") ? short(e.reference) : e.reference;
    list.append(element("tr", null, {}, element("td", new Date(e.time).toLocaleString(), { class: "quiet" }),
      element("td", e.user), element("td", e.action), element("td", what, { title: e.reference })));
  }
  $("detail").append(element("h3", "Recent changes"), list);
}

async function remove(name, tag) {
  if (!(await confirmed(`Delete the tag ${tag} of ${name}? Others who pull it will get an error.`))) return;
  // not beneath /v2, where the challenge may be for a token, which browsers do not know
  await ask(`tags/${name}/${tag}`, { method: "DELETE" });
  await load();
  if (location.hash === address(name, tag)) history.replaceState(null, "", address(name));
  await open(name);
}

// -- addresses ------------------------------------------------------------------------------

async function follow(moves = true) {
  const path = decodeURIComponent(location.hash.replace(/^#\/?/, ""));
  const colon = path.lastIndexOf(":");
  const name = colon < 0 ? path : path.slice(0, colon);
  if (!name) {
    const before = shown?.name;
    forget();
    showList();
    if (moves && before) [...document.querySelectorAll("#repositories a")].find((a) => a.dataset.name === before)?.focus();
    return;
  }
  await open(name, colon < 0 ? "" : path.slice(colon + 1), moves);
}

async function start() {
  await load();
  await follow(false);
}

$("filter").addEventListener("input", showList);
addEventListener("hashchange", () => follow().catch(fail));
start().catch(fail);
