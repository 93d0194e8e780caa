"""Which items Attune-eval has: who says what, how and in which room, before a sound is made. Same size and seed, same plan.

Speakers are the cast of the split "test", and words come from wordings of the split "test" alone: no training made by this repo
has either. Every label of a task comes equally often, as far as the count allows, and so does each with women and men.

- emotion: the words fit the feeling, as they mostly do
- age, gender: words that anybody may say, said calmly
- event: such words with a vocal event beside them (see vocal_events)
- several: a feeling that the words do not tell, an age, a gender, and in every second item an event that goes with the feeling
- contrast: the same words, speaker, strength and room in two tones that need two replies
- instruction: a request that can be checked

How a child is made here does not tell a girl from a boy (see distill.teaching.voices), so a child's gender is not labelled. Nor
is the emotion of an even voice beside an event that carries a feeling of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from random import Random
from typing import Any, Literal, TypeVar, get_args

from cascade.errors import InputError
from cascade.turn import AGES, GENDERS, Age, Gender, Record
from distill.comparison.instructions import CHECK_KINDS, instructions
from distill.comparison.records import Check, EvalTask
from distill.comparison.vocal_events import SimulatedEvent
from distill.teaching.records import Labels
from distill.teaching.scenarios.grammar import Drawing, Family, Kind, grammar, pick
from distill.teaching.scenarios.plan import fingerprint, normal, seed_of
from distill.teaching.voices import USER_EMOTIONS, Speaker, UserEmotion, cast_of

Size = Literal["trial", "tiny", "small", "full"]
T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Counts:
    """Items of each of the five tasks, contrast pairs, requests."""

    each: int
    pairs: int
    requests: int


SIZES: dict[Size, Counts] = {
    "trial": Counts(1, 1, 1),
    "tiny": Counts(4, 4, 4),
    "small": Counts(40, 40, 20),
    "full": Counts(280, 140, 70),
}
EVENTS: tuple[SimulatedEvent, ...] = get_args(SimulatedEvent)
FELT: tuple[SimulatedEvent, ...] = ("laugh", "cry", "scream", "sigh")  # events that carry a feeling of their own
# Events that go with a feeling.
FITTING: dict[UserEmotion, tuple[SimulatedEvent, ...]] = {
    "angry": ("scream", "sigh", "throat_clearing"), "disgusted": ("cough", "throat_clearing", "sneeze"),
    "fearful": ("scream", "cry", "throat_clearing"), "happy": ("laugh", "scream", "sneeze"),
    "neutral": ("cough", "sneeze", "throat_clearing"), "sad": ("cry", "sigh", "cough"),
    "surprised": ("laugh", "scream", "cough"),
}  # fmt: skip
# Tones that a listener answers differently whatever the words; neither glad and surprised, nor sad and fearful.
PAIRS: tuple[tuple[UserEmotion, UserEmotion], ...] = (
    ("happy", "sad"), ("neutral", "sad"), ("surprised", "fearful"), ("happy", "angry"),
    ("happy", "fearful"), ("neutral", "fearful"), ("surprised", "sad"), ("happy", "disgusted"),
)  # fmt: skip
GROWN_UP: tuple[Age, ...] = ("adult", "elder")
TRIES = 400  # draws until a sentence is new


class PlannedItem(Record):
    """An item without its sound. tone: how the words are said; `labels` tell what a listener can know.

    seed: of the voice and the event; room: of where it is heard. Items of a contrast set share both and the intensity.
    """

    id: str
    task: EvalTask
    text: str | None
    labels: Labels
    contrast: str | None = None
    group: str
    speaker: str | None
    tone: UserEmotion = "neutral"
    intensity: float = 0.7
    event: SimulatedEvent | None = None
    seed: int = 0
    room: int = 0
    check: Check | None = None
    recording: str | None = None  # its path; its content is known by
    recording_sha256: str | None = None


def planned_items(size: Size, seed: int) -> list[PlannedItem]:
    """Task by task, in the order of EVAL_TASKS."""
    return _Planner(seed).all(SIZES[size])


def plan_sha256(plan: Iterable[PlannedItem]) -> str:
    """Over everything but where recordings lie."""
    rows = [item.model_dump(mode="json", exclude={"recording"}) for item in plan]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@cache
def eval_cast() -> dict[str, Speaker]:
    return {speaker.name: speaker for speaker in cast_of("test")}


def known(speaker: Speaker, tone: UserEmotion | None, event: SimulatedEvent | None = None) -> Labels:
    """What can be told from the voice."""
    gender = None if speaker.age == "child" else speaker.gender
    return Labels(emotion=tone, age=speaker.age, gender=gender, events=(event,) if event else ())


@dataclass(frozen=True)
class _Wording:
    """One wording of a family, as a family of its own. even: has no word that depends on the speaker's age."""

    family: Family
    group: str
    even: bool


@cache
def _wordings(kind: Kind) -> tuple[_Wording, ...]:
    return tuple(
        _Wording(family.model_copy(update={"say": (text,)}), f"{family.id}/{number}", _even(family, text))
        for family in grammar().of(kind, "test")
        for number, text in enumerate(family.say, start=1)
    )


def _even(family: Family, text: str) -> bool:
    slots = grammar().slots[family.domain]
    by_age = [name for name, values in slots.items() if isinstance(values, dict)]
    return not any(f"{{{name}" in text for name in by_age)


@dataclass
class _Said:
    """Words that were drawn, and who says them."""

    text: str
    wording: _Wording
    speaker: Speaker


@dataclass
class _Planner:
    seed: int
    taken: set[str] = field(default_factory=set)  # normal forms
    voices: Counter[tuple[EvalTask, str]] = field(default_factory=Counter)
    wordings: Counter[tuple[EvalTask, str]] = field(default_factory=Counter)  # by task
    events: Counter[SimulatedEvent] = field(default_factory=Counter)

    def all(self, counts: Counts) -> list[PlannedItem]:
        each = counts.each
        return [
            *self._emotion(each), *self._age(each), *self._gender(each), *self._event(each), *self._several(each),
            *self._contrast(counts.pairs), *self._instruction(counts.requests),
        ]  # fmt: skip

    def _emotion(self, count: int) -> Iterator[PlannedItem]:
        dice = self._dice("emotion")
        for number, (tone, gender) in enumerate(dealt((USER_EMOTIONS, GENDERS), count, dice), start=1):
            said = self._said(dice, "emotion", "said", (tone,), gender, AGES)
            yield self._item("emotion", number, said, tone=tone)

    def _age(self, count: int) -> Iterator[PlannedItem]:
        dice = self._dice("age")
        for number, (age, gender) in enumerate(dealt((AGES, GENDERS), count, dice), start=1):
            yield self._item("age", number, self._said(dice, "age", "contrast", ("neutral",), gender, (age,), AGES))

    def _gender(self, count: int) -> Iterator[PlannedItem]:
        dice = self._dice("gender")
        for number, (age, gender) in enumerate(dealt((GROWN_UP, GENDERS), count, dice), start=1):
            said = self._said(dice, "gender", "contrast", ("neutral",), gender, (age,), GROWN_UP)
            yield self._item("gender", number, said)

    def _event(self, count: int) -> Iterator[PlannedItem]:
        dice = self._dice("event")
        for number, (event, gender) in enumerate(dealt((EVENTS, GENDERS), count, dice), start=1):
            said = self._said(dice, "event", "contrast", ("neutral",), gender, AGES, GROWN_UP)
            yield self._item("event", number, said, event=event)

    def _several(self, count: int) -> Iterator[PlannedItem]:
        dice = self._dice("several")
        cells = dealt((USER_EMOTIONS, AGES, GENDERS, (True, False)), count, dice)
        for number, (tone, age, gender, heard) in enumerate(cells, start=1):
            said = self._said(dice, "several", "contrast", (tone,), gender, (age,), (age,))
            event = self._fitting(tone, dice) if heard else None
            yield self._item("several", number, said, tone=tone, event=event)

    def _fitting(self, tone: UserEmotion, dice: Random) -> SimulatedEvent:
        return rarest(FITTING[tone], self.events, dice)

    def _contrast(self, pairs: int) -> Iterator[PlannedItem]:
        dice = self._dice("contrast")
        for number, (tones, gender) in enumerate(dealt((PAIRS, GENDERS), pairs, dice)):
            said = self._said(dice, "contrast", "contrast", tones, gender, AGES)
            mixed = tones if dice.random() < 0.5 else tones[::-1]
            for at, tone in enumerate(mixed, start=1):
                yield self._item("contrast", 2 * number + at, said, tone=tone, pair=number)

    def _instruction(self, count: int) -> Iterator[PlannedItem]:
        dice, used = self._dice("instruction"), Counter[str]()
        for number, (kind, gender) in enumerate(dealt((CHECK_KINDS, GENDERS), count, dice), start=1):
            new = [one for one in instructions() if one.check.kind == kind and normal(one.text) not in self.taken]
            group = rarest(dict.fromkeys(one.group for one in new), used, dice)
            request = pick(dice, [one for one in new if one.group == group])
            used[group] += 1
            self.taken.add(normal(request.text))
            speaker = self._speaker(dice, "instruction", gender, ("adult",))
            yield PlannedItem(
                id=f"instruction-{number:04d}",
                task="instruction",
                text=request.text,
                labels=known(speaker, "neutral"),
                group=request.group,
                speaker=speaker.name,
                check=request.check,
                **self._chance(f"instruction-{number:04d}"),
            )

    # --- parts ---

    def _item(
        self,
        task: EvalTask,
        number: int,
        said: _Said,
        *,
        tone: UserEmotion = "neutral",
        event: SimulatedEvent | None = None,
        pair: int | None = None,
    ) -> PlannedItem:
        name = f"{task}-{number:04d}"
        if event:
            self.events[event] += 1
        unclear = event in FELT and tone == "neutral"
        return PlannedItem(
            id=name,
            task=task,
            text=said.text,
            labels=known(said.speaker, None if unclear else tone, event),
            contrast=None if pair is None else f"{said.wording.family.id}-{fingerprint(said.text):016x}",
            group=said.wording.group,
            speaker=said.speaker.name,
            tone=tone,
            event=event,
            **self._chance(name if pair is None else f"pair-{pair}"),
        )

    def _chance(self, name: str) -> dict[str, float]:
        voice, room = (seed_of(f"eval:{self.seed}:{name}:{what}") for what in ("voice", "room"))
        return {"seed": voice, "room": room, "intensity": round(0.4 + 0.6 * (voice % 1009) / 1008, 2)}

    def _dice(self, task: EvalTask) -> Random:
        return Random(seed_of(f"eval:{self.seed}:{task}"))

    def _said(
        self,
        dice: Random,
        task: EvalTask,
        kind: Kind,
        tones: Sequence[UserEmotion],
        gender: Gender,
        ages: Sequence[Age],
        anybody: Sequence[Age] = (),
    ) -> _Said:
        """A sentence that is new, in all these tones, and somebody to say it. `anybody`: ages that its words must fit alike."""
        speaker = self._speaker(dice, task, gender, ages)
        fits = [
            wording
            for wording in _wordings(kind)
            if all(wording.family.fits(tone, age) for tone in tones for age in {speaker.age, *anybody})
            and (wording.even or not anybody)
        ]
        for _ in range(TRIES):
            place = rarest([(task, wording.group) for wording in fits], self.wordings, dice)
            self.wordings[place] += 1
            wording = next(wording for wording in fits if wording.group == place[1])
            drawing = Drawing(dice, speaker.age)
            text = drawing.sentence(wording.family, tones[0]) if kind == "said" else drawing.plain(wording.family)
            if normal(text) not in self.taken:
                self.taken.add(normal(text))
                return _Said(text, wording, speaker)
        raise InputError(f"the grammar has no new sentence for task {task}; ask for a smaller set")

    def _speaker(self, dice: Random, task: EvalTask, gender: Gender, ages: Sequence[Age]) -> Speaker:
        fits = [one.name for one in eval_cast().values() if one.gender == gender and one.age in ages]
        place = rarest([(task, name) for name in fits], self.voices, dice)
        self.voices[place] += 1
        return eval_cast()[place[1]]


def dealt(axes: Sequence[Sequence[Hashable]], count: int, dice: Random) -> list[tuple[Any, ...]]:
    """`count` cells of the axes' product in mixed order: each cell as often as any other or once more, and so, as far as that
    allows, each value of an axis.
    """
    cells: Counter[tuple[Hashable, ...]] = Counter()
    values: Counter[tuple[int, Hashable]] = Counter()
    found = []
    for _ in range(count):
        chosen = min(
            _mixed(product(*axes), dice),
            key=lambda cell: (cells[cell], sum(len(axes[at]) * values[at, value] for at, value in enumerate(cell))),
        )
        cells[chosen] += 1
        values.update(enumerate(chosen))
        found.append(chosen)
    return _mixed(found, dice)


def rarest(choices: Iterable[T], counts: Counter[T], dice: Random) -> T:
    """What has come least often; ties fall by the dice."""
    return min(_mixed(choices, dice), key=lambda choice: counts[choice])


def _mixed(choices: Iterable[T], dice: Random) -> list[T]:
    return [choice for _, _, choice in sorted((dice.random(), at, one) for at, one in enumerate(choices))]
