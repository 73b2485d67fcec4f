// A line chart of a few lines: axes with round steps and units, and its numbers as a table for who cannot see it.

import { draw, make } from "./dom.js";

const HEIGHT = 150;
const EDGE = { left: 44, right: 8, top: 10, bottom: 22 };
const opened = new Set(); // the tables that are open, by title: charts are drawn anew with each refresh

function steps(most) {
  const lead = 10 ** Math.floor(Math.log10(most / 4));
  const step = [1, 2, 5, 10].map((each) => each * lead).find((each) => most / each <= 4);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, place) => place * step);
}

const short = (value) => Number(value.toPrecision(4)).toString();

/** Return a figure of series `{ name, tone, values }` over `labels`, drawn for a width in pixels; null is a gap. */
export function chart({ title, unit, axis, labels, series }, width) {
  const levels = steps(Math.max(...series.flatMap(({ values }) => values).filter((value) => value != null), 0) || 1);
  const [across, down] = [width - EDGE.left - EDGE.right, HEIGHT - EDGE.top - EDGE.bottom];
  const x = (place) => EDGE.left + (labels.length > 1 ? (across * place) / (labels.length - 1) : across);
  const y = (value) => EDGE.top + down * (1 - value / levels.at(-1));
  const grid = levels.map((level) => [
    draw("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(level), y2: y(level) }),
    draw("text", { class: "end", x: EDGE.left - 6, y: y(level) + 4 }, short(level)),
  ]);
  const stride = Math.max(1, Math.ceil(labels.length / Math.max(2, Math.floor(across / 90))));
  const ticks = labels.map((label, place) => ({ label, place })).filter(({ place }) => (labels.length - 1 - place) % stride === 0)
    .map(({ label, place }) => draw("text", {
      class: place === labels.length - 1 ? "end" : "middle", x: x(place), y: HEIGHT - 4,
    }, label));
  const svg = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img",
    "aria-label": `${title}, ${unit}. ${series.map(summary).join(" ")}` },
  grid, ticks, series.flatMap(({ tone, values }) => lines(tone, values, x, y)));
  const key = series.length > 1 &&
    make("p", { class: "keys" }, series.map(({ name, tone }) => make("span", { class: `key ${tone}` }, name)));
  return make("figure", {}, make("h2", {}, title, make("span", { class: "soft" }, ` ${unit}`)), key, svg,
    make("p", { class: "soft small" }, axis), table(title, axis, labels, series));
}

function lines(tone, values, x, y) {
  const runs = [[]];
  values.forEach((value, place) => (value == null ? runs.push([]) : runs.at(-1).push(`${x(place)},${y(value)}`)));
  return runs.filter((run) => run.length).map((run) => {
    if (run.length > 1) return draw("polyline", { class: tone, points: run.join(" ") });
    const [cx, cy] = run[0].split(",");
    return draw("circle", { class: tone, cx, cy, r: 2.5 });
  });
}

function summary({ name, values }) {
  const known = values.filter((value) => value != null);
  if (!known.length) return `${name}: none yet.`;
  return `${name}: now ${short(known.at(-1))}, least ${short(Math.min(...known))}, most ${short(Math.max(...known))}.`;
}

function table(title, axis, labels, series) {
  const rows = labels.map((label, place) => make("tr", {}, make("th", { scope: "row" }, label),
    series.map(({ values }) => make("td", { class: "number" }, values[place] == null ? "–" : short(values[place])))));
  // Not at its toggle event, which comes later: the chart may be drawn anew in between.
  const remember = (event) => opened[event.currentTarget.parentElement.open ? "delete" : "add"](title);
  return make("details", { class: "more", open: opened.has(title) },
  make("summary", { "data-name": title, onclick: remember }, "As a table"),
  make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": `${title}, as a table` }, make("table", {},
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, axis),
      series.map(({ name }) => make("th", { scope: "col", class: "number" }, name)))),
    make("tbody", {}, rows))));
}
