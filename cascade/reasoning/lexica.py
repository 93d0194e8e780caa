"""The counsellor's data: read once from the TOML and text files in `lexicon/`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from cascade.reasoning.language import Pattern, pattern, stem, tokens


@dataclass(frozen=True)
class Happening:
    """Something that can happen in a situation, and how it is spoken of."""

    valence: str  # good, bad, neutral, worry
    about: str
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True)
class Situation:
    name: str
    noun: str
    words: frozenset[str]  # stems; one is enough
    hints: frozenset[str]  # stems; two are
    happenings: tuple[Happening, ...]
    comment: dict[str, list[str]]
    ask: dict[str, list[str]]
    suggest: list[str]
    wish: str
    grave: bool  # a death, an illness, a longing: an angry voice is met as grief


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((files("cascade.reasoning") / "lexicon" / name).read_text(encoding="utf-8"))


def _situation(name: str, row: dict[str, Any]) -> Situation:
    happenings = tuple(
        Happening(event["v"], event["about"], tuple(pattern(phrase) for phrase in event["say"]))
        for event in row["events"]
    )
    return Situation(
        name=name,
        noun=row["noun"],
        words=frozenset(map(stem, row["words"])),
        hints=frozenset(map(stem, row.get("hints", []))),
        happenings=happenings,
        comment=row["comment"],
        ask=row["ask"],
        suggest=row["suggest"],
        wish=row["wish"],
        grave=row.get("grave", False),
    )


@cache
def situations() -> dict[str, Situation]:
    return {name: _situation(name, row) for name, row in _toml("situations.toml").items()}


@cache
def wordings() -> dict[str, Any]:
    return _toml("wordings.toml")


@cache
def acts() -> dict[str, Any]:
    return _toml("acts.toml")


@cache
def act_patterns() -> tuple[tuple[str, tuple[re.Pattern[str], ...]], ...]:
    """Dialogue acts in the order of the file: the first that matches wins."""
    return tuple((name, tuple(re.compile(p) for p in row["match"])) for name, row in acts().items() if row.get("match"))


@cache
def crisis_data() -> dict[str, Any]:
    return _toml("crisis.toml")


@cache
def verbs() -> frozenset[str]:
    text = (files("cascade.reasoning") / "lexicon" / "verbs.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


@cache
def sentiment() -> dict[str, float]:
    """Word valences −4..4 of VADER (Hutto & Gilbert 2014), without words that everyday speech uses emptily."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    empty = wordings()["empty_sentiment"]
    return {word: value for word, value in SentimentIntensityAnalyzer().lexicon.items() if word not in empty}


@cache
def leanings() -> dict[str, tuple[Pattern, ...]]:
    return {lean: tuple(pattern(phrase) for phrase in group) for lean, group in wordings()["leanings"].items()}


@cache
def felt_words() -> dict[str, str]:
    """Words by which a person names a feeling, each with the user emotion it belongs to."""
    return {word: emotion for emotion, group in wordings()["felt"].items() for word in group}


@cache
def topic_stems(name: str) -> frozenset[str]:
    """Stems that count as speaking of a situation."""
    row = situations()[name]
    abouts = " ".join([row.noun, *(h.about for h in row.happenings)])
    return row.words | row.hints | frozenset(stem(word) for word in tokens(abouts) if len(word) > 3)
