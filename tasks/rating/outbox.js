// What must reach the server: kept in the browser until the server has it, and sent in order.

const KEY = "hp-edit.outbox";
const REFUSED = "hp-edit.refused"; // nothing reads it but a person who misses a rating
const TIMEOUT_MS = 10000;
const memory = new Map();

/** The server cannot be reached now, or cannot do its work; the same request may succeed later. */
export class Unreachable extends Error {}

/** The server will never take this request. */
export class Refused extends Error {}

/** Read what `keep` kept. Without a usable localStorage, this page's memory stands in for it. */
export function kept(key, otherwise) {
  try {
    const text = localStorage.getItem(key);
    if (text !== null) return JSON.parse(text);
  } catch { /* blocked or not ours */ }
  return memory.has(key) ? memory.get(key) : otherwise;
}

export function keep(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    memory.delete(key);
  } catch {
    memory.set(key, value);
  }
}

/** Ask the server; with a body it is a POST. Throws Unreachable or Refused. */
export async function ask(path, body) {
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
      cache: "no-store",
    });
    if (response.ok) return await response.json();
  } catch {
    throw new Unreachable("No connection to the server.");
  }
  const text = await response.text().catch(() => "");
  if (response.status >= 500) throw new Unreachable(`The server is in trouble (${detail(text)}).`);
  throw new Refused(detail(text));
}

function detail(text) {
  try {
    const told = JSON.parse(text).detail;
    return Array.isArray(told) ? told.map((each) => each.msg).join("; ") : String(told);
  } catch {
    return text.slice(0, 200).trim();
  }
}

export function waiting() {
  return kept(KEY, []);
}

export function add(path, body) {
  keep(KEY, [...waiting(), { id: `${Date.now()}-${Math.random()}`, path, body }]);
}

/** Whether what waits would be lost with this page. */
export function onlyInMemory() {
  return memory.has(KEY) && waiting().length > 0;
}

/** Send all that waits, oldest first. What the server refuses is told to `onRefused`, put aside and not sent again. */
export function send(onRefused) {
  // Two pages of one browser share what waits; one of them at a time sends it, so that the order stays.
  return navigator.locks ? navigator.locks.request(KEY, () => sendAll(onRefused)) : sendAll(onRefused);
}

async function sendAll(onRefused) {
  for (let [first] = waiting(); first; [first] = waiting()) {
    try {
      await ask(first.path, first.body);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      keep(REFUSED, [...kept(REFUSED, []), { ...first, why: error.message }]);
      onRefused(first, error);
    }
    keep(KEY, waiting().filter((each) => each.id !== first.id));
  }
}
