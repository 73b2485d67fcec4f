// What a person says of a reply: a thumb at once, and then words, reasons, and what should have been said.

import { button, draw, make, say } from "./dom.js";
import { marked } from "./diff.js";
import { json } from "./session.js";

const REASONS = { wrong: "a wrong fact", missing: "a fact is missing", tone: "the tone", unclear: "unclear" };

const THUMB = "M2 9h3v9H2zM7 18V9l4-7c1.5 0 2.2 1 2 2.2L12.4 8H17c1.2 0 2 1 1.7 2.1l-1.8 6.4c-.2.9-1 1.5-1.9 1.5z";

const icon = (thumb) =>
  draw("svg", { viewBox: "0 0 20 20", class: "icon", "aria-hidden": "true" },
    draw("path", { d: THUMB, transform: thumb === "down" ? "rotate(180 10 10)" : null }));

/** Return the two thumbs; `changed` is called when the reply's opinion has. */
export function thumbs(reply, changed) {
  const one = (thumb, name) =>
    button(icon(thumb), () => tell(reply, { thumb }, changed), {
      class: "plain thumb", "aria-pressed": String(reply.opinion?.thumb === thumb), "aria-label": name, title: name,
      "data-name": `${reply.id}-${thumb}`,
    });
  return make("span", { class: "thumbs", role: "group", "aria-label": "Your opinion" },
    one("up", "Good reply"), one("down", "Bad reply"));
}

/** Return the form for more than a thumb, once there is one. */
export function more(reply, changed) {
  const opinion = reply.opinion;
  if (!opinion) return null;
  const text = make("textarea", { rows: 2, dir: "auto", "data-name": `${reply.id}-text` });
  text.value = opinion.text ?? "";
  const correction = make("textarea", { rows: 3, dir: "auto" });
  correction.value = opinion.correction ?? reply.text;
  const difference = make("div", {});
  const compare = () =>
    difference.replaceChildren(...(correction.value.trim() === reply.text.trim() ? [] : [marked(reply.text, correction.value)]));
  correction.addEventListener("input", compare);
  compare();
  const reasons = Object.entries(REASONS).map(([value, label]) =>
    make("label", { class: "inline" },
      make("input", { type: "checkbox", value, checked: opinion.reasons?.includes(value) ?? false }), label));
  const save = (event) => {
    event.preventDefault();
    const corrected = correction.value.trim();
    tell(reply, {
      thumb: opinion.thumb,
      ...(text.value.trim() && { text: text.value.trim() }),
      ...(corrected && corrected !== reply.text.trim() && { correction: corrected }),
      ...(opinion.thumb === "down" && {
        reasons: [...form.querySelectorAll("input:checked")].map((box) => box.value),
      }),
    }, changed, true);
  };
  const form = make("form", { class: "opinion", onsubmit: save },
    opinion.thumb === "down" && make("fieldset", { class: "reasons" }, make("legend", {}, "What is wrong"), reasons),
    make("label", {}, "In your words", text),
    make("label", {}, "What it should have said", correction),
    difference,
    make("div", { class: "actions" }, make("button", { type: "submit", class: "plain", "data-name": `${reply.id}-save` }, "Save")));
  return make("details", { class: "more", open: opinion.open ?? false,
    ontoggle: (event) => { opinion.open = event.currentTarget.open; } },
    make("summary", { "data-name": `${reply.id}-more` }, "Say more, or correct it"), form);
}

async function tell(reply, words, changed, whole = false) {
  const before = reply.opinion;
  reply.opinion = { ...(whole ? {} : before), ...words, open: before?.open ?? words.thumb === "down" };
  reply.remark = "";
  changed();
  try {
    const { open, ...said } = reply.opinion;
    await json("/v1/feedback", { method: "POST", body: { interaction_id: reply.id, ...said } });
    reply.remark = "Your opinion is saved.";
  } catch (fault) {
    if (!whole) reply.opinion = before;
    reply.remark = `Your opinion is not saved. ${fault.message}`;
  }
  say(reply.remark);
  changed();
}
