"""Phones of words: from the dictionary, numbers by their words, and honest where a word is not known."""

from __future__ import annotations

import pytest

from e2e_model.errors import ConfigProblem
from e2e_model.lexicon import PHONES
from e2e_model.pronouncing import lexicon_of, phones_of, pronounced


def said(word: str) -> list[str]:
    return [" ".join(PHONES[phone - 1] for phone in one) for one in pronounced(word)]


def test_words_and_numbers_are_said_as_people_say_them() -> None:
    assert said("job")[0] == "JH AA B"
    assert said("the") == ["DH AH", "DH IY"]
    assert said("wasps'") == said("wasps")
    assert said("25") == ["T W EH N T IY F AY V"]
    assert said("xqzzt") == said("3pm") == []


def test_a_text_is_spelt_whole_or_not_at_all() -> None:
    assert phones_of("The job!") == [*pronounced("the")[0], *pronounced("job")[0]]
    assert phones_of("The xqzzt job") is None
    assert phones_of("…") == []


def test_a_lexicon_holds_the_words_that_are_known() -> None:
    texts = ["One two three four five.", "Six seven eight nine, xqzzt ten"]
    lexicon = lexicon_of(texts)
    assert lexicon.words == ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    assert lexicon.numbers("ten xqzzt one") == [10, 1]
    with pytest.raises(ConfigProblem, match=r"1 of 4 words, like 'vergangenheit', .*characters"):
        lexicon_of(["the fenster and vergangenheit"])
