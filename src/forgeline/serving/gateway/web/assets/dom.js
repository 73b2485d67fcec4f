// Elements are made here and nowhere else; text from anyone is only ever a text node.

const SVG = "http://www.w3.org/2000/svg";

export const at = (id) => document.getElementById(id);

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

export const make = (tag, attributes = {}, ...children) => dress(document.createElement(tag), attributes, children);
export const draw = (tag, attributes = {}, ...children) => dress(document.createElementNS(SVG, tag), attributes, children);
export const button = (text, onclick, attributes = {}) =>
  make("button", { type: "button", class: "plain", onclick, ...attributes }, text);
export const heard = (text) => make("span", { class: "heard" }, text);

/** Put fresh elements in the place of old ones; the focus stays on what has the same data-name. */
export function refill(parent, ...fresh) {
  const name = parent.contains(document.activeElement) ? document.activeElement.dataset.name : undefined;
  parent.replaceChildren(...fresh);
  if (name) parent.querySelector(`[data-name="${CSS.escape(name)}"]`)?.focus();
}

/** Have a screen reader say a sentence when it is free. */
export function say(text) {
  at("heard").append(make("p", {}, text));
  if (at("heard").childElementCount > 20) at("heard").firstElementChild.remove();
}

export function notice(text) {
  at("notice").hidden = !text;
  at("notice").textContent = text;
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });
const span = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

export const time = (seconds) => clock.format(new Date(seconds * 1000));

export function ago(seconds) {
  const gone = seconds - Date.now() / 1000;
  const [unit, size] = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]]
    .find(([, size]) => Math.abs(gone) >= size) ?? ["second", 1];
  return span.format(Math.round(gone / size), unit);
}
