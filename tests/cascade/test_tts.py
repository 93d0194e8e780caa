from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Speech
from cascade.errors import Cancelled, EngineFailed
from cascade.paralinguistics import prosody
from cascade.tts import espeak, flite
from cascade.tts.emotions import REPLY_SHIFTS, reply_shift
from cascade.turn import REPLY_EMOTIONS, ReplyEmotion

SENTENCE = "I am here, and you can tell me all of it."


def say(voice: espeak.Espeak, emotion: ReplyEmotion, seed: int = 0, **changes: float) -> Speech:
    arguments = {"intensity": 0.7, "rate": 1.0, **changes}
    return voice.speak(SENTENCE, emotion=emotion, seed=seed, cancel=CancelScope(), **arguments)


@dataclass
class Measured:
    pitch_st: float
    range_st: float
    seconds: float
    level_db: float


def measured(wave: Waveform) -> Measured:
    found = prosody.load(prosody.Options()).analyze(wave, baseline=None, cancel=CancelScope()).prosody
    assert found is not None
    assert found.pitch_hz is not None
    assert found.pitch_range_st is not None
    return Measured(12 * np.log2(found.pitch_hz), found.pitch_range_st, wave.duration_s, wave.level_dbfs)


@pytest.fixture(scope="module")
def all_emotions(voice: espeak.Espeak) -> dict[ReplyEmotion, Measured]:
    return {emotion: measured(say(voice, emotion).wave) for emotion in REPLY_EMOTIONS}


def test_every_reply_emotion_has_its_prosody() -> None:
    assert set(REPLY_SHIFTS) == set(REPLY_EMOTIONS)


@pytest.mark.parametrize("emotion", [emotion for emotion in REPLY_EMOTIONS if emotion != "neutral"])
def test_a_reply_emotion_is_audible_in_the_intended_direction(
    all_emotions: dict[ReplyEmotion, Measured], emotion: ReplyEmotion
) -> None:
    """Pitch, pace and level each differ from neutral as the table intends, by at least half of it."""
    neutral, got, shift = all_emotions["neutral"], all_emotions[emotion], REPLY_SHIFTS[emotion]
    pitch = got.pitch_st - neutral.pitch_st
    pace = neutral.seconds / got.seconds
    level = got.level_db - neutral.level_db
    if abs(shift.pitch_st) >= 1:
        assert pitch * np.sign(shift.pitch_st) > abs(shift.pitch_st) / 2
    if abs(np.log(shift.rate)) >= 0.04:
        assert np.log(pace) * np.sign(np.log(shift.rate)) > abs(np.log(shift.rate)) / 2
    if abs(shift.gain_db) >= 1:
        assert level * np.sign(shift.gain_db) > abs(shift.gain_db) / 2


def test_range_narrows_and_widens(all_emotions: dict[ReplyEmotion, Measured]) -> None:
    assert all_emotions["sad"].range_st < all_emotions["neutral"].range_st < all_emotions["joyful"].range_st


def test_intensity_scales_the_emotion() -> None:
    weak, usual, strong = (reply_shift("sad", i, 1.0) for i in (0.2, 0.7, 1.0))
    assert strong.pitch_st < usual.pitch_st < weak.pitch_st < 0
    assert strong.rate < usual.rate < weak.rate < 1
    assert reply_shift("sad", 0.0, 1.0).rate == 1.0
    assert reply_shift("neutral", 1.0, 1.2).rate == 1.2


def test_same_arguments_same_samples(voice: espeak.Espeak) -> None:
    first, second = say(voice, "joyful", seed=3), say(voice, "joyful", seed=3)
    assert np.array_equal(first.wave.samples, second.wave.samples)
    assert not np.array_equal(first.wave.samples, say(voice, "joyful", seed=4).wave.samples)


def test_another_process_gives_the_same_samples(voice: espeak.Espeak) -> None:
    other = espeak.load(espeak.Options())
    try:
        say(other, "angry")
        assert np.array_equal(say(other, "sad").wave.samples, say(voice, "sad").wave.samples)
    finally:
        other.close()


def test_words_have_times_in_order(voice: espeak.Espeak) -> None:
    speech = say(voice, "sad")
    assert len(speech.words) >= len(SENTENCE.split()) - 1  # eSpeak runs some short words together
    starts = [word.start_s for word in speech.words]
    assert starts == sorted(starts)
    assert speech.words[-1].end_s <= speech.wave.duration_s + 0.05


def test_no_emotion_clips(voice: espeak.Espeak) -> None:
    for emotion in REPLY_EMOTIONS:
        assert np.abs(say(voice, emotion, intensity=1.0).wave.samples).max() < 1.0


def test_a_killed_voice_speaks_again() -> None:
    engine = espeak.load(espeak.Options())
    try:
        before = say(engine, "neutral").wave
        pid = engine._process.worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert np.array_equal(say(engine, "neutral").wave.samples, before.samples)
    finally:
        engine.close()


def test_an_unknown_voice_is_one_clear_line() -> None:
    engine = espeak.load(espeak.Options(voice="martian"))
    try:
        with pytest.raises(EngineFailed, match="no voice 'martian'"):
            say(engine, "neutral")
    finally:
        engine.close()


def test_a_stopped_scope_stops_speech(voice: espeak.Espeak) -> None:
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        voice.speak(SENTENCE, emotion="sad", intensity=0.7, rate=1.0, seed=0, cancel=scope)


@pytest.mark.skipif(flite.needs()[0].fix is not None, reason="flite is not installed here")
def test_flite_speaks_with_emotion() -> None:
    engine = flite.load(flite.Options())
    arguments = {"intensity": 0.7, "rate": 1.0, "seed": 0, "cancel": CancelScope()}
    calm = measured(engine.speak(SENTENCE, emotion="neutral", **arguments).wave)
    low = measured(engine.speak(SENTENCE, emotion="sad", **arguments).wave)
    assert low.seconds > calm.seconds * 1.1
    assert low.pitch_st < calm.pitch_st
    assert low.level_db < calm.level_db - 2
