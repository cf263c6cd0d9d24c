"use strict";
const prefix = document.querySelector("meta[name=prefix]").content;
const api = prefix + "/api/portside/v1/";
const onlyContainers = location.pathname.slice(prefix.length).startsWith("/docker");
const rows = new Map();
let series = [];

function bytes(value) {
  let unit = 0;
  while (value >= 1024 && unit < 4) { value /= 1024; unit++; }
  return (unit ? value.toFixed(1) : Math.round(value)) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][unit];
}

function fill(cells, point) {
  const value = name => point[series.indexOf(name)];
  const texts = [value("cpu").toFixed(2), bytes(value("memory")), null,
    bytes(value("net_rx")), bytes(value("net_tx")), String(value("threads"))];
  texts.forEach((text, number) => { if (text !== null) cells[number + 3].textContent = text; });
}

async function list() {
  const found = await (await fetch(api + "groups" + (onlyContainers ? "?containers=1" : ""))).json();
  const body = document.getElementById("rows");
  body.replaceChildren();
  rows.clear();
  for (const group of found) {
    const row = body.insertRow();
    const cells = Array.from({length: 9}, () => row.insertCell());
    cells[0].textContent = group.shown;
    cells[0].title = group.name;
    cells[1].textContent = group.image;
    cells[2].textContent = [group.state, group.health].filter(Boolean).join(", ");
    cells[5].textContent = group.memory_limit ? bytes(group.memory_limit) : "";
    fill(cells, group.point);
    rows.set(group.name, cells);
  }
}

async function alerts() {
  const found = await (await fetch(api + "alerts")).json();
  document.getElementById("alerts").replaceChildren(...found.firing.map(alert => {
    const line = document.createElement("p");
    line.textContent = alert.summary + " " + alert.advice;
    return line;
  }));
}

async function start() {
  series = (await (await fetch(api + "about")).json()).series;
  document.getElementById("caption").textContent = onlyContainers ? "Containers" : "Control groups";
  await Promise.all([list(), alerts()]);
  const stream = new EventSource(api + "live" + (onlyContainers ? "?containers=1" : ""));
  stream.addEventListener("points", event => {
    for (const [name, point] of Object.entries(JSON.parse(event.data).points)) {
      if (rows.has(name)) fill(rows.get(name), point);
    }
  });
  stream.addEventListener("groups", list);
  stream.addEventListener("alert", alerts);
}
start();
