// Prompts that are lines of `name: value`: written from a form, read back, and looked for in a reply.

import { make } from "./dom.js";

/** Return [name, value] for each line, or null if the text is no such prompt. */
export function facts(text, kind) {
  const lines = text.split("\n").map((line) => /^([\p{L}\p{N}_][\p{L}\p{N}_-]*)(?:: *(\S.*))?$/u.exec(line.trim()));
  if (!kind || lines.includes(null) || lines[0][1] !== kind || !lines[0][2]) return null;
  return lines.map(([, name, value]) => [name, value ?? ""]);
}

export const written = (rows) => rows.map(([name, value]) => (value ? `${name}: ${value}` : name)).join("\n");

/** Return the lines for eyes and ears; where there is a reply, each value with whether it is said there. */
export function listed(found, reply) {
  const mark = (value) => {
    const said = says(reply, value);
    return make("span", { class: said ? "chip said-it" : "chip" }, said ? "said" : "not said");
  };
  return make("dl", { "aria-label": "Facts of the question" }, found.map(([name, value], place) =>
    make("div", {}, make("dt", {}, name),
      make("dd", { dir: "auto" }, value || "—", place > 0 && value && reply && [" ", mark(value)]))));
}

/** Tell whether a reply says a value, as words of their own. */
function says(reply, value) {
  const words = value.trim().split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("\\s+");
  return new RegExp(`(?<![\\p{L}\\p{N}])${words}(?![\\p{L}\\p{N}])`, "iu").test(reply);
}
