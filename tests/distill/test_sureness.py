"""How unsure is too unsure, from turns that nothing learnt from; and words that ears keep from before."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dataset_samples import usual_samples, write_dataset
from students import nano

from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished
from distill.training.assemble import learn_words
from distill.training.data import Dataset, open_dataset
from distill.training.sureness import LEAST_TURNS, learn_sureness
from e2e_model.model import SpeechLM
from e2e_model.think import spoken_words
from e2e_model.word_search import WordSearch


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, usual_samples(), block=10)
    finished(folder, {"seed": 7}, Facts.of(folder))
    return open_dataset(folder)


def test_the_limit_lies_below_what_ears_are_usually_sure(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = nano()
    (row,) = [row for row in dataset.rows("train") if row.user_text and row.user_duration_s][:1]
    rows = [row] * (LEAST_TURNS + 4)
    prepared: Any = SimpleNamespace(mel=lambda row: np.zeros((100, lm.config.mels), np.float16))
    told = iter([0.6, 0.8] * (LEAST_TURNS // 2 + 2))
    monkeypatch.setattr(SpeechLM, "sureness", lambda self, ctc: next(told))
    learn_sureness(lm, rows, prepared)
    assert lm.least_sure == pytest.approx(0.7 - 2.33 * np.std([0.6, 0.8] * 8, ddof=1), abs=1e-3)
    learn_sureness(lm, rows[: LEAST_TURNS - 1], prepared)
    assert lm.least_sure is None, "too few say nothing"
    learn_sureness(lm, [replace(row, user_text=None)] * 99, prepared)
    assert lm.least_sure is None


def test_words_of_before_are_kept_and_none_counts_twice(dataset: Dataset) -> None:
    lm = nano(spelling={"order": 2})
    learn_words(lm, dataset)
    assert lm.spelling is not None
    first = lm.spelling.ngram.lines()
    assert isinstance(lm.spelling, WordSearch)
    numbers = lm.spelling.lexicon.numbers
    said = [tuple(numbers(spoken_words(row.user_text))) for row in dataset.rows("train") if row.user_text]
    assert len(set(said)) < len(said), "or nothing is shown"
    assert first == list(dict.fromkeys(said))
    learn_words(lm, dataset)
    assert lm.spelling.ngram.lines() == first
    strange = tuple(int(unit) for unit in torch.arange(1, 6))
    lm.learn_words(type(lm.spelling.ngram).of([strange], units=lm.speller.ctc_size + 1, order=2))
    learn_words(lm, dataset)
    assert lm.spelling.ngram.lines() == [strange, *(line for line in first if line != strange)]
