// The key and what it may; every request of the page goes through `ask`.

const KEY = "forgeline.key";
export const NEEDS = { chat: "caller", reviews: "reviewer", status: "operator" };
const WORDS = {
  401: "The gateway does not know this key. Enter another one under Access.",
  403: "This key may not do that.",
  404: "That is not there any more.",
  409: "Somebody else was first.",
  413: "The question is too long for this gateway.",
  429: "The gateway takes no more requests just now.",
  503: "The gateway cannot answer just now.",
  504: "The reply took too long.",
};

export class Fault extends Error {
  constructor(message, status = 0, code = null, retryAfter = 0) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export const session = { settings: null };
export const key = () => sessionStorage.getItem(KEY) ?? "";

export function useKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

export function may(view) {
  const roles = session.settings?.caller.roles ?? [];
  return roles.includes(NEEDS[view]) || roles.includes("admin");
}

/** Return the response to a request that was taken; throw a Fault, in words, for any other. */
export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  if (key()) headers.authorization = `Bearer ${key()}`;
  const request = { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...request, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Fault(navigator.onLine ? "The gateway cannot be reached." : "This device is offline.");
  }
  if (response.ok) return response;
  if (response.status === 401) document.dispatchEvent(new Event("key-refused"));
  throw await told(response);
}

async function told(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || 0;
  const error = (await response.json().catch(() => ({}))).error ?? {};
  const own = WORDS[response.status] ?? `The gateway answered with status ${response.status}.`;
  const message = error.message && error.message !== own ? `${own} ${error.message}` : own;
  return new Fault(message, response.status, error.code, retryAfter);
}

export const json = async (path, options) => (await ask(path, options)).json();
