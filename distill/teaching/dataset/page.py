"""report.html: a dataset at a glance and to hear, in one file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from cascade.turn import EMOTIONS, REPLY_EMOTIONS, STRATEGIES, Record
from distill import look
from distill.files import whole_file
from distill.look import mp3
from distill.teaching.dataset.card import MEASURED, could_be_measured, known_limits, shown_share, shown_time
from distill.teaching.dataset.charts import bars, boxes, heat_table, histogram, table
from distill.teaching.dataset.facts import PITCH_BY, UNKNOWN, Facts
from distill.teaching.dataset.manifest import engine_entries, plain
from distill.teaching.dataset.shards import PLACES

PAGE = "report.html"
MAX_SOUND_BYTES = 6_000_000  # of all samples, as MP3; in the page a third more
KINDS = {
    "good": "Rows that passed",
    "speak": "For the talker alone",
    "listen": "For the ears alone",
    "write": "On paper",
    "rejected": "Rejected",
}
ORDER = tuple(dict.fromkeys((*EMOTIONS, *REPLY_EMOTIONS, UNKNOWN)))  # some are in both


def write(folder: Path, settings: Record | Mapping[str, Any], facts: Facts) -> None:
    """report.html of the dataset in `folder`. Raises InputError: a disk that cannot be written."""
    with whole_file(folder / PAGE) as file:
        file.write(page_of(settings, facts).encode())


def page_of(settings: Record | Mapping[str, Any], facts: Facts) -> str:
    body = "".join(
        f"<section><h2>{title}</h2>{content}</section>"
        for title, content in (
            ("Labels", _labels(facts)),
            ("Gates", _gates(facts)),
            ("Durations", _durations(facts)),
            ("Pitch by emotion", _pitch(facts)),
            ("Contrast sets", _contrasts(facts)),
            ("To hear", _sounds(facts)),
            ("Engines", _engines(facts)),
            ("Known limits", "<ul>" + "".join(f"<li>{_prose(text)}</li>" for text in _limits(facts)) + "</ul>"),
            ("Settings", _settings(plain(settings))),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/><meta name="color-scheme" content="light dark"/>'
        f"<title>Attune: a dataset of spoken turns</title><style>{CSS}</style></head><body><main>{_headline(facts)}{body}</main>"
        "</body></html>\n"
    )


def _headline(facts: Facts) -> str:
    contrasts = facts.contrasts.counts()
    figures = {
        "rows that passed": f"{facts.kept:,}",
        "yield": shown_share(facts.kept, facts.turns),
        "of users’ speech": shown_time(facts.hours("user")),
        "of replies": shown_time(facts.hours("reply")),
        "users’ voices": f"{len(facts.by_label('speaker').keys() - {UNKNOWN}):,}",
        "distinct sentences": f"{facts.distinct_texts:,}",
        "of contrast sets get differing replies": shown_share(contrasts["sets_differ"], contrasts["sets"]),
    }
    tiles = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in figures.items())
    splits = ", ".join(f"{place} {facts.rows[place]:,}" for place in PLACES)
    leaks = facts.leaks.lines()
    warning = f'<p class="bad">Leaks between splits: {len(leaks):,}, e.g. {escape(leaks[0])}</p>' if leaks else ""
    return (
        f'<header><h1>Spoken turns and empathetic replies</h1><div class="tiles">{tiles}</div>'
        f'<p class="small">{facts.turns:,} rows: {splits}. sha256 of all rows: <code>{facts.dataset_sha256}</code></p>'
        f"{warning}</header>"
    )


# --- charts


def _labels(facts: Facts) -> str:
    titles = {"user_emotion": "User’s emotion", "user_age": "Age", "user_gender": "Gender", "user_events": "Vocal events",
              "reply_emotion": "Reply’s emotion", "domain": "Domain", "task": "Task", "source": "Source"}  # fmt: skip
    tables = [
        heat_table(title, PLACES, _sorted(facts.by_label(name)))
        for name, title in titles.items()
        if facts.by_label(name)
    ]
    parts = [f'<div class="columns">{"".join(f"<div>{one}</div>" for one in tables)}</div>']
    emotions = [name for name in ORDER if any(emotion == name for _, emotion in facts.answers)]
    answers = {
        strategy: {emotion: facts.answers[strategy, emotion] for emotion in emotions}
        for strategy in (*STRATEGIES, UNKNOWN)
        if any(facts.answers[strategy, emotion] for emotion in emotions)
    }
    if answers:
        parts.append(
            "<h3>Strategy by the user’s emotion (rows that passed)</h3>" + heat_table("Strategy", emotions, answers)
        )
    return "".join(parts)


def _sorted(rows: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    """Emotions in their usual order; other labels as they come, the most frequent first."""
    return dict(sorted(rows.items(), key=lambda item: ORDER.index(item[0]) if item[0] in ORDER else -1))


def _gates(facts: Facts) -> str:
    by_size = sorted(facts.gates.items(), key=lambda item: (-item[1].rejected, item[0]))
    notes = {name: f"{gate.alone:,} by it alone · e.g. {gate.reason}" for name, gate in by_size}
    shown = bars({name: gate.rejected for name, gate in by_size}, of=facts.turns, notes=notes)
    rows = []
    for name, about in MEASURED.items():
        taken = facts.measured[name]
        spread = [f"{taken.quantile(q):.2f}" for q in (0.1, 0.5, 0.9)] if taken.count else ["", "", ""]
        rows.append((about, f"{taken.count:,}", shown_share(taken.count, could_be_measured(name, facts)), *spread))
    head = ("what was measured", "rows", "share", "10 %", "median", "90 %")
    passed = f"<p>{facts.kept:,} of {facts.turns:,} rows passed. Turned away, by gate; a row can fail at several:</p>"
    return f"{passed}{shown}{table(head, rows)}"


def _durations(facts: Facts) -> str:
    parts = []
    for name, title in (("user_duration_s", "Users’ speech"), ("reply_duration_s", "Replies’ speech")):
        chart = histogram(facts.measured[name], unit="seconds", title=title)
        parts.append(f"<figure><figcaption>{title}, all rows</figcaption>{chart}</figure>")
    return f'<div class="columns">{"".join(parts)}</div>'


def _pitch(facts: Facts) -> str:
    parts = []
    for measure, title in zip(
        PITCH_BY, ("User’s voice, by the user’s emotion", "Reply’s voice, by its emotion"), strict=True
    ):
        found = {label: values for (name, label), values in facts.pitch.items() if name == measure}
        ordered = {label: found[label] for label in ORDER if label in found}
        parts.append(f"<figure><figcaption>{title}</figcaption>{boxes(ordered, unit='Hz', title=title)}</figure>")
    note = '<p class="small">Median pitch of each row that passed: 10th, 25th, 50th, 75th, 90th percentile.</p>'
    return f'<div class="columns">{"".join(parts)}</div>{note}'


# --- rows


def _contrasts(facts: Facts) -> str:
    counts = facts.contrasts.counts()
    if not counts["sets"]:
        return '<p class="none">no set of which two tones passed</p>'
    said = (
        f"<p>The same words in other tones. {counts['sets']:,} sets of which two tones or more passed: in "
        f"<b>{shown_share(counts['sets_differ'], counts['sets'])}</b> the replies differ in strategy or reply emotion, in "
        f"{shown_share(counts['sets_all_differ'], counts['sets'])} any two do; of {counts['pairs']:,} pairs of tones "
        f"{shown_share(counts['pairs_differ'], counts['pairs'])}. Ten sets, drawn by hash:</p>"
    )
    return said + "".join(_contrast(tones) for tones in facts.contrasts.shown())


def _contrast(tones: list[dict[str, Any]]) -> str:
    rows = (
        (tone["user_emotion"] or UNKNOWN, _joined(tone["strategy"], tone["reply_emotion"]), tone["reply_text"])
        for tone in tones
    )
    head = ("tone", "answered", "reply")
    return f"<h3>“{escape(tones[0]['user_text'] or '')}”</h3>{table(head, rows, numbers_from=len(head))}"


def _sounds(facts: Facts) -> str:
    left, parts = MAX_SOUND_BYTES, []
    for kind, title in KINDS.items():
        labels = sorted((label for one, label in facts.examples.kept if one == kind), key=_place)
        articles = []
        for row in (row for label in labels for row in facts.examples.kept[kind, label]):
            sounds = {
                whose: mp3(io.BytesIO(row[f"{whose}_audio"]["bytes"]))[0]
                for whose in ("user", "reply")
                if row[f"{whose}_audio"]
            }
            size = sum(map(len, sounds.values()))
            if size <= left:
                left -= size
                articles.append(_article(row, sounds))
        if articles:
            parts.append(f'<h3>{title}</h3><div class="columns">{"".join(articles)}</div>')
    return "".join(parts) or '<p class="none">no row</p>'


def _place(label: str) -> tuple[int, str]:
    return (ORDER.index(label) if label in ORDER else len(ORDER), label)


def _article(row: Mapping[str, Any], sounds: Mapping[str, bytes]) -> str:
    about = _joined(row["id"], row["user_emotion"], row["user_gender"], row["user_age"], row["domain"])
    lines = [f'<p class="small">{escape(about)}</p>']
    lines += [f'<p class="bad">{escape(reason)}</p>' for reason in row["rejected"]]
    if row["user_text"] or "user" in sounds:
        lines += [f"<p>{_said(row['user_text'])}</p>", _player(sounds.get("user"))]
        lines += [f'<p class="small">heard: {_said(row["heard_text"])}</p>'] if row["heard_text"] is not None else []
    if row["think_language"]:
        lines.append(f'<p class="think">{escape(row["think_language"])}</p>')
    if row["reply_text"]:
        how = _joined(row["strategy"], row["reply_emotion"])
        lines += [f"<p>{_said(row['reply_text'])} <small>{escape(how)}</small></p>", _player(sounds.get("reply"))]
    return f"<article>{''.join(lines)}</article>"


def _joined(*words: str | None) -> str:
    return " · ".join(word for word in words if word)


def _said(text: str | None) -> str:
    return f"“{escape(text)}”" if text is not None else "<i>words not known</i>"


def _player(sound: bytes | None) -> str:
    if sound is None:
        return ""
    data = base64.b64encode(sound).decode()
    return f'<audio controls="controls" preload="none" src="data:audio/mpeg;base64,{data}"></audio>'


# --- the rest


def _engines(facts: Facts) -> str:
    rows = ((e.stage, e.name, e.version, e.licence, f"{e.rows:,}") for e in engine_entries(facts))
    return table(("stage", "engine", "version", "licence", "rows"), rows, numbers_from=4)


def _limits(facts: Facts) -> Iterable[str]:
    return known_limits(list(engine_entries(facts)), facts)


def _prose(text: str) -> str:
    """A sentence of the card: `names` become code."""
    return "".join(
        f"<code>{escape(part)}</code>" if at % 2 else escape(part) for at, part in enumerate(text.split("`"))
    )


def _settings(settings: Mapping[str, Any]) -> str:
    rows = ((name, value) for name, value in _flat(settings))
    return f"<details><summary>show</summary>{table(('setting', 'value'), rows, numbers_from=2)}</details>"


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


CSS = (
    look.CSS
    + """
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.6rem}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem}
.tiles b{display:block;font-size:1.35rem}.tiles span{color:var(--soft);font-size:.85rem}
.bars{list-style:none;padding:0}
.bars li{display:grid;grid-template-columns:9rem 1fr auto;gap:0 .6rem;align-items:center;margin:.35rem 0}
.bars i{display:block;height:.8rem;background:var(--hue);border-radius:.2rem;min-width:1px}.bars b{font-weight:400}
.bars small{grid-column:1/-1}
svg line.mid{stroke:var(--ink);stroke-width:2.5}svg .end{text-anchor:end}svg .mark{text-anchor:middle}
"""
)
