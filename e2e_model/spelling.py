"""What the CTC head's states spell, weighed with how words usually follow each other in the training data.

An n-gram over the head's own units, smoothed by Witten and Bell (1991), joined to CTC in a prefix beam search (Hannun et al.,
arXiv 1408.2873): log p(units | states) + weight · log p(units) + bonus · number of units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Context = tuple[int, ...]
NEVER = -math.inf
EDGE = 0  # the blank, which is no unit, stands before the first and behind the last
MOST_CANDIDATES = 20  # of a state
LEAST_LOG_P = -9.0  # of a candidate
SURE_BLANK = -0.01  # log p from which on nothing else is looked at
KEPT_CONTEXTS, KEPT_UNITS = 2048, 1 << 18


class NGram:
    """How often each unit follows which others, counted in lines of text.

    `text`: the lines' units one after another, EDGE behind each line: what is kept, as it is far smaller than the counts.
    """

    def __init__(self, text: Array, *, units: int, order: int) -> None:
        """units: how many there are, with EDGE. Raises ValueError: an order whose keys do not fit."""
        bits = bits_of(units)
        if order < 1 or order * bits > 62:
            raise ValueError(f"order {order} of {units} units; 1 to {62 // bits} are legal")
        self.text, self.units, self.order = text, units, order
        self._bits = bits
        self._known: dict[Context, Array] = {}
        self._known_one: dict[tuple[Context, int], float] = {}
        self.keys, self.counts = zip(*_counted(_grams(text, order), bits), strict=True)

    @classmethod
    def of(cls, lines: Iterable[Sequence[int]], *, units: int, order: int) -> NGram:
        """From sequences of units."""
        return cls(np.array([unit for line in lines for unit in (*line, EDGE)], np.int64), units=units, order=order)

    def lines(self) -> list[Context]:
        """What it was counted in."""
        ends = np.flatnonzero(self.text == EDGE)
        return [tuple(line[line != EDGE].tolist()) for line in np.split(self.text, ends + 1)[:-1]]

    def log_probs(self, before: Context) -> Array:
        """log p of each unit, EDGE for the end, behind the last of `before`: [units]."""
        context = before[max(0, len(before) - self.order + 1) :]
        if context not in self._known:
            if len(self._known) >= KEPT_CONTEXTS:
                self._known.clear()
            self._known[context] = np.log(self._shares(context))
        return self._known[context]

    def log_p(self, before: Context, unit: int) -> float:
        """log p of one unit behind the last of `before`: where units are so many that all are too much."""
        context = before[max(0, len(before) - self.order + 1) :]
        if (context, unit) not in self._known_one:
            if len(self._known_one) >= KEPT_UNITS:
                self._known_one.clear()
            self._known_one[context, unit] = math.log(self._share(context, unit))
        return self._known_one[context, unit]

    def _share(self, context: Context, unit: int) -> float:
        share = 1 / self.units
        for seen, counts in self._seen(context):
            place = np.searchsorted(seen, unit)
            count = int(counts[place]) if place < len(seen) and seen[place] == unit else 0
            share = (count + len(seen) * share) / (int(counts.sum()) + len(seen))
        return share

    def _shares(self, context: Context) -> Array:
        shares = np.full(self.units, 1 / self.units)
        for seen, counts in self._seen(context):
            shares *= len(seen)
            shares[seen] += counts
            shares /= counts.sum() + len(seen)
        return shares

    def _seen(self, context: Context) -> Iterator[tuple[Array, Array]]:
        """Units, sorted, and how often each was seen behind the last 0, 1, 2 … of the context, as long as any was."""
        for length in range(min(len(context), self.order - 1) + 1):
            packed = 0
            for unit in context[len(context) - length :]:
                packed = packed << self._bits | unit
            keys = self.keys[length]
            first, end = np.searchsorted(keys, [packed << self._bits, (packed + 1) << self._bits])
            if first == end:
                break
            yield keys[first:end] - (packed << self._bits), self.counts[length][first:end]


def bits_of(units: int) -> int:
    return max(1, (units - 1).bit_length())


def _grams(text: Array, order: int) -> Array:
    """The `order` units that end at each place of the text, with EDGE before a line's first: [N, order]."""
    columns = [text]
    for _ in range(order - 1):
        before = np.concatenate([[EDGE], columns[-1][:-1]])  # one place earlier
        ended = np.concatenate([[EDGE], text[:-1]]) == EDGE  # a line begins here: nothing of the one before
        columns.append(np.where(ended, EDGE, before))
    return np.stack(columns[::-1], axis=1).astype(np.int64)


def _counted(grams: Array, bits: int) -> Iterator[tuple[Array, Array]]:
    """By order: all n-grams as sorted numbers, the oldest unit in the highest bits, and how often each was seen."""
    packed = np.zeros(len(grams), np.int64)
    for back, column in enumerate(grams.T[::-1]):
        packed = column << bits * back | packed
        yield np.unique(packed, return_counts=True)


@dataclass(slots=True)
class _Beam:
    """A prefix: log p of all its alignments that end in a blank, and in its last unit; `words`: what it has by the n-gram."""

    blank: float = NEVER
    unit: float = NEVER
    words: float = 0.0

    @property
    def total(self) -> float:
        return float(np.logaddexp(self.blank, self.unit))


@dataclass(frozen=True)
class Spelling:
    """A prefix beam search with an n-gram."""

    ngram: NGram
    weight: float = 0.5
    bonus: float = 4.5
    beam: int = 16
    _edge: Context = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_edge", (EDGE,) * (self.ngram.order - 1))

    def best(self, log_probs: Array) -> list[int]:
        """log_probs: [T, units] of CTC, blank 0. The likeliest units."""
        beams: dict[Context, _Beam] = {(): _Beam(blank=0.0)}
        for row in log_probs:
            if row[EDGE] > SURE_BLANK:
                for prefix, one in beams.items():
                    last = float(row[prefix[-1]]) if prefix else NEVER
                    one.blank, one.unit = one.total + float(row[EDGE]), one.unit + last
                continue
            grown = self._grown(beams, row)
            kept = sorted(grown.items(), key=lambda item: -(item[1].total + item[1].words))[: self.beam]
            beams = dict(kept)

        def score(prefix: Context, one: _Beam) -> float:
            return one.total + one.words + self.weight * float(self.ngram.log_probs(self._edge + prefix)[EDGE])

        return list(max(beams.items(), key=lambda item: score(*item))[0])

    def _grown(self, beams: dict[Context, _Beam], row: Array) -> dict[Context, _Beam]:
        """The prefixes one state later."""
        likely = np.argpartition(-row, min(MOST_CANDIDATES, len(row) - 1))[:MOST_CANDIDATES]
        units = [int(unit) for unit in likely if unit != EDGE and row[unit] > LEAST_LOG_P]
        grown: dict[Context, _Beam] = {}
        for prefix, one in beams.items():
            same = grown.setdefault(prefix, _Beam(words=one.words))
            same.blank = float(np.logaddexp(same.blank, one.total + row[EDGE]))
            following = self.ngram.log_probs(self._edge + prefix)
            for unit in units:
                log_p, before = float(row[unit]), one.total
                if prefix and unit == prefix[-1]:  # the same again is one, unless a blank lies between
                    same.unit = float(np.logaddexp(same.unit, one.unit + log_p))
                    before = one.blank
                if before == NEVER:
                    continue
                words = one.words + self.weight * float(following[unit]) + self.bonus
                longer = grown.setdefault((*prefix, unit), _Beam(words=words))
                longer.unit = float(np.logaddexp(longer.unit, before + log_p))
        return grown
