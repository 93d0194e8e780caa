"""The gates: each rejects what it is there for, says why, and lets through what is good or was not measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import thinking, tone

from cascade.audio import Waveform
from cascade.turn import Cues, EmotionCue, Failure, Scores, Transcript
from distill.teaching.gates import GATES, silence_share, user_agreement, user_word_error, verdict
from distill.teaching.records import Labels, Sample, Scenario
from distill.teaching.settings import Gates

SAD = Cues(emotion=EmotionCue(probabilities={"sad": 0.6, "neutral": 0.4}, engine="f"))


def sample(**parts: Any) -> Sample:
    scenario = Scenario(
        index=0, split="train", domain="d", template="t", text="My dog is ill.", labels=Labels(emotion="sad"), voice="v"
    )
    good = Sample(
        scenario,
        user_speech=tone(2.0),
        transcript=Transcript(text="my dog is ill", engine="faster_whisper"),
        cues=SAD,
        reply_speech=tone(3.0),
        scores=Scores(reply_wer=0.1, emotion_agreement=0.6, empathy=0.9, engine="listener"),
        user_wer=0.0,
        user_emotion_agreement=0.6,
    )
    return replace(good, **parts)


def scores(**parts: Any) -> Scores:
    return Scores(**{"reply_wer": 0.1, "emotion_agreement": 0.6, "empathy": 0.9, "engine": "listener"} | parts)


def test_a_good_row_passes() -> None:
    assert verdict(sample(), Gates()) == ()


def silent_after(wave: Waveform, seconds: float) -> Waveform:
    return Waveform(
        np.concatenate([wave.samples, np.zeros(round(seconds * wave.sample_rate), np.float32)]), wave.sample_rate
    )


CLARIFY = thinking(strategy="clarify")
LOUD = Waveform(np.clip(tone(2.0).samples * 100, -1, 1), 16_000)
HAPPY = Cues(emotion=EmotionCue(probabilities={"happy": 0.7, "sad": 0.3}, engine="f"))


@pytest.mark.parametrize(
    ("gate", "parts"),
    [
        ("user_length", {"user_speech": tone(40.0)}),
        ("user_length", {"user_speech": tone(0.2)}),
        ("user_silence", {"user_speech": silent_after(tone(1.0), 9)}),
        ("user_clipping", {"user_speech": LOUD}),
        ("user_wer", {"user_wer": 0.5}),
        ("user_emotion", {"cues": HAPPY, "user_emotion_agreement": 0.3}),
        ("reply_length", {"reply_speech": tone(31.0)}),
        ("reply_silence", {"reply_speech": silent_after(tone(1.0), 9)}),
        ("reply_clipping", {"reply_speech": LOUD}),
        ("clarify", {"thought": CLARIFY}),
        ("reply_wer", {"scores": scores(complaints=("hard to understand: word error rate 0.70 when listened to",))}),
        ("reply_emotion", {"scores": scores(emotion_agreement=0.05)}),
        ("empathy", {"scores": scores(empathy=0.2, complaints=("little empathy: 0.20 by the rubric",))}),
        ("unsafe", {"scores": scores(complaints=("unsafe: belittles, or encourages harm",))}),
        ("critic", {"scores": scores(complaints=("too long: 5 sentences and 80 words; at most 3 and 60",))}),
    ],
)
def test_each_gate_rejects_alone_and_says_why(gate: str, parts: dict[str, Any]) -> None:
    (reason,) = verdict(sample(**parts), Gates())
    assert reason.startswith(f"{gate}: ")
    assert len(reason) > len(gate) + 5
    assert "\n" not in reason


def test_every_gate_of_the_list_is_tried_above_and_the_others_below() -> None:
    marks = test_each_gate_rejects_alone_and_says_why.pytestmark[0].args[1]
    assert {gate for gate, _ in marks} | {"failed"} == set(GATES)


def test_a_failed_stage_is_the_only_reason() -> None:
    failure = Failure(stage="tts", kind="timeout", message="no answer within 20 s")
    assert verdict(sample(user_wer=0.9), Gates(), (failure,)) == ("failed: tts timeout: no answer within 20 s",)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Are you a person?", True),
        ("Hello. What is the capital of France", True),
        ("Okay, play some music!", True),
        ("Say that again, please.", True),
        ("Guess who was standing by the market last week.", False),
        ("I know the man who wrote the book.", False),
        ("Orderly people frighten me.", False),
        (None, False),
    ],
)
def test_to_ask_again_or_to_decline_is_right_only_where_something_was_asked_for(text: str | None, kept: bool) -> None:
    row = sample(thought=CLARIFY)
    row = replace(row, scenario=row.scenario.model_copy(update={"text": text}))
    assert (verdict(row, Gates()) == ()) == kept
    assert verdict(row, Gates(clarify_requests_only=False)) == ()


def test_what_nobody_can_follow_is_asked_again_whatever_it_was() -> None:
    row = sample(thought=CLARIFY, scores=Scores(empathy=0.25, engine="x"))
    row = replace(row, scenario=row.scenario.model_copy(update={"followed": False}))
    assert verdict(row, Gates()) == (), "and a request to say it again owes no empathy"
    taken_up = replace(row, thought=None)
    assert [reason.partition(":")[0] for reason in verdict(taken_up, Gates())] == ["clarify"]


def test_what_was_not_measured_rejects_nothing() -> None:
    unmeasured = sample(
        transcript=None, user_wer=None, user_emotion_agreement=None, cues=Cues(), scores=Scores(engine="listener")
    )
    assert verdict(unmeasured, Gates()) == ()


def test_the_limit_of_word_errors_is_the_recognizers_usual_or_the_users_own() -> None:
    weak = sample(transcript=Transcript(text="my dog", engine="pocketsphinx"), user_wer=0.5)
    assert verdict(weak, Gates()) == ()
    assert verdict(weak, Gates(max_user_wer=0.4)) == ("user_wer: 0.50, at most 0.4",)


def test_measures_of_the_user() -> None:
    assert user_word_error("My dog.", Transcript(text="my cat", engine="f")) == 0.5
    assert user_word_error(None, Transcript(text="my cat", engine="f")) is None
    assert user_word_error("My dog.", None) is None
    assert user_agreement("sad", SAD) == 0.6
    assert user_agreement("angry", SAD) == 0.0
    assert user_agreement(None, SAD) is None
    assert user_agreement("sad", Cues()) is None


def test_share_of_silence() -> None:
    assert silence_share(tone(1.0)) == 0
    assert silence_share(silent_after(tone(1.0), 3.0)) == pytest.approx(0.75, abs=0.02)
    assert silence_share(Waveform(np.zeros(16_000, np.float32), 16_000)) == 1
