"""What simulated people say: varied, sayable, in the emotions it names, each wording in one split."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product
from random import Random

import pytest

from cascade.reasoning.crisis import detect
from cascade.turn import AGES
from distill.teaching.records import SPLITS
from distill.teaching.scenarios.grammar import MAX_WORDS, MIN_WORDS, Drawing, Family, finished, grammar, pick, splits_of
from distill.teaching.voices import USER_EMOTIONS

FAMILIES = grammar().families


def draws(count: int, seed: int) -> list[str]:
    dice = Random(seed)
    said = [family for split in SPLITS for family in grammar().of("said", split)]
    found = []
    for _ in range(count):
        family = pick(dice, said)
        found.append(Drawing(dice, pick(dice, family.ages)).sentence(family, pick(dice, family.tones)))
    return found


def every_wording(times: int) -> list[tuple[Family, str]]:
    """Each wording as each age says it, some times over."""
    dice, found = Random(5), []
    for family, _ in product(FAMILIES, range(times)):
        for wording, age in product(family.say, family.ages):
            alone = family.model_copy(update={"say": (wording,)})
            drawing = Drawing(dice, age)
            if family.kind == "said":
                found.append((family, drawing.sentence(alone, pick(dice, family.tones))))
            elif family.kind == "contrast":
                found.append((family, drawing.plain(alone)))
            elif family.kind == "talk":
                found.append((family, drawing.talk(alone)))
            else:
                exchange = drawing.exchange(alone)
                found += [(family, exchange.said), (family, exchange.replied)]
    return found


def test_nine_in_ten_of_ten_thousand_are_distinct() -> None:
    assert len(set(draws(10_000, seed=1))) >= 9_000


def test_same_dice_same_sentences() -> None:
    assert draws(50, seed=3) == draws(50, seed=3) != draws(50, seed=4)


def test_the_everyday_is_there() -> None:
    domains = set(grammar().domains)
    assert len(domains) >= 24
    assert domains >= {
        "work", "study", "family", "health", "money", "loss", "love", "pets", "moving", "sport", "small_talk", "friends",
        "travel", "food", "technology", "weather", "ageing", "parenting", "neighbours", "hobbies", "holidays", "sleep",
        "commuting", "celebrations",
    }  # fmt: skip
    assert all(splits_of(domain) == set(SPLITS) for domain in domains)


def test_every_wording_can_be_said_and_speaks_of_no_crisis() -> None:
    for family, text in every_wording(times=2):
        assert detect(text) is None, (family.id, text)
        assert re.fullmatch(r"[A-Z][A-Za-z',.? ]*[.?]", text), (family.id, text)
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeiouh]|  | ,|\b(\w+) \1\b", text), (family.id, text)
        if family.kind != "before":
            assert MIN_WORDS <= len(text.split()) <= MAX_WORDS, (family.id, text)


def test_no_wording_is_in_two_families() -> None:
    count = Counter(wording for family in FAMILIES if family.kind != "before" for wording in family.say)
    assert [wording for wording, times in count.items() if times > 1] == []


def test_each_split_has_every_emotion_at_every_age() -> None:
    for split, tone, age in product(SPLITS, USER_EMOTIONS, AGES):
        for kind in ("said", "contrast"):
            assert any(family.fits(tone, age) for family in grammar().of(kind, split)), (split, tone, age, kind)  # type: ignore[arg-type]


def test_what_is_said_in_an_emotion_by_whom() -> None:
    got_it = next(family for family in FAMILIES if family.id == "work/promoted")
    assert not got_it.fits("sad", "adult")
    assert not got_it.fits("happy", "child")
    assert got_it.fits("happy", "adult")


def test_contrast_families_have_several_tones_and_no_word_of_any() -> None:
    for family in (family for family in FAMILIES if family.kind == "contrast"):
        assert len(family.tones) >= 3, family.id
        assert len(set(family.tones)) == len(family.tones)


def test_closing_words_belong_to_one_split() -> None:
    lines = [{line for closers in grammar().after.values() for line in closers[split]} for split in SPLITS]
    assert all(lines)
    assert len(set().union(*lines)) == sum(map(len, lines))


def test_a_slot_keeps_its_value_and_its_pronouns() -> None:
    drawing = Drawing(Random(2))
    text = drawing.filled("{partner} says {they} saw {kin}, and {kin:they} saw {partner:them} with {their} dog", "love")
    partner, kin = drawing.bound["partner"].split("/"), drawing.bound["kin"].split("/")
    forms = {"f": ("she", "her", "her"), "m": ("he", "him", "his"), "t": ("they", "them", "their")}
    (they, them, their), (kin_they, _, _) = forms[partner[1]], forms[kin[1]]
    assert text == f"{partner[0]} says {they} saw {kin[0]}, and {kin_they} saw {them} with {their} dog"
    assert partner[0] != kin[0]
    two = drawing.filled("{name} and {name2}", "love").split(" and ")
    assert two[0] != two[1]


@pytest.mark.parametrize(
    ("rough", "text"),
    [
        ("a  hour ago , a owl saw a unicorn", "An hour ago, an owl saw a unicorn."),
        ("is a elder a one-off?", "Is an elder a one-off?"),
        ("an book", "A book."),
    ],
)
def test_finished(rough: str, text: str) -> None:
    assert finished(rough) == text


def test_a_slot_without_a_list_is_an_error() -> None:
    with pytest.raises(KeyError):
        Drawing(Random(1)).filled("my {nothing}", "work")
