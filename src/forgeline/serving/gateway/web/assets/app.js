// The page: who is here, which view is shown, and how the key is asked for.

import * as chat from "./chat.js";
import { at, make, notice, say } from "./dom.js";
import * as reviews from "./reviews.js";
import { Fault, json, key, may, NEEDS, session, useKey } from "./session.js";
import * as status from "./status.js";

const VIEWS = { chat, reviews, status };
const NAMES = { chat: "Chat", reviews: "Reviews", status: "Status" };
let shown = null;

async function enter() {
  try {
    session.settings = await json("/page/settings");
  } catch (fault) {
    session.settings = null;
    if (fault instanceof Fault && fault.status !== 401) notice(fault.message);
    show();
    return;
  }
  notice("");
  const { title, objective } = session.settings;
  at("title").textContent = title;
  at("objective").textContent = objective;
  for (const link of document.querySelectorAll("nav a")) link.hidden = !may(link.hash.slice(1));
  show();
}

/** Show the view that the address names, or else the first that this key may see; say why where it may not. */
function show() {
  const named = location.hash.slice(1);
  const view = named in VIEWS ? named : (Object.keys(VIEWS).find(may) ?? "chat");
  if (shown) VIEWS[shown].close?.();
  const open = session.settings && may(view);
  at("loading").hidden = true;
  for (const name of Object.keys(VIEWS)) at(name).hidden = !(open && name === view);
  at("refused").hidden = Boolean(open);
  if (!open) refuse(view);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${NAMES[view]} · ${session.settings?.title ?? "Forgeline"}`;
  shown = open ? view : null;
  if (open) VIEWS[view].open();
}

function refuse(view) {
  at("refused-title").textContent = session.settings ? "Not with this key" : "A key, please";
  at("refused-why").textContent = session.settings
    ? `${NAMES[view]} needs the role ${NEEDS[view]}; this key has ${session.settings.caller.roles.join(", ") || "none"}.`
    : "Enter a key under Access, at the top of the page.";
}

function askKey(why = "") {
  at("key-why").textContent = why;
  at("key").value = key();
  const roles = session.settings?.caller.roles ?? [];
  at("key-roles").replaceChildren(...(session.settings ? Object.keys(VIEWS) : []).map((view) =>
    make("li", {}, may(view) ? `${NAMES[view]}: open.` : `${NAMES[view]}: hidden. It needs the role ${NEEDS[view]}; ` +
      `this key has ${roles.join(", ") || "none"}.`)));
  if (!at("key-dialog").open) at("key-dialog").showModal();
  at("key").select();
}

at("key-open").addEventListener("click", () => askKey());
document.addEventListener("key-refused", () => askKey(
  key() ? "The gateway does not know this key: it may have expired or been revoked." : "The gateway asks for a key."));
at("key-form").addEventListener("submit", (event) => {
  if (event.submitter?.value === "close") return;
  useKey(event.submitter?.value === "forget" ? "" : at("key").value.trim());
  enter();
});
addEventListener("hashchange", () => {
  show();
  at("main").focus();
});
addEventListener("offline", () => notice("This device is offline. What you write stays here."));
addEventListener("online", () => {
  notice("");
  say("The device is online again.");
});

enter();
