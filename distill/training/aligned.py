"""Where in a person's speech each word lies, for a head that learns words.

CTC over a whole turn has too many ways to line words up: with a few hours of speech it sits on blanks for a long time. Where a
synthesizer told when each word is heard, the head is asked for each word within its own window, too, which leaves it few ways
and gets it going within minutes; the loss over the whole turn then makes it one reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

MARGIN = 1  # states on either side: a synthesizer's times are not exact, and sounds of neighbours run into each other

Timed = tuple[str, float, float]  # text, start_s, end_s
Piece = tuple[list[int], int, int]  # units, first state, one behind the last


def pieces(
    text: str, words: Sequence[Timed], states: int, duration_s: float, units: Callable[[str], list[int] | None]
) -> list[Piece]:
    """What is to be read where: a piece a timed word. `states`: how many the whole turn of `duration_s` seconds has.

    Words that the synthesizer has run into the one before belong to its piece. A window that is too short for its units is left
    out, and a word that cannot be spelt; so are all from the first word on that is not in the text, for then nobody knows what
    the times are of.
    """
    found: list[Piece] = []
    places = _places(text, [word for word, _, _ in words])
    for (_, start_s, end_s), place, end in zip(words, places, [*places[1:], len(text)], strict=False):
        ids = units(text[place:end]) or []
        first = max(0, int(start_s / duration_s * states) - MARGIN)
        last = min(states, -int(-end_s / duration_s * states // 1) + MARGIN)
        if ids and last - first >= len(ids):
            found.append((ids, first, last))
    return found


def _places(text: str, words: Sequence[str]) -> list[int]:
    """Where each word begins in the text, one after another; up to the first that is not there."""
    places, at = [], 0
    for word in words:
        place = text.find(word, at)
        if place < 0:
            break
        places.append(place)
        at = place + max(1, len(word))
    return places
