"""Figures and their intervals: against known answers, against simulated truth, and where there is nothing to count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cascade.turn import AudioRef
from distill.comparison.records import EvalTask, Item, Measure
from distill.comparison.statistics import (
    Told,
    calibration,
    calibration_figures,
    calibration_winners,
    confusion,
    difference,
    figure,
    figures,
    winners,
)
from distill.teaching.records import Labels

SOUND = AudioRef(path="x.wav", sha256="0" * 64, sample_rate=16_000, duration_s=1)


def alone(values: list[tuple[float, float]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Each item a group of its own."""
    named = {str(at): value for at, value in enumerate(values)}
    return named, {name: name for name in named}


def clustered(
    dice: np.random.Generator, groups: int, size: int, spread: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """Around 0.5; items of a group lie off together."""
    off = dice.normal(0, spread, groups)
    values = {f"{g}-{i}": (0.5 + off[g] + dice.normal(0, 0.1), 1.0) for g in range(groups) for i in range(size)}
    return values, {item: item.split("-")[0] for item in values}


def test_a_rate_is_summed_before_it_is_divided() -> None:
    values, groups = alone([(1, 2), (0, 8), (2, 2), (0, 0)])
    found = figure(values, groups, 0)
    assert found is not None
    assert found.value == 3 / 12
    assert found.items == 3, "what has nothing to divide by does not count"
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < 0.25 < found.high <= 1


def test_the_interval_is_that_of_the_binomial_where_items_are_independent() -> None:
    """Of 400 draws with rate 0.3 the normal approximation gives 0.3 ± 0.045."""
    values, groups = alone([(float(at < 120), 1.0) for at in range(400)])
    found = figure(values, groups, 1)
    assert found is not None
    assert found.low == pytest.approx(0.255, abs=0.006)
    assert found.high == pytest.approx(0.345, abs=0.006)


def test_intervals_hold_the_truth_about_as_often_as_they_promise() -> None:
    dice, held, naive = np.random.default_rng(3), 0, 0
    for _ in range(200):
        values, groups = clustered(dice, 40, 4, 0.3)
        found, apart = figure(values, groups, 0), figure(values, {item: item for item in values}, 0)
        held += found.low <= 0.5 <= found.high
        naive += apart.low <= 0.5 <= apart.high
    assert 0.9 <= held / 200 <= 0.99
    assert naive / 200 < 0.8, "items of one group taken for independent promise too much"


def test_the_same_seed_gives_the_same_interval_and_order_does_not_matter_to_the_value() -> None:
    values, groups = clustered(np.random.default_rng(0), 20, 3, 0.2)
    turned = dict(reversed(values.items()))
    first, again, other, back = (
        figure(values, groups, 0), figure(values, groups, 0), figure(values, groups, 1), figure(turned, groups, 0)
    )  # fmt: skip
    assert first == again
    assert first != other
    assert first is not None
    assert back is not None
    assert first.value == back.value


def test_too_little_gives_no_interval_and_nothing_gives_no_figure() -> None:
    values, _ = alone([(1, 1), (0, 1), (1, 1), (1, 1)])
    two = {"0": "a", "1": "a", "2": "b", "3": "b"}
    found = figure(values, two, 0)
    assert found is not None
    assert (found.value, found.low, found.high) == (0.75, None, None)
    assert figure({}, {}, 0) is None
    assert figure({"a": (0, 0)}, {"a": "a"}, 0) is None
    assert difference({"a": (1, 1)}, {"b": (1, 1)}, {"a": "a", "b": "b"}, 0) is None
    sure = figure(*alone([(1, 1)] * 5), 0)
    assert sure is not None
    assert (sure.low, sure.high) == (1, 1)


def test_pairing_sees_a_small_difference_that_the_intervals_of_both_hide() -> None:
    dice = np.random.default_rng(1)
    hard = dice.normal(0, 0.3, 60)
    a, groups = alone([(0.55 + h + dice.normal(0, 0.02), 1.0) for h in hard])
    b, _ = alone([(0.5 + h + dice.normal(0, 0.02), 1.0) for h in hard])
    gap, one, other = difference(a, b, groups, 0), figure(a, groups, 0), figure(b, groups, 0)
    assert gap.low <= 0.05 <= gap.high
    assert not gap.holds_zero
    assert one.low < other.high, "apart they overlap"
    assert difference(a, a, groups, 0) == pytest.approx(gap.__class__(0, 0, 0, 60))


def test_only_items_that_both_have_are_compared() -> None:
    a = {"x": (1.0, 1.0), "y": (1.0, 1.0), "z": (1.0, 1.0), "w": (0.0, 1.0)}
    b = {"x": (1.0, 1.0), "y": (1.0, 1.0), "z": (1.0, 1.0)}
    gap = difference(a, b, {item: item for item in a}, 0)
    assert gap is not None
    assert (gap.value, gap.items, gap.holds_zero) == (0, 3, True)


def test_winners_are_the_best_and_those_not_surely_worse() -> None:
    dice = np.random.default_rng(2)
    near = [(float(x), 1.0) for x in dice.normal(0.8, 0.2, 50)]
    best, groups = alone([(x + dice.normal(0.02, 0.2), 1.0) for x, _ in near])
    systems = {"worst": alone([(x - 0.4, 1.0) for x, _ in near])[0], "near": alone(near)[0], "best": best}
    assert winners(systems, groups, 0, "higher") == ["near", "best"]
    assert winners(systems, groups, 0, "lower") == ["worst"]
    assert winners(systems, groups, 0, "neither") == []
    assert winners({"a": {}}, groups, 0, "higher") == []
    assert winners({"a": {"0": (1, 1)}, "b": {"0": (0, 1)}}, groups, 0, "higher") == [], "one item proves nothing"
    assert winners({"a": best, "b": best}, groups, 0, "higher") == [], "nobody wins where all do alike"


# --- labels


def told(truth: str, best: str, sure: float, threshold: float = 0.5) -> Told:
    other = "sad" if best == "happy" else "happy"
    return Told(truth, best if sure >= threshold else None, best, {best: sure, other: 1 - sure})


def test_calibration_by_hand() -> None:
    answers = [told("happy", "happy", 0.9), told("sad", "happy", 0.9), told("sad", "sad", 0.6), told("sad", "sad", 0.7)]
    found = calibration({str(at): one for at, one in enumerate(answers)}, {str(at): str(at) for at in range(4)}, 0)
    assert found is not None
    # (0.8, 0.9]: two answers, 0.9 sure, half right; (0.5, 0.6]: 0.6 sure, right; (0.6, 0.7]: 0.7 sure, right
    assert found.ece.value == pytest.approx((2 * 0.4 + 0.4 + 0.3) / 4)
    assert [(one.count, one.accuracy) for one in found.bins if one.count] == [(1, 1), (1, 1), (2, 0.5)]
    assert found.bins[8].confidence == pytest.approx(0.9)
    assert set(found.labels) == {"happy", "sad"}


def test_who_is_as_often_right_as_sure_is_calibrated() -> None:
    dice = np.random.default_rng(5)
    honest, boastful = {}, {}
    for at in range(2000):
        sure = float(dice.uniform(0.5, 1))
        right = dice.random() < sure
        honest[str(at)] = told("happy", "happy" if right else "sad", sure)
        boastful[str(at)] = told("happy", "happy" if right else "sad", 1.0)
    groups = {item: item for item in honest}
    good, bad = calibration(honest, groups, 0), calibration(boastful, groups, 0)
    assert good.ece.value < 0.05
    assert bad.ece.value == pytest.approx(0.25, abs=0.03)
    assert good.ece.high < bad.ece.low
    assert calibration_winners({"boastful": boastful, "honest": honest}, groups, 0) == ["honest"]
    assert calibration({"a": Told("happy", None, None, {})}, {"a": "a"}, 0) is None


def test_confusion_counts_unknown_as_an_answer() -> None:
    answers = [
        told("sad", "sad", 0.8),
        told("sad", "happy", 0.4),
        told("sad", "happy", 0.8),
        Told("happy", None, None, {}),
    ]
    assert confusion(answers) == {"happy": {"unknown": 1}, "sad": {"happy": 1, "sad": 1, "unknown": 1}}


# --- tables


def item(at: int, task: EvalTask) -> Item:
    return Item(id=f"{task}-{at:04d}", task=task, text="x", labels=Labels(), group=f"g{at}", audio=SOUND)


RATE = Measure(name="rate", title="", about="", source="", better="higher", unit="share")


def test_figures_of_all_items_and_of_each_task_against_the_reference() -> None:
    items = [item(at, "emotion" if at < 5 else "age") for at in range(10)]
    values = {
        "teacher": {one.id: {"rate": (1.0, 1.0)} for one in items},
        "student": {one.id: {"rate": (float(at % 5 == 0), 1.0)} for at, one in enumerate(items) if at != 9},
        "silent": {},
    }
    found = {(one.task, one.system): one for one in figures(values, items, [RATE], "teacher", 0)}
    assert set(found) == {(task, name) for task in ("all", "emotion", "age") for name in ("teacher", "student")}
    whole = found["all", "student"]
    assert (whole.value, whole.items) == (pytest.approx(2 / 9), 9)
    assert whole.difference is not None
    assert whole.difference.to == "teacher"
    assert whole.difference.significant
    assert found["all", "teacher"].difference is None
    assert found["age", "student"].items == 4
    assert not [one for one in figures(values, items, [RATE], None, 0) if one.difference]


def test_calibration_errors_are_figures_too() -> None:
    items = [item(at, "emotion") for at in range(6)]
    sure = {one.id: told("happy", "happy", 1.0) for one in items}
    wrong = {one.id: told("sad", "happy", 1.0) for one in items}
    found = calibration_figures("emotion_ece", {"sure": sure, "wrong": wrong, "mute": {}}, items, "sure", 0)
    assert [(one.task, one.system, one.value) for one in found] == [
        ("all", "sure", 0), ("all", "wrong", 1), ("emotion", "sure", 0), ("emotion", "wrong", 1)
    ]  # fmt: skip
    assert found[1].difference is not None
    assert found[1].difference.significant
