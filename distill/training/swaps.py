"""The same dialogue about other things: words that the person says and the reply says back become others, the same in both.

A thinker from zero, which sees a few thousand turns, learns which reply goes with which matter and never to say a new word back.
Where any word may stand in the person's sentence and stands in the reply again, nothing but looking it up is of use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from cascade.reasoning.language import STOPWORDS
from distill.training.data import Row as Turn

KEPT = 0.4  # of the words in common, in the mean: a sentence of which nothing is left is none
LEAST_LETTERS = 3
_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")


def matters_of(texts: Iterable[str]) -> list[str]:
    """Words that carry a matter, as they stand within sentences; names, which are written otherwise than heard, are none."""
    return sorted({word for text in texts for word in _WORD.findall(text) if _matters(word)})


def swapped(turn: Turn, matters: Sequence[str], rng: np.random.Generator) -> Turn:
    """Said, answered, thought and remembered of other things. A turn whose reply says nothing back stays as it is."""
    if not matters:
        return turn
    own = {word.lower() for word in _WORD.findall(turn.user_text or "")}
    common = sorted({word for word in _WORD.findall(turn.reply_text or "") if _matters(word) and word in own})
    others = {word: matters[int(rng.integers(len(matters)))] for word in common if rng.random() >= KEPT}
    if not others:
        return turn
    anywhere = re.compile(rf"\b({'|'.join(others)})\b", re.IGNORECASE)

    def said(text: str | None) -> str | None:
        return text and anywhere.sub(lambda found: _cased(others[found[0].lower()], found[0]), text)

    history = tuple(
        one.model_copy(update={"said": said(one.said), "replied": said(one.replied)}) for one in turn.history
    )
    return replace(
        turn,
        user_text=said(turn.user_text),
        reply_text=said(turn.reply_text),
        think_language=said(turn.think_language),
        history=history,
    )


def _matters(word: str) -> bool:
    return word.islower() and word.isalpha() and len(word) >= LEAST_LETTERS and word not in STOPWORDS


def _cased(word: str, like: str) -> str:
    return word.capitalize() if like[0].isupper() else word
