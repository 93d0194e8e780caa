"""What flows through a comparison: items that every system answers, measures of the answers, and figures with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import Field

from cascade.turn import AudioRef, Record
from distill.teaching.records import Labels

# EChat-eval's five tasks (OSUM-EChat, arXiv 2508.09600), the same words in two tones, requests that can be checked, one's own.
EvalTask = Literal["emotion", "age", "gender", "event", "several", "contrast", "instruction", "own"]
EVAL_TASKS: tuple[EvalTask, ...] = get_args(EvalTask)
Better = Literal["higher", "lower", "neither"]


class Check(Record):
    """What a reply must be to follow an instruction: verifiable by rule (as IFEval, arXiv 2311.07911)."""

    kind: Literal["question", "no_question", "at_most_words", "one_sentence", "begins_with", "contains", "repeats"]
    value: str = ""  # words; for at_most_words a number


class Item(Record):
    """One input, the same bytes for every system. `contrast`: items that share it differ in tone alone.

    `group`: items that are not independent (one contrast set, one wording) and are resampled together.
    """

    id: str = Field(pattern=r"^[a-z]+-\d{4,}$")
    task: EvalTask
    text: str | None  # None: a recording whose words are not known
    labels: Labels
    contrast: str | None = None
    group: str
    speaker: str | None = None
    audio: AudioRef  # its path is relative to the set's folder
    check: Check | None = None


class Measure(Record):
    """What is measured. `unmeasured`: why nobody could measure it here; `timing`: differs from run to run."""

    name: str
    title: str
    about: str
    source: str
    better: Better
    unit: Literal["share", "score", "s", "ratio", "MB", "count", "J"]
    timing: bool = False
    unmeasured: str = ""


# Of one answer, by measure: numerator and denominator, so that rates are summed over items before they are divided
# (word errors over words); a plain mean has the denominator 1.
Values = Mapping[str, tuple[float, float]]


class Difference(Record):
    """To the reference, over the items that both have. significant: the interval does not hold 0."""

    to: str
    value: float
    low: float
    high: float
    significant: bool


class Figure(Record):
    """One number of the report. `task` "all": over all tasks. low, high: a 95 % bootstrap interval; None below 3 groups."""

    measure: str
    task: str
    system: str
    value: float
    low: float | None
    high: float | None
    items: int
    difference: Difference | None = None
