// One question and its replies, as they look.

import { at, button, make, say } from "./dom.js";
import { more, thumbs } from "./opinion.js";
import { facts, listed } from "./prompt.js";
import { session } from "./session.js";

const ENDS = {
  length: "Cut off: the reply reached its limit of tokens.",
  content_filter: "A guard withheld the rest.",
};
const RUNGS = { cache: "from cache", template: "template reply", queue: "for a person" };
const ACTIONS = { flag: "flagged", mask: "masked", block: "blocked" };

/** Return a turn's article; `does` holds what its buttons do, `busy` whether a reply is being written. */
export function drawn(turn, number, does, busy) {
  const reply = turn.replies[turn.shown];
  const changed = () => does.changed(turn);
  return make("article", { "aria-label": `Question ${number}` },
    asked(turn, reply, does, busy),
    reply && make("div", { class: `reply ${reply.state}` },
      make("h3", { class: "heard" }, "Reply"),
      make("p", { class: "said", dir: "auto", "aria-busy": reply.state === "streaming" ? "true" : null }, reply.text),
      ended(reply),
      fault(turn, reply, does, busy),
      reply.state !== "streaming" && about(reply),
      reply.state !== "streaming" && lookedUp(reply),
      reply.state !== "streaming" && actions(turn, reply, does, busy, changed),
      reply.remark && make("p", { class: "soft small remark" }, reply.remark),
      reply.id && reply.text && more(reply, changed)));
}

function asked(turn, reply, does, busy) {
  const found = facts(turn.prompt, session.settings.kind);
  const done = reply?.state === "streaming" ? "" : reply?.text;
  return make("div", { class: "asked" },
    make("h2", { class: "heard" }, "Question"),
    found ? listed(found, done) : make("p", { dir: "auto" }, turn.prompt),
    button("Edit", () => does.edit(turn), { disabled: busy, "data-name": `${turn.id}-edit` }));
}

function ended(reply) {
  if (reply.state === "stopped") return make("p", { class: "soft" }, "Stopped.");
  if (reply.state === "waiting") {
    return make("p", { class: "soft" }, "A person looks at this reply first. Ticket ", make("code", {}, reply.ticket),
      "; this page asks again every few seconds.");
  }
  return ENDS[reply.finish] ? make("p", { class: "soft" }, ENDS[reply.finish]) : null;
}

function fault(turn, reply, does, busy) {
  if (!reply.fault) return null;
  const again = button("Try again", (event) => {
    if (event.currentTarget.getAttribute("aria-disabled") !== "true") does.retry(turn);
  }, { disabled: busy, "data-name": `${turn.id}-retry`, "data-until": reply.fault.until > Date.now() ? reply.fault.until : null });
  return make("div", { class: "fault" }, make("p", {}, reply.fault.message), again);
}

function about(reply) {
  const chips = [];
  if (reply.version) chips.push(make("span", { class: "soft" }, `${reply.model}, version ${reply.version}`));
  if (RUNGS[reply.rung]) chips.push(make("span", { class: "chip" }, RUNGS[reply.rung]));
  if (reply.ticket) chips.push(make("span", { class: "chip" }, `ticket ${reply.ticket}`));
  for (const { guard, side, action, detail } of reply.verdicts ?? []) {
    if (!ACTIONS[action]) continue;
    const where = side === "in" ? "in the question" : "in the reply";
    chips.push(make("span", { class: `chip ${action}`, title: detail || null }, `${ACTIONS[action]}: ${guard} ${where}`));
  }
  return chips.length ? make("p", { class: "about" }, chips) : null;
}

function lookedUp(reply) {
  if (!reply.facts?.length) return null;
  return make("details", { class: "more", open: true },
    make("summary", {}, `Facts looked up: ${reply.facts.length}`),
    make("ul", {}, reply.facts.map((fact) => make("li", { dir: "auto" }, fact))));
}

function actions(turn, reply, does, busy, changed) {
  const name = (what) => ({ "data-name": `${turn.id}-${what}` });
  const count = turn.replies.length;
  const page = (step, label, sign) =>
    button(sign, () => does.show(turn, turn.shown + step), {
      "aria-label": label, disabled: turn.shown + step < 0 || turn.shown + step >= count, ...name(sign),
    });
  return make("div", { class: "actions" },
    count > 1 && make("span", { class: "pager", role: "group", "aria-label": "Wordings" },
      page(-1, "Earlier wording", "‹"), `${turn.shown + 1} of ${count}`, page(1, "Later wording", "›")),
    reply.text && button("Copy", () => copy(turn, reply), name("copy")),
    reply.state !== "failed" && reply.state !== "waiting" &&
      button("Another wording", () => does.another(turn), { disabled: busy, ...name("another") }),
    reply.id && reply.text && thumbs(reply, changed));
}

async function copy(turn, reply) {
  try {
    await navigator.clipboard.writeText(reply.text);
    say("Copied.");
  } catch { // not over plain HTTP, and not without leave
    getSelection().selectAllChildren(at(turn.id).querySelector(".said"));
    say("The reply is selected: copy it with Ctrl + C.");
  }
}
