"""Whether typed words can be English at all: other languages, heaps of letters, bare laughter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from cascade.reasoning.language import STOPWORDS, stem
from cascade.reasoning.lexica import felt_words, sentiment, situations, verbs

LAUGHS = re.compile(r"^(?:(?:(?:ha|he|hi|ah){2,}h?|l+o+l+|lmao|rofl|xd|hehe|ha|heh) ?)+$")
_FOREIGN_TEXT = """
ich du und nicht ist bin mir mich geht das wie wir aber heute sehr traurig kein keine ein eine der die mein meine
auf mit habe hast warum dir gut nein danke hallo je suis est moi tu les des une pas que qui mon ma avec pour
bonjour merci oui yo estoy muy el la los las una por mi con hola gracias porque como no si soy tengo io sono non
che il lo gli sei grazie ciao ik ben het een niet goed met jeg er ikke og jag och inte eu estou nao muito voce
"""
# words that are English as well do not count as signs of another language
_FOREIGN = frozenset(_FOREIGN_TEXT.split()) - {"die", "no", "a", "me", "as", "an", "in", "hallo"}


@cache
def _known() -> frozenset[str]:
    rows = situations().values()
    stems = {word for row in rows for word in row.words | row.hints}
    stems |= {
        word for row in rows for event in row.happenings for parts in event.patterns for part in parts for word in part
    }
    plain = STOPWORDS | verbs() | frozenset(sentiment()) | frozenset(felt_words())
    return frozenset(stems | {stem(word) for word in plain})


def is_foreign(said: Sequence[str]) -> bool:
    """Other languages and gibberish, as far as a small vocabulary tells: in doubt it is English."""
    if not said or LAUGHS.match(" ".join(said)):
        return False
    signs = sum(word in _FOREIGN for word in said)
    known = sum(stem(word) in _known() and word not in _FOREIGN for word in said) / len(said)
    if signs >= 2 and signs / len(said) >= 0.3 and known < 0.6:
        return True
    return (known == 0 and (len(said) >= 2 or _is_heap(said[0]))) or (signs >= 1 and known < 0.35)


def _is_heap(word: str) -> bool:
    """A heap of letters: no vowel, or a long run of consonants."""
    return len(word) > 3 and (not re.search(r"[aeiouy]", word) or re.search(r"[^aeiouy0-9]{5,}", word) is not None)
