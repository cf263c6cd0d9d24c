// A small line without axes, in a table's cell: processor time of the last minute.
"use strict";

import { color } from "./shared.js";

const [WIDTH, HEIGHT] = [90, 20]; // as in monitor.css; asking the browser would make it lay out the page
let stroke = "";

export function sparkline(canvas, values, most) {
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(WIDTH * ratio)) { canvas.width = Math.round(WIDTH * ratio); canvas.height = Math.round(HEIGHT * ratio); }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, WIDTH, HEIGHT);
  if (values.length < 2) return;
  const top = Math.max(0.02, ...values);
  const step = WIDTH / (most - 1);
  ctx.beginPath();
  values.forEach((one, at) => {
    const x = WIDTH - (values.length - 1 - at) * step;
    const y = HEIGHT - 1.5 - (one / top) * (HEIGHT - 3);
    if (at) ctx.lineTo(x, y); else ctx.moveTo(x, y);
  });
  ctx.strokeStyle = stroke ||= color("--c0");
  ctx.lineWidth = 1.25;
  ctx.stroke();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { stroke = ""; });
