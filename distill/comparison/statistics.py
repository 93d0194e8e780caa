"""From values of single answers to figures with intervals.

A figure is Σ numerators / Σ denominators. Its interval is the percentile bootstrap's, 95 %, over *groups* of items that are not
independent, such as one contrast set (cluster bootstrap; Efron & Tibshirani, An Introduction to the Bootstrap, 1993). Two systems
are compared on the items that both have, in the same resamples (paired). Calibration is the expected calibration error (Guo et
al., ICML 2017): it is never below 0, so that few items make it look worse than it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from distill.comparison.records import EVAL_TASKS, Better, Difference, Figure, Item, Measure, Values

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Ratio = tuple[float, float]  # numerator, denominator
Rows = Mapping[str, Array]  # by item; (K,) each, to be summed before a statistic is taken
Statistic = Callable[[Array], Array]  # sums (…, K) → (…); NaN where it is not defined

RESAMPLES = 2000
LEVEL = 0.95
FEWEST_GROUPS = 3  # below, resampling says nothing of how the figure would differ elsewhere
BINS = 10
DIGITS = 9  # what lies beyond is the order of a sum, and would tell two equal systems apart
ALL = "all"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. low, high: None for fewer than 3 groups. items: how many it rests on."""

    value: float
    low: float | None
    high: float | None
    items: int

    @property
    def holds_zero(self) -> bool:
        """Whether 0 lies within; without an interval nothing can be told from 0."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


@dataclass(frozen=True)
class Told:
    """What a system said of one label: the truth, what it told (None: unknown), and its distribution."""

    truth: str
    told: str | None
    best: str | None
    probabilities: Mapping[str, float]

    @property
    def confidence(self) -> float:
        return self.probabilities[self.best] if self.best else 0.0


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence lies in (low, high]; the first bin holds 0, too."""

    low: float
    high: float
    count: int
    confidence: float  # mean
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """`labels`: the error of each label's own probability, against whether it was the truth (Kull et al., NeurIPS 2019)."""

    ece: Estimate
    bins: tuple[Bin, ...]
    labels: Mapping[str, float]


# --- figures


def figure(values: Mapping[str, Ratio], groups: Mapping[str, str], seed: int) -> Estimate | None:
    """`values`: by item. None where there is nothing to divide by."""
    return _figure(_ratio, _rows(values), groups, seed)


def difference(a: Mapping[str, Ratio], b: Mapping[str, Ratio], groups: Mapping[str, str], seed: int) -> Estimate | None:
    """a − b over the items that both have; None where there are none."""
    return _difference(_ratio, _rows(a), _rows(b), groups, seed)


def winners(
    systems: Mapping[str, Mapping[str, Ratio]], groups: Mapping[str, str], seed: int, better: Better
) -> list[str]:
    """The best system, and those whose paired difference from it holds 0. Empty where no direction is better, where so few items
    were measured that there is no interval, and where all systems do exactly alike.
    """
    return _winners(_ratio, {name: _rows(values) for name, values in systems.items()}, groups, seed, better)


def figures(
    values: Mapping[str, Mapping[str, Values]],
    items: Sequence[Item],
    measures: Iterable[Measure],
    reference: str | None,
    seed: int,
) -> list[Figure]:
    """Every measure of every system (system → item → values), of all items and of each task, against the reference."""
    made: list[Figure] = []
    for measure in measures:
        rows = {name: _rows(_of_measure(measure.name, table)) for name, table in values.items()}
        made += _by_task(measure.name, _ratio, rows, items, reference, seed)
    return made


def _of_measure(measure: str, table: Mapping[str, Values]) -> dict[str, Ratio]:
    return {item: values[measure] for item, values in table.items() if measure in values}


def _by_task(
    measure: str,
    statistic: Statistic,
    systems: Mapping[str, Rows],
    items: Sequence[Item],
    reference: str | None,
    seed: int,
) -> Iterator[Figure]:
    groups = {item.id: item.group for item in items}
    for task in (ALL, *(task for task in EVAL_TASKS if any(item.task == task for item in items))):
        within = [item.id for item in items if task in (ALL, item.task)]
        chosen = {name: {item: rows[item] for item in within if item in rows} for name, rows in systems.items()}
        base = chosen.get(reference) if reference else None
        for name, rows in chosen.items():
            if (found := _figure(statistic, rows, groups, seed)) is None:
                continue
            gap = _difference(statistic, rows, base, groups, seed) if base and name != reference else None
            yield Figure(
                measure=measure,
                task=task,
                system=name,
                value=found.value,
                low=found.low,
                high=found.high,
                items=found.items,
                difference=_told_difference(reference, gap),
            )


def _told_difference(to: str | None, gap: Estimate | None) -> Difference | None:
    if to is None or gap is None or gap.low is None or gap.high is None:
        return None
    return Difference(to=to, value=gap.value, low=gap.low, high=gap.high, significant=not gap.holds_zero)


# --- the bootstrap


def _figure(statistic: Statistic, rows: Rows, groups: Mapping[str, str], seed: int) -> Estimate | None:
    some = {item: row for item, row in rows.items() if np.isfinite(statistic(row))}
    return _estimate(statistic, _grouped(some, groups), len(some), seed) if some else None


def _difference(statistic: Statistic, a: Rows, b: Rows, groups: Mapping[str, str], seed: int) -> Estimate | None:
    both = {item: np.concatenate([row, b[item]]) for item, row in a.items() if item in b}
    if not both:
        return None
    return _estimate(lambda s: _minus(statistic, s), _grouped(both, groups), len(both), seed)


def _minus(statistic: Statistic, sums: Array) -> Array:
    a, b = np.split(sums, 2, axis=-1)
    return statistic(a) - statistic(b)


def _winners(
    statistic: Statistic, systems: Mapping[str, Rows], groups: Mapping[str, str], seed: int, better: Better
) -> list[str]:
    found = {name: made for name, rows in systems.items() if (made := _figure(statistic, rows, groups, seed))}
    if better == "neither" or not found:
        return []
    sign = 1 if better == "higher" else -1
    best = max(found, key=lambda name: sign * found[name].value)
    apart = {name: _difference(statistic, systems[best], systems[name], groups, seed) for name in found}
    if found[best].low is None or all(
        gap is not None and gap.value == gap.low == gap.high == 0 for gap in apart.values()
    ):
        return []
    return [name for name, gap in apart.items() if name == best or gap is None or gap.holds_zero]


def _estimate(statistic: Statistic, sums: Array, items: int, seed: int) -> Estimate | None:
    """sums (G, K) of each group."""
    value = round(float(statistic(sums.sum(axis=0))), DIGITS)
    if not np.isfinite(value):
        return None
    if len(sums) < FEWEST_GROUPS:
        return Estimate(value, None, None, items)
    drawn = statistic(_weights(len(sums), seed) @ sums)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn[np.isfinite(drawn)], [tail, 1 - tail])
    return Estimate(value, round(float(low), DIGITS), round(float(high), DIGITS), items)


@lru_cache(maxsize=64)
def _weights(groups: int, seed: int) -> Array:
    """(2000, G): how often each group was drawn in each resample."""
    dice = np.random.default_rng([seed, groups])
    return dice.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(np.float64)


def _rows(values: Mapping[str, Ratio]) -> dict[str, Array]:
    return {item: np.array(value, np.float64) for item, value in values.items()}


def _grouped(rows: Rows, groups: Mapping[str, str]) -> Array:
    """Sums (G, K) of each group, in the order of its first item; at least one row."""
    place = {group: at for at, group in enumerate(dict.fromkeys(groups[item] for item in rows))}
    sums = np.zeros((len(place), len(next(iter(rows.values())))))
    for item, row in rows.items():
        sums[place[groups[item]]] += row
    return sums


def _ratio(sums: Array) -> Array:
    """sums (…, 2) → (…)."""
    over = sums[..., 1]
    return np.where(over > 0, sums[..., 0] / np.where(over > 0, over, 1.0), np.nan)


# --- labels


def calibration(told: Mapping[str, Told], groups: Mapping[str, str], seed: int) -> Calibration | None:
    """Of the answers that gave a distribution, by item; None where none did."""
    rows = _confidences(told)
    ece = _figure(_ece, rows, groups, seed)
    if ece is None:
        return None
    given = [told[item] for item in rows]
    labels = sorted({label for one in given for label in one.probabilities})
    return Calibration(
        ece, _bins(np.sum(list(rows.values()), axis=0)), {label: _ece_of_label(label, given) for label in labels}
    )


def calibration_figures(
    measure: str, told: Mapping[str, Mapping[str, Told]], items: Sequence[Item], reference: str | None, seed: int
) -> list[Figure]:
    """The calibration error of every system (system → item → told) as figures, as `figures` makes them."""
    rows = {name: _confidences(table) for name, table in told.items()}
    return list(_by_task(measure, _ece, rows, items, reference, seed))


def calibration_winners(told: Mapping[str, Mapping[str, Told]], groups: Mapping[str, str], seed: int) -> list[str]:
    """As `winners`, by the calibration error."""
    return _winners(_ece, {name: _confidences(table) for name, table in told.items()}, groups, seed, "lower")


def _confidences(told: Mapping[str, Told]) -> dict[str, Array]:
    return {item: _binned(one.confidence, one.best == one.truth) for item, one in told.items() if one.best}


def confusion(told: Iterable[Told]) -> dict[str, dict[str, int]]:
    """Truth → what was told, "unknown" included → how often; both in the order of the alphabet."""
    counts: dict[str, Counter[str]] = {}
    for one in told:
        counts.setdefault(one.truth, Counter())[one.told or UNKNOWN] += 1
    return {truth: dict(sorted(row.items())) for truth, row in sorted(counts.items())}


def _binned(confidence: float, right: bool) -> Array:
    """(3 · BINS,): count, confidence and rightness, each in its bin."""
    row = np.zeros((3, BINS))
    at = min(BINS - 1, max(0, int(np.ceil(round(confidence * BINS, 9))) - 1))
    row[:, at] = 1.0, confidence, right
    return row.reshape(-1)


def _ece(sums: Array) -> Array:
    """Σ over bins of |Σ rightness − Σ confidence| / answers; sums (…, 3 · BINS) → (…)."""
    count, confidence, right = np.split(sums, 3, axis=-1)
    total = count.sum(axis=-1)
    return np.where(total > 0, np.abs(right - confidence).sum(axis=-1) / np.where(total > 0, total, 1.0), np.nan)


def _ece_of_label(label: str, told: Iterable[Told]) -> float:
    rows = [_binned(one.probabilities.get(label, 0.0), one.truth == label) for one in told]
    return float(_ece(np.sum(rows, axis=0)))


def _bins(sums: Array) -> tuple[Bin, ...]:
    count, confidence, right = sums.reshape(3, BINS)
    some = np.where(count > 0, count, 1.0)
    return tuple(
        Bin(at / BINS, (at + 1) / BINS, int(count[at]), float(confidence[at] / some[at]), float(right[at] / some[at]))
        for at in range(BINS)
    )
