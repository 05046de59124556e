// The page: who rates, what is shown, what keys and buttons do, and talking to the server until it has everything.

import { Refused, Unreachable, add, ask, keep, kept, onlyInMemory, send, waiting } from "./outbox.js";
import { Pair } from "./pair.js";

const NAME = "hp-edit.rater";
const RETRY_MS = [1000, 1000, 2000, 3000, 5000];
const PRELOADED = 3;
const $ = (id) => document.getElementById(id);

let rater = "";
let item = null; // what is shown; null while nothing is known to be left
let coming = []; // what comes next, as far as the server told
let done = 0, left = 0, secondsEach = null;
let rated = []; // what can be taken back, the last one last
let skipped = []; // identifiers
let changes = 0; // counts what the rater does: an answer to an older question is out of date
let preloaded = [];

const pair = new Pair($("stage"), showPair);

// --- what the rater does ---

function rate(score) {
  if (!item) return;
  if (!pair.seen) return pair.ready || say("The pictures are not here yet.");
  add("/rate", { edit_id: item.edit_id, rater, score });
  rated.push(item);
  forgetSkip(item);
  done++;
  left--;
  say(`Rated ${score}. U takes it back.`);
  goTo(coming.shift() ?? null);
}

function undo() {
  const last = rated.pop();
  if (!last) return say("There is nothing to take back.");
  add("/undo", { edit_id: last.edit_id, rater });
  if (item) coming.unshift(item);
  done--;
  left++;
  say("Taken back: rate it again.");
  goTo(last);
}

function skip() {
  if (!item) return;
  if (left < 2) return say("This is the only one left.");
  forgetSkip(item);
  skipped.push(item.edit_id);
  keep(`${NAME}.skipped.${rater}`, skipped);
  say("Skipped; it comes again at the end.");
  goTo(coming.shift() ?? null);
}

function forgetSkip({ edit_id }) {
  skipped = skipped.filter((each) => each !== edit_id);
  keep(`${NAME}.skipped.${rater}`, skipped);
}

function goTo(next) {
  changes++;
  show(next);
  sync();
}

// --- talking to the server ---

let syncing = null;
let wake = () => {};

/** Send what waits, then ask what is next; goes on until both have worked. */
function sync() {
  syncing ??= untilDone().finally(() => (syncing = null));
  return syncing;
}

async function untilDone() {
  for (let tries = 0; ; tries++) {
    try {
      await send((_, error) => say(`The server does not take a rating: ${error.message}`));
      const before = changes;
      const query = new URLSearchParams([["rater", rater], ...skipped.map((each) => ["skipped", each])]);
      const answer = rater ? await ask(`/next?${query}`) : null;
      $("lost").hidden = true;
      if (before !== changes) continue;
      if (answer) take(answer);
      return;
    } catch (error) {
      if (error instanceof Refused) return welcome(error.message);
      if (!(error instanceof Unreachable)) throw error;
      const seconds = RETRY_MS[Math.min(tries, RETRY_MS.length - 1)];
      showLost(error.message);
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, seconds);
      });
    }
  }
}

function take(answer) {
  ({ done, left, seconds_each: secondsEach } = answer);
  if (!rated.length && answer.previous) rated = [answer.previous];
  const queue = [answer.item, ...answer.coming].filter(Boolean);
  if (item) coming = queue.filter((each) => each.edit_id !== item.edit_id);
  else [item = null, ...coming] = queue;
  show(item, true);
}

// --- what is seen ---

function view(id) {
  for (const each of ["welcome", "rating", "finished"]) $(each).hidden = each !== id;
}

let shown = null;

/** Show an item; with `sure`, none means that everything is rated and saved. */
function show(next, sure = false) {
  item = next;
  view(!item && sure ? "finished" : "rating");
  $("total").textContent = done;
  $("edit-type").textContent = item ? item.edit_type.replaceAll("_", " ") : "";
  $("instruction").textContent = item ? item.instruction : "";
  $("instruction").classList.toggle("long", item?.instruction.length > 90);
  if (item !== shown && item?.edit_id !== shown?.edit_id) pair.show(item);
  shown = item;
  preloaded = coming.slice(0, PRELOADED).flatMap(({ source, edited }) => [source, edited]).map((address) => {
    const image = preloaded.find((each) => each.dataset.address === address) ?? new Image();
    if (!image.dataset.address) [image.dataset.address, image.src] = [address, address];
    return image;
  });
  showProgress();
  showPair();
}

function showProgress() {
  const all = done + left;
  const bar = document.querySelector(".progress");
  bar.firstElementChild.style.width = `${all ? (100 * done) / all : 0}%`;
  bar.setAttribute("aria-valuemax", all);
  bar.setAttribute("aria-valuenow", done);
  const parts = [`${done} of ${all}`, `${left} left`];
  if (secondsEach && left) parts.push(duration(secondsEach * left));
  if (skipped.length) parts.push(`${skipped.length} skipped`);
  $("counts").textContent = parts.join(" · ");
}

function duration(seconds) {
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 2) return "about 1 min";
  if (minutes < 60) return `about ${minutes} min`;
  return `about ${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function showPair() {
  for (const button of document.querySelectorAll(".scores button")) {
    button.setAttribute("aria-disabled", !(item && pair.seen));
  }
  $("flip").setAttribute("aria-pressed", pair.toggled);
  $("zoom-fit").textContent = `${Math.round(100 * pair.magnification)}\u2009%`;
  $("waiting").hidden = Boolean(item) && pair.ready;
  $("waiting").textContent = item
    ? pair.failed ? "The pictures do not arrive. Trying again; S skips this one." : ""
    : "Waiting for the server …";
}

function say(text) {
  $("said").textContent = text;
}

function showLost(why) {
  const count = waiting().length;
  const what = count === 1 ? "1 rating is" : `${count} ratings are`;
  const where = onlyInMemory() ? "kept on this page: leave it open" : "kept in this browser";
  const text = count ? `${why} ${what} ${where} and will be sent. Trying again …` : `${why} Trying again …`;
  if ($("lost").hidden || $("lost").firstElementChild.textContent !== text) $("lost").firstElementChild.textContent = text;
  $("lost").hidden = false;
}

// --- who rates ---

function welcome(refused = "") {
  rater = "";
  changes++;
  history.replaceState(null, "", location.pathname);
  view("welcome");
  $("refused").textContent = refused;
  $("name").value = kept(NAME, "");
  $("name").focus();
  $("name").select();
  sync(); // what an earlier visit could not send
}

function start(name) {
  rater = name;
  history.replaceState(null, "", `?${new URLSearchParams({ rater })}`);
  keep(NAME, rater);
  skipped = kept(`${NAME}.skipped.${rater}`, []);
  [item, shown, coming, rated, done, left, secondsEach] = [null, null, [], [], 0, 0, null];
  $("rater").textContent = rater;
  say("");
  changes++;
  show(null);
  document.activeElement?.blur();
  sync();
}

// --- keys and buttons ---

const keys = {
  u: undo, backspace: undo, s: skip,
  f: () => pair.flip(!pair.toggled),
  z: () => pair.fit(), "+": () => pair.zoom(1.5), "=": () => pair.zoom(1.5), "-": () => pair.zoom(1 / 1.5),
  "?": () => $("keys").showModal(),
};
for (const score of "012345") keys[score] = () => rate(Number(score));

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open || !$("welcome").hidden) return;
  const key = event.key.toLowerCase();
  if (!$("finished").hidden && !["u", "backspace"].includes(key)) return;
  if (key === " ") {
    // A button that was reached by Tab is still pressed by the space bar.
    if (event.target instanceof HTMLButtonElement) return;
    event.preventDefault();
    if (!event.repeat) pair.flip(true, true);
  } else if (Object.hasOwn(keys, key)) {
    event.preventDefault();
    if (!event.repeat) keys[key]();
  }
});
addEventListener("keyup", (event) => event.key === " " && pair.flip(pair.toggled));
addEventListener("blur", () => pair.flip(pair.toggled));

const buttons = {
  undo, skip, "undo-last": undo, flip: keys.f, help: keys["?"],
  "zoom-in": keys["+"], "zoom-out": keys["-"], "zoom-fit": keys.z,
  leave: () => welcome(), "leave-finished": () => welcome(),
};
for (const [id, act] of Object.entries(buttons)) $(id).addEventListener("click", act);
for (const button of document.querySelectorAll(".scores button")) {
  button.addEventListener("click", () => rate(Number(button.dataset.score)));
}
// A button that was clicked does not keep the space bar to itself.
addEventListener("click", (event) => {
  if (event.detail && event.target.closest?.("button")) document.activeElement?.blur();
});
$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("name").value.trim()) start($("name").value.trim());
});
$("lost").querySelector("button").addEventListener("click", () => wake());
addEventListener("online", () => wake());
addEventListener("beforeunload", (event) => onlyInMemory() && event.preventDefault());

const told = new URLSearchParams(location.search).get("rater");
if (told) start(told);
else welcome();
