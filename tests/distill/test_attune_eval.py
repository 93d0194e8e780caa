"""The test set: what it asks, of whom, that no training holds it, and that its files are what was frozen."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import TypeVar

import numpy as np
import pytest
from dataset_samples import sample, write_dataset

from cascade.audio import SAMPLE_RATE, Waveform, read_speech, write_wav
from cascade.errors import InputError
from cascade.reasoning.strategies import hear, plan
from cascade.reasoning.understanding import understand
from cascade.turn import AGES, GENDERS, Cues, EmotionCue, Transcript
from distill.comparison import attune_eval, eval_plan
from distill.comparison.attune_eval import ItemSet, build, leaks_into, open_items, own_plan
from distill.comparison.eval_plan import EVENTS, PAIRS, PlannedItem, dealt, plan_sha256, planned_items
from distill.comparison.instructions import CHECK_KINDS, follows, instructions
from distill.comparison.records import EVAL_TASKS, Check
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished
from distill.teaching.scenarios.grammar import grammar
from distill.teaching.scenarios.plan import PlanOptions, normal, planned
from distill.teaching.voices import USER_EMOTIONS, cast_of

T = TypeVar("T", bound=Hashable)
FIVE = ("emotion", "age", "gender", "event", "several")


@cache
def full() -> list[PlannedItem]:
    return planned_items("full", 0)


def of(items: list[PlannedItem], task: str) -> list[PlannedItem]:
    return [item for item in items if item.task == task]


def even(counts: Counter[T], labels: Sequence[T], slack: int) -> bool:
    return set(counts) == set(labels) and max(counts.values()) - min(counts.values()) <= slack


# --- the plan


@pytest.mark.parametrize(("size", "each", "pairs", "requests"), [("small", 40, 40, 20), ("full", 280, 140, 70)])
def test_each_task_has_its_count_and_each_label_its_share(size: str, each: int, pairs: int, requests: int) -> None:
    items = planned_items(size, 0)  # type: ignore[arg-type]
    expected = dict.fromkeys(FIVE, each) | {"contrast": 2 * pairs, "instruction": requests}
    assert Counter(item.task for item in items) == expected
    assert set(expected) | {"own"} == set(EVAL_TASKS)
    assert len({item.id for item in items}) == len(items)
    for task in ("emotion", "several"):
        assert even(Counter(item.tone for item in of(items, task)), USER_EMOTIONS, 1)
    for task in ("age", "several"):
        assert even(Counter(str(item.labels.age) for item in of(items, task)), AGES, 2)
    assert even(Counter(str(item.labels.gender) for item in of(items, "gender")), GENDERS, 0)
    assert even(Counter(str(item.event) for item in of(items, "event")), EVENTS, 1)
    assert sum(item.event is not None for item in of(items, "several")) == each // 2
    assert even(Counter(item.check.kind for item in items if item.check), CHECK_KINDS, 1)


def test_labels_are_crossed_with_gender() -> None:
    cast = {speaker.name: speaker for speaker in cast_of("test")}
    items = full()
    for task, labels in (("emotion", USER_EMOTIONS), ("age", AGES), ("event", EVENTS)):
        cells = Counter(
            (item.event if task == "event" else getattr(item.labels, task), cast[item.speaker or ""].gender)
            for item in of(items, task)
        )
        assert len(cells) == 2 * len(labels)
        assert max(cells.values()) - min(cells.values()) <= 1


def test_labels_say_what_can_be_heard() -> None:
    cast = {speaker.name: speaker for speaker in cast_of("test")}
    for item in full():
        speaker = cast[item.speaker or ""]
        assert item.labels.age == speaker.age
        assert item.labels.gender == (None if speaker.age == "child" else speaker.gender)
        assert item.labels.events == ((item.event,) if item.event else ())
        unclear = item.tone == "neutral" and item.event in eval_plan.FELT
        assert item.labels.emotion == (None if unclear else item.tone)


def test_cells_are_dealt_evenly_and_in_mixed_order() -> None:
    found = dealt(("abc", (True, False)), 9, Random(1))
    assert set(Counter(found).values()) == {1, 2}
    assert even(Counter(letter for letter, _ in found), ("a", "b", "c"), 0)
    assert found != dealt(("abc", (True, False)), 9, Random(2))


def test_no_sentence_comes_twice_but_in_a_pair() -> None:
    items = full()
    counts = Counter(normal(item.text or "") for item in items if item.task != "contrast")
    counts.update({normal(item.text or "") for item in of(items, "contrast")})
    assert set(counts.values()) == {1}
    assert len(counts) == 5 * 280 + 140 + 70


def test_no_training_has_its_voices_or_words() -> None:
    items = full()
    trained = {speaker.name for split in ("train", "validation") for speaker in cast_of(split)}
    bases = {cast.voice for split in ("train", "validation") for cast in cast_of(split)}
    assert not {item.speaker for item in items} & trained
    assert not {one.voice for one in cast_of("test") if one.name in {item.speaker for item in items}} & bases
    families = {family.id: family.split for family in grammar().families}
    worded = [item for item in items if item.task != "instruction"]
    assert {families[item.group.rpartition("/")[0]] for item in worded} == {"test"}
    learnt = {normal(row.text or "") for row in planned(PlanOptions(turns=6000, seed=3)) if row.split != "test"}
    assert len(learnt) > 3000
    assert not {normal(item.text or "") for item in items} & learnt


def test_a_pair_differs_in_tone_alone_and_needs_two_replies() -> None:
    pairs: dict[str, list[PlannedItem]] = {}
    for item in of(full(), "contrast"):
        pairs.setdefault(item.contrast or "", []).append(item)
    assert len(pairs) == 140
    for one, other in pairs.values():
        assert {(one.tone, other.tone), (other.tone, one.tone)} & set(PAIRS)
        alike = other.model_dump() | {"id": one.id, "tone": one.tone, "labels": one.labels.model_dump()}
        assert alike == one.model_dump()
        assert one.labels.model_copy(update={"emotion": other.tone}) == other.labels
    assert even(Counter(frozenset((a.tone, b.tone)) for a, b in pairs.values()), [frozenset(pair) for pair in PAIRS], 1)


def test_the_cascade_itself_answers_the_tones_of_a_pair_differently() -> None:
    """Words that tell nothing, a sure voice."""
    understood = understand(
        Transcript(text="Somebody was waiting for me at the harbour.", confidence=0.9, engine="truth")
    )
    replies = {}
    for tone in USER_EMOTIONS:
        cue = EmotionCue(probabilities={tone: 1.0}, engine="truth")
        replies[tone] = plan(understood, hear(Cues(emotion=cue), understood), (), 0).emotion
    assert all(replies[one] != replies[other] for one, other in PAIRS)


def test_the_plan_is_frozen() -> None:
    """Should this fail, the set is another one, and no figure of an earlier report can be compared with its."""
    frozen = json.loads((files("distill.comparison") / "data" / "frozen.json").read_text())
    assert {size: plan_sha256(planned_items(size, 0)) for size in ("small", "full")} == frozen
    assert plan_sha256(planned_items("small", 1)) != frozen["small"]


# --- requests

FOLLOWED = [
    ("question", "", "I see. How was it?", "How was it? I see."),
    ("question", "", "Shall we go?”", "We go."),
    ("no_question", "", "That is fine.", "Is that fine? It is."),
    ("at_most_words", "4", "Hello, it's you again!", "Hello, it's really you again!"),
    ("one_sentence", "", "It rains, and that is useful.", "It rains. That is useful."),
    ("begins_with", "maybe", "Maybe, who knows.", "Well, maybe."),
    ("contains", "river", "There's a River here.", "There are rivers here."),
    ("repeats", "the blue door is open", "The blue door is open.", "The door is blue and open."),
    ("repeats", "my train leaves at noon", "Okay: my train leaves at noon!", "My train leaves at one."),
]


@pytest.mark.parametrize(("kind", "value", "good", "bad"), FOLLOWED)
def test_a_reply_follows_or_does_not(kind: str, value: str, good: str, bad: str) -> None:
    check = Check.model_validate({"kind": kind, "value": value})
    assert follows(check, good)
    assert not follows(check, bad)
    assert not follows(check, " … ")


def test_every_kind_is_asked_for_in_several_ways() -> None:
    assert {row[0] for row in FOLLOWED} == set(CHECK_KINDS)
    wordings = {(one.check.kind, one.group) for one in instructions()}
    assert min(Counter(kind for kind, _ in wordings).values()) >= 5
    assert len({normal(one.text) for one in instructions()}) == len(instructions())
    assert all("{" not in one.text for one in instructions())
    assert all(one.check.value.isdigit() for one in instructions() if one.check.kind == "at_most_words")


# --- the files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ItemSet:
    """One item of a task, and one pair, built with an interruption."""
    folder = tmp_path_factory.mktemp("eval") / "set"
    with pytest.raises(KeyboardInterrupt):
        build(folder, "trial", 0, interrupt_at(3))
    with pytest.raises(InputError, match="not finished"):
        open_items(folder)
    cut = sorted((folder / "items").iterdir())
    assert len(cut) == 3
    cut[0].write_bytes(cut[0].read_bytes()[:9000])
    (folder / "items" / ".emotion-0001.wav.x.part").write_bytes(b"RIFF")
    before = {path.name: path.stat().st_mtime_ns for path in cut}
    calls: list[tuple[int, int]] = []
    whole = build(folder, "trial", 0, lambda done, of: calls.append((done, of)))
    assert calls == [(done, 8) for done in range(9)]
    again = {name: (folder / "items" / name).stat().st_mtime_ns for name in before}
    assert [name for name in before if before[name] != again[name]] == [cut[0].name]
    return whole


def interrupt_at(count: int) -> attune_eval.Progress:
    def progress(done: int, of: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def copied(made: ItemSet, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "copy"))


def test_a_set_is_16_khz_files_and_their_hashes(made: ItemSet) -> None:
    assert made.name == "Attune-eval trial"
    assert [item.task for item in made.items] == [*FIVE, "contrast", "contrast", "instruction"]
    for item in made.items:
        wave = read_speech(made.folder / item.audio.path)
        assert (wave.sample_rate, round(wave.duration_s, 6)) == (SAMPLE_RATE, item.audio.duration_s)
        assert item.audio.path == f"items/{item.id}.wav"
        assert -55 < wave.level_dbfs < -3
    assert len({item.audio.sha256 for item in made.items}) == len(made.items)
    assert made.items[-1].check is not None


def test_the_same_plan_makes_the_same_sound(made: ItemSet) -> None:
    items = {item.id: item for item in planned_items("trial", 0)}
    for name in ("event-0001", "contrast-0002"):
        wave = attune_eval._sound(items[name])
        assert np.array_equal(wave.samples, read_speech(made.folder / "items" / f"{name}.wav").samples)


def test_a_pair_is_in_one_room(made: ItemSet) -> None:
    """The room's own noise before the first word is the same, but for how loud the person speaks."""
    one, other = (read_speech(made.folder / item.audio.path).samples[:600] for item in made.items if item.contrast)
    assert np.corrcoef(one, other)[0, 1] > 0.9


def test_an_opened_set_is_what_was_built(made: ItemSet, copied: Path) -> None:
    opened = open_items(copied)
    assert (opened.items, opened.sha256, opened.name) == (made.items, made.sha256, made.name)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "items/age-0001.wav").unlink(), r"age-0001\.wav: no such file"),
        (lambda folder: _flip(folder / "items/age-0001.wav"), r"age-0001\.wav: its content is not what was recorded"),
        (lambda folder: (folder / "items/more.wav").write_bytes(b"x"), r"more\.wav: is not of this set"),
        (lambda folder: (folder / "items.json").write_text("{"), r"items\.json: no item set"),
        (lambda folder: _edit(folder, lambda it: it.update(items=[])), r"items\.json: holds no items"),
        (lambda folder: _edit(folder, lambda it: it["items"][0].update(text="Hi.")), r"items\.json: changed"),
    ],
    ids=["missing", "changed", "added", "broken", "empty", "relabelled"],
)
def test_what_was_touched_is_named(copied: Path, harm: object, says: str) -> None:
    harm(copied)  # type: ignore[operator]
    with pytest.raises(InputError, match=says) as caught:
        open_items(copied)
    assert "\n" not in str(caught.value)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _edit(folder: Path, change: object) -> None:
    value = json.loads((folder / "items.json").read_text())
    change(value)  # type: ignore[operator]
    (folder / "items.json").write_text(json.dumps(value))


def test_a_folder_belongs_to_one_set(copied: Path) -> None:
    with pytest.raises(InputError, match="holds another run"):
        build(copied, "tiny", 1)
    with pytest.raises(InputError, match="a set needs items"):
        build(copied, None, 0)
    (copied.parent / "full").mkdir()
    (copied.parent / "full" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        build(copied.parent / "full", "tiny", 0)


# --- one's own


def test_own_recordings_become_items(tmp_path: Path) -> None:
    sound = np.sin(2 * np.pi * 220 * np.arange(44_100) / 44_100) * 0.2
    write_wav(tmp_path / "me.wav", Waveform(sound.astype(np.float32), 44_100))
    rows = [
        {"recording": "me.wav", "speaker": "Kim", "emotion": "sad", "text": "It's over.", "contrast": "over"},
        {"text": "It is what it is.", "gender": "female", "age": "elder", "emotion": "angry"},
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    made = build(tmp_path / "set", None, 0, own=tmp_path / "own.jsonl")
    spoken, said = made.items
    assert (made.name, spoken.task, spoken.id) == ("own recordings", "own", "own-0001")
    assert (spoken.speaker, spoken.contrast, spoken.text) == ("Kim", "over", "It's over.")
    assert (spoken.labels.emotion, spoken.labels.age, spoken.labels.events) == ("sad", None, None)
    wave = read_speech(made.folder / spoken.audio.path)
    assert (wave.sample_rate, round(wave.duration_s, 2)) == (SAMPLE_RATE, 1.0)
    assert said.speaker in {speaker.name for speaker in cast_of("test")}
    assert (said.labels.gender, said.labels.age, said.labels.emotion) == ("female", "elder", "angry")


def test_own_turns_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    history = [{"said": "Hi.", "replied": "Hello."}]
    (tmp_path / "own.jsonl").write_text(json.dumps({"text": "And so on.", "history": history}) + "\n{}\n")
    with pytest.raises(InputError, match=r"own\.jsonl:2: neither text nor recording.*\(and 1 more\)"):
        own_plan(tmp_path / "own.jsonl", 0)


# --- leaks


def test_what_a_training_split_shares_is_told(made: ItemSet, tmp_path: Path) -> None:
    item = made.items[0]
    family = item.group.rpartition("/")[0]
    for name, split in (("clean", "test"), ("leaky", "train")):
        rows = [sample(0), sample(3, split=split, text=(item.text or "").upper(), voice=item.speaker, template=family)]
        write_dataset(tmp_path / name, rows)
        (tmp_path / name / "plan.jsonl").write_text("{}\n")
        finished(tmp_path / name, {"seed": 7}, Facts.of(tmp_path / name))
    clean, leaky = (leaks_into(made, tmp_path / name) for name in ("clean", "leaky"))
    assert not clean
    assert str(clean) == "0 of 7 sentences, 0 of 7 voices, 0 of 6 wordings are in the training split"
    assert leaky
    assert leaky.sentences == (normal(item.text or ""),)
    assert leaky.speakers == (item.speaker,)
    assert leaky.wordings == (family,)
    with pytest.raises(InputError, match="manifest"):
        leaks_into(made, tmp_path)
