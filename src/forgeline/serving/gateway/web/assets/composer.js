// What is asked: an act and its facts in a form, or free text; the model; the system turn.

import { at, button, make, say } from "./dom.js";
import { facts, written } from "./prompt.js";
import { session } from "./session.js";

const mode = () => at("composer").elements.mode.value;
const form = () => session.settings.forms.find((each) => each.value === at("kind").value);
const rows = () => [...at("slots").children];

export function prepare() {
  const { kind, forms, system } = session.settings;
  at("modes").hidden = !forms.length;
  at("kind-name").textContent = kind ?? "";
  at("kind").replaceChildren(...forms.map(({ value }) => make("option", { value }, value)));
  at("system").value = system;
  if (!forms.length) at("composer").elements.mode.value = "text";
  else empty();
  show();
}

export function listModels(names) {
  const chosen = at("model").value;
  at("model").replaceChildren(...names.map((name) => make("option", { selected: name === chosen }, name)));
}

/** Return the prompt as it stands, and empty if there is none. */
export function prompt() {
  if (mode() === "text") return at("question").value.trim();
  return written([[session.settings.kind, at("kind").value], ...rows().map(read).filter((row) => row)]);
}

export const system = () => at("system").value.trim();

/** Show a prompt to be written anew: in the form if it has one, else as text. */
export function take(text, given) {
  const found = facts(text, session.settings.kind);
  at("system").value = given;
  if (found && session.settings.forms.some(({ value }) => value === found[0][1])) {
    at("composer").elements.mode.value = "form";
    at("kind").value = found[0][1];
    at("slots").replaceChildren(...found.slice(1).map(([name, value]) => row(name, value, value === "")));
  } else {
    at("composer").elements.mode.value = "text";
    at("question").value = text;
  }
  show();
  focus();
}

export function focus() {
  (mode() === "text" ? at("question") : (at("slots").querySelector("input[name=value]") ?? at("kind"))).focus();
}

function show() {
  at("form").hidden = mode() !== "form";
  at("free").hidden = mode() !== "text";
}

function read(line) {
  const name = line.querySelector("[name=name]").value.trim();
  const value = line.querySelector("[name=value]");
  if (!name) return null;
  if (value.type === "checkbox") return value.checked ? [name, ""] : null;
  return value.value.trim() ? [name, value.value.trim()] : null;
}

function row(name, value = "", alone = false, example = "") {
  const label = name || "new fact";
  const bare = alone || (form().bare.includes(name) && !value);
  const named = make("input", { name: "name", value: name, list: "slot-names", dir: "auto", "aria-label": "Name",
    autocomplete: "off", spellcheck: "false" });
  const said = bare
    ? make("label", { class: "inline" }, make("input", { type: "checkbox", name: "value", checked: alone, "aria-label": `${label}, named without a value` }),
      "named, without a value")
    : make("input", { name: "value", value, placeholder: example && `e.g. ${example}`, dir: "auto",
      "aria-label": `Value of ${label}`, autocomplete: "off" });
  const line = make("div", { class: "slot", role: "group", "aria-label": label }, named, said,
    button("×", () => remove(line, label), { class: "plain bin", "aria-label": `Remove ${label}` }));
  return line;
}

function remove(line, label) {
  const next = line.nextElementSibling ?? line.previousElementSibling;
  line.remove();
  (next?.querySelector("button") ?? at("add-fact")).focus();
  say(`Removed ${label}.`);
}

function empty() {
  at("slots").replaceChildren(...form().example.map(([name, value]) => row(name, "", false, value)));
  names();
}

function names() {
  at("slot-names")?.remove();
  at("form").append(make("datalist", { id: "slot-names" }, form().slots.map((value) => make("option", { value }))));
}

at("kind").addEventListener("change", empty);
at("fill").addEventListener("click", () => {
  at("slots").replaceChildren(...form().example.map(([name, value]) => row(name, value, value === "")));
  say("The example is filled in.");
});
at("add-fact").addEventListener("click", () => {
  at("slots").append(row(""));
  at("slots").lastElementChild.querySelector("input").focus();
});
at("modes").addEventListener("change", () => {
  if (mode() === "text" && !at("question").value) {
    at("composer").elements.mode.value = "form";
    const kept = prompt();
    at("composer").elements.mode.value = "text";
    if (kept.includes("\n")) at("question").value = kept; // some fact was written already
  }
  show();
});
at("system-own").addEventListener("click", () => {
  at("system").value = session.settings.system;
  say("The use case's own system turn is back.");
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("composer").requestSubmit();
});
