// Another version beside the live one: what speaks against it, and the buttons that decide on it.

import { at, make, notice, refill, say, time } from "./dom.js";
import { json } from "./session.js";

const OPEN = ["loading", "running", "ready"];
let changed = () => {};

/** Have the buttons work; `then` is called after a change. */
export function start(then) {
  changed = then;
  at("rollout").addEventListener("submit", (event) => {
    event.preventDefault();
    decide(event.submitter.value);
  });
}

/** Show how it goes; with neither a roll-out nor what was live before, nothing. */
export async function load() {
  const { live, rollout, former } = await json("/v1/rollout");
  at("rollout").hidden = !(rollout || former);
  const on = rollout && OPEN.includes(rollout.state);
  at("rollout-promote").hidden = !on || rollout.state === "loading";
  at("rollout-abort").hidden = !on;
  at("rollout-rollback").hidden = on || !(former || rollout?.state === "promoted");
  at("rollout-why").hidden = !on && at("rollout-rollback").hidden;
  refill(at("rollout-shown"), told(live, rollout, former), rollout?.evidence && measures(rollout.evidence));
}

async function decide(verb) {
  try {
    await json(`/v1/rollout/${verb}`, { method: "POST", body: { reason: at("rollout-reason").value } });
    at("rollout-reason").value = "";
    say({ promote: "Promoted.", abort: "Aborted.", rollback: "Rolled back." }[verb]);
    await changed();
  } catch (fault) {
    notice(fault.message);
  }
}

function told(live, rollout, former) {
  const named = ({ version, engine }) => `version ${version} on ${engine}`;
  const lines = [["live", named(live)]];
  if (former) lines.push(["still loaded", `${named(former)}, until ${time(former.until)}`]);
  if (rollout) {
    const { challenger, mode, share, state, why, answered, copies } = rollout;
    lines.push(["challenger", named(challenger)],
      ["state", why ? `${state}: ${why}` : state], ["mode", share ? `${mode}, ${Math.round(share * 100)} %` : mode],
      ["because", `${rollout.reason} (${rollout.by})`]);
    if (answered) lines.push(["requests", `${answered.challenger} of the challenger, ${answered.live} of what is live`]);
    if (answered?.failed_over) lines.push(["answered by the live one instead", answered.failed_over]);
    if (copies) lines.push(["copies", `${copies.compared} compared, ${copies.same} the same, ${copies.failed} failed`]);
  }
  return make("table", {}, make("tbody", {}, lines.map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", { dir: "auto" }, String(value))))));
}

function measures({ e_value: value, limit, measures: all }) {
  const rate = ([faults, of]) => (of ? `${faults} of ${of}` : "–");
  const number = (each) => (each >= 1000 ? "over 1000" : each.toPrecision(2));
  return make("table", {},
    make("caption", {}, `Against the challenger: ${number(value)}; it is aborted at ${number(limit)}`),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "faults"),
      ...["live", "challenger", "e-value"].map((name) => make("th", { scope: "col", class: "number" }, name)))),
    make("tbody", {}, Object.entries(all).map(([name, { live, challenger, e_value: each }]) => make("tr", {},
      make("th", { scope: "row" }, name), ...[rate(live), rate(challenger), number(each)].map((cell) => make("td", { class: "number" }, cell))))));
}
