// The differences of two texts, word by word: the longest common run of words, as forgeline.page.marks marks them.

import { heard, make } from "./dom.js";

const WORD = /\s*(?:[\p{L}\p{N}_]+(?:[.:'’-][\p{L}\p{N}_]+)*|[^\s\p{L}\p{N}_])/gu;
const MOST = 4e6; // cells of the table; beyond, the texts are shown whole

function parts(from, to) {
  const old = from.match(WORD) ?? [];
  const fresh = to.match(WORD) ?? [];
  if (old.length * fresh.length > MOST) return [["removed", old], ["added", fresh]];
  const same = (i, j) => old[i].trim() === fresh[j].trim();
  const table = Array.from({ length: old.length + 1 }, () => new Uint32Array(fresh.length + 1));
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = fresh.length - 1; j >= 0; j--) {
      table[i][j] = same(i, j) ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  const found = [];
  const add = (mark, word) => (found.at(-1)?.[0] === mark ? found.at(-1)[1].push(word) : found.push([mark, [word]]));
  let [i, j] = [0, 0];
  while (i < old.length || j < fresh.length) {
    if (i < old.length && j < fresh.length && same(i, j)) [add("same", fresh[j]), i++, j++];
    else if (j >= fresh.length || (i < old.length && table[i + 1][j] >= table[i][j + 1])) add("removed", old[i++]);
    else add("added", fresh[j++]);
  }
  return found;
}

const TAGS = { added: ["ins", "added: "], removed: ["del", "removed: "] };

/** Return a paragraph with what was removed and added marked, for eyes and for ears. */
export function marked(from, to) {
  const shown = parts(from, to).map(([mark, words]) => {
    if (mark === "same") return words.join("");
    const [tag, name] = TAGS[mark];
    return [" ", make(tag, {}, heard(name), words.join("").trim(), heard(";"))];
  });
  return make("p", { class: "marked", dir: "auto" }, shown);
}
