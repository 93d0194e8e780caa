"""Bring your own: a JSONL of turns, or a folder of recordings with labels if there are any.

JSONL, one object a line: `text`, or a `recording` (its path from the file's folder), or both; and what is known of emotion, age,
gender, events, domain, voice, speaker, split, history, contrast. A folder: WAV, FLAC, OGG and MP3 files at any depth, and a
`labels.csv` or `labels.jsonl` with path, text, emotion, age, gender, events, speaker, split. In CSV events are joined by +,
"none" says that there are none, and an empty cell is not known.

What shares a speaker, a wording, a recording or a contrast set is kept in one split.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from cascade.audio import read_speech
from cascade.errors import InputError
from cascade.turn import Age, Emotion, EventKind, Exchange, Gender, Record
from distill.teaching.records import SPLITS, Labels, Scenario, Split
from distill.teaching.scenarios.plan import PlanOptions, fingerprint, normal, seed_of
from distill.teaching.voices import USER_EMOTIONS, Speaker, cast_of

AUDIO = (".wav", ".flac", ".ogg", ".mp3")
LABELS = ("labels.csv", "labels.jsonl")
NONE = "none"  # as CSV writes that there are no events
_LEGAL = {
    "string_type": "legal: a string",
    "tuple_type": "legal: a list",
    "missing": "legal: said and replied in each exchange",
}
KNOWN_OF = (
    "text",
    "emotion",
    "age",
    "gender",
    "events",
    "speaker",
    "split",
)  # columns of a folder's labels, beside path


class Given(Record):
    """One turn as its owner wrote it down. None: not known."""

    text: str | None = None
    emotion: Emotion | None = None
    age: Age | None = None
    gender: Gender | None = None
    events: tuple[EventKind, ...] | None = None
    domain: str = "own"
    voice: str | None = None
    speaker: str | None = None
    split: Split | None = None
    history: tuple[Exchange, ...] = ()
    contrast: str | None = None
    recording: str | None = None

    @field_validator("text", "speaker", "voice", "contrast", "recording", "domain")
    @classmethod
    def _says_something(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("legal: something in it, or nothing given")
        return value


@dataclass(frozen=True)
class _Turn:
    """A turn that may be used. place: "file:line". sha256: of the recording's file."""

    place: str
    given: Given
    recording: Path | None = None
    sha256: str | None = None

    @property
    def words(self) -> str:
        return normal(self.given.text or "")

    def ties(self) -> list[str]:
        """What must not be in another split."""
        given = self.given
        named = (("speaker", given.speaker), ("voice", given.voice), ("contrast", given.contrast))
        return [
            f"{kind} {value}" for kind, value in (*named, ("text", self.words), ("recording", self.sha256)) if value
        ]

    def same(self) -> str:
        """Equal for turns that are one turn written twice."""
        shown = self.given.model_dump(mode="json", exclude={"split", "domain"})
        return self.sha256 or json.dumps(shown | {"text": self.words}, sort_keys=True)


@dataclass
class _Found:
    turns: list[_Turn] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def own_scenarios(path: Path, seed: int) -> tuple[list[Scenario], list[str]]:
    """What can be used, in the order of the file, and one line for each turn that cannot: "file:line: what came; legal: …".

    Raises InputError when the whole cannot be used: no such file, no turn in it, columns that are not known.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a JSONL file or a folder of recordings")
    found = _Found()
    rows = _of_folder(path, found) if path.is_dir() else _of_jsonl(path, found)
    first: dict[str, str] = {}
    for place, given, base in rows:
        try:
            turn = _checked(place, given, base)
            before = first.setdefault(turn.same(), place)
            if before != place:
                raise InputError(f"the same turn as {before}; legal: each turn once")
            found.turns.append(turn)
        except InputError as error:
            found.problems.append(str(error) if str(error).startswith(place) else f"{place}: {error}")
    placed = _placed(found)
    scenarios = [_scenario(index, turn, split, seed) for index, (turn, split) in enumerate(placed)]
    if not scenarios and not found.problems:
        raise InputError(f"{path}: holds no turn; give a JSONL file with a turn a line, or a folder of recordings")
    return scenarios, found.problems


# --- reading ------------------------------------------------------------------------------------------------

Row = tuple[str, Given, Path]  # where it stands, what it says, from where its recording is sought


def _of_jsonl(path: Path, found: _Found) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            yield place, _given(_object(line), tuple(Given.model_fields)), path.parent
        except InputError as error:
            found.problems.append(f"{place}: {error}")


def _of_folder(folder: Path, found: _Found) -> Iterator[Row]:
    """Labelled recordings in the order of the labels, then the others by name."""
    tables = [folder / name for name in LABELS if (folder / name).is_file()]
    if len(tables) > 1:
        raise InputError(f"{folder}: has labels.csv and labels.jsonl; keep one of them")
    labelled: set[Path] = set()
    for place, cells in _table(tables[0], found) if tables else ():
        try:
            labelled.add(_file_of(cells, folder))
            renamed = {("recording" if key == "path" else key): value for key, value in cells.items()}
            yield place, _given(renamed, (*KNOWN_OF, "recording"), shown=("path", *KNOWN_OF)), folder
        except InputError as error:
            found.problems.append(f"{place}: {error}")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO and path.is_file() and path.resolve() not in labelled:
            yield str(path), Given(recording=str(path.relative_to(folder))), folder


def _file_of(cells: dict[str, Any], folder: Path) -> Path:
    name = cells.get("path")
    if not isinstance(name, str) or not name.strip():
        raise InputError("no path; legal: a recording's path, from the folder on")
    return (folder / name).resolve()


def _table(path: Path, found: _Found) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of labels with what stands in them; cells of a CSV that are empty are left out."""
    if path.suffix == ".csv":
        yield from _csv(path, found)
        return
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", _object(line)
            except InputError as error:
                found.problems.append(f"{path}:{number}: {error}")


def _csv(path: Path, found: _Found) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(_text(path).splitlines(), strict=True)
    legal = ("path", *KNOWN_OF)
    wrong = [name for name in reader.fieldnames or [] if name not in legal]
    if wrong or "path" not in (reader.fieldnames or []):
        came = f"column {wrong[0]!r} is not known" if wrong else "no column path"
        raise InputError(f"{path}:1: {came}; legal: {', '.join(legal)}")
    try:
        for row in reader:
            place = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                count = len(reader.fieldnames or [])
                found.problems.append(f"{place}: not {count} cells as in the first line; legal: one for each column")
                continue
            yield place, _cells(row)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not CSV ({error}); legal: cells parted by commas") from None


def _cells(row: dict[str, str]) -> dict[str, Any]:
    known: dict[str, Any] = {name: cell.strip() for name, cell in row.items() if cell.strip()}
    if "events" in known:
        known["events"] = [] if known["events"] == NONE else known["events"].split("+")
    return known


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "too deep"
        raise InputError(f"broken JSON ({why}): {line[:40]!r}; legal: one object a line") from None
    if not isinstance(value, dict):
        raise InputError(f"{line[:40]!r} is no object; legal: one object a line")
    return value


def _given(cells: dict[str, Any], legal: tuple[str, ...], *, shown: tuple[str, ...] = ()) -> Given:
    """Raises InputError: what came, and what is legal."""
    unknown = [key for key in cells if key not in legal]
    if unknown:
        raise InputError(f"key {unknown[0]!r} is not known; legal: {', '.join(shown or legal)}")
    try:
        return Given.model_validate(cells)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "literal_error":
            expected = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
            raise InputError(f"{key} = {first['input']!r}; legal: {expected}") from None
        why = _LEGAL.get(first["type"]) or first["msg"].removeprefix("Value error, ")
        raise InputError(f"{key} = {str(first['input'])[:40]!r}; {why}") from None


# --- checking -----------------------------------------------------------------------------------------------


def _checked(place: str, given: Given, base: Path) -> _Turn:
    """Raises InputError for what no engine could make or read."""
    if given.recording is not None:
        if given.voice is not None:
            raise InputError("voice beside a recording; legal: speaker, for the one who is heard in it")
        path = (base / given.recording).absolute()
        read_speech(path)
        return _Turn(place, given, path, hashlib.sha256(path.read_bytes()).hexdigest())
    if given.text is None:
        raise InputError("neither text nor recording; legal: one of them, or both")
    if not normal(given.text):
        raise InputError(f"text = {given.text[:40]!r} has no word; legal: a sentence")
    if given.events:
        raise InputError(
            f"events = {'+'.join(given.events)} without a recording; legal: a recording of it, or no events"
        )
    if given.emotion not in (None, *USER_EMOTIONS):
        raise InputError(f"emotion = {given.emotion!r} without a recording; legal: {', '.join(USER_EMOTIONS)}")
    _check_voice(given)
    return _Turn(place, given)


def _check_voice(given: Given) -> None:
    if given.voice is None:
        return
    if given.voice not in _voices():
        near = ", ".join(list(_voices())[:3])
        raise InputError(f"voice = {given.voice!r} is not known; legal: {near} …, or none to have one drawn")
    split, speaker = _voices()[given.voice]
    for name, asked, own in (
        ("gender", given.gender, speaker.gender),
        ("age", given.age, speaker.age),
        ("split", given.split, split),
    ):
        if asked not in (None, own):
            raise InputError(
                f"{name} = {asked!r}, but the voice {given.voice} is of {name} {own!r}; legal: {own}, or none"
            )


@cache
def _voices() -> dict[str, tuple[Split, Speaker]]:
    return {speaker.name: (split, speaker) for split in SPLITS for speaker in cast_of(split)}


# --- splits -------------------------------------------------------------------------------------------------


def _placed(found: _Found) -> list[tuple[_Turn, Split]]:
    """Each turn with its split. One whose owner asks for what cannot be kept apart becomes a problem."""
    splits: dict[str, Split] = {}
    for group in _tied(found.turns):
        asked = {turn.place: _asked(turn) for turn in group}
        first = next((place for place, split in asked.items() if split), None)
        most = len(group) > len(found.turns) / 2  # held out, it would leave too little to train on
        split = (asked[first] if first else None) or ("train" if most else _drawn(group))
        for place, own in asked.items():
            if own in (None, split):
                splits[place] = split
                continue
            found.problems.append(
                f"{place}: split = {own!r}, but {first} is in {split!r} and shares its speaker, wording, recording "
                "or contrast set; legal: one split for both"
            )
    return [(turn, splits[turn.place]) for turn in found.turns if turn.place in splits]


def _asked(turn: _Turn) -> Split | None:
    return _voices()[turn.given.voice][0] if turn.given.voice else turn.given.split


def _tied(turns: Iterable[_Turn]) -> list[list[_Turn]]:
    """Groups of turns that are tied to each other, directly or through others (disjoint sets)."""
    parent: dict[str, str] = {}

    def root(tie: str) -> str:
        while parent.setdefault(tie, tie) != tie:
            parent[tie] = tie = parent[parent[tie]]
        return tie

    heads = []
    for turn in turns:
        first, *others = turn.ties()
        for other in others:
            parent[root(other)] = root(first)
        heads.append((turn, first))
    groups: dict[str, list[_Turn]] = {}
    for turn, head in heads:
        groups.setdefault(root(head), []).append(turn)
    return list(groups.values())


def _drawn(group: list[_Turn]) -> Split:
    """By the group's first tie in the alphabet, whatever the order of the file."""
    tie = min(tie for turn in group for tie in turn.ties())
    share = int.from_bytes(hashlib.sha256(tie.encode()).digest()[:4], "big") / 2**32
    for split, size in PlanOptions(turns=1).splits().items():
        if share < size:
            return split
        share -= size
    return "train"


# --- scenarios ----------------------------------------------------------------------------------------------


def _scenario(index: int, turn: _Turn, split: Split, seed: int) -> Scenario:
    given = turn.given
    labels = Labels(emotion=given.emotion, age=given.age, gender=given.gender, events=given.events)
    voice = None
    if turn.recording is None:
        speaker = _voice_for(turn, split, seed)
        voice = speaker.name
        emotion = given.emotion or "neutral"
        labels = Labels(emotion=emotion, age=speaker.age, gender=speaker.gender, events=())
    return Scenario(
        index=index,
        split=split,
        source="made" if turn.recording is None else "recorded",
        domain=given.domain,
        template=f"own/{turn.sha256 or format(fingerprint(given.text or ''), '016x')}",
        contrast=given.contrast,
        text=" ".join(given.text.split()) if given.text else None,
        labels=labels,
        voice=voice,
        speaker=given.speaker if turn.recording else None,
        recording=str(turn.recording) if turn.recording else None,
        recording_sha256=turn.sha256,
        history=given.history,
        seed=seed_of(f"{seed}:{index}"),
    )


def _voice_for(turn: _Turn, split: Split, seed: int) -> Speaker:
    """The voice that was named, or one that fits; the same for one speaker and within a contrast set."""
    given = turn.given
    if given.voice:
        return _voices()[given.voice][1]
    fits = [
        speaker
        for its_split, speaker in _voices().values()
        if its_split == split and given.gender in (None, speaker.gender) and given.age in (None, speaker.age)
    ]
    return fits[seed_of(f"{seed} voice {given.speaker or given.contrast or turn.words}") % len(fits)]
