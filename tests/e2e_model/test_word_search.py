"""Reading words of phones: exact where it can be counted out, and of use where phones or words leave a doubt."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e_model.errors import CheckpointProblem
from e2e_model.lexicon import NUMBERS, PHONES, Lexicon
from e2e_model.spelling import EDGE, NGram
from e2e_model.word_search import WordSearch

A, B = NUMBERS["AA"], NUMBERS["B"]
WORDS = Lexicon({"ab": ((A, B),), "a": ((A,), (A, A)), "ba": ((B, A),)})
LINES = [WORDS.numbers(text) for text in ("ab a", "a ba", "ab ab", "a")]


def search(weight: float = 0.7, bonus: float = 0.4, beam: int = 400, order: int = 2) -> WordSearch:
    return WordSearch(WORDS, NGram.of(LINES, units=len(WORDS) + 1, order=order), weight, bonus, beam)


def states(rows: list[dict[int, float]]) -> Any:
    """What is not told shares the rest."""
    out = np.full((len(rows), len(PHONES) + 1), 1e-6)
    for row, told in zip(out, rows, strict=True):
        for unit, p in told.items():
            row[unit] = p
    return np.log(out / out.sum(1, keepdims=True))


def exhaustive(log_probs: Any, by: WordSearch, units: tuple[int, ...] = (0, A, B)) -> list[str]:
    """Over all paths and all ways to cut their phones into words."""
    alignments: dict[tuple[int, ...], float] = {}
    for path in product(units, repeat=len(log_probs)):
        phones = tuple(u for k, u in enumerate(path) if u and (k == 0 or path[k - 1] != u))
        p = sum(float(row[u]) for row, u in zip(log_probs, path, strict=True))
        alignments[phones] = np.logaddexp(alignments.get(phones, -math.inf), p)
    best, found = -math.inf, []
    for phones, mass in alignments.items():
        for words in cuts(phones):
            numbers = WORDS.numbers(" ".join(words))
            lm = sum(by.ngram.log_p((EDGE, *numbers[:k]), n) for k, n in enumerate([*numbers, EDGE]))
            score = mass + 0.7 * lm + 0.4 * len(words)
            if score > best:
                best, found = score, words
    return found


def cuts(phones: tuple[int, ...]) -> list[list[str]]:
    if not phones:
        return [[]]
    return [
        [word, *rest]
        for word, several in WORDS.items()
        for one in several
        if phones[: len(one)] == one
        for rest in cuts(phones[len(one) :])
    ]


@pytest.mark.parametrize("seed", range(12))
def test_it_finds_what_counting_everything_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    log_probs = states([dict(zip((0, A, B), rng.dirichlet([0.7] * 3), strict=True)) for _ in range(6)])
    by = search()
    assert by.best(log_probs) == exhaustive(log_probs, by)


def test_the_ngram_decides_between_words_that_sound_the_same() -> None:
    lexicon = Lexicon({"i": ((A,),), "see": ((B,),), "sea": ((B,),), "the": ((A, A, B),)})
    lines = [lexicon.numbers(text) for text in ("i see", "the sea", "the sea")]
    by = WordSearch(lexicon, NGram.of(lines, units=len(lexicon) + 1, order=2), 1.0, 0.0, 50)
    assert by.best(states([{A: 0.9}, {0: 0.9}, {B: 0.9}])) == ["i", "see"]
    assert by.best(states([{A: 0.9}, {0: 0.9}, {A: 0.9}, {B: 0.9}, {0: 0.5, B: 0.5}, {B: 0.9}])) == ["the", "sea"]


def test_silence_is_no_word_and_what_is_broken_off_is_left_out() -> None:
    assert search().best(states([{0: 1.0}] * 3)) == []
    assert search().best(states([])) == []
    assert search().best(states([{B: 1.0}])) == [], "b alone is no word, nor is it taken for one"


def test_a_lexicon_is_kept_in_words_and_phones(tmp_path: Path) -> None:
    WORDS.save(tmp_path / "lexicon.txt")
    assert (tmp_path / "lexicon.txt").read_text() == "ab AA B\na AA\na AA AA\nba B AA\n"
    again = Lexicon.read(tmp_path / "lexicon.txt")
    assert dict(again) == dict(WORDS)
    assert again.words == WORDS.words
    for text in ("a AA\nb XX\n", "a\n"):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(CheckpointProblem, match=r"bad\.txt, line"):
            Lexicon.read(tmp_path / "bad.txt")
