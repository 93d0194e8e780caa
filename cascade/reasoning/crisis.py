"""Words of crisis: suicide, self-harm, abuse, harm to others, a medical emergency.

Recall comes first: an alarm too many costs a gentle question, a missed one can cost a life. Everyday idioms ("this
traffic is killing me") are masked before the search. What is said follows the public advice of 988 (US), Samaritans
(UK and Ireland) and the WHO's guidance for first responders: ask openly, stay, name a person and a line, no advice
beyond safety. The patterns are English; of other languages only set phrases are known.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from cascade.reasoning.language import tokens
from cascade.reasoning.lexica import crisis_data

KINDS = (
    "medical",
    "urgent",
    "unsafe",
    "suicide",
    "other_at_risk",
    "bereaved",
    "suicide_word",
    "self_harm",
    "abuse",
    "harm_others",
    "unsure",
    "place",
)


_MAY_HAVE_MEANS = ("suicide", "suicide_word", "unsure")


@cache
def _masks() -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{idiom})" for idiom in crisis_data()["idioms"]["patterns"]))


@cache
def _signs() -> dict[str, tuple[re.Pattern[str], ...]]:
    return {kind: tuple(re.compile(sign) for sign in crisis_data()[kind]["patterns"]) for kind in KINDS}


@cache
def _abroad() -> re.Pattern[str]:
    """Set phrases of other languages; scripts without spaces have no word ends to look for."""
    folded = (re.escape(_folded(phrase)) for phrase in crisis_data()["other_languages"]["phrases"])
    return re.compile("|".join(rf"\b{phrase}" if phrase.isascii() else phrase for phrase in folded))


def _folded(text: str) -> str:
    """Case and accents taken away, so that "möchte" is also found where it was written "mochte"."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return " ".join("".join(letter for letter in letters if not unicodedata.combining(letter)).split())


def plain(text: str) -> str:
    """Lower-case words with contractions opened and idioms taken out."""
    return _masks().sub(" ~ ", " ".join(tokens(text)))


def detect(text: str) -> str | None:
    """The kind of crisis the words speak of, or None. "unsure" asks gently instead of assuming."""
    said = plain(text)
    kind = next((kind for kind in KINDS if any(sign.search(said) for sign in _signs()[kind])), None)
    if kind is None and _abroad().search(_folded(text)):
        kind = "suicide"
    if kind in _MAY_HAVE_MEANS and _means_at_hand(said):
        return "urgent"
    return {"suicide_word": "suicide", "place": "unsure"}.get(kind or "", kind)


def deepened(text: str) -> str | None:
    """In a turn after words of crisis: "urgent" where means are at hand now."""
    return "urgent" if _means_at_hand(plain(text)) and not stands_down(text) else None


def stands_down(text: str) -> str | None:
    """ "retracted" (a joke, they say) or "safe" (they are safe now, they say)."""
    said = plain(text)
    kinds = ("retracted", "safe")
    return next((kind for kind in kinds if any(sign.search(said) for sign in _patterns(kind, "patterns"))), None)


def _means_at_hand(said: str) -> bool:
    return any(sign.search(said) for sign in _patterns("urgent", "means"))


@cache
def _patterns(kind: str, group: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(sign) for sign in crisis_data()[kind][group])


_LINE = re.compile(
    r"nine eight eight|one one six|nine one one|nine nine nine|one one two|find a helpline|emergency"
    r"|\b(?:988|911|999|112|116\s?123)\b|\b(?:crisis|help|hot|suicide) ?(?:line|lifeline)\b|\blifeline\b|\bsamaritans\b"
)


def names_help(text: str) -> bool:
    """Whether a reply names a help line or the emergency services."""
    return _LINE.search(text.lower()) is not None
