"""What words a CTC head's phones are: a beam search through a lexicon's tree, with an n-gram over words.

CTC's prefix beam search (Hannun et al., arXiv 1408.2873) where a prefix is words that are done and a place in the tree of
pronunciations: log p(phones | states) + weight · log p(words) + bonus · number of words. A word's own probability is known
only at its end; until then the likeliest word below the place in the tree stands for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np

from e2e_model.lexicon import Lexicon
from e2e_model.spelling import EDGE, LEAST_LOG_P, NEVER, SURE_BLANK, Array, Context, NGram

MOST_PHONES = 12  # candidates of a state
ROOT = 0
Prefix = tuple[int, Context]  # a place in the tree, and the words before it
Masses = list[float]  # log p of all alignments that end in a blank, in the last phone; what the words have


@dataclass
class _Tree:
    """Pronunciations by their first phones. Of each place: where each phone leads, its own phone, words that end here, and the
    highest log p (of a word alone) of all that may still come of it."""

    leads: list[dict[int, int]] = field(default_factory=lambda: [{}])
    phone: list[int] = field(default_factory=lambda: [0])
    ends: list[list[int]] = field(default_factory=lambda: [[]])
    hope: list[float] = field(default_factory=lambda: [NEVER])

    def add(self, phones: tuple[int, ...], word: int, log_p: float) -> None:
        place = ROOT
        for phone in phones:
            if phone not in self.leads[place]:
                self.leads[place][phone] = len(self.leads)
                self.leads.append({})
                self.phone.append(phone)
                self.ends.append([])
                self.hope.append(NEVER)
            place = self.leads[place][phone]
            self.hope[place] = max(self.hope[place], log_p)
        self.ends[place].append(word)


class WordSearch:
    """`ngram`: over the lexicon's words, by their numbers."""

    def __init__(self, lexicon: Lexicon, ngram: NGram, weight: float, bonus: float, beam: int) -> None:
        self.lexicon, self.ngram = lexicon, ngram
        self._weight, self._bonus, self._beam = weight, bonus, beam
        self._edge: Context = (EDGE,) * (ngram.order - 1)
        self._tree = _Tree()
        for number, word in enumerate(lexicon.words, start=1):
            log_p = weight * ngram.log_p((), number) + bonus
            for phones in lexicon[word]:
                self._tree.add(phones, number, log_p)
        self._tree.hope[ROOT] = 0.0

    def best(self, log_probs: Array) -> list[str]:
        """log_probs: [T, phones + 1] of CTC, blank 0. The likeliest words."""
        beams: dict[Prefix, Masses] = {(ROOT, ()): [0.0, NEVER, 0.0]}
        hope = self._tree.hope
        for row in log_probs.astype(np.float64):
            if row[EDGE] > SURE_BLANK:
                for (place, _), masses in beams.items():
                    blank, phone, _ = masses
                    last = float(row[self._tree.phone[place]]) if place else NEVER
                    masses[0], masses[1] = _sum(blank, phone) + float(row[EDGE]), phone + last
                continue
            grown = self._grown(beams, row)
            ranked = sorted(
                ((_sum(one[0], one[1]) + one[2] + hope[prefix[0]], prefix) for prefix, one in grown.items()),
                key=itemgetter(0),
                reverse=True,
            )
            beams = {prefix: grown[prefix] for _, prefix in ranked[: self._beam]}
        return [self.lexicon.words[number - 1] for number in self._ended(beams)]

    def _grown(self, beams: dict[Prefix, Masses], row: Array) -> dict[Prefix, Masses]:
        """The prefixes one state later."""
        likely = np.argpartition(-row, min(MOST_PHONES, len(row) - 1))[:MOST_PHONES]
        phones = [(int(p), float(row[p])) for p in likely if p != EDGE and row[p] > LEAST_LOG_P]
        tree, grown = self._tree, dict[Prefix, Masses]()
        blank_log_p = float(row[EDGE])

        def push(place: int, words: Context, mass: float, words_log_p: float) -> None:
            found = grown.get((place, words))
            if found is None:
                grown[place, words] = [NEVER, mass, words_log_p]
            else:
                found[1] = _sum(found[1], mass)

        for (place, words), (blank, phone, words_log_p) in beams.items():
            total = _sum(blank, phone)
            same = grown.setdefault((place, words), [NEVER, NEVER, words_log_p])
            same[0] = _sum(same[0], total + blank_log_p)
            last, leads = tree.phone[place], tree.leads[place]
            if place and phone > NEVER:
                same[1] = _sum(same[1], phone + float(row[last]))
            ended = [(word, words_log_p + self._word(words, word)) for word in tree.ends[place]]
            for unit, log_p in phones:
                before = blank if unit == last else total  # the same again is one, unless a blank lies between
                if before == NEVER:
                    continue
                if unit in leads:
                    push(leads[unit], words, before + log_p, words_log_p)
                if ended and unit in tree.leads[ROOT]:
                    for word, longer in ended:
                        push(tree.leads[ROOT][unit], (*words, word), before + log_p, longer)
        return grown

    def _word(self, words: Context, word: int) -> float:
        bonus = self._bonus if word != EDGE else 0.0
        return self._weight * self.ngram.log_p(self._edge + words, word) + bonus

    def _ended(self, beams: dict[Prefix, Masses]) -> Context:
        """The best that is whole; where nothing is, without the word that is broken off."""
        best, found = NEVER, tuple[int, ...]()
        for (place, words), (blank, phone, words_log_p) in beams.items():
            total = _sum(blank, phone) + words_log_p
            wholes = [(*words, word) for word in self._tree.ends[place]] if place else [words]
            for whole in wholes:
                score = total + (self._word(words, whole[-1]) if place else 0.0) + self._word(whole, EDGE)
                if score > best:
                    best, found = score, whole
        if best == NEVER:
            (_, found), _ = max(beams.items(), key=lambda item: _sum(item[1][0], item[1][1]) + item[1][2])
        return found


def _sum(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))
