"""A language model's opinion of replies: the Emotion score 1–5 of Emotion Omni and the 0–100 of EChat-eval's tasks
(arXiv 2508.18655, 2508.09600), asked for by `cascade.judging.opinions`.

The judge reads what was truly said and how, and the reply; what the system heard is not its matter. It hears no sound.
"""

from __future__ import annotations

from typing import cast, get_args

from cascade.cancel import CancelScope
from cascade.engines import LanguageModel
from cascade.errors import EngineError
from cascade.judging.opinions import EMOTION, TASK, Scale, Task, opinion, task_of
from cascade.judging.panel import in_crisis
from cascade.reasoning import openai
from cascade.turn import Turn
from distill.comparison.records import Item, Values

MEASURE: dict[str, str] = {EMOTION.name: "judge_emotion", TASK.name: "judge_task"}
CRISIS = "words of crisis are shown to no language model"
NO_TASK = "the voice told nothing that a reply could take into account"


class ReplyJudge:
    """`repeats`: how often each question is asked anew."""

    def __init__(self, model: LanguageModel, *, repeats: int = 3, temperature: float = 0.7) -> None:
        self._model, self._repeats, self._temperature = model, repeats, temperature

    def judged(self, item: Item, truth: Turn, cancel: CancelScope) -> tuple[Values, dict[str, str]]:
        """`truth`: the turn, with what was truly said and how. What could not be asked or read is a note, never an error.

        Raises Cancelled.
        """
        if in_crisis(truth):
            return {}, dict.fromkeys(MEASURE.values(), CRISIS)
        values, notes = {}, {}
        task = posed(item, truth)
        for scale in (EMOTION, TASK):
            name = MEASURE[scale.name]
            if scale is TASK and task is None:
                notes[name] = NO_TASK
                continue
            try:
                values[name], notes[name] = self._asked(truth, scale, task, cancel)
            except EngineError as error:
                notes[name] = str(error)
        return values, notes

    def _asked(
        self, truth: Turn, scale: Scale, task: Task | None, cancel: CancelScope
    ) -> tuple[tuple[float, float], str]:
        given = opinion(
            self._model,
            truth,
            scale,
            task=task,
            repeats=self._repeats,
            temperature=self._temperature,
            cancel=cancel,
        )
        scores = ", ".join(f"{score:g}" for score in given.scores)
        return (given.score, 1.0), f"{scores} by {given.judge}: {given.reason}"


def posed(item: Item, truth: Turn) -> Task | None:
    """The item's own task where it is one of EChat-eval's. Items that differ in tone alone pose that of the emotion."""
    if item.task in get_args(Task):
        return cast(Task, item.task)
    return "emotion" if item.task == "contrast" else task_of(truth.cues)


def judge_at(endpoint: openai.Options, *, repeats: int) -> ReplyJudge:
    """A judge behind an OpenAI-compatible endpoint. Raises EngineUnavailable: no model named, the package is not here."""
    return ReplyJudge(openai.language_model(endpoint), repeats=repeats)
