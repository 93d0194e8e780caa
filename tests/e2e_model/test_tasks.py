"""Where answers end, what each task and think gives, and what cannot be answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from answers import RATE, SPEECH, answered, joined, limited, lively, only, scripted, text_of, watched
from students import SENTENCES, SMALL_DECODER, VECTOR, base, nano
from torch import Tensor

from e2e_model.answer import hear
from e2e_model.errors import ConfigProblem
from e2e_model.model import SpeechLM
from e2e_model.prompts import ALOUD, ANSWERING, HEARING, TASKS
from e2e_model.respond import End, Event, Said, Think
from e2e_model.think import CLOSE, given_pieces


@pytest.fixture(scope="module")
def small() -> SpeechLM:
    return lively(nano(thinker={"model": {**SMALL_DECODER, "tie_word_embeddings": False}}))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> SpeechLM:
    return lively(base(tmp_path_factory.mktemp("base")))


@pytest.fixture(params=["small", "grown"])
def lm(request: pytest.FixtureRequest) -> SpeechLM:
    made: SpeechLM = request.getfixturevalue(request.param)
    return made


# Ended.


def test_speech_that_does_not_end_is_cut(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(lm, monkeypatch, speech_s=1.0)
    monkeypatch.setattr(lm.talker, "logits", lambda hidden: only(lm, 5).expand(len(hidden), -1))
    events = answered(lm, think="none")
    end = events[-1]
    assert isinstance(end, End)
    assert end.reason == "length"
    assert len(joined(events)) == int(lm.codec.frame_rate) * lm.codec.samples_per_frame
    assert text_of(events) == end.text != ""


def test_reading_takes_no_speech_away(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is in seconds of sound, however often the talker asks for a word."""
    limited(small, monkeypatch, speech_s=1.0)
    calls = []

    def logits(hidden: Tensor) -> Tensor:
        calls.append(1)
        return only(small, small.talker.read if len(calls) % 2 else 5) + only(small, 6) * 0.1

    monkeypatch.setattr(small.talker, "logits", logits)
    events = list(small.speak(" ".join(SENTENCES), None))
    assert len(joined(events)) == 25 * small.codec.samples_per_frame
    assert events[-1] == End("length", " ".join(SENTENCES), {"talker": len(calls)})
    assert len(calls) > 40


@pytest.mark.parametrize(("ends", "reason"), [(True, "end"), (False, "length")])
def test_a_reply_of_the_longest_length_may_end_there(
    small: SpeechLM, ends: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = small.speller.ids(SENTENCES[0])
    limited(small, monkeypatch, reply_tokens=len(tokens))
    scripted(monkeypatch, small, SENTENCES[0], ends=ends)
    end = answered(small, task="speech→text", think="none")[-1]
    assert end == End(reason, SENTENCES[0], {"thinker": len(tokens) + 1, "talker": 0})  # type: ignore[arg-type]


def test_a_reply_without_words_is_not_spoken(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, small, "")
    events = answered(small, think="none")
    assert [type(event) for event in events] == [Think, End]
    assert events[-1] == End("end", "", {"thinker": 1, "talker": 0})
    assert list(small.speak("", "sad")) == [End("end", "", {"talker": 0})]


# Tasks and thinks.


@pytest.mark.parametrize("task", TASKS)
def test_tasks_that_speak_and_those_that_do_not(lm: SpeechLM, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(lm, monkeypatch, think_tokens=6, reply_tokens=12, speech_s=0.5)
    monkeypatch.setattr(lm.talker, "logits", lambda hidden: only(lm, 5))
    events = answered(lm, task=task)
    assert isinstance(events[0], Think)
    assert isinstance(events[-1], End)
    assert bool(len(joined(events))) == (task in ALOUD)
    assert (events[0].text != "") == (task in ANSWERING)
    assert (events[0].probabilities != {}) == (task in HEARING)
    assert text_of(events)


def test_tag_think_is_told_by_the_heads(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(small, monkeypatch)
    scripted(monkeypatch, small, "ask<reply>sad", CLOSE, "Yes?")
    think, *rest = answered(small, task="speech→text")
    assert isinstance(think, Think)
    assert think.heard is not None
    assert think.text.startswith(
        f"<heard> {think.heard}<age>{think.age}<gender>{think.gender}<emotion>{think.emotion}<event>"
    )
    assert think.text.endswith("<strategy>ask<reply>sad")
    assert (think.strategy, think.reply_emotion) == ("ask", "sad")
    assert set(think.probabilities) == {"emotion", "age", "gender", "events"}
    for name in ("emotion", "age", "gender"):
        shares = think.probabilities[name]
        assert sum(shares.values()) == pytest.approx(1.0)
        assert getattr(think, name) == max(shares, key=lambda label: shares[label])
        assert tuple(shares) == getattr(small.config.labels, name)
    assert think.events == tuple(name for name, share in think.probabilities["events"].items() if share > 0.5)
    assert text_of(rest) == "Yes?"


def test_cues_that_were_never_taught_are_not_told(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "config", small.config.with_(told=("emotion",)))
    think = answered(small, task="speech→text")[0]
    assert isinstance(think, Think)
    assert (think.age, think.gender, think.events) == (None, None, None)
    assert set(think.probabilities) == {"emotion"}
    assert think.emotion in small.config.labels.emotion
    assert "<age><gender><emotion>" in think.text


def test_tag_think_written_by_the_thinker(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = "<heard> no<age>elder<gender>male<emotion>angry<event>none<strategy>care<reply>sorry"
    limited(small, monkeypatch, think_tokens=99)
    scripted(monkeypatch, small, tag, CLOSE, "Oh.")
    think, *rest = answered(small, task="speech→text", cues="thinker")
    assert isinstance(think, Think)
    assert think.probabilities
    assert dataclasses.replace(think, probabilities={}, sure=None) == Think(
        tag, "no", "angry", "elder", "male", (), "care", "sorry"
    )
    assert text_of(rest) == "Oh."


def test_think_in_words_and_none(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(small, monkeypatch, think_tokens=99)
    scripted(monkeypatch, small, " They sound low. ", CLOSE, "Oh.")
    think, *rest = answered(small, task="speech→text", think="language")
    assert isinstance(think, Think)
    assert think.text == "They sound low."
    assert think.emotion in small.config.labels.emotion
    assert text_of(rest) == "Oh."
    scripted(monkeypatch, small, "Oh.")
    think, *rest = answered(small, task="speech→text", think="none")
    assert isinstance(think, Think)
    assert (think.text, think.strategy) == ("", None)
    assert text_of(rest) == "Oh."


def test_a_think_that_does_not_close_is_closed(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(small, monkeypatch, think_tokens=len(small.speller.ids("ask")) + 2)
    for ends in (True, False):  # by the turn's end, or by nothing
        scripted(monkeypatch, small, "ask", ends=ends)
        think = answered(small, task="speech→text")[0]
        assert isinstance(think, Think)
        assert think.text.endswith("<strategy>ask" if ends else "<strategy>ask and and")


def first_frame(monkeypatch: pytest.MonkeyPatch, lm: SpeechLM, answer_: Callable[[], list[Event]]) -> Tensor:
    """The logits of the first thing that the talker does."""
    with monkeypatch.context() as patch:
        choices = watched(patch, lm)
        answer_()
    return choices.talker[0][0][: lm.talker.codebook_size]


def test_the_told_emotion_reaches_the_voice(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(small, monkeypatch)
    heard = []
    for emotion in ("sad", "happy", "so so"):
        scripted(monkeypatch, small, f"ask<reply>{emotion}", CLOSE, "Yes, it is.")
        monkeypatch.setattr(
            small.vector, "forward", lambda states: torch.zeros(1, VECTOR)
        )  # which hears the think, too
        monkeypatch.setattr(small.talker.fusion.project, "forward", lambda hidden: torch.zeros(len(hidden), 32))
        heard.append(first_frame(monkeypatch, small, lambda: answered(small)))
    assert (heard[0] - heard[1]).abs().max() > 1e-5
    assert (heard[0] - heard[2]).abs().max() > 1e-5


def test_the_vector_moves_the_voice_unless_it_is_off(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(vector: bool) -> Tensor:
        return first_frame(monkeypatch, small, lambda: list(small.speak(SENTENCES[0], None, vector=vector)))

    on, off = first(True), first(False)
    assert (on - off).abs().max() > 1e-3
    monkeypatch.setattr(small.vector, "forward", lambda states: torch.ones(1, VECTOR))
    assert (first(True) - on).abs().max() > 1e-3
    assert torch.equal(first(False), off)


def test_a_student_that_never_saw_a_vector_speaks_without(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = nano(vector={"size": 0})
    on, off = (
        first_frame(monkeypatch, lm, lambda vector=vector: list(lm.speak(SENTENCES[0], None, vector=vector)))  # type: ignore[misc]
        for vector in (True, False)
    )
    assert torch.equal(on, off)


def test_typed_words_are_answered(lm: SpeechLM) -> None:
    think, *rest = answered(lm, task="text→speech")
    assert isinstance(think, Think)
    assert (think.heard, think.emotion, think.probabilities) == ("I lost my job.", None, {})
    assert think.text.startswith("<heard> i lost my job<age><gender><emotion><event><strategy>")
    assert len(joined(rest))


def test_earlier_turns_are_read(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    firsts = []
    for history in ((), (Said("My dog ran away.", "Oh no."),)):
        choices = watched(monkeypatch, lm)
        answered(lm, task="speech→text", history=history)
        firsts.append(choices.thinker[0][0])
        monkeypatch.undo()
    assert (firsts[0] - firsts[1]).abs().max() > 1e-3


def test_a_thinker_that_does_not_hear_gets_the_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = nano(thinker={"hears": False})
    rows: list[int] = []
    monkeypatch.setattr(lm.thinker.base_model, "forward", _watching(lm.thinker.base_model.forward, rows))
    answered(lm, task="speech→text")
    with torch.no_grad():
        think, audio = hear(lm, SPEECH)
    assert audio is None
    assert rows[0] == len(lm.prompter.row("speech→text", "tag", pieces=given_pieces(think, "tag", True)).ids)


def _watching(forward: Callable[..., Any], rows: list[int]) -> Callable[..., Any]:
    def watched_forward(*args: Any, **options: Any) -> Any:
        rows.append(options["inputs_embeds"].shape[1])
        return forward(*args, **options)

    return watched_forward


# What cannot be answered.


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"samples": SPEECH, "sample_rate": 8000}, "speech of 8000 Hz; resample it to 16000 Hz"),
        ({"samples": None}, "task speech→speech hears speech, and got 0 samples; give it 400 or more"),
        ({"samples": SPEECH[:399]}, "task speech→speech hears speech, and got 399 samples; give it 400 or more"),
        ({"samples": None, "task": "text→text"}, "task text→text reads text, and got none; give it with text="),
        ({"samples": SPEECH, "task": "sing"}, "task 'sing'; legal are speech→speech, "),
        ({"samples": SPEECH, "think": "aloud"}, "think 'aloud'; legal are tag, language, none"),
        ({"samples": SPEECH, "cues": "nobody"}, "cues 'nobody'; legal are heads, thinker"),
    ],
)
def test_what_cannot_be_answered_is_told_in_one_line(small: SpeechLM, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigProblem) as caught:
        list(small.respond(**{"sample_rate": RATE, **asked}))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_the_shortest_speech_is_answered(small: SpeechLM) -> None:
    assert isinstance(list(small.respond(SPEECH[:400], RATE, task="asr"))[-1], End)
