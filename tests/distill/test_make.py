"""From a scenario to a row: the user's speech, the graph that chats, what was known, and what makes a row a rejection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import INFO, tone

from cascade.audio import Waveform, write_wav
from cascade.cancel import CancelScope
from cascade.engines import Speech
from cascade.errors import Cancelled, ConfigError, EngineFailed
from cascade.profiles import Engines, load_profile
from cascade.turn import Cues, Exchange
from distill.teaching.dataset.rows import digest_of, table_of
from distill.teaching.make import SCENARIO, Maker, SeedByWords, known_cues
from distill.teaching.records import Labels, Sample, Scenario
from distill.teaching.settings import Sampling, Settings
from distill.teaching.voices import cast_of


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    loaded = Engines.load(load_profile("embedded"))
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def maker(engines: Engines) -> Maker:
    return Maker(engines, Settings(sampling=Sampling(listen_share=0)))


def scenario(emotion: Any = "sad", **parts: Any) -> Scenario:
    speaker = cast_of("train")[0]
    labels = Labels(emotion=emotion, age=speaker.age, gender=speaker.gender, events=())
    given = {
        "index": 7, "split": "train", "domain": "work", "template": "t", "text": "They told me the results today.",
        "labels": labels, "voice": speaker.name, "seed": 11,
    }  # fmt: skip
    return Scenario(**given | parts)


@pytest.fixture(scope="module")
def sad(maker: Maker) -> Sample:
    return maker.make(scenario())


def test_a_row_holds_what_was_asked_and_what_was_heard(sad: Sample) -> None:
    assert sad.user_speech is not None
    assert sad.user_speech.sample_rate == 16_000
    assert sad.cues.emotion is not None
    assert sad.cues.emotion.engine == "acoustic", "posteriors are heard, not copied from what was asked"
    assert 0 < sad.user_emotion_agreement < 1
    assert sad.thought is not None
    assert (sad.thought.emotion, sad.thought.reply_emotion) == ("sad", "comforting")
    assert sad.reply is not None
    assert sad.reply_speech is not None
    assert sad.reply_words[-1].end_s <= sad.reply_speech.duration_s + 0.01
    assert sad.reply_words[0].text == sad.reply.text.split()[0]
    assert len(sad.reply_words) >= 0.8 * len(sad.reply.text.split()), "eSpeak runs some short words into one"
    assert sad.reply_words[-1].end_s > sad.reply_speech.duration_s - 0.5
    assert sad.reply_vector is not None
    assert sad.vector_space == "acoustic 1"
    assert sad.reply_prosody is not None
    assert sad.scores is not None
    assert sad.worst is not None
    assert sad.worst.text != sad.reply.text
    assert {"asr", "tts", "reasoning", "user_speech"} <= set(sad.engines)


def test_words_are_known_and_nobody_needs_to_listen(sad: Sample) -> None:
    assert sad.transcript is None
    assert sad.user_wer is None
    assert sad.scores is not None
    assert sad.scores.reply_wer is None
    assert "not listened to" in sad.scores.unmeasured[0]
    assert sad.thought is not None
    assert sad.thought.heard == "They told me the results today."


def test_the_same_words_in_another_tone_get_another_reply(maker: Maker, sad: Sample) -> None:
    happy = maker.make(scenario("happy"))
    assert happy.thought is not None
    assert sad.thought is not None
    assert (happy.thought.strategy, happy.thought.reply_emotion) != (sad.thought.strategy, sad.thought.reply_emotion)


def test_the_same_scenario_gives_the_same_row_whatever_came_before(maker: Maker, sad: Sample) -> None:
    maker.make(scenario("happy"))
    assert digest_of(table_of(maker.make(scenario()))) == digest_of(table_of(sad))
    assert digest_of(table_of(maker.make(scenario(seed=12)))) != digest_of(table_of(sad))


def test_a_share_is_listened_to(engines: Engines) -> None:
    maker = Maker(engines, Settings())
    listened = [maker._listens(scenario(index=index)) for index in range(2000)]
    assert 0.03 < np.mean(listened) < 0.07, "one in twenty, for this recognizer"
    first = scenario(index=listened.index(True))
    sample = maker.make(first)
    assert sample.transcript is not None
    assert sample.user_wer is not None
    assert sample.scores is not None
    assert sample.scores.reply_wer is not None


def test_history_is_known_to_the_teacher(maker: Maker) -> None:
    before = (Exchange(said="My name is Ann.", replied="Hello Ann.", strategy="ask"),)
    sample = maker.make(scenario("neutral", text="What is my name?", history=before))
    assert sample.reply is not None
    assert "Ann" in sample.reply.text


def test_rows_for_the_talker_speak_the_same_words_in_the_emotion_asked_for(maker: Maker) -> None:
    rows = [
        maker.make(scenario(None, task="speak", voice=None, text="The door is open.", reply_emotion=emotion))
        for emotion in ("joyful", "sad")
    ]
    for row in rows:
        assert row.rejected == ()
        assert row.reply_speech is not None
        assert row.user_speech is None
    assert rows[0].reply_prosody.pitch_hz > rows[1].reply_prosody.pitch_hz + 20


def test_rows_for_the_ears_alone_hold_words_and_labels_and_nothing_that_was_heard(maker: Maker, sad: Sample) -> None:
    row = maker.make(scenario(task="listen"))
    assert row.rejected == ()
    assert row.user_speech is not None
    assert np.array_equal(row.user_speech.samples, sad.user_speech.samples), "the same voice in the same way"
    assert row.user_words == sad.user_words
    assert row.reply is None
    assert row.reply_speech is None
    assert row.transcript is None
    assert set(row.engines) == {"user_speech"}
    columns = table_of(row).to_pylist()[0]
    assert columns["task"] == "listen"
    assert columns["user_text"] == row.scenario.text
    assert columns["user_emotion"] == "sad"
    assert columns["user_intensity"] is not None
    assert columns["reply_text"] is None


def test_a_turn_on_paper_is_answered_as_aloud_and_nobody_speaks(maker: Maker, sad: Sample) -> None:
    row = maker.make(scenario(task="write", voice=None))
    assert row.rejected == ()
    assert row.reply is not None
    assert sad.reply is not None
    assert (row.reply.text, row.reply.emotion) == (sad.reply.text, sad.reply.emotion), "the same words in the same tone"
    assert row.user_speech is None
    assert row.reply_speech is None
    columns = table_of(row).to_pylist()[0]
    assert (columns["task"], columns["user_text"], columns["reply_text"]) == (
        "write",
        row.scenario.text,
        row.reply.text,
    )
    assert columns["think_tag"]
    assert columns["user_duration_s"] is None


def test_what_nobody_can_follow_is_asked_again(maker: Maker) -> None:
    row = maker.make(scenario(text="Once in ah you can stay home and respect.", followed=False))
    assert row.thought is not None
    assert row.thought.strategy == "clarify"
    assert not any(reason.startswith(("clarify", "empathy")) for reason in row.rejected)


def test_a_recording_is_answered_by_what_is_heard(maker: Maker, sad: Sample, tmp_path: Path) -> None:
    assert sad.user_speech is not None
    write_wav(tmp_path / "a.wav", sad.user_speech)
    recorded = scenario(
        None, source="recorded", text=None, labels=Labels(), voice=None, recording=str(tmp_path / "a.wav")
    )
    sample = maker.make(recorded)
    assert sample.transcript is not None, "its words are not known, so somebody has to listen"
    assert sample.user_wer is None
    assert "user_speech" not in sample.engines
    assert sample.user_emotion_agreement is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": Labels(emotion="other")}, "no simulated voice can sound 'other'"),
        ({"labels": Labels(emotion="sad", events=("laugh",))}, "no voice here can make laugh"),
        ({"voice": "nobody"}, "no simulated voice is called 'nobody'"),
        ({"voice": None, "recording": "/nowhere.wav", "text": None}, "no such file"),
    ],
)
def test_what_cannot_be_made_is_rejected_with_its_reason(maker: Maker, change: dict[str, Any], reason: str) -> None:
    sample = maker.make(
        scenario(**{"emotion": "sad"} | change) if "labels" not in change else scenario().model_copy(update=change)
    )
    assert len(sample.rejected) == 1
    assert sample.rejected[0].startswith("failed: ")
    assert reason in sample.rejected[0]


class Flaky:
    """A voice that fails so many times before it speaks."""

    info = INFO

    def __init__(self, failures: int) -> None:
        self.left, self.seeds = failures, list[int]()

    def speak(self, text: str, *, seed: int, **_: Any) -> Speech:
        self.left -= 1
        self.seeds.append(seed)
        if self.left >= 0:
            raise EngineFailed("the voice broke")
        return Speech(tone(1.5))


def with_voice(engines: Engines, voice: Any) -> Maker:
    return Maker(replace(engines, loaded={**engines.loaded, "tts": voice}), Settings(sampling=Sampling(listen_share=0)))


def test_a_stage_that_fails_is_asked_once_more_then_the_row_is_rejected(engines: Engines) -> None:
    assert not any("failed" in why for why in with_voice(engines, Flaky(1)).make(scenario()).rejected)
    (reason,) = with_voice(engines, Flaky(9)).make(scenario()).rejected
    assert reason == "failed: tts failed: the voice broke"


def test_it_stops_when_cancelled(maker: Maker) -> None:
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        maker.make(scenario(), scope)


def test_what_is_known_goes_as_sure_and_what_is_not_stays_out() -> None:
    cues = known_cues(Labels(emotion="sad", events=("cough",)), 2.0)
    assert cues.emotion is not None
    assert (cues.emotion.label, cues.emotion.confidence, cues.emotion.engine) == ("sad", 1.0, SCENARIO)
    assert cues.age is None
    assert cues.gender is None
    assert cues.events is not None
    assert [(event.kind, event.end_s) for event in cues.events.events or ()] == [("cough", 2.0)]
    assert known_cues(Labels(), 1.0) == Cues()


def test_the_seed_comes_from_the_words_and_the_mood() -> None:
    voice = Flaky(0)
    for change in ({}, {"seed": 4}, {"text": "Yes."}, {"emotion": "sad"}, {"intensity": 0.5}, {"rate": 0.9}):
        SeedByWords(voice).speak(
            **{"text": "Hello.", "emotion": "happy", "intensity": 0.7, "rate": 1.0, "seed": 3, "cancel": CancelScope()}
            | change
        )
    assert voice.seeds[0] == voice.seeds[1]
    assert len(set(voice.seeds)) == 5
    assert all(0 <= seed < 2**31 for seed in voice.seeds)


def test_cloned_voices_need_an_engine_that_speaks_after_a_bank(engines: Engines, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="speaks after no bank; use tts=f5"):
        Maker(engines, Settings(user_voices=str(tmp_path)))


def test_intensity_is_heard(maker: Maker) -> None:
    def level(intensity: float) -> float:
        sample = maker.make(scenario("angry", intensity=intensity))
        assert isinstance(sample.user_speech, Waveform)
        return sample.user_speech.level_dbfs

    assert level(1.0) > level(0.0) + 1
