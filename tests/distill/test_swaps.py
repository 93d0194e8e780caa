"""The same dialogue about other things: person, reply and thought keep speaking of the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dataset_samples import usual_samples, write_dataset

from cascade.turn import Exchange
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished
from distill.training.data import Row, open_dataset
from distill.training.swaps import matters_of, swapped

MATTERS = ("candle", "harbor", "ladder", "violin")


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Row:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, usual_samples(), block=10)
    finished(folder, {"seed": 7}, Facts.of(folder))
    row = next(row for row in open_dataset(folder).rows("train") if row.task == "dialogue")
    return replace(
        row,
        user_text="Stew again! My stew fell on the floor on Tuesday.",
        reply_text="So your stew fell on the floor on Tuesday. What was in the stew?",
        think_language='They said "my stew fell on the floor on tuesday".',
        history=(Exchange(said="I cook stew.", replied="Stew is good."),),
    )


def test_what_matters_is_neither_a_name_nor_a_small_word() -> None:
    assert matters_of(["My stew fell on Tuesday.", "Tom's stew is it."]) == ["fell", "stew"]


def test_words_in_common_become_the_same_other_words_everywhere(turn: Row) -> None:
    changed = 0
    for seed in range(20):
        new = swapped(turn, MATTERS, np.random.default_rng(seed))
        assert new.reply_text is not None
        assert new.user_text is not None
        assert "Tuesday" in new.reply_text, "names stay"
        assert new.reply_text.startswith("So your ")
        was, now = turn.reply_text.rstrip("?").split(), new.reply_text.rstrip("?").split()
        others = {a.strip("."): b.strip(".") for a, b in zip(was, now, strict=True) if a != b}
        assert set(others.values()) <= set(MATTERS)
        if "stew" in others:
            changed += 1
            other = others["stew"]
            assert new.user_text.startswith(f"{other.capitalize()} again! My {other} ")
            assert f'"my {other} ' in (new.think_language or "")
            assert new.history[0] == Exchange(said=f"I cook {other}.", replied=f"{other.capitalize()} is good.")
    assert 5 < changed < 20, "now and then a word stays"


def test_where_nothing_is_said_back_nothing_changes(turn: Row) -> None:
    plain = replace(turn, reply_text="That is hard to stomach.")
    assert swapped(plain, MATTERS, np.random.default_rng(0)) is plain
    assert swapped(turn, (), np.random.default_rng(0)) is turn
