"""The sheet as one page that works without a network: choices stay in the browser and leave as a CSV file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence

from forgeline.page.style import PALETTE

STYLE = (
    PALETTE
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.6 var(--text); }
header { display: flex; flex-wrap: wrap; gap: .6rem 2rem; align-items: end; justify-content: space-between; }
h1 { font-size: 1.5rem; line-height: 1.2; letter-spacing: -.01em; margin: 0; }
h2 { font-size: .8125rem; font-weight: 500; color: var(--soft); margin: 0 0 .35rem; }
p { margin: 0; } .guide { color: var(--soft); font-size: .9375rem; max-width: 60rem; margin: .7rem 0 1.2rem; }
label { font-size: .875rem; color: var(--soft); }
input, textarea { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--quiet);
  border-radius: 8px; padding: .35rem .6rem; }
textarea { display: block; width: 100%; min-height: 2.6rem; resize: vertical; }
progress { display: block; width: 100%; height: .5rem; accent-color: var(--accent); }
.where { display: flex; justify-content: space-between; font-size: .875rem; color: var(--soft); margin: .4rem 0 1.2rem;
  font-variant-numeric: tabular-nums; }
.text { white-space: pre-line; overflow-wrap: anywhere; }
.prompt { background: var(--wash); border-radius: 10px; padding: .9rem 1.1rem; margin: 0 0 1rem; }
.replies { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1rem; }
.reply { border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1.1rem 1.1rem; display: flex;
  flex-direction: column; gap: .2rem; }
.reply .text { flex: 1; margin-bottom: .8rem; } .reply.chosen { border-color: var(--accent);
  box-shadow: 0 0 0 1px var(--accent); }
.none { color: var(--soft); font-style: italic; }
button { font: inherit; font-size: .9375rem; color: var(--ink); background: var(--wash); border: 1px solid var(--quiet);
  border-radius: 8px; padding: .4rem .9rem; cursor: pointer; }
button:hover { border-color: var(--accent); } :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
button[aria-pressed="true"] { background: var(--accent); border-color: var(--accent); color: var(--paper); }
button:disabled { opacity: .5; cursor: default; }
kbd { font: .8em/1 var(--fixed); border: 1px solid currentColor; border-radius: 4px; padding: .05em .35em;
  margin-right: .5em; opacity: .75; }
.bar { display: flex; flex-wrap: wrap; gap: .6rem; justify-content: center; margin: 1rem 0; }
footer { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; margin-top: 1.2rem;
  border-top: 1px solid var(--line); padding-top: 1.2rem; }
footer .push { margin-left: auto; }
.warning { color: var(--lost); font-size: .875rem; }
@media (max-width: 40rem) { body { padding: 1rem .9rem 3rem; } footer .push { margin-left: 0; } }
"""
)

BODY = """
<header><h1>Which reply is better?</h1>
<p><label for="rater">Your name </label><input id="rater" autocomplete="name" placeholder="optional"></p></header>
<p class="guide">Read what was asked, then choose the reply that you would rather send. Who wrote which is hidden, and
changes from row to row. Choices stay in this browser; at the end, download them and send the file back.</p>
<noscript><p class="warning">This page needs JavaScript to take your choices. The table that came with it does
not: fill in its column “verdict”.</p></noscript>
<progress id="bar" value="0" max="1" aria-label="Rows judged"></progress>
<p class="where"><span id="row"></span><span id="done" role="status"></span></p>
<main>
<section class="prompt" aria-label="What was asked"><h2>What was asked</h2><p class="text" id="prompt"></p></section>
<div class="replies" id="replies" role="group" aria-label="Replies"></div>
<div class="bar" id="others" role="group" aria-label="No reply is better"></div>
<label for="note">Note, if you want to say why</label><textarea id="note" rows="1"></textarea>
</main>
<footer><button id="back"><kbd>←</kbd>Back</button><button id="next"><kbd>→</kbd>Next</button>
<button id="open">Next row without a choice</button>
<button id="save" class="push">Download choices (CSV)</button></footer>
<p id="warning" class="warning" role="alert"></p>
"""

SCRIPT = """
"use strict";
const sheet = JSON.parse(document.getElementById("sheet").textContent);
const at = (id) => document.getElementById(id);
const key = "forgeline-sheet-" + sheet.digest;
let state = { rater: "", row: 0, choices: {}, notes: {} };
try { state = Object.assign(state, JSON.parse(localStorage.getItem(key))); } catch { warn(); }

function warn() {
  at("warning").textContent = "This browser keeps nothing for this page: download your choices before you close it.";
}
function keep() {
  try { localStorage.setItem(key, JSON.stringify(state)); } catch { warn(); }
}
function made(name, text, kind) {
  const element = document.createElement(name);
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
}
function choice(verdict, digit, words) {
  const button = made("button", words);
  button.prepend(made("kbd", digit));
  button.dataset.digit = digit;
  button.setAttribute("aria-keyshortcuts", digit);
  button.setAttribute("aria-pressed", String(state.choices[sheet.rows[state.row].row] === verdict));
  button.addEventListener("click", () => choose(verdict));
  return button;
}
function show() {
  const line = sheet.rows[state.row], count = line.replies.length;
  at("prompt").textContent = line.prompt;
  at("replies").replaceChildren(...line.replies.map((reply, place) => {
    const verdict = String(place + 1), card = made("section", "", "reply");
    card.setAttribute("aria-label", "Reply " + verdict);
    card.classList.toggle("chosen", state.choices[line.row] === verdict);
    card.append(made("h2", "Reply " + verdict), made("p", reply || "(no words)", reply ? "text" : "text none"),
      choice(verdict, verdict, "Reply " + verdict + " is better"));
    return card;
  }));
  const pair = count === 2;
  at("others").replaceChildren(
    choice("tie", String(count + 1), pair ? "Equally good" : "All equally good"),
    choice("bad", "0", pair ? "Both bad" : "All bad"));
  at("note").value = state.notes[line.row] || "";
  const done = sheet.rows.filter((one) => state.choices[one.row]).length;
  at("bar").max = sheet.rows.length;
  at("bar").value = done;
  at("row").textContent = "Row " + (state.row + 1) + " of " + sheet.rows.length;
  at("done").textContent = done === sheet.rows.length ? "All judged: download your choices" : done + " judged";
  at("back").disabled = state.row === 0;
  at("next").disabled = state.row === sheet.rows.length - 1;
  at("open").disabled = done === sheet.rows.length;
}
function go(row) {
  state.row = Math.max(0, Math.min(sheet.rows.length - 1, row));
  keep();
  show();
}
function goOn() {
  const order = sheet.rows.map((_, place) => (state.row + 1 + place) % sheet.rows.length);
  const place = order.find((one) => !state.choices[sheet.rows[one].row]);
  go(place === undefined ? state.row : place);
}
function choose(verdict) {
  state.choices[sheet.rows[state.row].row] = verdict;
  goOn();
}
function cell(text) {
  return '"' + text.replaceAll('"', '""') + '"';
}
function table() {
  const rows = sheet.rows.filter((one) => state.choices[one.row]);
  const lines = rows.map((one) =>
    [sheet.digest, one.row, state.rater.trim(), state.choices[one.row], state.notes[one.row] || ""]);
  const columns = ["sheet", "row", "rater", "verdict", "note"];
  return [columns, ...lines].map((line) => line.map(cell).join(",")).join("\\r\\n");
}
at("back").addEventListener("click", () => go(state.row - 1));
at("next").addEventListener("click", () => go(state.row + 1));
at("open").addEventListener("click", goOn);
at("rater").value = state.rater;
at("rater").addEventListener("input", () => { state.rater = at("rater").value; keep(); });
at("note").addEventListener("input", () => { state.notes[sheet.rows[state.row].row] = at("note").value; keep(); });
at("save").addEventListener("click", () => {
  const link = document.createElement("a"), name = state.rater.trim().replace(/[^\\p{L}\\p{N}-]+/gu, "-");
  link.href = URL.createObjectURL(new Blob(["\\ufeff" + table() + "\\r\\n"], { type: "text/csv" }));
  link.download = "verdicts-" + (name || sheet.digest) + ".csv";
  link.click();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
  const button = document.querySelector('[data-digit="' + CSS.escape(event.key) + '"]');
  if (button) choose(button.parentElement.id === "others" ? (event.key === "0" ? "bad" : "tie") : event.key);
  else if (event.key === "ArrowLeft") go(state.row - 1);
  else if (event.key === "ArrowRight") go(state.row + 1);
});
show();
"""


def render(digest: str, lines: Sequence[tuple[str, str, list[str]]]) -> str:
    """Return the page of a sheet's rows (number, prompt, replies); what comes from data cannot become markup.

    Only the page's own script may run, and nothing can be loaded or sent.
    """
    rows = [{"row": row, "prompt": prompt, "replies": replies} for row, prompt, replies in lines]
    data = json.dumps({"digest": digest, "rows": rows}, ensure_ascii=False).replace("<", "\\u003c")
    own = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{own}'">
<title>Which reply is better?</title>
<style>{STYLE}</style>
</head>
<body>{BODY}<script type="application/json" id="sheet">{data}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""
