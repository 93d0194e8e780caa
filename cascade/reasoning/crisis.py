"""Words of crisis: suicide, self-harm, abuse, harm to others, a medical emergency.

Recall comes first: an alarm too many costs a gentle question, a missed one can cost a life. Everyday idioms ("this
traffic is killing me") are masked before the search. What is said follows the public advice of 988 (US), Samaritans
(UK and Ireland) and the WHO's guidance for first responders: ask openly, stay, name a person and a line, no advice
beyond safety.
"""

from __future__ import annotations

import re
from functools import cache

from cascade.reasoning.language import tokens
from cascade.reasoning.lexica import crisis_data

KINDS = (
    "medical",
    "suicide",
    "other_at_risk",
    "bereaved",
    "suicide_word",
    "self_harm",
    "abuse",
    "harm_others",
    "unsure",
)


@cache
def _masks() -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{idiom})" for idiom in crisis_data()["idioms"]["patterns"]))


@cache
def _signs() -> dict[str, tuple[re.Pattern[str], ...]]:
    return {kind: tuple(re.compile(sign) for sign in crisis_data()[kind]["patterns"]) for kind in KINDS}


def plain(text: str) -> str:
    """Lower-case words with contractions opened and idioms taken out."""
    return _masks().sub(" ~ ", " ".join(tokens(text)))


def detect(text: str) -> str | None:
    """The kind of crisis the words speak of, or None. "unsure" asks gently instead of assuming."""
    said = plain(text)
    kind = next((kind for kind in KINDS if any(sign.search(said) for sign in _signs()[kind])), None)
    return "suicide" if kind == "suicide_word" else kind


def help_line(region: str) -> str:
    return str(crisis_data()["lines"][region])


_LINE = re.compile(r"nine eight eight|one one six|nine one one|nine nine nine|one one two|find a helpline|emergency")


def names_help(text: str) -> bool:
    """Whether a reply names a help line or the emergency services."""
    return _LINE.search(text.lower()) is not None
