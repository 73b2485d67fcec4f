// How the gateway does: what it has counted, asked for again and again while somebody looks.

import { chart } from "./chart.js";
import { ago, at, heard, make, notice, refill, time } from "./dom.js";
import * as rollout from "./rollout.js";
import { json } from "./session.js";

const REFRESH_MS = 5000;
const SEEN = 120; // latencies that are kept while the view is open: ten minutes

let timer = 0;
let last = null;
let seen = [];

export async function open() {
  await load();
  timer = setInterval(() => document.hidden || !at("status-live").checked || load(), REFRESH_MS);
}

export const close = () => clearInterval(timer);

async function load() {
  try {
    last = await json("/v1/status");
    await rollout.load();
    notice("");
  } catch (fault) {
    notice(`${fault.message} What is shown is not of now.`);
    return;
  }
  const { p50, p95 } = last.latency.last_5;
  seen = [...seen, { at: last.at, p50, p95 }].slice(-SEEN);
  show();
}

const seconds = (value) => {
  if (value == null) return "–";
  if (value >= 100) return `${Math.round(value / 60)} min`;
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`;
};
const money = (value, currency) => new Intl.NumberFormat("en", { style: "currency", currency, maximumFractionDigits: 4 }).format(value);
const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);

function show() {
  at("status-note").textContent = `at ${time(last.at)}, up since ${ago(last.started_at)}${last.draining ? ", shutting down" : ""}`;
  const width = Math.max(260, Math.min(620, at("board").clientWidth - 32, at("board").clientWidth > 760 ? (at("board").clientWidth - 80) / 2 : Infinity));
  refill(at("board"), figures(last), make("div", { class: "charts" }, traffic(last, width), latency(width)),
    make("div", { class: "tables" }, tables(last)));
}

function figures({ traffic: load, latency: { last_5 }, errors, spend, reviews }) {
  const spent = spend.by_key.reduce((total, { cost }) => total + cost, 0);
  const waiting = reviews.open ? `reviews open, the oldest ${seconds(reviews.oldest)}` : "reviews open";
  const shown = [
    [String(load.last_5), "requests in 5 minutes"], [`${load.in_flight} · ${load.queue}`, "in flight · queued"],
    [seconds(last_5.p50), "median latency, 5 minutes"], [seconds(last_5.p95), "95th percentile"],
    [String(sum(errors)), "errors in an hour"], [money(spent, spend.currency), "spent in an hour"],
    [String(reviews.open), waiting],
  ];
  return make("dl", { class: "figures" }, shown.map(([value, name]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function traffic({ at: now, traffic: { per_minute: values } }, width) {
  const labels = values.map((_, place) => time(now - 60 * (values.length - 1 - place)).slice(0, 5));
  return chart({ title: "Traffic", unit: "requests per minute", axis: "time", labels,
    series: [{ name: "requests", tone: "plain", values }] }, width);
}

const latency = (width) => chart({ title: "Latency", unit: "seconds, over 5 minutes", axis: "time, since this view is open",
  labels: seen.map(({ at: when }) => time(when)),
  series: [{ name: "median", tone: "plain", values: seen.map(({ p50 }) => p50) },
    { name: "95th percentile", tone: "lost", values: seen.map(({ p95 }) => p95) }] }, width);

function tables({ deployment, engines, latency: { last_5, last_60 }, errors, verdicts, rungs, cache, tokens, spend, store }) {
  const counted = (counts) => Object.entries(counts).sort((one, other) => other[1] - one[1]);
  const quantiles = (name, now, hour) =>
    ["p50", "p95", "p99"].map((each) => [`${name} ${each}`, seconds(now[each]), seconds(hour[each])]);
  return [
    table("What is served", ["", ""], Object.entries(deployment).map(([name, value]) => [name.replaceAll("_", " "), value])),
    table("Engines", ["name", "state", "waiting"],
      engines.map(({ name, ready, depth, failure }) => [name, failure ?? (ready ? "ready" : "not ready"), depth])),
    table("Latency", ["", "5 minutes", "an hour"], [
      ...quantiles("reply", last_5, last_60), ...quantiles("first token", last_5.first_token, last_60.first_token)]),
    table("Errors in an hour", ["code", "count"], counted(errors)),
    table("Guard verdicts in an hour", ["verdict", "count"], counted(verdicts)),
    table("Answered by, in an hour", ["rung", "count"], counted(rungs)),
    table("Cache and tokens in an hour", ["", "count"], [
      ["answers from the cache", `${cache.hits} of ${cache.requests}`], ["tokens read", tokens.prompt],
      ["tokens written", tokens.completion]]),
    table(`Spend in an hour, ${spend.currency}`, ["key", "requests", "cost"],
      spend.by_key.map(({ caller, requests, cost }) => [caller, requests, money(cost, spend.currency)])),
    table("Store", ["", ""], [["writes waiting", store.depth],
      ["behind for", store.behind == null ? "not behind" : seconds(store.behind)], ["records spooled", store.spooled]]),
  ];
}

function table(title, headings, rows) {
  const cell = (value) =>
    make("td", { class: typeof value === "number" ? "number" : null, dir: "auto" }, typeof value === "number" ? value.toLocaleString("en") : (value ?? "–"));
  return make("section", { "aria-label": title }, make("h2", {}, title),
    rows.length
      ? make("table", {},
        headings.some(Boolean) && make("thead", {}, make("tr", {}, headings.map((name) => make("th", { scope: "col" }, name || heard("what"))))),
        make("tbody", {}, rows.map(([name, ...values]) => make("tr", {}, make("th", { scope: "row", dir: "auto" }, name), values.map(cell)))))
      : make("p", { class: "soft" }, "None."));
}

rollout.start(load);
addEventListener("resize", () => last && !at("status").hidden && show());
