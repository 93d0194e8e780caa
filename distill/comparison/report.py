"""comparison.json as those read it who show it: the page, the Markdown, the votes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from cascade.errors import InputError, one_line
from distill.comparison.records import Figure, Measure

FILE = "comparison.json"
SCHEMA = 1
ALL = "all"  # over all tasks
IN_WORDS = {"higher": "higher is better", "lower": "lower is better", "neither": "neither end is better"}
NEEDED = ("items", "systems", "measures", "figures", "winners", "confusions", "calibration", "timings", "rows")
# What a reader who has no time looks at: the table of a README, the sentences on top of the page.
MAIN = (
    "transcript_wer", "emotion_accuracy", "age_accuracy", "gender_accuracy", "event_recall", "situation_fit", "contrast_fit",
    "empathy", "judge_emotion", "judge_task", "instruction_followed", "reply_wer", "reply_emotion_agreement", "speech_quality",
    "naturalness", "first_sound_s", "real_time_factor", "peak_memory_mb", "parameters",
)  # fmt: skip


def read(run: Path) -> dict[str, Any]:
    """RUN/comparison.json. Raises InputError: not there, broken, or of another schema."""
    path = run / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a run of attune compare"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: broken JSON ({one_line(error)}); run attune compare again") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        version = found.get("schema") if isinstance(found, dict) else None
        raise InputError(f"{path}: schema {version!r}; this Attune reads schema {SCHEMA}; run attune compare again")
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} is missing; run attune compare again")
    return found


def fingerprint(comparison: Mapping[str, Any]) -> str:
    """sha256 over what a listener judges: the items, the systems, and what each of them heard, said and was heard to say.

    Measuring again, more votes and another judge leave it as it is.
    """
    told = {
        "items": comparison["items"]["sha256"],
        "systems": [{key: system.get(key) for key in ("name", "settings", "engines")} for system in comparison["systems"]],
        "rows": [
            [row["item"]["id"]]
            + [
                [name, *(answer.get(key) for key in ("heard", "reply", "audio", "listen_back"))]
                for name, answer in sorted(row["answers"].items())
            ]
            for row in comparison["rows"]
        ],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Found:
    """A figure, and the key under which comparison.json holds it."""

    figure: Figure
    key: str


class Report:
    """comparison.json with its figures found by measure, task and system. Raises InputError: not of the schema."""

    def __init__(self, comparison: Mapping[str, Any]) -> None:
        self.data = comparison
        self.systems: tuple[str, ...] = tuple(system["name"] for system in comparison["systems"])
        self.reference: str = comparison.get("reference") or next(iter(self.systems), "")
        try:
            self.measures = {(one := Measure.model_validate(given)).name: one for given in comparison["measures"]}
            self._figures = dict(self._found())
        except ValidationError as error:
            raise InputError(f"{FILE}: {one_line(error)}; run attune compare again") from error
        order = dict.fromkeys(row["item"]["task"] for row in comparison["rows"])
        self.tasks: tuple[str, ...] = tuple(comparison["items"].get("tasks") or order)

    def _found(self) -> Iterable[tuple[tuple[str, str, str], Found]]:
        for key, given in (
            ("figures", self.data["figures"]),
            ("timings.figures", self.data["timings"].get("figures", [])),
        ):
            for at, one in enumerate(given):
                figure = Figure.model_validate(one)
                yield (figure.measure, figure.task, figure.system), Found(figure, f"{key}[{at}]")

    def found(self, measure: str, system: str, task: str = ALL) -> Found | None:
        return self._figures.get((measure, task, system))

    def figure(self, measure: str, system: str, task: str = ALL) -> Figure | None:
        found = self.found(measure, system, task)
        return found.figure if found else None

    def measured(self, task: str = ALL) -> list[Measure]:
        """Measures of which some system has a figure, in their order."""
        return [m for m in self.measures.values() if any(self.figure(m.name, s, task) for s in self.systems)]

    def main(self) -> list[Measure]:
        return [measure for measure in self.measured() if measure.name in MAIN]

    def unmeasured(self) -> list[Measure]:
        return [m for m in self.measures.values() if not any(self.figure(m.name, s) for s in self.systems)]

    def best(self, measure: Measure) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The best system (several, if they are equal), and those not significantly worse; none where nothing is better."""
        winners = self.data["winners"].get(measure.name, ()) if measure.better != "neither" else ()
        values = {name: figure.value for name in winners if (figure := self.figure(measure.name, name))}
        if not values:
            return (), ()
        top = (max if measure.better == "higher" else min)(values.values())
        return tuple(n for n in values if values[n] == top), tuple(n for n in values if values[n] != top)


def is_cost(measure: Measure) -> bool:
    """Whether it is what a system takes, rather than how good it is."""
    return measure.timing or measure.name == "parameters"


def verdict(figure: Figure, measure: Measure) -> Literal["better", "worse", "same"]:
    """Against the reference, on the items that both have; "same": no significant difference, or none that is better."""
    if figure.difference is None or not figure.difference.significant or measure.better == "neither":
        return "same"
    return "better" if (figure.difference.value > 0) == (measure.better == "higher") else "worse"


# --- as people read it


def shown(value: float, unit: str) -> str:
    """A value in the unit that people read; page.js says it the same way."""
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "s":
        return f"{value:.2f} s"
    if unit == "MB":
        return f"{value:,.0f} MB"
    if unit == "J":
        return f"{value:.3g} J"
    return _count(value) if unit == "count" else f"{value:.2f}"


def _count(value: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.1f}{letter}"
    return f"{value:.1f}".removesuffix(".0")


def lasted(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def interval(figure: Figure, unit: str) -> str:
    """The ends of a figure's interval, without the unit; empty where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    scale, places = (100, 1) if unit == "share" else (1, 0 if unit == "MB" else 2)
    if unit == "count":
        return f"{_count(figure.low)}–{_count(figure.high)}"
    return f"{scale * figure.low:,.{places}f}–{scale * figure.high:,.{places}f}"
