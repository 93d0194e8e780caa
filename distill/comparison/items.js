"use strict";
// Every item with the answers of all systems, a page at a time.

const wordsOf = (text) => text.toLowerCase().replace(/’/g, "'").match(/[\p{L}\p{N}]+(?:'\p{L}+)*/gu) ?? [];

/** Words heard, those not said marked, and those said but not heard struck out: by the longest common subsequence. */
function compared(said, heard) {
  const a = wordsOf(said), b = wordsOf(heard);
  const best = Array.from({length: a.length + 1}, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      best[i][j] = a[i] === b[j] ? 1 + best[i + 1][j + 1] : Math.max(best[i + 1][j], best[i][j + 1]);
  const parts = [];
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && a[i] === b[j]) { parts.push(b[j]); i++; j++; }
    else if (i < a.length && (j === b.length || best[i + 1][j] >= best[i][j + 1])) parts.push(el("del", {}, a[i++]));
    else parts.push(el("ins", {}, b[j++]));
    parts.push(" ");
  }
  return parts;
}

function labelsOf(item) {
  const {emotion, age, gender, events} = item.labels;
  return [emotion, age, gender, ...(events ?? [])].filter(Boolean);
}

function cuesOf(row, answer) {
  const parts = [];
  for (const [cue, found] of Object.entries(answer.cues ?? {})) {
    const meant = row.item.labels[cue];
    if (Array.isArray(found)) {
      parts.push(el("span", {class: "cue"}, `${cue} ${found.map((one) => one.kind).join(", ") || "none"}`));
      continue;
    }
    const right = meant && found.label ? (found.label === meant ? "✓" : "✗") : "";
    const sure = found.confidence === null || found.confidence === undefined ? "" : ` ${found.confidence.toFixed(2)}`;
    const told = found.label ?? `unknown${found.best ? ` (${found.best}?)` : ""}`;
    parts.push(el("span", {class: right === "✗" ? "cue bad" : "cue", title: right ? (right === "✓" ? "as meant" : `meant ${meant}`) : undefined}, `${cue} ${told}${sure} ${right}`.trim()));
  }
  return parts.length ? el("p", {class: "cues"}, parts) : el("p", {class: "cues none"}, "no cues told");
}

function valuesOf(row, system) {
  const answer = answerOf(row, system);
  const names = [...MEASURES.keys()].filter((name) => valueOf(row, system, name));
  const noted = Object.keys(answer.notes ?? {}).filter((name) => !names.includes(name));
  if (!names.length && !noted.length) return null;
  const lines = [...names, ...noted].map((name) => el("tr", {}, el("th", {scope: "row"}, MEASURES.get(name)?.title ?? name),
    el("td", {class: "n"}, names.includes(name) ? ownValue(row, system, name) : "–"), el("td", {}, answer.notes?.[name] ?? "")));
  const runs = answer.timings?.runs ?? [];
  const stages = runs.length ? Object.entries(runs[0].stages_s ?? {}).map(([stage, seconds]) => `${stage} ${seconds.toFixed(2)}`).join(" · ") : "";
  return el("details", {}, el("summary", {}, `${names.length} values`),
    el("div", {class: "scroll"}, el("table", {}, el("caption", {class: "sr"}, `Values of ${system}`), el("tbody", {}, lines))),
    stages ? el("p", {class: "small"}, `First of ${runs.length} timed runs, seconds: ${stages}`) : null);
}

function answerCell(row, system, found) {
  const answer = answerOf(row, system), said = row.item.text;
  const own = found.map((one) => one.own?.(row, system)).filter(Boolean);
  const how = [answer.strategy, answer.reply_emotion].filter(Boolean).join(" · ");
  const traced = state.system === system ? " traced" : "";
  return el("section", {class: `answer${traced}`, "aria-label": `${system} on ${row.item.id}`},
    el("h4", {}, el("i", {class: `swatch s${SYSTEMS.indexOf(system) % 6}`}), system),
    own.map((text) => el("p", {class: "own"}, text)),
    failuresOf(row, system).map((text) => el("p", {class: "bad"}, `✗ ${text}`)),
    answer.reply ? el("p", {class: "reply"}, `“${answer.reply}”`, how ? el("small", {class: "block"}, how) : "") : null,
    player(answer.audio, `reply of ${system} to ${row.item.id}`),
    typeof answer.heard === "string" ? el("p", {class: "small"}, "heard: ", answer.heard && said ? compared(said, answer.heard) : answer.heard || "nothing") : null,
    answer.heard === null || answer.heard === undefined ? null : cuesOf(row, answer),
    answer.thought ? el("p", {class: "think"}, answer.thought) : null,
    answer.listen_back ? el("p", {class: "small"}, "its sound heard back: ", answer.reply ? compared(answer.reply, answer.listen_back) : answer.listen_back) : null,
    valuesOf(row, system));
}

function itemCard(row, found) {
  const {item} = row;
  const twin = item.contrast ? [" · ", el("a", {href: hashOf({contrast: item.contrast})}, "its twins")] : [];
  const check = item.check ? ` · ${item.check.kind.replaceAll("_", " ")} ${item.check.value ?? ""}`.trimEnd() : "";
  return el("article", {class: "item", "aria-labelledby": `title-${item.id}`},
    el("h3", {id: `title-${item.id}`}, item.text === null ? el("i", {}, "words not known") : `“${item.text}”`),
    el("p", {class: "small"}, el("a", {href: hashOf({item: item.id})}, item.id), ` · ${item.task}${check}`, twin),
    el("p", {class: "cues"}, labelsOf(item).map((label) => el("span", {class: "cue"}, label)), player(itemSound(item), `the person in ${item.id}`)),
    el("div", {class: "answers"}, SYSTEMS.map((system) => answerCell(row, system, found))));
}

// --- filters

function fillFilters() {
  const form = byId("filters").elements;
  const option = (value, text) => el("option", {value}, text ?? value);
  const emotions = new Set(comparison.rows.map((row) => row.item.labels.emotion ?? "unknown"));
  form.task.append(...[...new Set(comparison.rows.map((row) => row.item.task))].map((one) => option(one)));
  form.emotion.append(...[...emotions].sort().map((one) => option(one)));
  form.failed.append(...SYSTEMS.map((one) => option(one, `by ${one}`)));
  const had = new Set();
  for (const row of comparison.rows) for (const system of SYSTEMS) {
    const answer = answerOf(row, system);
    for (const name of [...Object.keys(answer.values ?? {}), ...Object.keys(answer.timings?.values ?? {})]) had.add(name);
  }
  const measures = [...MEASURES.values()].filter((measure) => had.has(measure.name));
  form.differ.append(...measures.map((one) => option(one.name, one.title)));
  form.sort.append(...measures.map((one) => option(one.name, one.title)));
  form.by.append(...SYSTEMS.map((one) => option(one === REFERENCE ? "" : one, one)));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("input", () => change(Object.fromEntries(
    FILTERS.map((name) => [name, name === "down" ? (form.down.checked ? "1" : "") : form[name].value]))));
}

function showFilters() {
  const form = byId("filters").elements;
  for (const name of FILTERS)
    if (name === "down") form.down.checked = Boolean(state.down);
    else if (form[name].value !== (state[name] ?? "")) form[name].value = state[name] ?? "";
}

function showItems() {
  forgetSounds();
  showProfile();
  const found = criteria(), rows = chosenRows(found);
  const pages = Math.max(1, Math.ceil(rows.length / PER_PAGE));
  const page = Math.min(pages, Math.max(1, Number(state.page) || 1));
  showFilters();
  showTrace(found, rows);
  byId("count").textContent = `${rows.length.toLocaleString("en")} of ${comparison.rows.length.toLocaleString("en")} items${pages > 1 ? `, page ${page} of ${pages}` : ""}`;
  byId("list").replaceChildren(...rows.slice((page - 1) * PER_PAGE, page * PER_PAGE).map((row) => itemCard(row, found)));
  const turn = (to, text) => el("a", {href: hashOf({...state, at: "items", page: String(to)}), rel: to < page ? "prev" : "next"}, text);
  byId("pages").replaceChildren(...(pages > 1 ? [page > 1 ? turn(page - 1, "← Earlier") : "", ` ${page} / ${pages} `, page < pages ? turn(page + 1, "Later →") : ""] : []));
}

// --- going where the address says

const TRACING = ["measure", "cue", "stage", "votes", "item", "contrast", "failed", "task", "page"];
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='#']");
  if (link && byId("report").contains(link) && !byId("list").contains(link)) cameFrom = link;
  if (link && link.hash === location.hash) go(false); // the browser tells of no change
});

function go(first) {
  state = readHash();
  const blind = state.view === "blind";
  byId("report").hidden = blind;
  byId("blind").hidden = !blind;
  if (blind) return openBlind();
  closeBlind();
  showItems();
  const to = state.at && byId(state.at) ? state.at : TRACING.some((key) => state[key]) ? "items" : "";
  if (to) {
    byId(to).scrollIntoView();
    byId(to).focus({preventScroll: true});
  } else if (!first && cameFrom?.isConnected) cameFrom.focus({preventScroll: true});
}

function showProfile() {
  if (!state.profile || !byId("profile")) return;
  byId("profile").value = state.profile;
  for (const panel of document.querySelectorAll(".panel")) panel.hidden = panel.dataset.measure !== state.profile;
}

byId("profile")?.addEventListener("input", (event) => change({profile: event.target.value}));
fillFilters();
window.addEventListener("hashchange", () => go(false));
