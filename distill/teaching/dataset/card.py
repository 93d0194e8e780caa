"""The dataset card: README.md, as the Hugging Face hub and a person read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.turn import Record
from distill.files import whole_file
from distill.teaching.dataset.columns import GROUPS, ROW_VERSION, shown_type
from distill.teaching.dataset.facts import UNKNOWN, Facts
from distill.teaching.dataset.manifest import EngineEntry, engine_entries, plain
from distill.teaching.dataset.shards import PLACES, REJECTED
from distill.teaching.records import SPLITS

CARD = "README.md"
LABELS = {
    "user_emotion": "The user's emotion", "user_age": "The user's age", "user_gender": "The user's gender",
    "user_events": "The user's vocal events", "reply_emotion": "The reply's emotion", "strategy": "Strategy",
    "domain": "Domain", "task": "Task", "source": "Source",
}  # fmt: skip
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MEASURED = {
    "user_wer": "words of the user's speech, heard by the recognizer",
    "user_emotion_agreement": "emotion of the user's speech, heard by the analyzer",
    "reply_wer": "words of the reply's speech",
    "reply_emotion_agreement": "emotion of the reply's speech",
    "speech_quality": "predicted quality of the reply's speech",
    "empathy": "empathy of the reply's text",
}


def write(folder: Path, settings: Record | Mapping[str, Any], facts: Facts) -> None:
    """README.md of the dataset in `folder`. Raises InputError: a disk that cannot be written."""
    with whole_file(folder / CARD) as file:
        file.write(card_of(settings, facts).encode())


def card_of(settings: Record | Mapping[str, Any], facts: Facts) -> str:
    engines = list(engine_entries(facts))
    parts = (
        _front_matter(engines, facts),
        _about(facts),
        _loading(facts) + _splits_as_files(facts),
        _counts(facts),
        _gates(facts),
        _contrasts(facts),
        _made(settings, engines, facts),
        _limits(engines, facts),
        _columns(),
    )
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


# --- front matter


def licence_field(engines: Sequence[EngineEntry], facts: Facts) -> str:
    """What the hub's `license` can honestly say. Voices of people are theirs; weights hand their terms on; a program's licence,
    as eSpeak NG's GPL, is not its sound's.
    """
    licences = " ".join(engine.licence for engine in engines)
    if set(facts.by_label("source")) - {"made"} or any(
        word in licences for word in ("own", "model licence", "not known")
    ):
        return "other"
    if "NC-SA" in licences:
        return "cc-by-nc-sa-4.0"
    return "cc-by-nc-4.0" if "NC" in licences else "apache-2.0"


def _front_matter(engines: Sequence[EngineEntry], facts: Facts) -> str:
    licence = licence_field(engines, facts)
    size = next((name for limit, name in SIZES if facts.turns < limit), "n>1M")
    lines = ["---", "pretty_name: Spoken turns and empathetic replies", "language:", "- en", f"license: {licence}"]
    lines += ["license_name: see-engines-and-licences", "license_link: README.md"] if licence == "other" else []
    lines += ["task_categories:", "- automatic-speech-recognition", "- audio-classification", "- text-to-speech"]
    lines += [
        "tags:",
        *(f"- {tag}" for tag in ("audio", "speech", "emotion", "empathy", "dialogue", "synthetic", "attune")),
    ]
    lines += ["size_categories:", f"- {size}", "configs:"]
    lines += ["- config_name: default", "  data_files:", *_data_files(facts)]
    if facts.rows[REJECTED] and facts.kept:
        lines += ["- config_name: rejected", "  data_files:", *_data_file(REJECTED)]
    return "\n".join([*lines, "---"])


def _data_files(facts: Facts) -> Iterator[str]:
    """The splits that have rows. Where none has, train is named all the same: `load_dataset` then says that no data is there,
    where without it it would take manifest.json, or rejected rows, for the data.
    """
    for split in [split for split in SPLITS if facts.rows[split]] or SPLITS[:1]:
        yield from _data_file(split)


def _data_file(place: str) -> Iterator[str]:
    yield f"  - split: {place}"
    yield f"    path: {place}/*.parquet"


# --- sections


def _about(facts: Facts) -> str:
    tasks = facts.by_label("task")
    speakers = len(facts.by_label("speaker").keys() - {UNKNOWN})
    return f"""# Spoken turns and empathetic replies

Made by Attune: a person says something in some emotion, a teacher (speech recognition, analysis of the voice, reasoning, speech
synthesis) thinks about what was said and how, and answers in speech. Each row is one turn with everything known about it.

**{facts.kept:,} rows** passed the gates of {facts.turns:,} made ({shown_share(facts.kept, facts.turns)});
they hold {shown_time(facts.hours("user"))} of users' speech and {shown_time(facts.hours("reply"))} of replies, and
{facts.distinct_texts:,} distinct users' sentences. Made were {sum(tasks.get("dialogue", {}).values()):,} dialogues by
{speakers:,} users' voices, {sum(tasks.get("speak", {}).values()):,} texts for the talker alone,
{sum(tasks.get("listen", {}).values()):,} sentences that are only heard, and
{sum(tasks.get("write", {}).values()):,} turns on paper.

sha256 of all rows: `{facts.dataset_sha256}` (schema version {ROW_VERSION})"""


CODE = """```python
import io

import soundfile
from datasets import Audio, load_dataset

rows = load_dataset("path/to/this/folder")
for column in ("user_audio", "reply_audio"):  # as bytes; leave this out where torchcodec is installed to decode them
    rows = rows.cast_column(column, Audio(decode=False))
row = rows["{split}"][0]
print(row["user_text"], row["reply_text"])
samples, rate = soundfile.read(io.BytesIO(row["reply_audio"]["bytes"]))
```

`user_audio` is null in rows for the talker alone. Without the casts `datasets` decodes sound itself, which needs the package
torchcodec. The code needs `pip install datasets soundfile`."""
REJECTED_CODE = """The rows that did not pass, each with its reasons:

```python
from datasets import Audio, load_dataset

rejected = load_dataset("parquet", data_files={"rejected": "path/to/this/folder/rejected/*.parquet"})
for column in ("user_audio", "reply_audio"):
    rejected = rejected.cast_column(column, Audio(decode=False))
print(rejected["rejected"][0]["rejected"])
```"""
NOTHING = (
    "**No row passed the gates: there is nothing here to train on, and `load_dataset` of this folder finds no data.**"
)
FILES = "`manifest.json` holds the sha256 of each file; `report.html` shows charts and lets you hear samples.\n"


def _loading(facts: Facts) -> str:
    """Code that runs as it stands, without torchcodec, too."""
    split = next((split for split in SPLITS if facts.rows[split]), None)
    parts = ["## How to load it", CODE.format(split=split) if split else NOTHING]
    parts += [REJECTED_CODE] if facts.rows[REJECTED] else []
    return "\n\n".join([*parts, FILES])


def _splits_as_files(facts: Facts) -> str:
    places = [place for place in PLACES if facts.rows[place]]
    rows = (
        (
            f"`{place}/`",
            f"{facts.rows[place]:,}",
            shown_time(facts.hours("user", place)),
            shown_time(facts.hours("reply", place)),
        )
        for place in places
    )
    return f"\n{_leaks(facts.leaks.lines())}\n\n" + _table(("folder", "rows", "users' speech", "replies' speech"), rows)


def _leaks(lines: Sequence[str]) -> str:
    if not lines:
        return "No two splits share a voice, a template, a contrast set or a sentence: this was checked row by row."
    return (
        f"**Leaks between splits: {len(lines):,}**, for example: " + "; ".join(_cell(line) for line in lines[:5]) + "."
    )


def shown_time(hours: float) -> str:
    """A length of sound in the unit that fits it."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def _counts(facts: Facts) -> str:
    parts = ["## Counts"]
    for column, title in LABELS.items():
        counts = facts.by_label(column)
        if counts:
            rows = ((value, *(by.get(place, 0) for place in PLACES)) for value, by in counts.items())
            parts.append(f"{title} (`{column}`; unknown: null)\n\n" + _table((column, *PLACES), rows))
    by_speaker = facts.by_label("speaker")
    voices = (sum(place in by for name, by in by_speaker.items() if name != UNKNOWN) for place in PLACES)
    parts.append("Users' voices\n\n" + _table(("", *PLACES), [("voices", *voices)]))
    return "\n\n".join(parts)


def _gates(facts: Facts) -> str:
    text = f"## Gates\n\n{facts.kept:,} of {facts.turns:,} rows passed ({shown_share(facts.kept, facts.turns)}). "
    text += "A row can fail at several gates. "
    if facts.gates:
        head = ("gate", "rows turned away", "of all", "it alone", "for example")
        by_size = sorted(facts.gates.items(), key=lambda item: (-item[1].rejected, item[0]))
        rows = ((n, g.rejected, shown_share(g.rejected, facts.turns), g.alone, g.reason) for n, g in by_size)
        text += "\n\n" + _table(head, rows)
    else:
        text += "None turned a row away."
    head = ("measure", "what", "rows measured", "median", "10 % to 90 %")
    return text + "\n\nA measure that was not taken turns nothing away.\n\n" + _table(head, _measures(facts))


def _measures(facts: Facts) -> Iterator[tuple[Any, ...]]:
    for name, about in MEASURED.items():
        taken = facts.measured[name]
        share = f"{taken.count:,} ({shown_share(taken.count, could_be_measured(name, facts))})"
        if taken.count:
            middle, low, high = (taken.quantile(share) for share in (0.5, 0.1, 0.9))
            yield f"`{name}`", about, share, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"
        else:
            yield f"`{name}`", about, "none", "", ""


def _contrasts(facts: Facts) -> str:
    counts = facts.contrasts.counts()
    if not counts["sets"]:
        return ""
    return f"""## Contrast sets

The same words in other tones, which need other replies. Of {counts["sets"]:,} sets with two tones or more past the gates,
{shown_share(counts["sets_differ"], counts["sets"])} have replies that differ in strategy or reply emotion, and in
{shown_share(counts["sets_all_differ"], counts["sets"])} any two tones do; of all {counts["pairs"]:,} pairs of tones,
{shown_share(counts["pairs_differ"], counts["pairs"])} do."""


def _made(settings: Record | Mapping[str, Any], engines: Sequence[EngineEntry], facts: Facts) -> str:
    rows = ((e.stage, e.name, e.version, e.licence, f"{e.rows:,}") for e in engines)
    text = "## Engines and licences\n\n" + _table(
        ("stage", "engine", "version", "licence: engine, weights", "rows"), rows
    )
    text += f"\n\nThe licence field says `{licence_field(engines, facts)}`. "
    if any("GPL" in engine.licence for engine in engines):
        text += "eSpeak NG's GPL concerns the program, which is not part of this dataset, and not the speech it makes. "
    if any("NC" in engine.licence for engine in engines):
        text += "Weights marked NC may not be used for commerce; whoever uses these rows should heed that. "
    if any(word in engine.licence for engine in engines for word in ("own", "model licence")):
        text += (
            "Where it says that a model or server has terms of its own, these decide what its output may be used for. "
        )
    shown = json.dumps(plain(settings), indent=1, sort_keys=True, ensure_ascii=False)
    return f"{text}\n\n## How it was made\n\nSame settings, same engines, same rows:\n\n```json\n{shown}\n```"


# --- limits: what applies, by what the rows say


def _limits(engines: Sequence[EngineEntry], facts: Facts) -> str:
    return "## Known limits\n\n" + "\n".join(f"- {limit}" for limit in known_limits(engines, facts))


def known_limits(engines: Sequence[EngineEntry], facts: Facts) -> Iterator[str]:
    """One sentence or two each."""
    yield "English only."
    sources, names = set(facts.by_label("source")), {engine.name for engine in engines}
    if "made" in sources:
        yield (
            "Users are simulated: synthetic voices moved in pitch, pace and timbre by published profiles of vocal emotion. "
            "People express emotion otherwise; a score on the test split says nothing about people."
        )
        yield "Age and gender of simulated users are shifts of pitch and vocal tract: other than in real voices."
    if not facts.by_label("user_events"):
        yield "No vocal events: nobody laughs, sighs or cries in a row that says so."
    if not facts.known["heard_events"]:
        yield "No engine in this profile hears vocal events, so `heard_events` is null."
    if not facts.known["age_posterior"]:
        yield "No engine in this profile tells age, so `age_posterior` is null."
    if "counsellor" in names:
        yield "The teacher is rule-based: strategies and phrases recur, it knows no facts, and there are no `top_logprobs`."
    if names & {"espeak", "flite"}:
        yield "The reply's voice is clearly a machine's."
    if "pocketsphinx" in names:
        yield (
            "PocketSphinx mishears much of synthetic speech: its word error rates say more about it than about the speech, and "
            "`heard_text` is no transcript."
        )
    yield from _sampled(facts)
    if "live" in sources:
        yield (
            "Live rows rest on a consent that can be withdrawn: then they must go. Whoever passes the dataset on passes on that "
            "duty, too."
        )


def _sampled(facts: Facts) -> Iterator[str]:
    for name in ("user_wer", "reply_wer"):
        count, rows = facts.measured[name].count, could_be_measured(name, facts)
        if rows and count < 0.99 * rows:
            yield f"`{name}` was measured on {shown_share(count, rows)} of the rows that have it; others pass that gate unseen."


def could_be_measured(name: str, facts: Facts) -> int:
    """Rows that have what is measured: a user and an answer to judge are in dialogues alone."""
    if name.startswith("reply") or name == "speech_quality":
        return facts.turns - sum(sum(facts.by_label("task").get(task, {}).values()) for task in ("listen", "write"))
    return sum(facts.by_label("task").get("dialogue", {}).values())


def _columns() -> str:
    parts = ["## Columns", "Null: not known, not measured or not there; never a default."]
    for title, columns in GROUPS.items():
        rows = ((f"`{column.name}`", shown_type(column.type), column.about) for column in columns)
        parts.append(f"### {title}\n\n" + _table(("column", "type", "what"), rows))
    return "\n\n".join(parts)


def shown_share(part: int, whole: int) -> str:
    """In per cent."""
    return f"{part / whole:.1%}" if whole else "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = " ".join((f"{value:,}" if isinstance(value, int) else str(value)).split())
    return text.replace("|", "\\|").replace("<", "&lt;")
