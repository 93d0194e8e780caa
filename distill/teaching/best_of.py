"""A reasoner that weighs several replies: the best is answered with, the worst remembered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cascade.cancel import CancelScope
from cascade.engines import Prompt, Reasoner
from cascade.reasoning import critic
from cascade.turn import Reply, Thought
from distill.teaching.records import Worst

SEED_STEP = 15_485_863  # far from the graph's own steps


@dataclass(frozen=True)
class _Candidate:
    items: list[Thought | str | Reply]
    thought: Thought
    reply: Reply
    empathy: float

    def rank(self) -> tuple[float, int]:
        return self.empathy, -len(self.reply.text)


class BestOf:
    """A Reasoner for teaching. Not streamed: a reply is heard when all were written. One turn at a time."""

    def __init__(self, reasoner: Reasoner, count: int) -> None:
        self.info, self._reasoner, self._count = reasoner.info, reasoner, count
        self.worst: Worst | None = None  # of the last turn; None where all replies were the same
        self.language_model = getattr(reasoner, "language_model", None)

    def respond(self, prompt: Prompt, *, cancel: CancelScope) -> Iterator[Thought | str | Reply]:
        """As the reasoner within. The rubric ranks, complaints included; equals are ranked by brevity."""
        self.worst = None
        seeds = (prompt.seed + SEED_STEP * k for k in range(self._count))
        written = [self._written(replace(prompt, seed=seed), cancel) for seed in seeds]
        best, worst = max(written, key=_Candidate.rank), min(written, key=_Candidate.rank)
        if worst.reply.text != best.reply.text:
            reply = worst.reply
            self.worst = Worst(
                text=reply.text, emotion=reply.emotion, strategy=worst.thought.strategy, empathy=worst.empathy
            )
        yield from best.items

    def _written(self, prompt: Prompt, cancel: CancelScope) -> _Candidate:
        items = list(self._reasoner.respond(prompt, cancel=cancel))
        thought = next(item for item in items if isinstance(item, Thought))
        reply = next(item for item in items if isinstance(item, Reply))
        return _Candidate(items, thought, reply, critic.empathy(prompt, reply))
