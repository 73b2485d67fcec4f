// The conversation: what was asked and answered, kept in this tab, and the reply that is being written.

import * as composer from "./composer.js";
import { at, make, notice, refill, say } from "./dom.js";
import { ask, Fault, json, session } from "./session.js";
import { chunks } from "./stream.js";
import { drawn } from "./turn.js";

const KEPT = "forgeline.chat";
const ANOTHER = { temperature: 0.7 }; // the reply to the same question would be the same
const TICKET_MS = 5000; // between looks at a ticket, at most
const SENTENCE = /[\s\S]*[.!?…。！？؟]["'”’)]*(?=\s)/u;

let turns = [];
let writing = null; // the reply that is being written, and how to stop it
let editing = null;

const does = {
  changed: refresh,
  edit: (turn) => {
    editing = turn;
    composer.take(turn.prompt, turn.system);
    buttons();
  },
  retry: (turn) => answer(turn, turn.replies.splice(turn.shown, 1)[0].more),
  another: (turn) => answer(turn, { ...ANOTHER, seed: Math.floor(Math.random() * 2 ** 31) }),
  show: (turn, place) => {
    turn.shown = place;
    refresh(turn);
  },
};

export async function open() {
  composer.prepare();
  at("chat-note").textContent = session.settings.human_review;
  turns = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
  for (const reply of turns.flatMap((turn) => turn.replies)) {
    if (reply.state === "streaming") Object.assign(reply, { state: "stopped" }); // the page was left meanwhile
  }
  at("turns").replaceChildren(...turns.map(item));
  buttons();
  turns.forEach(follow);
  toEnd();
  try {
    composer.listModels((await json("/v1/models")).data.map(({ id }) => id));
  } catch (fault) {
    notice(fault.message);
  }
}

function item(turn) {
  const line = make("li", { id: turn.id });
  line.append(drawn(turn, turns.indexOf(turn) + 1, does, Boolean(writing)));
  return line;
}

function refresh(turn) {
  const line = at(turn.id);
  if (line) refill(line, drawn(turn, turns.indexOf(turn) + 1, does, Boolean(writing)));
  keep();
}

function keep() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(turns));
  } catch { // a few megabytes are all that a tab keeps
    notice("This tab keeps no more: what is asked from now on is gone when the page is loaded again.");
  }
}

function buttons() {
  const focused = document.activeElement;
  at("send").hidden = Boolean(writing);
  at("stop").hidden = !writing;
  if (writing && focused === at("send")) at("stop").focus();
  if (!writing && focused === at("stop")) at("send").focus();
  at("edit-cancel").hidden = !editing || Boolean(writing);
  at("send").textContent = editing ? "Ask again" : "Write the reply";
  at("clear").hidden = !turns.length;
  at("welcome").hidden = turns.length > 0;
  for (const control of at("turns").querySelectorAll("[data-name$='-edit'], [data-name$='-another'], [data-name$='-retry']")) {
    control.disabled = Boolean(writing);
  }
}

function send(event) {
  event.preventDefault();
  const prompt = composer.prompt();
  if (writing || !prompt) return prompt || composer.focus();
  const asked = { prompt, system: composer.system(), model: at("model").value };
  let turn = editing;
  if (turn) {
    Object.assign(turn, asked, { replies: [] });
    if (session.settings.conversation) drop(turns.splice(turns.indexOf(turn) + 1));
  } else {
    turn = { id: `turn-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`, ...asked, replies: [], shown: 0 };
    turns.push(turn);
    at("turns").append(item(turn));
  }
  editing = null;
  at("question").value = "";
  answer(turn);
}

const drop = (gone) => gone.forEach(({ id }) => at(id).remove());

function messages(turn) {
  const earlier = session.settings.conversation ? turns.slice(0, turns.indexOf(turn)) : [];
  const said = earlier.flatMap(({ prompt, replies, shown }) => {
    const text = replies[shown]?.text;
    return text ? [{ role: "user", content: prompt }, { role: "assistant", content: text }] : [];
  });
  const system = turn.system ? [{ role: "system", content: turn.system }] : [];
  return [...system, ...said, { role: "user", content: turn.prompt }];
}

async function answer(turn, more = {}) {
  if (writing) return;
  const reply = { state: "streaming", text: "", model: turn.model, more };
  const control = new AbortController();
  writing = { control };
  turn.shown = turn.replies.push(reply) - 1;
  refresh(turn);
  buttons();
  toEnd(true);
  say("The reply is being written.");
  try {
    await receive(turn, reply, control.signal);
    if (reply.state === "streaming") reply.state = "done";
  } catch (fault) {
    if (fault.name === "AbortError") reply.state = "stopped";
    else failed(reply, fault);
  }
  writing = null;
  buttons();
  refresh(turn);
  speak(reply, true);
  if (reply.state === "stopped") say("Stopped.");
  follow(turn);
  toEnd();
}

function failed(reply, fault) {
  const until = fault.retryAfter ? Date.now() + fault.retryAfter * 1000 : null;
  Object.assign(reply, { state: "failed", fault: { message: fault.message, until } });
  say(`${fault.message} ${until ? `You can try again in ${fault.retryAfter} seconds.` : "You can try again."}`);
}

async function receive(turn, reply, signal) {
  const body = { model: turn.model, messages: messages(turn), stream: true, ...reply.more };
  const response = await ask("/v1/chat/completions", { method: "POST", body, signal });
  reply.id = response.headers.get("x-request-id");
  reply.version = response.headers.get("x-forgeline-version");
  if (response.status === 202) {
    Object.assign(reply, { state: "waiting", ticket: (await response.json()).ticket });
    return;
  }
  if (!response.headers.get("content-type").startsWith("text/event-stream")) {
    const whole = await response.json();
    learn(reply, whole, whole.choices[0].message.content);
    return;
  }
  const shown = at(turn.id).querySelector(".said");
  for await (const chunk of chunks(response)) {
    const text = chunk.choices[0]?.delta?.content ?? "";
    learn(reply, chunk, text);
    shown.append(text);
    speak(reply);
    if (text) toEnd();
  }
}

/** Take what a completion or a chunk says besides its text: why it ended, what the gateway tells of it. */
function learn(reply, said, text) {
  reply.text += text;
  reply.finish = said.choices[0]?.finish_reason ?? reply.finish;
  const { facts, verdicts, rung, version, ticket } = said.forgeline ?? {};
  for (const [name, value] of Object.entries({ facts, verdicts, rung, version, ticket })) if (value) reply[name] = value;
}

/** Have whole sentences read aloud as they come, and at the end what is left. */
function speak(reply, ended = false) {
  if (!writing && !ended) return;
  const done = reply.spoken ?? 0;
  const fresh = reply.text.slice(done);
  const sentence = ended ? fresh : (SENTENCE.exec(fresh)?.[0] ?? "");
  if (sentence.trim()) say(sentence.trim());
  reply.spoken = done + sentence.length;
}

/** Ask for what a person decides, until it is decided. */
async function follow(turn) {
  for (const reply of turn.replies.filter(({ state }) => state === "waiting")) {
    for (let tries = 1; reply.state === "waiting" && turns.includes(turn); tries++) {
      await new Promise((resolve) => setTimeout(resolve, Math.min(tries * 500, TICKET_MS)));
      await look(reply);
      refresh(turn);
    }
  }
}

async function look(reply) {
  try {
    const ticket = await json(`/v1/reviews/tickets/${encodeURIComponent(reply.ticket)}`);
    if (ticket.state === "answered") {
      Object.assign(reply, { state: "done", text: ticket.reply, finish: ticket.finish_reason });
      say(`A person has answered: ${ticket.reply}`);
    } else if (ticket.state === "rejected") {
      failed(reply, new Fault(`A person rejected the reply: ${ticket.reason}`));
    }
  } catch (fault) {
    if (fault.status >= 400 && fault.status < 500 && fault.status !== 429) failed(reply, fault);
  }
}

/** Keep the end of the conversation in sight, unless somebody reads further up. */
function toEnd(always = false) {
  const last = at("turns").lastElementChild;
  if (last && (always || last.getBoundingClientRect().bottom < innerHeight + 160)) last.scrollIntoView({ block: "nearest" });
}

/** Count down what is left until a request may be tried again. */
setInterval(() => {
  for (const waits of document.querySelectorAll("[data-until]")) {
    const left = Math.ceil((Number(waits.dataset.until) - Date.now()) / 1000);
    waits.setAttribute("aria-disabled", String(left > 0));
    waits.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left > 0) continue;
    delete waits.dataset.until;
    say("You can try again now.");
  }
}, 250);

at("composer").addEventListener("submit", send);
at("stop").addEventListener("click", () => writing?.control.abort());
at("edit-cancel").addEventListener("click", () => {
  const back = `${editing.id}-edit`;
  editing = null;
  at("question").value = "";
  buttons();
  at("turns").querySelector(`[data-name="${back}"]`).focus();
});
at("clear").addEventListener("click", () => {
  writing?.control.abort();
  [turns, editing] = [[], null];
  keep();
  at("turns").replaceChildren();
  buttons();
  composer.focus();
  say("The conversation is cleared.");
});
