// The queue of replies that a person looks at, and what is decided of them.

import { ago, at, button, make, notice, refill, say } from "./dom.js";
import { marked } from "./diff.js";
import { facts, listed } from "./prompt.js";
import { json, session } from "./session.js";

const WHY = {
  always: "every reply is reviewed", flagged: "flagged by a guard", sample: "drawn as a sample", queue: "no engine answered",
};
const RISK = ["no risk found", "masked", "flagged", "blocked, or no reply"];
const KEYS = [
  ["j, k", "the next, the previous reply"], ["c", "claim it"], ["a", "approve it"], ["e", "edit it"], ["r", "reject it"],
  ["Esc", "leave a text field"], ["?", "this list"],
];
const REFRESH_MS = 15000;

let queue = [];
let chosen = null; // the id of the review that is shown
let task = null; // what is written about it: "edit" or "reject"
let timer = 0;

export async function open() {
  await load();
  timer = setInterval(() => document.hidden || task || load(), REFRESH_MS);
}

export const close = () => clearInterval(timer);

const current = () => queue.find(({ id }) => id === chosen);

async function load() {
  try {
    const { data, counts, next } = await json(`/v1/reviews?limit=50&state=${at("reviews-state").value}`);
    const claimed = at("reviews-state").value === "open" ? (await json("/v1/reviews?limit=50&state=claimed")).data : [];
    queue = [...data, ...claimed];
    at("reviews-note").textContent = `${counts.open} open, ${counts.claimed} claimed, ${counts.decided} decided${next ? "; the first 50 are shown" : ""}`;
    notice("");
  } catch (fault) {
    notice(fault.message);
  }
  if (!current()) [chosen, task] = [queue[0]?.id ?? null, null];
  show();
}

function show() {
  refill(at("queue"), ...(queue.length ? queue.map(line) : [make("p", { class: "empty" }, "Nothing is waiting.")]));
  refill(at("case"), ...(current() ? detail(current()) : []));
}

function line(review) {
  return make("button", {
    type: "button", class: "line", "aria-current": review.id === chosen ? "true" : null, "data-name": review.id,
    onclick: () => choose(review.id),
  },
  make("span", { class: "row" }, make("strong", {}, review.decision ?? review.state), make("span", { class: "soft" }, ago(review.at))),
  make("span", { class: "clip", dir: "auto" }, review.reply || "(no reply)"),
  make("span", { class: "row" },
    make("span", { class: `chip risk-${review.risk}` }, RISK[review.risk]),
    review.mine && make("span", { class: "chip" }, "your own request")));
}

function choose(id) {
  [chosen, task] = [id, null];
  show();
  at("queue").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
}

function detail(review) {
  const asked = review.messages?.map(({ role, content }) => message(role, content, review.reply)) ?? [
    make("p", { class: "soft" }, "The texts were not kept.")];
  return [
    make("h2", {}, WHY[review.why] ?? review.why),
    make("p", { class: "about" },
      make("span", { class: "soft" }, `${review.model}, version ${review.version} · from ${review.caller} · ${ago(review.at)}`),
      review.wait && make("span", { class: "chip" }, "the caller waits"),
      review.verdicts.filter(({ action }) => action !== "pass").map(({ guard, action, detail: said }) =>
        make("span", { class: `chip ${action}` }, `${action}: ${guard}`, said && ` (${said})`))),
    ...asked,
    make("h3", {}, "Reply"),
    make("p", { class: "said boxed", dir: "auto" }, review.reply || "There is none: write one with Edit."),
    review.fault && make("p", { class: "fault" }, review.fault),
    ...(review.state === "decided" ? decided(review) : decide(review)),
  ].flat().filter(Boolean);
}

function message(role, content, reply) {
  const found = role === "user" ? facts(content, session.settings.kind) : null;
  const name = { system: "System turn", user: "Question", assistant: "Earlier reply" }[role];
  return make("div", { class: "asked" }, make("h3", {}, name),
    found ? listed(found, reply) : make("p", { dir: "auto" }, content));
}

function decided(review) {
  return [
    make("p", {}, `${review.decision} by ${review.decided_by}, ${ago(review.decided_at)}.`, review.reason && ` ${review.reason}`),
    review.decision === "edited" && marked(review.reply, review.final),
  ];
}

function decide(review) {
  if (review.mine) {
    return [make("p", { class: "fault" }, "This came from your own request. Somebody else has to decide (four eyes).")];
  }
  const name = (what) => ({ "data-name": what, "aria-keyshortcuts": what });
  const claimed = review.claimed_by
    ? make("p", { class: "soft" }, `Claimed by ${review.claimed_by === session.settings.caller.id ? "you" : review.claimed_by}.`)
    : null;
  const bar = make("div", { class: "actions" },
    button("Claim", () => act("claim"), name("c")),
    review.reply && button("Approve", () => act("approve"), { ...name("a"), class: "main" }),
    button("Edit", () => write("edit"), { ...name("e"), "aria-expanded": String(task === "edit") }),
    button("Reject", () => write("reject"), { ...name("r"), "aria-expanded": String(task === "reject") }));
  return [claimed, bar, task && writing(review)];
}

function writing(review) {
  const edits = task === "edit";
  const field = make("textarea", { rows: edits ? 5 : 2, dir: "auto", required: true, id: "words" });
  field.value = edits ? review.reply : "";
  const difference = make("div", {});
  if (edits) field.addEventListener("input", () => difference.replaceChildren(marked(review.reply, field.value)));
  const send = (event) => {
    event.preventDefault();
    const words = field.value.trim();
    if (words) act(task, edits ? { text: words } : { reason: words });
    else field.focus();
  };
  return make("form", { class: "opinion", onsubmit: send },
    make("label", {}, edits ? "What it should say" : "Why it is rejected", field), difference,
    make("div", { class: "actions" },
      make("button", { type: "submit", class: "main" }, edits ? "Send this instead" : "Reject it"),
      button("Cancel", () => write(null))));
}

function write(what) {
  const before = task;
  task = what;
  show();
  if (what) at("words").focus();
  else at("case").querySelector(`[data-name="${before[0]}"]`)?.focus();
}

const DONE = { approve: "approved", edit: "edited", reject: "rejected" };

/** Show what was decided at once, and take it back if the gateway does not agree. */
async function act(what, body = {}) {
  const review = current();
  const before = { ...review, fault: null };
  const place = queue.indexOf(review);
  if (what === "claim") Object.assign(review, { state: "claimed", claimed_by: session.settings.caller.id, fault: null });
  else {
    Object.assign(review, { state: "decided", decision: DONE[what] });
    queue.splice(place, 1);
    chosen = (queue[place] ?? queue[place - 1])?.id ?? null;
    at("case").focus();
  }
  task = null;
  show();
  try {
    Object.assign(review, await json(`/v1/reviews/${encodeURIComponent(review.id)}/${what}`, { method: "POST", body }));
    say(what === "claim" ? "Claimed." : `The reply is ${DONE[what]}.`);
    if (what === "claim") show();
    else await load();
  } catch (fault) {
    const truth = await json(`/v1/reviews/${encodeURIComponent(review.id)}`).catch(() => before); // as others left it
    Object.assign(review, before, truth, { fault: fault.message });
    if (!queue.includes(review)) queue.splice(place, 0, review);
    [chosen, task] = [review.id, null];
    show();
    say(fault.message);
  }
}

function step(by) {
  const place = queue.findIndex(({ id }) => id === chosen) + by;
  if (!queue[place]) return;
  choose(queue[place].id);
  at("queue").querySelector("[aria-current]").focus();
}

function keys() {
  at("keys-table").replaceChildren(...KEYS.map(([key, does]) =>
    make("tr", {}, make("td", {}, make("kbd", {}, key)), make("td", {}, does))));
  at("keys-dialog").showModal();
}

document.addEventListener("keydown", (event) => {
  if (at("reviews").hidden || document.querySelector("dialog[open]")) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("textarea, select, input");
  if (event.key === "Escape" && typing) return task && write(null);
  if (typing || !at("keys-on").checked) return;
  const does = { j: () => step(1), k: () => step(-1), "?": keys }[event.key];
  if (does) does();
  else if ("caer".includes(event.key)) at("case").querySelector(`[data-name="${event.key}"]`)?.click();
  else return;
  event.preventDefault();
});
at("reviews-state").addEventListener("change", load);
at("reviews-reload").addEventListener("click", load);
at("reviews-keys").addEventListener("click", keys);
