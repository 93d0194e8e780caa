"""What simulated people say: a grammar of everyday turns, read from situations/*.toml (README.txt there says how).

A family is a group of wordings that belong together and to one split, so that no split ever sees another's wording. Families of
kind "said" fit the emotions they name; those of kind "contrast" do not tell the emotion, so that the same words in another tone
need another reply; "before" holds an earlier exchange, "talk" what an assistant may say to anybody.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from random import Random
from typing import Any, Literal, TypeVar

from pydantic import field_validator

from cascade.turn import AGES, Age, Exchange, Record
from distill.teaching.records import SPLITS, Split
from distill.teaching.voices import USER_EMOTIONS, UserEmotion

Kind = Literal["said", "contrast", "before", "talk"]
Slots = dict[str, Any]
T = TypeVar("T")

MIN_WORDS, MAX_WORDS = 4, 22
BEFORE_SHARE, AFTER_SHARE = 0.35, 0.4
TALK = "talk"  # the domain of the talker's own text
SHARED = ("slots", "frames", TALK)  # files that are no group of domains

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+?)(\d?)(?::(\w+))?\}")
_ARTICLE = re.compile(r"\b([Aa])n? (?=(\w+))")
_PRONOUNS = {
    "f": {"they": "she", "them": "her", "their": "her"},
    "m": {"they": "he", "them": "him", "their": "his"},
    "t": {"they": "they", "them": "them", "their": "their"},
}
_AN = ("hour", "honest", "heir")  # an h that is not heard
_NOT_AN = ("one", "uni", "use", "usual", "euro")  # a vowel that is heard as a consonant


class Family(Record):
    """Wordings of one matter. `tones`: emotions it can be said in; `ages`: who may say it; `frames`: may stand in one."""

    id: str
    domain: str
    kind: Kind
    split: Split = "train"
    tones: tuple[UserEmotion, ...] = USER_EMOTIONS
    ages: tuple[Age, ...] = AGES
    say: tuple[str, ...]
    replied: str = ""
    frames: bool = True

    @field_validator("tones", "ages", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    def fits(self, tone: UserEmotion, age: Age) -> bool:
        return tone in self.tones and age in self.ages


@dataclass(frozen=True)
class Grammar:
    families: tuple[Family, ...]
    slots: dict[str, Slots]  # by domain; each holds the shared ones, too
    before: dict[str, list[str]]  # openers by emotion, and "any"
    after: dict[str, dict[Split, list[str]]]

    @cached_property
    def domains(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(family.domain for family in self.families if family.domain != TALK))

    @cached_property
    def _by_place(self) -> dict[tuple[Kind, Split], tuple[Family, ...]]:
        places: dict[tuple[Kind, Split], list[Family]] = {}
        for family in self.families:
            places.setdefault((family.kind, family.split), []).append(family)
        return {place: tuple(found) for place, found in places.items()}

    def of(self, kind: Kind, split: Split) -> tuple[Family, ...]:
        return self._by_place[kind, split]


@cache
def grammar() -> Grammar:
    """The grammar of the data files, checked: ids are unique, every slot has its list."""
    shared = _slots(_toml("slots"))
    frames = _toml("frames")
    families: list[Family] = []
    slots: dict[str, Slots] = {}
    tables = {TALK: _toml(TALK)}
    for group in _groups():
        tables |= _toml(group)
    for domain, table in tables.items():
        slots[domain] = shared | table.get("slots", {})
        families += _families(domain, table)
    assert len({family.id for family in families}) == len(families), "two families have one id"
    return Grammar(tuple(families), slots, frames["before"], frames["after"])


def _groups() -> list[str]:
    names = sorted(path.name for path in (files("distill.teaching.scenarios") / "situations").iterdir())
    stems = [name.removesuffix(".toml") for name in names if name.endswith(".toml")]
    return [stem for stem in stems if stem not in SHARED]


def _toml(name: str) -> dict[str, Any]:
    text = (files("distill.teaching.scenarios") / "situations" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _slots(table: dict[str, Any]) -> Slots:
    lists: Slots = table.pop("lists")
    return lists | table


def _families(domain: str, table: dict[str, Any]) -> Iterator[Family]:
    ages = {"ages": table["ages"]} if "ages" in table else {}
    kinds: tuple[Kind, ...] = ("said", "contrast", "before")
    for kind in kinds:
        for number, row in enumerate(table.get(kind, []), start=1):
            if kind == "before":
                row = {"id": f"before_{number}", "say": [row["said"]], **{k: v for k, v in row.items() if k != "said"}}
            name = f"{domain}/{row['id']}"
            yield Family(**{**ages, **row, "id": name, "domain": domain, "kind": TALK if domain == TALK else kind})


# --- drawing ------------------------------------------------------------------------------------------------


def pick(dice: Random, choices: Sequence[T]) -> T:
    """One of them. `Random.random` alone gives the same numbers in every version of Python."""
    return choices[int(dice.random() * len(choices))]


@dataclass
class Drawing:
    """The words drawn for one turn: a slot keeps its value in the sentence and in what came before it."""

    dice: Random
    age: Age = "adult"
    bound: dict[str, str] = field(default_factory=dict)

    def sentence(self, family: Family, tone: UserEmotion) -> str:
        """A turn of a "said" family, with what may stand before and after it; at most MAX_WORDS words."""
        rules = grammar()
        return self._framed(family, [*rules.before["any"], *rules.before[tone] * 2], rules.after[tone][family.split])

    def plain(self, family: Family) -> str:
        """A turn whose words do not tell the emotion, with what anybody may say before and after it."""
        rules = grammar()
        return self._framed(family, rules.before["any"], rules.after["any"][family.split])

    def _framed(self, family: Family, openers: Sequence[str], closers: Sequence[str]) -> str:
        core = self.filled(pick(self.dice, family.say), family.domain)
        before = pick(self.dice, openers) if self.dice.random() < BEFORE_SHARE else ""
        after = pick(self.dice, closers) if self.dice.random() < AFTER_SHARE else ""
        if not family.frames or core.endswith("?"):
            return finished(core)
        if len(f"{core} {after}".split()) > MAX_WORDS:
            after = ""
        if len(f"{before} {core} {after}".split()) > MAX_WORDS:
            before = ""
        return " ".join(part for part in (finished(f"{before} {core}"), after) if part)

    def talk(self, family: Family) -> str:
        return finished(self.filled(pick(self.dice, family.say), family.domain))

    def exchange(self, family: Family) -> Exchange:
        """What was said before, and how a listener replied."""
        said = finished(self.filled(pick(self.dice, family.say), family.domain))
        replied = finished(self.filled(family.replied, family.domain))
        return Exchange(said=said, strategy="ask", replied=replied, reply_emotion="neutral")

    def filled(self, wording: str, domain: str) -> str:
        """The wording with its choices taken and its slots filled."""
        chosen = _CHOICE.sub(lambda found: pick(self.dice, found[1].split("|")), wording)
        last = ""

        def value(found: re.Match[str]) -> str:
            nonlocal last
            name, number, form = found[1], found[2], found[3]
            if name in _PRONOUNS["t"]:
                return _PRONOUNS[last][name]
            word, _, sex = self._value(name + number, domain).partition("/")
            last = sex or last
            return _PRONOUNS[sex][form] if form else word

        return _SLOT.sub(value, chosen)

    def _value(self, slot: str, domain: str) -> str:
        """The value of a slot in this turn. `name2` is another one from the list of `name`, unless it has its own."""
        if slot in self.bound:
            return self.bound[slot]
        slots = grammar().slots[domain]
        values = slots[slot] if slot in slots else slots[slot.rstrip("0123456789")]
        if isinstance(values, dict):
            values = values[self.age]
        taken = {value.partition("/")[0].split()[-1] for value in self.bound.values() if value}
        free = [value for value in values if not value or value.partition("/")[0].split()[-1] not in taken]
        self.bound[slot] = pick(self.dice, free or values)
        return self.bound[slot]


def finished(text: str) -> str:
    """One space between words, a or an, a capital, a full stop."""
    line = " ".join(text.split()).replace(" ,", ",")
    line = _ARTICLE.sub(lambda found: f"{found[1]}n " if _heard_as_vowel(found[2]) else f"{found[1]} ", line)
    line = line[0].upper() + line[1:]
    return line if line[-1] in ".?!" else line + "."


def _heard_as_vowel(word: str) -> bool:
    lower = word.lower()
    return lower.startswith(_AN) or (lower[0] in "aeiou" and not lower.startswith(_NOT_AN))


def splits_of(domain: str) -> set[Split]:
    """Splits in which a domain has a turn to say."""
    return {split for split in SPLITS for family in grammar().of("said", split) if family.domain == domain}
