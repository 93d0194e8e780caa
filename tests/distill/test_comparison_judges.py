"""A language model as judge of replies: over HTTP, of the true words and labels, and never a reason to stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from checkpoints import server
from checkpoints.server import serving
from fakes import INFO, tone

from cascade.cancel import CancelScope
from cascade.engines import Message
from cascade.errors import Cancelled, EngineUnavailable
from cascade.reasoning import openai
from cascade.turn import AudioRef, Cues, EmotionCue, Reply, Thought, Token, Transcript, Turn
from distill.comparison.judges import CRISIS, NO_TASK, ReplyJudge, judge_at, posed
from distill.comparison.listening import Tools, unmeasured
from distill.comparison.measures import values_of
from distill.comparison.records import Item
from distill.teaching.make import known_cues
from distill.teaching.records import Labels

SOUND = AudioRef(path="x.wav", sha256="0" * 64, sample_rate=16_000, duration_s=1)
GOOD = json.dumps({"score": 4, "reason": "It meets the sadness."})


class ScriptedJudge:
    """Answers from a list, one a question; remembers what it was asked."""

    info = INFO

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def stream(self, messages: Sequence[Message], *, cancel: CancelScope, **_: Any) -> Iterator[Token]:
        cancel.check()
        self.asked.append("\n".join(message.content for message in messages))
        yield Token(text=self.answers.pop(0))


def item(text: str | None = "My dog died yesterday.", task: Any = "emotion", **labels: Any) -> Item:
    known = Labels(**(labels or {"emotion": "sad"}))
    return Item(id=f"{task}-0001", task=task, text=text, labels=known, group="g", audio=SOUND)


def turn(reply: str = "That is a hard loss.") -> Turn:
    """A system that misheard both the words and the voice."""
    return Turn(
        id="t",
        session_id="s",
        index=0,
        created_at=datetime.now(UTC),
        source="speech",
        user_audio=SOUND,
        transcript=Transcript(text="my dock dyed", engine="deaf"),
        cues=Cues(emotion=EmotionCue(probabilities={"happy": 1.0}, engine="deaf")),
        reply=Reply(text=reply, emotion="comforting"),
        reply_audio=SOUND,
    )


def truth(one: Item) -> Turn:
    words = Transcript(text=one.text or "", engine="truth")
    return turn().model_copy(update={"transcript": words, "cues": known_cues(one.labels, 1.0)})


def judged(judge: ScriptedJudge, one: Item, repeats: int = 1) -> tuple[Any, dict[str, str]]:
    return ReplyJudge(judge, repeats=repeats).judged(one, truth(one), CancelScope())


def test_over_http_both_scales_the_judge_named_and_asked_again_for_the_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER", GOOD)
    with serving() as url:
        judge = judge_at(openai.Options(base_url=url, model="wise-8b"), repeats=3)
        values, notes = judge.judged(item(), truth(item()), CancelScope())
    assert values == {"judge_emotion": (4.0, 1.0), "judge_task": (4.0, 1.0)}
    assert notes["judge_emotion"] == "4, 4, 4 by openai wise-8b: It meets the sadness."


def test_an_answer_that_is_no_judgement_and_a_server_that_is_gone_are_notes() -> None:
    with serving() as url:  # it answers as a reasoner would
        judge = judge_at(openai.Options(base_url=url, model="m"), repeats=1)
        values, notes = judge.judged(item(), truth(item()), CancelScope())
    assert values == {}
    assert "did not answer as asked" in notes["judge_emotion"]
    values, notes = judge.judged(item(), truth(item()), CancelScope())
    assert values == {}
    assert set(notes) == {"judge_emotion", "judge_task"}
    assert all("\n" not in note for note in notes.values())


def test_one_scale_may_fail_and_the_other_stand() -> None:
    values, notes = judged(ScriptedJudge("well", "hm", GOOD.replace("4", "70")), item())
    assert values == {"judge_task": (70.0, 1.0)}
    assert "did not answer" in notes["judge_emotion"]


def test_the_judge_reads_what_was_truly_said_and_how() -> None:
    judge = ScriptedJudge(GOOD, GOOD)
    found = values_of(item(), turn(), tone(), Tools(judge=ReplyJudge(judge, repeats=1)))
    assert found.values["judge_emotion"] == (4.0, 1.0)
    for asked in judge.asked:
        assert "My dog died yesterday." in asked
        assert "emotion: sad" in asked
        assert "That is a hard loss." in asked
        assert "my dock dyed" not in asked
        assert "happy" not in asked


def test_words_of_crisis_are_shown_to_no_judge_whatever_was_heard() -> None:
    judge = ScriptedJudge()
    values, notes = judged(judge, item("I want to kill myself."))
    careful = Thought(heard="x", strategy="care", reply_emotion="comforting", reasoning="x")
    told = truth(item()).model_copy(update={"thought": careful})
    others = ReplyJudge(judge).judged(item(), told, CancelScope())
    assert (values, judge.asked) == ({}, [])
    assert notes == {"judge_emotion": CRISIS, "judge_task": CRISIS}
    assert others == ({}, notes)


def test_the_task_is_the_items_own() -> None:
    assert posed(item(task="age", age="child"), truth(item(task="age", age="child"))) == "age"
    everything = item(task="contrast", emotion="sad", age="child", gender="female")
    assert posed(everything, truth(everything)) == "emotion"
    calm = item(task="instruction", emotion="neutral")
    assert judged(ScriptedJudge(GOOD), calm)[1]["judge_task"] == NO_TASK


def test_what_was_said_in_a_recording_without_words_cannot_be_judged() -> None:
    judge = ScriptedJudge()
    found = values_of(item(None, "own"), turn(), tone(), Tools(judge=ReplyJudge(judge)))
    assert "judge_emotion" not in found.values
    assert "not known" in found.notes["judge_emotion"]
    assert judge.asked == []


def test_a_stopped_run_stops_and_a_judge_without_a_model_is_refused() -> None:
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        ReplyJudge(ScriptedJudge(GOOD)).judged(item(), truth(item()), scope)
    with pytest.raises(EngineUnavailable, match="model"):
        judge_at(openai.Options(), repeats=1)


def test_without_a_judge_the_report_says_what_would_give_one() -> None:
    assert "--judge-url" in unmeasured(None)["judge_emotion"]
    assert "judge_emotion" not in unmeasured(openai.Options(model="m"))
