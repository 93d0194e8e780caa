"""Attune-eval as files: FOLDER/items/<id>.wav (16 kHz, 16 bit), settings.json first, and items.json last: with it the set is
whole, and frozen by its hash. A build that was interrupted goes on with the sounds that are there.

Same size, seed and recordings on the same machine: same bytes. Which items there are is the same on every machine, and frozen in
data/frozen.json; sound may differ in its last bit from processor to processor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from cascade.audio import SAMPLE_RATE, Waveform, problems_of_ref, read_speech, reference, write_wav
from cascade.errors import InputError
from cascade.turn import Record
from distill.comparison.eval_plan import PlannedItem, Size, eval_cast, known, plan_sha256, planned_items
from distill.comparison.records import Item
from distill.comparison.vocal_events import with_event
from distill.files import whole_file
from distill.run_folder import check_run, make_folder
from distill.teaching.records import Scenario
from distill.teaching.rooms import draw_channel, heard
from distill.teaching.scenarios.own import own_scenarios
from distill.teaching.scenarios.plan import normal, seed_of
from distill.teaching.voices import USER_EMOTIONS, Speaker, UserEmotion, manner, say

MANIFEST, SOUNDS = "items.json", "items"
SCHEMA = 1
Progress = Callable[[int, int], None]  # done, of


@dataclass(frozen=True)
class ItemSet:
    """What every system is asked. sha256: over ids, words, labels, checks and sounds."""

    name: str
    folder: Path
    items: tuple[Item, ...]
    sha256: str


class _Manifest(Record):
    schema_version: int = SCHEMA
    name: str
    plan: str  # sha256 of the plan
    sha256: str
    items: tuple[Item, ...]


def build(
    folder: Path, size: Size | None, seed: int, progress: Progress | None = None, *, own: Path | None = None
) -> ItemSet:
    """Speak every item that has no sound yet. `size` None: one's own recordings alone.

    Raises InputError: the folder holds another set or one that was changed; recordings that cannot be used; no item at all.
    """
    plan = planned_items(size, seed) if size else []
    plan += own_plan(own, seed) if own else []
    if not plan:
        raise InputError(f"{folder}: a set needs items; give a size, recordings of your own, or both")
    make_folder(folder, resume=False)
    name = _name(size, seed, own)
    check_run(folder, {"name": name, "plan": plan_sha256(plan)}, resume=True)
    if not (folder / MANIFEST).is_file():
        _speak_all(folder, plan, name, progress or (lambda done, of: None))
    return open_items(folder)


def open_items(folder: Path) -> ItemSet:
    """A set that is whole. Raises InputError naming the file: missing, changed, added; a set without items."""
    path = folder / MANIFEST
    again = "put it back, or delete the folder and make the set again"
    try:
        manifest = _Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); the set is not finished: build it again, what is spoken stays"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "not JSON"
        raise InputError(f"{path}: no item set of this Attune ({where}: {first['msg']}); {again}") from None
    if not manifest.items:
        raise InputError(f"{path}: holds no items; nothing can be compared on it: make another set")
    if manifest.schema_version != SCHEMA or items_sha256(manifest.items) != manifest.sha256:
        raise InputError(f"{path}: changed since the set was made (sha256 differs); {again}")
    problem = next((why for item in manifest.items for why in problems_of_ref(item.audio, folder)), None)
    if problem:
        raise InputError(f"{problem}; {again}")
    expected = {folder / item.audio.path for item in manifest.items}
    added = next((path for path in sorted((folder / SOUNDS).iterdir()) if path not in expected), None)
    if added:
        raise InputError(f"{added}: is not of this set; take it away")
    return ItemSet(manifest.name, folder, manifest.items, manifest.sha256)


def items_sha256(items: Iterable[Item]) -> str:
    rows = [item.model_dump(mode="json") for item in items]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _name(size: Size | None, seed: int, own: Path | None) -> str:
    made = f"Attune-eval {size}" + (f", seed {seed}" if seed else "") if size else ""
    return " and ".join(part for part in (made, own and "own recordings") if part)


# --- making -------------------------------------------------------------------------------------------------


def _speak_all(folder: Path, plan: list[PlannedItem], name: str, progress: Progress) -> None:
    sounds = folder / SOUNDS
    sounds.mkdir(exist_ok=True)
    _tidy(sounds, {f"{planned.id}.wav" for planned in plan})
    items = []
    for done, planned in enumerate(plan):
        progress(done, len(plan))
        path = sounds / f"{planned.id}.wav"
        if (wave := _there(path)) is None:
            wave = _sound(planned)
            write_wav(path, wave)
        items.append(
            Item(
                **planned.model_dump(include={"id", "task", "text", "contrast", "group", "speaker"}),
                labels=planned.labels,
                check=planned.check,
                audio=reference(path, wave, folder),
            )
        )
    manifest = _Manifest(name=name, plan=plan_sha256(plan), sha256=items_sha256(items), items=tuple(items))
    with whole_file(folder / MANIFEST) as file:
        file.write((manifest.model_dump_json(indent=1) + "\n").encode())
    progress(len(plan), len(plan))


def _tidy(sounds: Path, expected: set[str]) -> None:
    """Take away what a write that was cut off left behind. Raises InputError for a file that is somebody else's."""
    for path in sorted(sounds.iterdir()):
        if path.name.startswith(".") and path.name.endswith(".part"):
            path.unlink()
        elif path.name not in expected:
            raise InputError(f"{path}: is not of this set; take it away")


def _there(path: Path) -> Waveform | None:
    """A sound that an earlier build wrote, if it is whole."""
    with suppress(InputError):
        wave = read_speech(path)
        return wave if wave.sample_rate == SAMPLE_RATE else None
    return None


def _sound(item: PlannedItem) -> Waveform:
    """The item as a microphone hears it: words, event beside them, room. A recording stays as it is but for its rate."""
    if item.recording is not None:
        return read_speech(item.recording).resampled(SAMPLE_RATE)
    speaker = eval_cast()[item.speaker or ""]
    wave = say(item.text or "", speaker, item.tone, seed=item.seed, intensity=item.intensity, augment=False)
    if item.event:
        wave = with_event(wave, item.event, speaker, item.seed)
    rng = np.random.default_rng(item.room)
    channel = draw_channel(rng)
    loudness = manner(item.tone, np.random.default_rng([item.seed, 1]), item.intensity).shift.gain_db
    return heard(wave, channel, gain_db=loudness, seed=int(rng.integers(2**31)))


# --- one's own ----------------------------------------------------------------------------------------------


def own_plan(path: Path, seed: int) -> list[PlannedItem]:
    """Items of task "own", in the order of the file. Words without a recording are said by a voice of the cast.

    Raises InputError for the first turn that cannot be used.
    """
    scenarios, problems = own_scenarios(path, seed)
    problems += [
        f"{path}: turn {number} has a history; items of a comparison stand alone: leave it out"
        for number, scenario in enumerate(scenarios, start=1)
        if scenario.history
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}")
    return [_own_item(number, scenario) for number, scenario in enumerate(scenarios, start=1)]


def _own_item(number: int, scenario: Scenario) -> PlannedItem:
    speaker = None if scenario.recording else _own_voice(scenario)
    tone = _tone(scenario)
    return PlannedItem(
        id=f"own-{number:04d}",
        task="own",
        text=scenario.text,
        labels=known(speaker, tone) if speaker else scenario.labels,
        contrast=scenario.contrast,
        group=f"own/{scenario.contrast}" if scenario.contrast else scenario.template,
        speaker=speaker.name if speaker else scenario.speaker,
        tone=tone,
        intensity=scenario.intensity,
        seed=seed_of(f"own:{scenario.contrast}") if scenario.contrast else scenario.seed,
        room=seed_of(f"own room:{scenario.contrast or scenario.seed}"),
        recording=scenario.recording,
        recording_sha256=scenario.recording_sha256,
    )


def _tone(scenario: Scenario) -> UserEmotion:
    """In which words without a recording are said."""
    return next((tone for tone in USER_EMOTIONS if tone == scenario.labels.emotion), "neutral")


def _own_voice(scenario: Scenario) -> Speaker:
    """Of the cast, with the gender and age that were asked for or drawn: no voice of a training; one a contrast set."""
    labels = scenario.labels
    fits = [one for one in eval_cast().values() if (one.gender, one.age) == (labels.gender, labels.age)]
    return fits[seed_of(f"own voice {scenario.contrast or normal(scenario.text or '')}") % len(fits)]


# --- leaks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """What a training split shares with a set: normal forms of sentences, voices, families of wordings (or recordings)."""

    sentences: tuple[str, ...]
    speakers: tuple[str, ...]
    wordings: tuple[str, ...]
    of: tuple[int, int, int]  # different ones in the set

    def __bool__(self) -> bool:
        return bool(self.sentences or self.speakers or self.wordings)

    def __str__(self) -> str:
        counts = zip(
            (self.sentences, self.speakers, self.wordings), self.of, ("sentences", "voices", "wordings"), strict=True
        )
        return (
            ", ".join(f"{len(shared)} of {count} {what}" for shared, count, what in counts)
            + " are in the training split"
        )


def check_dataset(folder: Path) -> None:
    """Raises InputError: no dataset is there."""
    from distill.teaching.dataset.columns import ROW_VERSION  # needs pyarrow, which a comparison does not
    from distill.teaching.dataset.manifest import MANIFEST as DATASET
    from distill.teaching.dataset.manifest import read_manifest

    if not (folder / DATASET).is_file():
        raise InputError(f"{folder}: holds no dataset ({DATASET}); give a folder that attune teach made")
    version = read_manifest(folder).schema_version
    if version != ROW_VERSION:
        raise InputError(f"{folder}: a dataset of schema version {version}; this Attune reads version {ROW_VERSION}")


def leaks_into(items: ItemSet, dataset: Path) -> Overlap:
    """What of the set a dataset's training split holds. Raises InputError: no dataset, a shard that cannot be read."""
    from distill.teaching.dataset.shards import read_rows, shards_of

    check_dataset(dataset)
    own = (
        {normal(item.text) for item in items.items if item.text},
        {item.speaker for item in items.items if item.speaker},
        {_family(item) for item in items.items if item.task != "instruction"},
    )
    learnt: tuple[set[str], ...] = (set(), set(), set())
    for path in shards_of(dataset, "train"):
        for row in read_rows(path, ("task", "speaker", "template", "user_text", "reply_text")):
            text = row["reply_text"] if row["task"] == "speak" else row["user_text"]
            for values, value in zip(learnt, (normal(text or ""), row["speaker"], row["template"]), strict=True):
                values.add(value)
    said, voices, wordings = (tuple(sorted(mine & theirs)) for mine, theirs in zip(own, learnt, strict=True))
    return Overlap(said, voices, wordings, (len(own[0]), len(own[1]), len(own[2])))


def _family(item: Item) -> str:
    """The family of a wording: `group` has the wording's number behind it."""
    return item.group if item.task == "own" else item.group.rpartition("/")[0]
