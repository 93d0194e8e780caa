"""The plan: its shares, its sets, its splits that share nothing, and that it is always the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import combinations, groupby
from typing import Any

import pytest
from pydantic import ValidationError

from cascade.errors import InputError
from cascade.reasoning.crisis import detect
from cascade.turn import AGES, GENDERS, REPLY_EMOTIONS
from distill.teaching.records import SPLITS, Scenario
from distill.teaching.scenarios import plan
from distill.teaching.scenarios.grammar import grammar
from distill.teaching.scenarios.plan import VARIED, PlanOptions, beside, fingerprint, normal, planned, requests
from distill.teaching.voices import USER_EMOTIONS, cast_of

TURNS = 3000
VOICES = {speaker.name: speaker for split in SPLITS for speaker in cast_of(split)}


@cache
def whole() -> list[Scenario]:
    return list(planned(PlanOptions(turns=TURNS, seed=1)))


def dialogue() -> list[Scenario]:
    return [scenario for scenario in whole() if scenario.task == "dialogue"]


def sets() -> dict[str, list[Scenario]]:
    found: dict[str, list[Scenario]] = {}
    for scenario in whole():
        if scenario.contrast:
            found.setdefault(scenario.contrast, []).append(scenario)
    return found


def shared(value: Callable[[Scenario], Any]) -> set[Any]:
    """What two splits have in common."""
    by_split = [{value(one) for one in whole() if one.split == split} - {None} for split in SPLITS]
    assert all(by_split)
    return set().union(*(a & b for a, b in combinations(by_split, 2)))


def test_same_options_same_plan() -> None:
    options = PlanOptions(turns=400, seed=1)
    assert list(planned(options)) == list(planned(options))
    assert list(planned(options)) != list(planned(options.model_copy(update={"seed": 2})))


@pytest.mark.parametrize("turns", [1, 2, 3, 12, 200])
def test_as_many_as_asked_for_in_order(turns: int) -> None:
    assert [scenario.index for scenario in planned(PlanOptions(turns=turns))] == list(range(turns))


@pytest.mark.parametrize(
    "changes",
    [
        {"speak_share": 1.0, "contrast_share": 0.0},
        {"speak_share": 1.0, "contrast_share": 0.0, "speak_set_share": 1.0},
        {"speak_share": 0.0, "contrast_share": 1.0},
        {"speak_share": 0.0, "contrast_share": 0.0},
        {"validation_share": 0.5, "test_share": 0.5},
        {"child_share": 1.0, "elder_share": 0.0, "history_share": 1.0},
    ],
)
def test_extreme_shares(changes: dict[str, float]) -> None:
    options = PlanOptions(turns=95, seed=3, **changes)
    found = list(planned(options))
    assert len(found) == 95
    assert sum(one.task == "speak" for one in found) == pytest.approx(95 * options.speak_share, abs=1)
    assert options.history_share < 1 or all(one.history for one in found if one.task == "dialogue")
    assert options.child_share < 1 or {one.labels.age for one in found if one.task == "dialogue"} == {"child"}


@pytest.mark.parametrize("changes", [{"speak_share": 0.7}, {"child_share": 0.9}, {"turns": 0}, {"pages": 1}])
def test_shares_that_do_not_fit(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PlanOptions(**{"turns": 10, **changes})


def test_shares_are_met() -> None:
    assert sum(one.task == "speak" for one in whole()) / TURNS == pytest.approx(0.2, abs=0.01)
    assert sum(bool(one.contrast) for one in dialogue()) / TURNS == pytest.approx(0.4, abs=0.01)
    for split in ("validation", "test"):
        assert sum(one.split == split for one in whole()) / TURNS == pytest.approx(0.05, abs=0.01)
    assert sum(bool(one.history) for one in dialogue()) / len(dialogue()) == pytest.approx(0.15, abs=0.04)


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced(split: str) -> None:
    rows = [one for one in dialogue() if one.split == split]
    tones = Counter(one.labels.emotion for one in rows)
    assert set(tones) == set(USER_EMOTIONS)
    assert max(tones.values()) - min(tones.values()) <= 3
    for gender in GENDERS:
        assert sum(one.labels.gender == gender for one in rows) / len(rows) == pytest.approx(0.5, abs=0.05)
    for age, share in (("child", 0.2), ("adult", 0.6), ("elder", 0.2)):
        assert sum(one.labels.age == age for one in rows) / len(rows) == pytest.approx(share, abs=0.06)
    assert {one.domain for one in rows} == set(grammar().domains)


def test_reply_emotions_are_balanced() -> None:
    moods = Counter(one.reply_emotion for one in whole() if one.task == "speak")
    assert set(moods) == set(REPLY_EMOTIONS)
    assert max(moods.values()) - min(moods.values()) <= 2


def test_splits_share_no_template_no_set_no_voice_no_sentence() -> None:
    assert shared(lambda one: one.template) == set()
    assert shared(lambda one: one.contrast) == set()
    assert shared(lambda one: one.voice) == set()
    assert shared(lambda one: VOICES[one.voice].voice if one.voice else None) == set()
    assert shared(lambda one: normal(one.text or "")) == set()
    assert shared(lambda one: one.domain), "the check sees what is shared"


def test_test_voices_are_new_to_the_classifier() -> None:
    from distill.teaching.voices import speakers

    heard = {speaker.voice for speaker in speakers("train")}
    assert not {VOICES[one.voice].voice for one in whole() if one.split == "test" and one.voice} & heard


def test_words_come_again_only_within_a_set() -> None:
    groups = [key for key, _ in groupby(whole(), key=lambda one: fingerprint(one.text or ""))]
    assert len(groups) == len(set(groups))
    for _, rows in groupby(whole(), key=lambda one: fingerprint(one.text or "")):
        same = list(rows)
        assert len(same) == 1 or (len({one.contrast for one in same}) == 1 and same[0].contrast)


def test_a_contrast_set_is_one_voice_in_two_to_five_tones() -> None:
    found = [rows for rows in sets().values() if rows[0].task == "dialogue"]
    assert {len(rows) for rows in found} == {2, 3, 4, 5}
    for rows in found:
        family = next(family for family in grammar().families if family.id == rows[0].template)
        tones = [one.labels.emotion for one in rows]
        assert len(set(tones)) == len(tones)
        assert set(tones) <= set(family.tones)
        for field in ("text", "voice", "split", "history", "domain"):
            assert len({getattr(one, field) for one in rows}) == 1
        assert len({one.seed for one in rows}) == len(rows)


def test_some_sentences_are_spoken_in_every_reply_emotion() -> None:
    found = [rows for rows in sets().values() if rows[0].task == "speak"]
    assert found
    for rows in found:
        assert [one.reply_emotion for one in rows] == list(REPLY_EMOTIONS)
        assert len({(one.text, one.split) for one in rows}) == 1


def test_who_speaks_is_who_is_labelled() -> None:
    names = {split: {speaker.name for speaker in cast_of(split)} for split in SPLITS}
    for one in dialogue():
        speaker = VOICES[one.voice or ""]
        assert one.voice in names[one.split]
        assert (one.labels.gender, one.labels.age) == (speaker.gender, speaker.age)
        assert one.labels.events == ()
        family = next(family for family in grammar().families if family.id == one.template)
        assert speaker.age in family.ages
        assert one.labels.emotion in family.tones
    assert all(one.voice is None and one.labels.emotion is None for one in whole() if one.task == "speak")


def test_history_is_of_the_same_split_and_speaks_of_no_crisis() -> None:
    with_history = [one for one in dialogue() if one.history]
    assert {len(one.history) for one in with_history} == {1, 2}
    for one in with_history:
        assert all(detect(part) is None for exchange in one.history for part in (exchange.said, exchange.replied))
    replies = {split: {f.replied for f in grammar().of("before", split) if "{" not in f.replied} for split in SPLITS}
    plain = set().union(*replies.values())
    for one in with_history:
        assert all(e.replied in replies[one.split] for e in one.history if e.replied in plain)


def test_every_seed_is_its_own() -> None:
    assert len({one.seed for one in whole()}) == TURNS
    assert all(0 <= one.seed < 2**31 and 0.4 <= one.intensity <= 1 for one in whole())


def test_requests_are_the_plan_without_its_words() -> None:
    options = PlanOptions(turns=300, seed=1)
    assert sum(request.turns for request in requests(options)) == 300
    tones = [tone for request in requests(options) for tone in request.tones]
    assert tones == [one.labels.emotion for one in planned(options) if one.task == "dialogue"]


def test_a_grammar_that_has_run_dry_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "drawn", lambda *_: "Always the same.")
    with pytest.raises(InputError, match=r"no new .* sentences left for \w+ after 1; ask for fewer turns"):
        list(planned(PlanOptions(turns=40)))


def test_casts_are_women_and_men_of_every_age() -> None:
    for split in SPLITS:
        people = Counter((speaker.gender, speaker.age) for speaker in cast_of(split))
        assert len(people) == 6
        assert abs(sum(n if gender == "female" else -n for (gender, _), n in people.items())) <= 1
    assert len(VOICES) == sum(len(cast_of(split)) for split in SPLITS)
    assert {speaker.engine for speaker in VOICES.values()} == {"espeak"}


# --- beside the turns


@pytest.fixture(scope="module")
def besides() -> list[Scenario]:
    return list(beside(PlanOptions(turns=9, listen=200, speak=22, unclear=20, seed=1), 9))


def test_what_lies_beside_comes_behind_and_is_for_training(besides: list[Scenario]) -> None:
    assert [scenario.index for scenario in besides] == list(range(9, 9 + 242))
    assert {scenario.split for scenario in besides} == {"train"}
    assert [scenario.task for scenario in besides] == ["listen"] * 200 + ["speak"] * 22 + ["dialogue"] * 20
    assert besides == list(beside(PlanOptions(turns=9, listen=200, speak=22, unclear=20, seed=1), 9))
    more = list(beside(PlanOptions(turns=9, listen=210, seed=1), 9))
    assert more[:200] == besides[:200], "more of them are the same and more"


def test_who_is_only_heard_is_everybody_in_every_tone(besides: list[Scenario]) -> None:
    heard = besides[:200]
    assert {one.labels.emotion for one in heard} == set(USER_EMOTIONS)
    assert {(one.labels.gender, one.labels.age) for one in heard} == {(g, a) for g in GENDERS for a in AGES}
    names = {speaker.name: speaker for speaker in cast_of("train")}
    assert all(names[str(one.voice)].gender == one.labels.gender for one in heard)
    varied = [one for one in heard if one.template == VARIED]
    assert 0.2 < len(varied) / len(heard) < 0.4
    train = {family.id for kind in ("said", "contrast") for family in grammar().of(kind, "train")}
    assert {one.template for one in heard} - {VARIED} <= train


def test_what_is_only_spoken_is_spoken_in_every_reply_emotion(besides: list[Scenario]) -> None:
    spoken = [one for one in besides if one.task == "speak"]
    assert {one.reply_emotion for one in spoken} == set(REPLY_EMOTIONS)
    assert all(one.voice is None and one.template == VARIED for one in spoken)


def test_what_nobody_can_follow_is_marked(besides: list[Scenario]) -> None:
    assert [one.followed for one in besides] == [True] * 222 + [False] * 20
    assert all(one.template == VARIED for one in besides[222:])


def test_what_is_written_is_the_grammar_s_on_paper_and_a_little_that_nobody_follows() -> None:
    options = PlanOptions(turns=1, write=300, seed=1)
    rows = list(beside(options, 1))
    assert {one.task for one in rows} == {"write"}
    assert all(one.voice is None and one.split == "train" and one.labels.emotion for one in rows)
    assert {one.followed for one in rows if one.template != VARIED} == {True}
    assert {one.followed for one in rows if one.template == VARIED} == {False}
    assert 0.02 < sum(not one.followed for one in rows) / len(rows) < 0.1
    assert 0.08 < sum(bool(one.history) for one in rows) / len(rows) < 0.22
    assert all(one.labels.emotion in grammar_tones(one) for one in rows if one.followed)


def grammar_tones(one: Scenario) -> tuple[str, ...]:
    return next(family.tones for family in grammar().families if family.id == one.template)
