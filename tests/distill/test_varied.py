"""Sentences about anything: words of a large vocabulary in the order of English, the same for the same dice."""

from __future__ import annotations

from random import Random

import pytest

from cascade.asr.language_model import known_words
from cascade.asr.words import words_of
from distill.teaching.scenarios.varied import FEWEST, MOST, SHORT_FORMS, Varied


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    varied = Varied(Random(3))
    return [varied.sentence() for _ in range(60)]


def test_the_same_dice_give_the_same_sentences(sentences: list[str]) -> None:
    varied = Varied(Random(3))
    assert [varied.sentence() for _ in range(5)] == sentences[:5]
    assert Varied(Random(4)).sentence() != sentences[0]


def test_they_are_whole_sentences_that_can_be_pronounced(sentences: list[str]) -> None:
    for sentence in sentences:
        words = sentence.removesuffix(".").split()
        assert FEWEST <= len(words) <= MOST
        assert sentence.endswith(".")
        assert sentence[0].isupper()
        assert {word.lower() for word in words} <= known_words()
        assert not {word.lower() for word in words} & set(SHORT_FORMS)
        assert "i" not in words, "I is written large"


def test_their_words_are_many_and_in_an_order(sentences: list[str]) -> None:
    words = [word for sentence in sentences for word in words_of(sentence)]
    assert len(set(words)) > 0.4 * len(words)
    pairs = {pair for sentence in sentences for pair in zip(*(words_of(sentence)[k:] for k in (0, 1)), strict=False)}
    assert not {("the", "the"), ("of", "of"), ("the", "of"), ("a", "the")} & pairs
