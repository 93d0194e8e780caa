"use strict";
// Two replies to the same speech, their makers unknown to the listener: which fits better?

const QUESTION = "Which reply fits better to what was said, and to how it was said?";
let ballot = null; // {listener, pairs, votes, at}: nothing of it is shown but what the listener may know

// --- chance: the same listener gets the same order and the same sides again

/** FNV-1a, 32 bits, of a text's UTF-8. */
function seedOf(text) {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

/** mulberry32 (Tommy Ettinger): numbers in [0, 1). */
function diceOf(seed) {
  let at = seed;
  return () => {
    at = (at + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(at ^ (at >>> 15), at | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(list, dice) {
  const made = [...list];
  for (let at = made.length - 1; at > 0; at--) {
    const other = Math.floor(dice() * (at + 1));
    [made[at], made[other]] = [made[other], made[at]];
  }
  return made;
}

/** What can be voted on: both replies sound, and not the same. */
function canBeHeard(row, a, b) {
  const paths = [answerOf(row, a).audio, answerOf(row, b).audio];
  return hasSound(itemSound(row.item)) && paths.every((path) => path && hasSound(path)) && sounds[paths[0]][0] !== sounds[paths[1]][0];
}

/** Items in the listener's order, each with a left and a right system. choice: two systems, or none for a draw per item. */
function drawn(listener, choice) {
  const dice = diceOf(seedOf(`${sha256} ${listener}`));
  const all = SYSTEMS.flatMap((a, at) => SYSTEMS.slice(at + 1).map((b) => [a, b]));
  return shuffled(comparison.rows, dice).map((row) => {
    const wanted = choice.length ? [choice] : shuffled(all, dice);
    const pair = wanted.find(([a, b]) => canBeHeard(row, a, b));
    const [left, right] = pair ? (dice() < 0.5 ? pair : [pair[1], pair[0]]) : [];
    return pair ? {row, left, right} : null;
  }).filter(Boolean);
}

// --- votes, kept in this browser

const keyOf = (listener) => `attune-votes ${sha256} ${listener}`;
function kept(listener) {
  try {
    return JSON.parse(localStorage.getItem(keyOf(listener)) ?? "[]");
  } catch {
    return [];
  }
}
function keep() {
  try {
    localStorage.setItem(keyOf(ballot.listener), JSON.stringify(ballot.votes));
    ballot.note = "";
  } catch {
    ballot.note = "This browser keeps nothing: save your votes before you leave.";
  }
}
const samePair = (vote, one) => vote.item === one.row.item.id && [vote.left, vote.right].sort().join("\n") === [one.left, one.right].sort().join("\n");
const toCome = () => ballot.pairs.find((one) => !ballot.votes.some((vote) => samePair(vote, one)));

function vote(choice) {
  const one = toCome();
  if (!one) return;
  ballot.votes.push({item: one.row.item.id, left: one.left, right: one.right, choice, time: new Date().toISOString()});
  keep();
  showBallot();
}

function undo() {
  const at = ballot.votes.findLastIndex((vote) => ballot.pairs.some((one) => samePair(vote, one)));
  if (at < 0) return;
  ballot.votes.splice(at, 1);
  keep();
  showBallot();
}

function save() {
  const told = {version: 1, comparison: sha256, listener: ballot.listener, votes: ballot.votes};
  const url = URL.createObjectURL(new Blob([JSON.stringify(told, null, 1) + "\n"], {type: "application/json"}));
  const name = ballot.listener.replace(/[^\p{L}\p{N}._-]+/gu, "-");
  el("a", {href: url, download: `votes-${name}.json`}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// --- what the listener sees

function openBlind() {
  ballot = null;
  const name = el("input", {name: "listener", required: true, maxlength: "60", autocomplete: "nickname", value: lastListener()});
  const options = () => [el("option", {value: ""}, "drawn anew for each item"), ...SYSTEMS.map((one) => el("option", {value: one}, one))];
  const first = el("select", {name: "first"}, options()), second = el("select", {name: "second"}, options());
  const note = el("p", {class: "bad", role: "alert"});
  const begin = (event) => {
    event.preventDefault();
    const choice = [first.value, second.value].filter(Boolean);
    if (choice.length === 1 || (choice.length === 2 && choice[0] === choice[1])) note.textContent = "Choose two different systems, or none to have them drawn.";
    else beginAs(name.value.trim() || "listener", choice);
  };
  byId("blind").replaceChildren(
    el("h1", {tabindex: "-1"}, "Listen blind"),
    el("p", {}, "You hear what a person said, and two replies to it. You are not told which system made which, and the sides are drawn anew for each item. The question is: ", el("b", {}, QUESTION)),
    el("p", {}, "Your votes are kept in this browser under your name, so that you can go on later, and saved to a file that attune compare --votes counts."),
    el("form", {class: "setup", onsubmit: begin}, el("label", {}, "Your name ", name), el("label", {}, "One system ", first), el("label", {}, "The other ", second),
      note, el("p", {}, el("button", {class: "strong"}, "Begin"), " ", el("a", {href: "#at=votes"}, "Back to the report"))));
  byId("blind").querySelector("h1").focus({preventScroll: true});
  window.scrollTo(0, 0);
}

function lastListener() {
  try {
    return localStorage.getItem("attune-listener") ?? "";
  } catch {
    return "";
  }
}

function beginAs(listener, choice) {
  ballot = {listener, pairs: drawn(listener, choice), votes: kept(listener), note: ""};
  try {
    localStorage.setItem("attune-listener", listener);
  } catch {
    ballot.note = "This browser keeps nothing: save your votes before you leave.";
  }
  showBallot();
}

function closeBlind() {
  ballot = null;
  byId("blind").replaceChildren();
}

const heard = (id, path, label) => el("audio", {id, controls: true, preload: "auto", src: soundUrl(path), "aria-label": label});
const keyed = (key, text, act, kind) => el("button", {type: "button", class: kind, onclick: act, "aria-keyshortcuts": key}, text, " ", el("kbd", {"aria-hidden": "true"}, key));

function showBallot() {
  forgetSounds();
  const one = toCome();
  const done = ballot.pairs.filter((pair) => ballot.votes.some((vote) => samePair(vote, pair))).length;
  const foot = [
    el("p", {role: "status"}, `${done} of ${ballot.pairs.length} voted on as ${ballot.listener}. ${ballot.note}`),
    el("p", {class: "tools"}, keyed("U", "Undo the last vote", undo), keyed("S", "Save votes to a file", save), keyed("Escape", "Back to the report", leave))];
  const body = one ? ballotOf(one) : [el("p", {}, ballot.pairs.length ? "That was the last one. Save your votes to a file; thank you." : "No item has the sound of two different replies to compare.")];
  byId("blind").replaceChildren(el("h1", {tabindex: "-1"}, one ? QUESTION : "All heard"), ...body, ...foot);
  byId("blind").querySelector("h1").focus({preventScroll: true});
}

function ballotOf(one) {
  const side = (letter, key, system, id) => el("section", {class: "answer", "aria-label": `Reply ${letter}`},
    el("h2", {}, `Reply ${letter} `, el("kbd", {title: `plays reply ${letter}`}, key)),
    heard(id, answerOf(one.row, system).audio, `Reply ${letter}`), el("p", {class: "reply"}, `“${answerOf(one.row, system).reply}”`));
  return [
    el("section", {class: "person", "aria-label": "The person"}, el("h2", {}, "The person ", el("kbd", {title: "plays the person"}, "Space")),
      heard("person-sound", itemSound(one.row.item), "The person"), one.row.item.text === null ? null : el("p", {class: "reply"}, `“${one.row.item.text}”`)),
    el("div", {class: "answers"}, side("A", "1", one.left, "left-sound"), side("B", "2", one.right, "right-sound")),
    el("p", {class: "choice", role: "group", "aria-label": QUESTION}, keyed("A", "A fits better", () => vote("left"), "strong"),
      keyed("B", "B fits better", () => vote("right"), "strong"), keyed("T", "Both alike", () => vote("tie"), "strong"))];
}

const leave = () => { location.hash = "#at=votes"; };
function play(id) {
  const audio = byId(id);
  if (!audio) return;
  if (!audio.paused) return audio.pause();
  audio.currentTime = 0;
  start(audio);
}

const KEYS = {
  1: () => play("left-sound"), 2: () => play("right-sound"), " ": () => play("person-sound"),
  a: () => vote("left"), b: () => vote("right"), t: () => vote("tie"), u: undo, s: save, escape: leave,
};
document.addEventListener("keydown", (event) => {
  if (!ballot || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const space = event.key === " " && event.target.closest("button, a, audio, select");
  const act = KEYS[event.key.toLowerCase()];
  if (!act || space || event.target.closest("input, select, textarea")) return;
  event.preventDefault();
  act();
});

go(true);
