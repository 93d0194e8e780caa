"""A language model's judgement: asked for strictly, repeated for its spread, left out when it cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from fakes import INFO, tone

from cascade.audio import AudioRef, Waveform
from cascade.cancel import CancelScope
from cascade.engines import Ears, Message
from cascade.errors import Cancelled, ConfigError, EngineFailed
from cascade.judging.opinions import EMOTION, TASK, opinion, parsed, task_of
from cascade.turn import AgeCue, Cues, EmotionCue, EventsCue, GenderCue, Reply, Token, Transcript, Turn, VocalEvent

GOOD = '{"score": 4, "reason": "It meets the sadness."}'


class ScriptedJudge:
    """Answers from a list, one a question; remembers what it was asked."""

    info = INFO

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Sequence[Message], int]] = []

    def stream(self, messages: Sequence[Message], *, seed: int, cancel: CancelScope, **_: Any) -> Iterator[Token]:
        self.asked.append((messages, seed))
        for piece in self.answers.pop(0).split(" "):
            cancel.check()
            yield Token(text=piece + " ")


def cues(emotion: str | None = "sad", **parts: Any) -> Cues:
    known = EmotionCue(probabilities={emotion: 0.8, "other": 0.2}, engine="f") if emotion else EmotionCue(engine="f")
    return Cues(emotion=known, **parts)


def turn(heard: Cues | None = None) -> Turn:
    return Turn(
        id="t",
        session_id="s",
        index=0,
        created_at=datetime.now(UTC),
        source="text",
        transcript=Transcript(text="My dog died yesterday.", engine="f"),
        cues=cues() if heard is None else heard,
        reply=Reply(text="That is a hard loss.", emotion="comforting"),
        seed=5,
    )


def ask(judge: ScriptedJudge, repeats: int = 3, scale: Any = EMOTION, cancel: CancelScope | None = None) -> Any:
    scope = cancel or CancelScope()
    return opinion(judge, turn(), scale, task="emotion", repeats=repeats, temperature=0.7, cancel=scope)


def test_every_repeat_is_asked_anew_and_the_mean_is_kept_with_each_score() -> None:
    judge = ScriptedJudge(GOOD, GOOD.replace("4", "2"), GOOD.replace("4", "3.5"))
    given = ask(judge)
    assert given.scores == (4.0, 2.0, 3.5)
    assert given.score == pytest.approx(3.167)
    assert given.reason == "It meets the sadness."
    assert given.judge == "fake"
    assert len({seed for _, seed in judge.asked}) == 3


def test_the_judge_reads_words_labels_reply_and_its_voice() -> None:
    judge = ScriptedJudge(GOOD)
    ask(judge, repeats=1)
    system, user = judge.asked[0][0]
    assert "from 1 to 5" in system.content
    for part in ("My dog died yesterday.", "emotion: sad", "age: unknown", "That is a hard loss.", "comforting"):
        assert part in user.content


def test_the_task_scale_names_its_task() -> None:
    judge = ScriptedJudge(GOOD)
    given = ask(judge, repeats=1, scale=TASK)
    assert given.task == "emotion"
    assert "the person's emotion" in judge.asked[0][0][0].content
    assert "from 0 to 100" in judge.asked[0][0][0].content


@pytest.mark.parametrize(
    "text",
    [
        "Four, I would say.",
        "```json\n" + GOOD + "\n```",
        '{"score": 6, "reason": "high"}',
        '{"score": true, "reason": "x"}',
        '{"score": "4", "reason": "x"}',
        '{"score": 4}',
        '{"score": 4, "reason": " "}',
        '{"score": 4, "reason": "x", "more": 1}',
        '{"score": NaN, "reason": "x"}',
        "[4]",
        "",
    ],
)
def test_what_is_not_exactly_one_legal_object_is_not_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|keys|score|reason") as caught:
        parsed(text, EMOTION)
    assert "\n" not in str(caught.value)


def test_a_thought_before_the_object_is_no_part_of_it() -> None:
    assert parsed("<think>\nHm.\n</think>\n" + GOOD, EMOTION) == (4.0, "It meets the sadness.")


def test_an_answer_that_cannot_be_read_is_asked_for_once_more_then_it_fails() -> None:
    assert ask(ScriptedJudge("well", GOOD), repeats=1).score == 4
    with pytest.raises(EngineFailed, match="did not answer as asked"):
        ask(ScriptedJudge("well", "hm"), repeats=1)


def test_it_stops_when_cancelled() -> None:
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        ask(ScriptedJudge(GOOD), cancel=scope)


def test_the_task_is_what_the_voice_told() -> None:
    woman = GenderCue(probabilities={"female": 0.9, "male": 0.1}, engine="f")
    child = AgeCue(probabilities={"child": 0.9, "adult": 0.1}, engine="f")
    laugh = EventsCue(events=(VocalEvent(kind="laugh", start_s=0, end_s=1, confidence=0.9),), engine="f")
    assert task_of(cues()) == "emotion"
    assert task_of(cues("neutral")) is None
    assert task_of(cues(None)) is None
    assert task_of(cues(None, gender=woman)) == "gender"
    assert task_of(cues(None, age=child)) == "age"
    assert task_of(cues(None, events=laugh)) == "event"
    assert task_of(cues(events=laugh)) == "several"
    assert task_of(cues(events=EventsCue(events=(), engine="f"))) == "emotion"


class Hears:
    info = INFO

    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        return Transcript(text="that is a hard loss", engine="f")

    def analyze(self, speech: Waveform, **_: Any) -> Cues:
        return cues("neutral")


def judged(judge: Any, said: str = "My dog died yesterday.", **options: Any) -> Any:
    from cascade.judging import panel

    engine = panel.load(panel.Options(repeats=1, **options))
    spoken = turn().model_copy(
        update={
            "transcript": Transcript(text=said, engine="f"),
            "reply_audio": AudioRef(path="x.wav", sha256="0" * 64, sample_rate=16_000, duration_s=1),
        }
    )
    return engine.judge(spoken, tone(2.0), ears=Ears(Hears(), Hears(), judge), history=(), cancel=CancelScope())


def test_the_panel_adds_quality_and_opinions_to_what_the_listener_measured() -> None:
    scores = judged(ScriptedJudge(GOOD, GOOD.replace("4", "80")), opinions="reasoner")
    assert scores.engine == "panel"
    assert scores.reply_wer == 0
    assert scores.emotion_agreement is not None
    assert 1 <= scores.speech_quality <= 5
    assert [(o.scale, o.score) for o in scores.opinions] == [("emotion_1_5", 4), ("task_0_100", 80)]
    assert scores.unmeasured == ()
    assert any("poor sound" in c for c in scores.complaints), "a sine is no good speech"


def test_a_judge_that_babbles_leaves_its_scale_unmeasured_and_the_rest_stands() -> None:
    scores = judged(ScriptedJudge("a", "b", GOOD.replace("4", "80")), opinions="reasoner")
    assert [o.scale for o in scores.opinions] == ["task_0_100"]
    assert len(scores.unmeasured) == 1
    assert scores.unmeasured[0].startswith("emotion_1_5: the judge fake did not answer")
    assert scores.reply_wer == 0


def test_no_language_model_is_said_not_passed_over() -> None:
    assert "no language model" in judged(None, opinions="reasoner").unmeasured[0]
    assert judged(None).unmeasured == ()


def test_words_of_crisis_are_shown_to_no_judge() -> None:
    judge = ScriptedJudge(GOOD)
    scores = judged(judge, said="I want to kill myself.", opinions="reasoner")
    assert judge.asked == []
    assert scores.opinions == ()
    assert "crisis" in scores.unmeasured[0]
    assert scores.reply_wer is not None


def test_another_judge_takes_its_table() -> None:
    from cascade.engines import parse_options

    with pytest.raises(ConfigError, match=r"judging\.endpoint"):
        parse_options("judging", "panel", {"opinions": "endpoint"})
