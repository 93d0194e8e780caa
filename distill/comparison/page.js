"use strict";
// What is shown is held by the address alone: a number above is a link whose hash says which items are behind it.

const {comparison, sounds, sha256} = JSON.parse(document.getElementById("data").textContent);
const SYSTEMS = comparison.systems.map((system) => system.name);
const MEASURES = new Map(comparison.measures.map((measure) => [measure.name, measure]));
const REFERENCE = comparison.reference ?? SYSTEMS[0];
const PER_PAGE = 12;
const FILTERS = ["task", "emotion", "failed", "differ", "sort", "by", "down", "q"];
const byId = (id) => document.getElementById(id);

/** An element; strings among its children become text, never markup. */
function el(name, about = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(about)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

// --- the address

let state = {};
const hashOf = (about) => "#" + new URLSearchParams(Object.entries(about).filter(([, value]) => value));
const readHash = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

/** Another choice of the same view: no new entry in the history, no scrolling. */
function change(about) {
  const next = {...state, page: "", ...about};
  delete next.at;
  history.replaceState(null, "", hashOf(next));
  state = readHash();
  showItems();
}

let cameFrom = null; // the number that was followed to the items

// --- values

const answerOf = (row, system) => row.answers[system] ?? {cues: {}, failures: ["no answer"], values: {}, notes: {}, timings: {}};
const valueOf = (row, system, measure) => {
  const answer = answerOf(row, system);
  const found = answer.values?.[measure] ?? answer.timings?.values?.[measure];
  return found && found[1] ? found : undefined;
};
const quotient = (value) => value[0] / value[1];
const trimmed = (number) => String(Math.round(number * 1000) / 1000);

function shown(value, unit) {
  if (unit === "share") return `${(100 * value).toFixed(1)} %`;
  if (unit === "s") return `${value.toFixed(2)} s`;
  if (unit === "MB") return `${Math.round(value).toLocaleString("en")} MB`;
  if (unit === "J") return `${Number(value.toPrecision(3))} J`;
  if (unit !== "count") return value.toFixed(2);
  for (const [size, letter] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]])
    if (Math.abs(value) >= size) return (value / size).toFixed(1) + letter;
  return value.toFixed(1).replace(/\.0$/, "");
}

/** One item's own value, with what it was divided by where that is more than one. */
function ownValue(row, system, name) {
  const value = valueOf(row, system, name);
  if (!value) return "not measured";
  const unit = MEASURES.get(name)?.unit;
  const told = shown(quotient(value), unit);
  return value[1] === 1 ? told : `${told} (${trimmed(value[0])} of ${trimmed(value[1])})`;
}

const failuresOf = (row, system) => answerOf(row, system).failures ?? [];
const hasFailed = (row, system) => typeof answerOf(row, system).reply !== "string"; // as "failed" counts it
const toldOf = (row, system, cue) => answerOf(row, system).cues?.[cue]?.label ?? "unknown";
const stageValues = (row, system, stage) =>
  (answerOf(row, system).timings?.runs ?? []).map((run) => run.stages_s?.[stage]).filter((value) => value !== undefined);

/** Whether a confidence lies in (low, high]; the first bin holds 0, too. */
function within(confidence, bin) {
  const [low, high] = bin.split("-").map(Number);
  return confidence > low - (low === 0 ? 1 : 0) && confidence <= high + 1e-9;
}

// --- what is behind a number: a criterion says in words what it is, keeps rows, and shows each system's own value of a row

const criteria = () => [ofMeasure, ofDifference, ofConfusion, ofConfidence, ofStage, ofVotes, ofChoice, ofFailure, ofDisagreement, ofText]
  .flatMap((make) => make(state) ?? []);
const told = (title, value) => (value ? `${title}: ${value}` : "");
const titleOf = (measure) => MEASURES.get(measure)?.title ?? measure;
const ownOf = (measure) => (row, system) => valueOf(row, system, measure) && told(titleOf(measure), ownValue(row, system, measure));

function ofMeasure({measure, system}) {
  if (!measure || !system) return null;
  const whole = figureOf()?.items === 0; // no item has a value of its own: all of them are shown
  return {words: `${titleOf(measure)} of ${system}`, keep: (row) => whole || valueOf(row, system, measure), own: ownOf(measure)};
}

const ofDifference = ({measure, vs}) => vs && {words: `where ${vs} has it, too`, keep: (row) => valueOf(row, vs, measure)};

/** What counts in a confusion table is what has an accuracy. */
function ofConfusion({cue, system, truth, told: label}) {
  if (!cue || !system || !truth) return null;
  return {
    words: `${cue} ${truth} told as ${label} by ${system}`,
    keep: (row) => row.item.labels[cue] === truth && toldOf(row, system, cue) === label && valueOf(row, system, `${cue}_accuracy`),
    own: (row, one) => `${cue}: meant ${row.item.labels[cue]}, told ${toldOf(row, one, cue)}`,
  };
}

function ofConfidence({cue, system, sure}) {
  if (!cue || !system || !sure) return null;
  const found = (row, one) => row.item.labels[cue] && answerOf(row, one).cues?.[cue]?.best ? answerOf(row, one).cues[cue] : null;
  const right = (row, cueTold) => (cueTold.best === row.item.labels[cue] ? "right" : `meant ${row.item.labels[cue]}`);
  return {
    words: `${cue} told by ${system}${sure === "0-1" ? ", however sure" : ` with confidence ${sure.replace("-", " to ")}`}`,
    keep: (row) => found(row, system) && within(found(row, system).confidence, sure),
    own: (row, one) => found(row, one) && `${cue}: ${found(row, one).best} at ${found(row, one).confidence.toFixed(2)}, ${right(row, found(row, one))}`,
  };
}

function ofStage({stage, system}) {
  if (!stage || !system) return null;
  const times = (row, one) => stage === "first sound"
    ? valueOf(row, one, "first_sound_s") && ownValue(row, one, "first_sound_s")
    : stageValues(row, one, stage).map((seconds) => `${seconds.toFixed(2)} s`).join(", ");
  return {words: `${stage} of ${system}`, keep: (row) => times(row, system), own: (row, one) => told(stage, times(row, one))};
}

function ofVotes({votes, won}) {
  if (!votes) return null;
  const [a, b] = votes.split(" ");
  const pair = (comparison.votes?.pairs ?? []).find((one) => one.a === a && one.b === b);
  const counts = (row) => pair?.by_item?.[row.item.id];
  const place = {[a]: 0, [b]: 1, tie: 2};
  return {
    words: `voted on: ${a} against ${b}${won ? (won === "tie" ? ", alike" : `, ${won} better`) : ""}`,
    keep: (row) => counts(row) && (!won || counts(row)[place[won]]),
    own: (row, one) => one in place && `votes: ${counts(row)[place[one]]}, alike ${counts(row)[2]}`,
  };
}

const ofChoice = ({item, contrast, task, emotion}) => [
  item && {words: `item ${item}`, keep: (row) => row.item.id === item},
  contrast && {words: `the same words in other tones: ${contrast}`, keep: (row) => row.item.contrast === contrast},
  task && {words: `task ${task}`, keep: (row) => row.item.task === task},
  emotion && {words: `emotion ${emotion}`, keep: (row) => (row.item.labels.emotion ?? "unknown") === emotion},
].filter(Boolean);

const ofFailure = ({failed}) => failed && {
  words: failed === "any" ? "failed by any system" : `failed by ${failed}`,
  keep: (row) => (failed === "any" ? SYSTEMS : [failed]).some((one) => hasFailed(row, one)),
};

const ofDisagreement = ({differ}) => differ && {
  words: `systems differ in ${titleOf(differ)}`,
  keep: (row) => {
    const found = SYSTEMS.map((one) => valueOf(row, one, differ)).filter(Boolean).map(quotient);
    return found.length > 1 && Math.max(...found) - Math.min(...found) > 1e-9;
  },
  own: ownOf(differ),
};

const ofText = ({q}) => q && {words: `“${q}”`, keep: (row) => textOf(row).includes(q.toLowerCase())};

const texts = new WeakMap();
function textOf(row) {
  if (!texts.has(row)) {
    const parts = [row.item.id, row.item.text, row.item.contrast, row.item.speaker];
    for (const answer of Object.values(row.answers))
      parts.push(answer.heard, answer.thought, answer.reply, answer.listen_back, ...(answer.failures ?? []), ...Object.values(answer.notes ?? {}));
    texts.set(row, parts.filter(Boolean).join("\n").toLowerCase());
  }
  return texts.get(row);
}

function chosenRows(found) {
  const rows = comparison.rows.filter((row) => found.every((one) => one.keep(row)));
  if (!state.sort) return rows;
  const by = state.by || REFERENCE;
  const key = (row) => { const value = valueOf(row, by, state.sort); return value ? quotient(value) : null; };
  const sign = state.down ? -1 : 1;
  return rows.map((row) => [row, key(row)])
    .sort(([, a], [, b]) => (a === null) - (b === null) || sign * ((a ?? 0) - (b ?? 0)))
    .map(([row]) => row);
}

/** The figure that the address names, and its key in comparison.json. */
function figureOf(measure = state.measure) {
  const {system, task} = state;
  for (const [key, list] of [["figures", comparison.figures], ["timings.figures", comparison.timings.figures ?? []]]) {
    const at = list.findIndex((one) => one.measure === measure && one.system === system && one.task === (task || "all"));
    if (at >= 0) return {...list[at], key: `${key}[${at}]`};
  }
  return null;
}

/** What a confusion cell, a calibration bin or a stage says, its count, and its key in comparison.json. */
function tableOf() {
  const {system, cue, truth, told: label, sure, stage} = state;
  if (cue && truth) {
    const at = comparison.confusions.findIndex((one) => one.system === system && one.cue === cue);
    return at < 0 ? null : {key: `confusions[${at}].counts.${truth}.${label}`, items: comparison.confusions[at].counts[truth]?.[label] ?? 0};
  }
  if (cue && sure) {
    const at = comparison.calibration.findIndex((one) => one.system === system && one.cue === cue);
    const whole = sure === "0-1" && figureOf(`${cue}_ece`);
    if (whole) return {key: whole.key, value: whole.value, items: whole.items};
    if (at < 0) return null;
    const {bins, ece} = comparison.calibration[at];
    if (sure === "0-1") return {key: `calibration[${at}].ece`, value: ece, items: bins.reduce((sum, one) => sum + one.count, 0)};
    const bin = bins.findIndex((one) => `${one.low}-${one.high}` === sure);
    return bin < 0 ? null : {key: `calibration[${at}].bins[${bin}]`, items: bins[bin].count};
  }
  return stage && stage !== "first sound" ? {key: `timings.stages.${system}.${stage}`} : null;
}

// --- the trace: what the chosen number is, and the same number made anew from the items shown

function showTrace(found, rows) {
  const trace = byId("trace");
  const traced = found.length && ["measure", "cue", "stage", "votes", "item", "contrast"].some((key) => state[key]);
  trace.hidden = !traced;
  if (!traced) return trace.replaceChildren();
  const figure = state.measure && state.system ? figureOf() : tableOf();
  const lines = [el("p", {}, el("b", {}, found.map((one) => one.words).join(", ")))];
  if (figure) lines.push(el("p", {}, ...toldBy(figure, rows)));
  const back = cameFrom ? [el("button", {type: "button", onclick: () => history.back()}, "← Back"), " "] : [];
  lines.push(el("p", {}, back, el("a", {href: "#at=items"}, "Show all items")));
  trace.replaceChildren(...lines);
}

function toldBy(figure, rows) {
  const unit = MEASURES.get(figure.measure)?.unit;
  const parts = [];
  if (figure.measure) {
    parts.push(shown(figure.value, unit) + (figure.low === null ? "" : ` (95 %: ${shown(figure.low, unit)} to ${shown(figure.high, unit)})`));
    if (state.vs && figure.difference) parts.push(differenceOf(figure, rows));
    else parts.push(figure.items ? fromItems(figure, rows, unit) : "one number of the system as a whole: no item has a value of its own");
  } else if (figure.value !== undefined) parts.push(trimmed(figure.value));
  const whole = !["vs", "emotion", "failed", "differ", "q"].some((key) => state[key]); // nothing was left out by a filter
  const off = whole && figure.items && figure.items !== rows.length;
  return [parts.map((part) => `${part} · `).join(""), "in comparison.json: ", el("code", {}, figure.key),
    off ? el("b", {class: "bad"}, ` It counts ${figure.items} items, found ${rows.length}.`) : ""];
}

/** Σ numerators and Σ denominators of the rows. */
function sumsOf(rows, system, measure) {
  const values = rows.map((row) => valueOf(row, system, measure)).filter(Boolean);
  return [0, 1].map((at) => values.reduce((sum, value) => sum + value[at], 0));
}

function fromItems(figure, rows, unit) {
  const [top, bottom] = sumsOf(rows, figure.system, figure.measure);
  return bottom ? `from the ${rows.length} items shown: ${trimmed(top)} / ${trimmed(bottom)} = ${shown(top / bottom, unit)}` : "from no item";
}

function differenceOf(figure, rows) {
  const gap = figure.difference;
  const means = [figure.system, gap.to].map((system) => sumsOf(rows, system, figure.measure)).map(([top, bottom]) => trimmed(top / bottom));
  return `${trimmed(gap.value)} (${trimmed(gap.low)} to ${trimmed(gap.high)}) to ${gap.to}, from the ${rows.length} items that both have: ${means.join(" − ")}`;
}

// --- sounds: decoded when asked for, forgotten when the list changes

const urls = [];
function soundUrl(path) {
  const text = byId(`sound-${sounds[path][0]}`).textContent;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], {type: "audio/mpeg"}));
  urls.push(url);
  return url;
}
function forgetSounds() {
  for (const audio of document.querySelectorAll("audio")) {
    audio.removeAttribute("src");
    audio.load(); // or it would go on to ask for what is forgotten
  }
  urls.splice(0).forEach((url) => URL.revokeObjectURL(url));
}
const hasSound = (path) => Array.isArray(sounds[path]);

/** A button that becomes a player. */
function player(path, whose) {
  if (!path) return el("p", {class: "none"}, "no sound");
  if (!hasSound(path)) return el("p", {class: "none"}, `sound ${sounds[path] ?? "not in this page"}`);
  const play = (event) => {
    const audio = el("audio", {controls: true, "aria-label": whose, src: soundUrl(path)});
    event.currentTarget.replaceWith(audio);
    audio.focus();
    start(audio);
  };
  return el("button", {type: "button", class: "play", "aria-label": `Play ${whose}, ${sounds[path][1].toFixed(1)} seconds`, onclick: play},
    el("span", {"aria-hidden": "true"}, "▶"), ` ${sounds[path][1].toFixed(1)} s`);
}
// One voice at a time.
function pauseOthers(audio) {
  for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
}
function start(audio) {
  pauseOthers(audio); // now: the event below comes later, when another may already have been asked for
  audio.play().catch((error) => {
    if (error.name !== "AbortError") throw error; // stopped before it began
  });
}
document.addEventListener("play", (event) => event.target.paused || pauseOthers(event.target), true);
const itemSound = (item) => `${comparison.items.folder}/${item.audio.path}`;
