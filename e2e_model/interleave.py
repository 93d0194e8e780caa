"""In which order the talker reads units of text and writes frames of speech: small functions from lists to lists.

An order is a list of steps: ("unit", i), ("frame", t), ("read", 0) – the talker asks for the next word –, ("next", i) – it asks
for the next unit, which stands where the question was – and ("end", 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import accumulate
from typing import Literal

Step = tuple[Literal["unit", "frame", "read", "next", "end"], int]


def by_words(units: Sequence[int], frames: Sequence[int], ahead: int) -> list[Step]:
    """Each word is read `ahead` words before it is spoken, when the talker asks for it.

    units, frames: how many each word has. Word-synchronous order needs the words' times, from the synthesizer.
    """
    steps: list[Step] = []
    read = written = 0

    def word(k: int) -> list[Step]:
        nonlocal read
        first, read = read, read + (units[k] if k < len(units) else 0)
        return [("unit", i) for i in range(first, read)]

    for k in range(ahead + 1):
        steps += word(k)
    for k, count in enumerate(frames):
        steps += [("frame", t) for t in range(written, written + count)]
        written += count
        if k + ahead + 1 < len(units):
            steps += [("read", 0), *word(k + ahead + 1)]
    return [*steps, ("end", 0)]


def by_units(frames: Sequence[int]) -> list[Step]:
    """Each unit is read when the talker comes to speak it: it always knows where in the text it is, as a neural transducer does
    (Mehta et al., Neural HMMs are all you need, arXiv 2108.13320). frames: how many each unit has."""
    steps: list[Step] = []
    written = 0
    for unit, count in enumerate(frames):
        steps.append(("next" if unit else "unit", unit))
        steps += [("frame", t) for t in range(written, written + count)]
        written += count
    return [*steps, ("end", 0)]


def by_ratio(units: int, frames: int, read: int, write: int) -> list[Step]:
    """`read` units, then `write` frames, in turn (Emotion Omni: 5 and 15); what is left of either comes at the end."""
    steps: list[Step] = []
    u = t = 0
    while u < units or t < frames:
        more = min(units, u + read)
        steps += [("unit", i) for i in range(u, more)]
        u = more
        until = frames if u >= units else min(frames, t + write)
        steps += [("frame", i) for i in range(t, until)]
        t = until
        if t >= frames:  # more text than speech: it is read, and nothing is said to it
            steps += [("unit", i) for i in range(u, units)]
            u = units
    return [*steps, ("end", 0)]


def frames_by_times(ends_s: Sequence[float], frames: int, frame_rate: float) -> list[int]:
    """Frames of each word from the times their words end; a pause belongs to the word before it, the rest to the last."""
    edges, before = [], 0
    for end in ends_s[:-1]:
        edge = min(frames, max(before, round(end * frame_rate)))
        edges.append(edge - before)
        before = edge
    return [*edges, frames - before]


def frames_by_share(shares: Sequence[float], frames: int) -> list[int]:
    """The same where no times are known: in proportion to the shares, such as a word's letters."""
    total, before, out = sum(shares) or 1, 0, []
    for share in list(accumulate(shares))[:-1]:
        edge = round(frames * share / total)
        out.append(edge - before)
        before = edge
    return [*out, frames - before]


def word_ends(words: Sequence[str], timed: Sequence[tuple[str, float, float]], end_s: float) -> list[float] | None:
    """When each of the text's words ends, in seconds; None if too few of them have a time.

    timed: (word, start_s, end_s) as a synthesizer tells them; it may run words together ("of the") and leave out marks.
    A word it does not name shares the room up to the next named one, by letters.
    """
    plain, named = [_letters(word) for word in words], [_letters(word) for word, _, _ in timed]
    starts: list[float | None] = [None] * len(words)
    for block in SequenceMatcher(None, plain, named, autojunk=False).get_matching_blocks():
        for k in range(block.size):
            starts[block.a + k] = timed[block.b + k][1]
    if not words or sum(start is not None for start in starts) * 2 < len(words):
        return None
    starts[0] = 0.0
    anchors = [k for k, start in enumerate(starts) if start is not None]
    for first, then in zip(anchors, [*anchors[1:], len(words)], strict=True):
        begin, until = starts[first], starts[then] if then < len(words) else end_s
        assert begin is not None, "an anchor has a time"
        assert until is not None, "an anchor has a time"
        sizes = [max(1, len(plain[k])) for k in range(first, then)]
        for k in range(first + 1, then):
            starts[k] = begin + (until - begin) * sum(sizes[: k - first]) / sum(sizes)
    return [start for start in starts[1:] if start is not None] + [end_s]


def _letters(word: str) -> str:
    return "".join(c for c in word.lower() if c.isalnum())
