"""Several replies weighed: the best answers, the worst is remembered, and the choice is the same each time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes import INFO, heard, sad

from cascade.cancel import CancelScope
from cascade.engines import Prompt
from cascade.errors import Cancelled, EngineFailed
from cascade.reasoning import counsellor, critic
from cascade.turn import Reply, Thought
from distill.teaching.best_of import BestOf

PROMPT = Prompt(heard("i lost my job yesterday"), sad(), seed=5)
POOR, FAIR = "Okay.", "That is hard. You lost your job yesterday. What hurts most about it?"


class Says:
    info = INFO
    language_model = "the model"

    def __init__(self, *texts: str) -> None:
        self.texts, self.seeds = list(texts), list[int]()

    def respond(self, prompt: Prompt, *, cancel: CancelScope) -> Iterator[Thought | str | Reply]:
        cancel.check()
        self.seeds.append(prompt.seed)
        text = self.texts[(len(self.seeds) - 1) % len(self.texts)]
        if text == "fail":
            raise EngineFailed("no answer of the right form")
        yield Thought(heard="i lost my job", strategy="reflect", reply_emotion="comforting", reasoning="So.")
        yield text
        yield Reply(text=text, emotion="comforting")


def answered(engine: BestOf) -> str:
    *_, reply = engine.respond(PROMPT, cancel=CancelScope())
    assert isinstance(reply, Reply)
    return reply.text


@pytest.mark.parametrize("order", [(POOR, FAIR), (FAIR, POOR)])
def test_the_best_answers_and_the_worst_is_kept(order: tuple[str, str]) -> None:
    says = Says(*order)
    engine = BestOf(says, 2)
    assert answered(engine) == FAIR
    assert engine.worst is not None
    assert (engine.worst.text, engine.worst.strategy, engine.worst.emotion) == (POOR, "reflect", "comforting")
    assert engine.worst.empathy == critic.empathy(PROMPT, Reply(text=POOR, emotion="comforting"))
    assert len(set(says.seeds)) == 2, "each is written with a seed of its own"
    assert says.seeds[0] == PROMPT.seed


def test_the_same_reply_twice_is_no_preference() -> None:
    engine = BestOf(Says(FAIR), 3)
    assert answered(engine) == FAIR
    assert engine.worst is None
    engine = BestOf(Says(POOR, FAIR, FAIR, FAIR), 2)
    answered(engine)
    assert engine.worst is not None
    answered(engine)
    assert engine.worst is None, "of the last turn, not of the one before"


def test_it_is_the_reasoner_within_to_everybody_else() -> None:
    engine = BestOf(Says(FAIR), 2)
    assert engine.info is INFO
    assert engine.language_model == "the model"
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        list(engine.respond(PROMPT, cancel=scope))
    with pytest.raises(EngineFailed, match="right form"):
        answered(BestOf(Says(FAIR, "fail"), 2))


def test_with_the_counsellor_more_replies_are_never_worse() -> None:
    def score(count: int, seed: int) -> float:
        prompt = Prompt(heard("my dog is ill and i can not sleep"), sad(), seed=seed)
        *_, reply = BestOf(counsellor.load(counsellor.Options()), count).respond(prompt, cancel=CancelScope())
        assert isinstance(reply, Reply)
        return critic.empathy(prompt, reply)

    pairs = [(score(1, seed), score(4, seed)) for seed in range(8)]
    assert all(more >= one for one, more in pairs)
    assert any(more > one for one, more in pairs)
