"""The plan of a dataset: which turns are to be made, in which split, by whom, in what emotion. Same options, same plan.

A plan is made of units: a turn alone, a contrast set (the same words and voice in two to five tones), a sentence for the talker
alone, or one in every reply emotion. A unit lies in one split, so no set is ever cut. Shares are met by always making next what
the plan lacks most; so are emotions, genders, ages and domains, within what the grammar has.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from cascade.errors import InputError
from cascade.turn import AGES, GENDERS, REPLY_EMOTIONS, Age, Exchange, Gender, Record, ReplyEmotion
from distill.teaching.records import SPLITS, Labels, Scenario, Split
from distill.teaching.scenarios.grammar import TALK, Drawing, Family, Kind, grammar, pick
from distill.teaching.scenarios.varied import Varied
from distill.teaching.voices import USER_EMOTIONS, Speaker, UserEmotion, cast_of

UnitKind = Literal["alone", "contrast", "talk", "talk_set"]
T = TypeVar("T")

MOST_TONES = 5  # of a contrast set
VARIED = "varied"  # domain and template of sentences about anything
UNCLEAR_SHARE = 0.05  # of what is answered on paper
SAID: tuple[Kind, ...] = ("said", "contrast")
TWO_EARLIER = 0.3  # of the turns that have a history: two exchanges instead of one
TRIES, NEAR_TRIES = 120, 12  # draws until a sentence is new; the first of them within the family that was planned


class PlanOptions(Record):
    """How many turns, and of what. Shares are met as closely as whole sets allow.

    Behind the turns come `listen` sentences that are only heard, `varied_share` of them about anything, `speak` sentences about
    anything that are only spoken, `unclear` ones about anything that are answered with a request to say it again, and `write`
    turns that are answered on paper; all of them for training.

    Of all turns: `speak_share` for the talker alone, `contrast_share` in contrast sets, `validation_share` and `test_share`.
    Of the talker's: `speak_set_share` in sets of one sentence in every reply emotion. Of the user's: `history_share` after one or
    two exchanges, `child_share`, `elder_share`; the rest are adults'.
    """

    turns: int = Field(ge=1)
    listen: int = Field(default=0, ge=0)
    speak: int = Field(default=0, ge=0)
    unclear: int = Field(default=0, ge=0)
    write: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    speak_share: float = Field(default=0.2, ge=0, le=1)
    contrast_share: float = Field(default=0.4, ge=0, le=1)
    validation_share: float = Field(default=0.05, ge=0, le=0.5)
    test_share: float = Field(default=0.05, ge=0, le=0.5)
    speak_set_share: float = Field(default=0.5, ge=0, le=1)
    history_share: float = Field(default=0.15, ge=0, le=1)
    child_share: float = Field(default=0.2, ge=0, le=1)
    elder_share: float = Field(default=0.2, ge=0, le=1)
    varied_share: float = Field(default=0.3, ge=0, le=1)

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        for one, other in (("speak_share", "contrast_share"), ("child_share", "elder_share")):
            total = getattr(self, one) + getattr(self, other)
            if total > 1:
                raise ValueError(f"{one} and {other} must sum to at most 1, they sum to {total:.2f}")
        return self

    def units(self) -> dict[UnitKind, float]:
        """Share of the turns by kind of unit."""
        return {
            "alone": 1 - self.speak_share - self.contrast_share,
            "contrast": self.contrast_share,
            "talk": self.speak_share * (1 - self.speak_set_share),
            "talk_set": self.speak_share * self.speak_set_share,
        }

    def splits(self) -> dict[Split, float]:
        held = {"validation": self.validation_share, "test": self.test_share}
        return {split: held.get(split, 1 - sum(held.values())) for split in SPLITS}

    def ages(self) -> dict[Age, float]:
        shares: dict[Age, float] = {"child": self.child_share, "elder": self.elder_share}
        return {age: shares.get(age, 1 - sum(shares.values())) for age in AGES}


@dataclass(frozen=True)
class Request:
    """One unit to be worded: `family` says what about. `tones` of a user's turns, one each; `moods` of the talker's."""

    kind: UnitKind
    split: Split
    family: Family
    tones: tuple[UserEmotion, ...] = ()
    moods: tuple[ReplyEmotion, ...] = ()
    speaker: Speaker | None = None
    earlier: int = 0  # exchanges before it

    @property
    def turns(self) -> int:
        return len(self.tones) or len(self.moods)

    @property
    def age(self) -> Age:
        return self.speaker.age if self.speaker else "adult"


def planned(options: PlanOptions) -> Iterator[Scenario]:
    """All scenarios, indices 0 to turns-1, from the grammar. Raises InputError when it has no new sentence left."""
    wording, index = _Wording(options.seed), 0
    for request in requests(options):
        text, family, history = wording.of(request)
        for scenario in scenarios(request, text, index, seed=options.seed, family=family, history=history):
            yield scenario
            index += 1


def beside(options: PlanOptions, first: int) -> Iterator[Scenario]:
    """What is only heard, only spoken, not to be followed, or on paper, with indices from `first` on."""
    yield from _by_users(options, first, options.listen, "listen")
    yield from _only_spoken(options, first + options.listen)
    yield from _by_users(options, first + options.listen + options.speak, options.unclear, "unclear")
    yield from _by_users(options, first + options.listen + options.speak + options.unclear, options.write, "write")


def _by_users(
    options: PlanOptions, first: int, count: int, what: Literal["listen", "unclear", "write"]
) -> Iterator[Scenario]:
    """Sentences of the training split's families, or about anything, by its voices. Words may come again: another voice says
    them in another way."""
    dice = Random(seed_of(f"{what}:{options.seed}"))
    varied, ages = Varied(dice), options.ages()
    varied_share = {"listen": options.varied_share, "unclear": 1.0, "write": UNCLEAR_SHARE}[what]
    task = "dialogue" if what == "unclear" else what
    families = [family for kind in SAID for family in grammar().of(kind, "train")]
    for index in range(first, first + count):
        tone, gender = pick(dice, USER_EMOTIONS), pick(dice, GENDERS)
        age = dice.choices(AGES, [ages[age] for age in AGES])[0]
        row: dict[str, Any] = {"domain": VARIED, "template": VARIED}
        if dice.random() < varied_share:
            row |= {"text": varied.sentence()} | ({} if what == "listen" else {"followed": False})
        else:
            family = pick(dice, [family for family in families if family.fits(tone, age)])
            drawing = Drawing(dice, age)
            text = drawing.plain(family) if family.kind == "contrast" else drawing.sentence(family, tone)
            row = {"domain": family.domain, "template": family.id, "text": text}
            if what == "write" and dice.random() < options.history_share:
                row["history"] = history_of(drawing, Request("alone", "train", family, (tone,), earlier=1), family)
        own = seed_of(f"{options.seed}:{index}")
        if what != "write":
            row["voice"] = pick(dice, _cast("train")[gender, age]).name
        yield Scenario(
            **row, task=task, index=index, split="train", seed=own, intensity=_strength(own),
            labels=Labels(emotion=tone, age=age, gender=gender, events=()),
        )  # fmt: skip


def _only_spoken(options: PlanOptions, first: int) -> Iterator[Scenario]:
    """Sentences about anything, the reply emotions in turn."""
    varied = Varied(Random(seed_of(f"speak:{options.seed}")))
    for index in range(first, first + options.speak):
        own = seed_of(f"{options.seed}:{index}")
        yield Scenario(
            index=index, task="speak", split="train", domain=VARIED, template=VARIED, text=varied.sentence(), seed=own,
            intensity=_strength(own), reply_emotion=REPLY_EMOTIONS[index % len(REPLY_EMOTIONS)],
        )  # fmt: skip


def requests(options: PlanOptions) -> Iterator[Request]:
    """The plan without words: units whose turns sum to `options.turns`."""
    planner = _Planner(options)
    while planner.left:
        yield planner.next()


def scenarios(
    request: Request,
    text: str,
    index: int,
    *,
    seed: int,
    family: Family | None = None,
    history: tuple[Exchange, ...] = (),
) -> Iterator[Scenario]:
    """The rows of one unit, from `index` on; `family`: where the text comes from, if not from the one planned."""
    family = family or request.family
    one_set = request.kind in ("contrast", "talk_set")
    shared = {
        "split": request.split,
        "domain": family.domain,
        "template": family.id,
        "contrast": f"{family.id}-{fingerprint(text):016x}" if one_set else None,
        "text": text,
        "history": history,
    }
    speaker = request.speaker
    for at in range(request.turns):
        own = seed_of(f"{seed}:{index + at}")
        row = {**shared, "index": index + at, "seed": own, "intensity": _strength(own)}
        if speaker is None:
            yield Scenario(**row, task="speak", reply_emotion=request.moods[at])
        else:
            labels = Labels(emotion=request.tones[at], age=speaker.age, gender=speaker.gender, events=())
            yield Scenario(**row, labels=labels, voice=speaker.name)


def normal(text: str) -> str:
    """A sentence as it sounds: words alone, without regard to case and punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join(re.findall(r"[\w']+", folded))


def fingerprint(text: str) -> int:
    """64 bits of the normal form: what is kept of a sentence that was seen."""
    return int.from_bytes(hashlib.blake2b(normal(text).encode(), digest_size=8).digest(), "big")


def seed_of(text: str) -> int:
    """A seed of 31 bits, which every generator takes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _strength(seed: int) -> float:
    """An intensity between 0.4 and 1."""
    return round(0.4 + 0.6 * (seed % 1009) / 1008, 2)


@cache
def _cast(split: Split) -> dict[tuple[Gender, Age], list[Speaker]]:
    found: dict[tuple[Gender, Age], list[Speaker]] = {}
    for speaker in cast_of(split):
        found.setdefault((speaker.gender, speaker.age), []).append(speaker)
    return found


# --- what is lacking ----------------------------------------------------------------------------------------


class _Planner:
    """Chooses the next unit: the one whose share of the plan is furthest behind."""

    def __init__(self, options: PlanOptions) -> None:
        self.left = options.turns
        self._options = options
        self._dice = Random(seed_of(f"requests:{options.seed}"))
        units, splits = options.units().items(), options.splits().items()
        self._units = {(kind, split): a * b for (kind, a), (split, b) in product(units, splits) if a * b > 0}
        self._made: Counter[tuple[UnitKind, Split]] = Counter()
        self._tones: dict[Split, Counter[UserEmotion]] = {split: Counter() for split in SPLITS}
        self._people: dict[Split, Counter[tuple[UserEmotion, Gender, Age]]] = {split: Counter() for split in SPLITS}
        self._domains: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}
        self._moods: Counter[ReplyEmotion] = Counter()

    def next(self) -> Request:
        kind, split = self._unit()
        request = self._of_talker(kind, split) if kind in ("talk", "talk_set") else self._of_user(kind, split)
        self._made[kind, split] += request.turns
        self._domains[split][request.family.domain] += request.turns
        self.left -= request.turns
        return request

    def _unit(self) -> tuple[UnitKind, Split]:
        """The kind and split that lacks most, in units of its own size; only what still fits."""
        sizes: dict[UnitKind, float] = {"alone": 1, "contrast": 3.5, "talk": 1, "talk_set": len(REPLY_EMOTIONS)}
        done = self._options.turns - self.left
        least = {"contrast": 2, "talk_set": len(REPLY_EMOTIONS)}
        fit = [cell for cell in self._units if least.get(cell[0], 1) <= self.left]
        if not fit:  # the last turns of a plan of sets alone
            split = max(SPLITS, key=self._options.splits().__getitem__)
            return ("talk" if self._options.speak_share == 1 else "alone"), split
        return max(fit, key=lambda cell: (self._units[cell] * (done + 1) - self._made[cell]) / sizes[cell[0]])

    def _of_talker(self, kind: UnitKind, split: Split) -> Request:
        family = pick(self._dice, grammar().of("talk", split))
        moods = REPLY_EMOTIONS if kind == "talk_set" else (self._least(REPLY_EMOTIONS, self._moods),)
        self._moods.update(moods)
        return Request(kind, split, family, moods=tuple(moods))

    def _of_user(self, kind: UnitKind, split: Split) -> Request:
        """Tones first, then a speaker, then what they speak of."""
        if kind == "contrast":
            fits = self._fitting_contrast(split)
        else:
            tone = self._least(USER_EMOTIONS, self._tones[split])
            fits = [family for family in grammar().of("said", split) if tone in family.tones]
        gender, age = self._person(split, (tone,) if kind == "alone" else USER_EMOTIONS, fits)
        family = self._family(split, [family for family in fits if age in family.ages])
        tones = self._contrasting(split, family) if kind == "contrast" else (tone,)
        self._tones[split].update(tones)
        self._people[split].update((tone, gender, age) for tone in tones)
        speaker = pick(self._dice, _cast(split)[gender, age])
        return Request(kind, split, family, tones, speaker=speaker, earlier=self._earlier())

    def _fitting_contrast(self, split: Split) -> list[Family]:
        """Contrast families that can be said in the emotion that is lacking most, so far as there is one."""
        families = grammar().of("contrast", split)
        tone = self._least(USER_EMOTIONS, self._tones[split])
        return [family for family in families if tone in family.tones] or list(families)

    def _contrasting(self, split: Split, family: Family) -> tuple[UserEmotion, ...]:
        most = min(MOST_TONES, len(family.tones), self.left)
        count = 2 + int(self._dice.random() * (most - 1))
        return tuple(self._rarest(family.tones, self._tones[split], count))

    def _person(self, split: Split, tones: Sequence[UserEmotion], fits: Iterable[Family]) -> tuple[Gender, Age]:
        """The gender and age that are furthest behind among turns of these emotions."""
        possible = {age for family in fits for age in family.ages}
        shares, counts = self._options.ages(), self._people[split]
        total = sum(counts[tone, gender, age] for tone in tones for gender in GENDERS for age in AGES) + 1
        who = [(gender, age) for gender in GENDERS for age in AGES if age in possible and shares[age] > 0]

        def lacking(person: tuple[Gender, Age]) -> float:
            return total * shares[person[1]] / len(GENDERS) - sum(counts[(tone, *person)] for tone in tones)

        return max(self._mixed(who), key=lacking)

    def _family(self, split: Split, families: Sequence[Family]) -> Family:
        domain = self._least(dict.fromkeys(family.domain for family in families), self._domains[split])
        return pick(self._dice, [family for family in families if family.domain == domain])

    def _earlier(self) -> int:
        if self._dice.random() >= self._options.history_share:
            return 0
        return 2 if self._dice.random() < TWO_EARLIER else 1

    def _least(self, choices: Iterable[T], counts: Counter[T]) -> T:
        return self._rarest(choices, counts, 1)[0]

    def _rarest(self, choices: Iterable[T], counts: Counter[T], count: int) -> list[T]:
        return sorted(self._mixed(choices), key=lambda choice: counts[choice])[:count]

    def _mixed(self, choices: Iterable[T]) -> list[T]:
        """In an order of its own, so that ties fall anew each time."""
        return [choice for _, _, choice in sorted((self._dice.random(), at, c) for at, c in enumerate(choices))]


# --- words --------------------------------------------------------------------------------------------------


class _Wording:
    """Sentences of the grammar, none of them twice."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed_of(f"words:{seed}"))
        self._seen: set[int] = set()

    def of(self, request: Request) -> tuple[str, Family, tuple[Exchange, ...]]:
        """A new sentence for the request, the family it is from, and what came before it."""
        for attempt in range(TRIES):
            family = request.family if attempt < NEAR_TRIES else self._other(request)
            drawing = Drawing(self._dice, request.age)
            text = drawn(drawing, request, family)
            mark = fingerprint(text)
            if mark not in self._seen:
                self._seen.add(mark)
                return text, family, history_of(drawing, request, family)
        raise InputError(
            f"the grammar has no new {request.kind} sentences left for {request.split} after {len(self._seen)}; "
            "ask for fewer turns, or bring your own sentences"
        )

    def _other(self, request: Request) -> Family:
        """Another family that fits as well: any domain's."""
        age, own = request.age, request.family
        families = [
            family
            for family in grammar().of(own.kind, request.split)
            if age in family.ages and set(request.tones) <= set(family.tones)
        ]
        return pick(self._dice, families)


def history_of(drawing: Drawing, request: Request, family: Family) -> tuple[Exchange, ...]:
    """What came before: exchanges of the same split, one of the same domain, before that a greeting."""
    domains = (family.domain, "small_talk")[: request.earlier]
    earlier = grammar().of("before", request.split)
    found = [
        drawing.exchange(pick(drawing.dice, [before for before in earlier if before.domain == domain]))
        for domain in dict.fromkeys(domains)
    ]
    return tuple(reversed(found))


def drawn(drawing: Drawing, request: Request, family: Family) -> str:
    if family.domain == TALK:
        return drawing.talk(family)
    if request.kind == "contrast":
        return drawing.plain(family)
    return drawing.sentence(family, request.tones[0])
