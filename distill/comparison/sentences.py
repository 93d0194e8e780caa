"""What was kept, lost and saved, in plain sentences made of the report's own figures."""

from __future__ import annotations

from collections.abc import Sequence

from distill.comparison.records import Difference, Figure, Measure
from distill.comparison.report import ALL, Report, is_cost, shown, verdict

ECE = "_ece"
AT_LEAST = 0.05  # a cost that differs by less is not worth a word

# Plain words, or a number with the hash that leads to the items behind it.
Part = str | tuple[str, dict[str, str]]
Sentence = list[Part]


def figure_hash(figure: Figure, *, paired: bool = False) -> dict[str, str]:
    """What the page's address holds to show the items behind a figure; `paired`: behind its difference to another system.

    A calibration error has no value of each item: behind it are the items whose cue was told with a confidence.
    """
    task = {} if figure.task == ALL else {"task": figure.task}
    if figure.measure.endswith(ECE):
        return {"cue": figure.measure.removesuffix(ECE), "system": figure.system, "sure": "0-1", **task}
    other = {"vs": figure.difference.to} if paired and figure.difference else {}
    return {"measure": figure.measure, "system": figure.system, **task, **other}


def sentences(report: Report) -> list[Sentence]:
    """For each system but the reference, what it kept, lost and saved."""
    told = (_sentence(report, system) for system in report.systems if system != report.reference)
    return [sentence for sentence in told if sentence]


def _sentence(report: Report, system: str) -> Sentence:
    judged = [measure for measure in report.main() if not is_cost(measure) and measure.better != "neither"]
    by: dict[str, list[Measure]] = {"same": [], "better": [], "worse": []}
    for measure in judged:
        figure = report.figure(measure.name, system)
        if figure and figure.difference and figure.difference.to == report.reference and not _alike(figure.difference):
            by[verdict(figure, measure)].append(measure)
    clauses = [
        _kept(by["same"]),
        _clause(report, system, "Better", by["better"]),
        _clause(report, system, "Lost", by["worse"]),
        _costs(report, system, saved=True),
        _costs(report, system, saved=False),
    ]
    joined = _joined([clause for clause in clauses if clause], ". ", ". ")
    return [f"{system} against {report.reference}. ", *joined, "."] if joined else []


def _alike(difference: Difference) -> bool:
    """Exactly the same on every item, such as what neither does at all: nothing to tell of."""
    return difference.value == difference.low == difference.high == 0


def _clause(report: Report, system: str, verb: str, measures: Sequence[Measure]) -> Sentence:
    told = [_against(report, measure, system) for measure in measures]
    return [f"{verb}: ", *_joined(told)] if told else []


def _against(report: Report, measure: Measure, system: str) -> Sentence:
    own, other = report.figure(measure.name, system), report.figure(measure.name, report.reference)
    name = _low(measure.title)
    if own is None:
        return []
    told: Sentence = [f"{name} (", (shown(own.value, measure.unit), figure_hash(own, paired=True))]
    if other is not None:
        told += [" instead of ", (shown(other.value, measure.unit), figure_hash(other))]
    return [*told, ")"]


def _kept(measures: Sequence[Measure]) -> Sentence:
    return [f"No significant difference: {_listed([_low(m.title) for m in measures])}"] if measures else []


def _costs(report: Report, system: str, *, saved: bool) -> Sentence:
    """What an answer takes less of, or more of, than with the reference: significantly, or by one number of the whole system."""
    told = []
    for measure in filter(is_cost, report.main()):
        own, other = report.figure(measure.name, system), report.figure(measure.name, report.reference)
        if own is None or other is None or not other.value or abs(own.value / other.value - 1) < AT_LEAST:
            continue
        if own.items and not (own.difference and own.difference.significant):
            continue
        if (own.value < other.value) == saved:
            told.append(_against(report, measure, system))
    return ["Saved: " if saved else "Costs more: ", *_joined(told)] if told else []


def _low(title: str) -> str:
    """A title within a sentence: abbreviations stay."""
    return title if title[:2].isupper() or not title[:1].isupper() else title[0].lower() + title[1:]


def _listed(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def _joined(parts: Sequence[Sentence], between: str = ", ", last: str = " and ") -> Sentence:
    told: Sentence = []
    for at, part in enumerate(parts):
        told += [] if at == 0 else [last if at == len(parts) - 1 else between]
        told += part
    return told
