"""Reading CTC by a beam search with an n-gram: exact where it can be counted out, and of use where the states leave a doubt."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from e2e_model.spelling import EDGE, NGram, Spelling

LINES = [[1, 2, 3], [1, 2, 3], [1, 2, 4], [2, 3]]


def states(*rows: list[float]) -> Any:
    return np.log(np.array(rows, np.float32))


def shares(ngram: NGram, *before: int) -> list[float]:
    return [float(x) for x in np.exp(ngram.log_probs((EDGE,) * (ngram.order - 1) + before))]


def test_shares_sum_to_one_in_every_context() -> None:
    ngram = NGram.of(LINES, units=6, order=3)
    for before in ((), (1,), (1, 2), (5,), (5, 1), (4, 4, 1)):
        assert sum(shares(ngram, *before)) == pytest.approx(1)


def test_shares_are_those_of_witten_and_bell() -> None:
    ngram = NGram.of(LINES, units=6, order=2)
    unigrams = {1: 3, 2: 4, 3: 3, 4: 1, EDGE: 4}  # 15 seen, of 5 kinds
    one = {unit: (unigrams.get(unit, 0) + 5 / 6) / 20 for unit in range(6)}
    behind_2 = {3: 3, 4: 1}  # 4 seen, of 2 kinds
    assert shares(ngram, 2) == pytest.approx([(behind_2.get(unit, 0) + 2 * one[unit]) / 6 for unit in range(6)])
    assert shares(ngram, 5) == pytest.approx([one[unit] for unit in range(6)]), "what was never seen says nothing"


def test_a_text_holds_its_lines_and_no_line_sees_another() -> None:
    ngram = NGram.of(LINES, units=6, order=3)
    again = NGram(ngram.text.astype(np.int16), units=6, order=3)
    for one, other in zip((*ngram.keys, *ngram.counts), (*again.keys, *again.counts), strict=True):
        assert np.array_equal(one, other)
    upside_down = NGram.of(LINES[::-1], units=6, order=3)
    assert all(np.array_equal(*both) for both in zip(ngram.keys, upside_down.keys, strict=True))
    bigrams = NGram.of(LINES, units=6, order=2)
    assert np.array_equal(bigrams.keys[1], ngram.keys[1])
    assert np.array_equal(bigrams.counts[0], ngram.counts[0])


@pytest.mark.parametrize("order", [0, 21])
def test_an_order_that_does_not_fit(order: int) -> None:
    with pytest.raises(ValueError, match="1 to 20 are legal"):
        NGram.of(LINES, units=6, order=order)


def exhaustive(log_probs: Any, spelling: Spelling) -> list[int]:
    """Over all paths: the sum of each unit sequence's alignments, weighed as the search weighs them."""
    ngram, found = spelling.ngram, dict[tuple[int, ...], float]()
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        units = tuple(u for k, u in enumerate(path) if u and (k == 0 or path[k - 1] != u))
        p = float(sum(log_probs[t, u] for t, u in enumerate(path)))
        found[units] = float(np.logaddexp(found.get(units, -math.inf), p))
    edge = (EDGE,) * (ngram.order - 1)

    def score(units: tuple[int, ...]) -> float:
        line = edge + units
        words = sum(float(ngram.log_probs(line[: len(edge) + k])[unit]) for k, unit in enumerate((*units, EDGE)))
        return found[units] + spelling.weight * words + spelling.bonus * len(units)

    return list(max(found, key=score))


@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_finds_what_counting_all_paths_finds(seed: int) -> None:
    rows = np.random.default_rng(seed).dirichlet([0.4] * 5, 5).clip(1e-3)
    log_probs = np.log(rows / rows.sum(1, keepdims=True)).astype(np.float32)
    spelling = Spelling(NGram.of(LINES, units=5, order=3), weight=0.7, bonus=0.5, beam=500)
    assert spelling.best(log_probs) == exhaustive(log_probs, spelling)


def test_words_decide_where_states_leave_a_doubt() -> None:
    doubt = states([0.05, 0.9, 0.03, 0.01, 0.01], [0.05, 0.01, 0.9, 0.02, 0.02], [0.06, 0.01, 0.01, 0.45, 0.47])
    ngram = NGram.of(LINES, units=5, order=3)
    assert Spelling(ngram, weight=0.0, bonus=0.0).best(doubt) == [1, 2, 4]
    assert Spelling(ngram, weight=1.0, bonus=0.0).best(doubt) == [1, 2, 3]


def test_repeats_are_one_unless_a_blank_lies_between_and_sure_blanks_cost_nothing() -> None:
    ngram = NGram.of([[1], [1, 1]], units=3, order=2)
    a, blank = [0.001, 0.998, 0.001], [0.998, 0.001, 0.001]
    read = Spelling(ngram, weight=0.1, bonus=0.0)
    assert read.best(states(a, a, blank, blank)) == [1]
    assert read.best(states(a, blank, a, blank)) == [1, 1]
    assert read.best(states(blank, blank)) == []
    assert read.best(np.zeros((0, 3), np.float32)) == []
