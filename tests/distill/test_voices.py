"""The simulated user, and the classifier that learns from it: on speakers whose voices it never heard."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cascade.audio import SAMPLE_RATE, Waveform, write_wav
from cascade.errors import InputError
from cascade.paralinguistics.acoustic import heads
from cascade.paralinguistics.features import measured
from cascade.tts.world import VoiceShift, render
from distill.teaching.rooms import Channel
from distill.teaching.voices import USER_EMOTIONS, Speaker, UserEmotion, manner, plain, said, say, speakers
from distill.training.analyzer import Clip, _write, fitted, score, scored, shown

TEXTS = ("They moved the meeting to Thursday.", "My sister called me again last night.", "The bus was late today.")
QUIET = Channel(
    reverb_s=0.1,
    reverb_db=-40,
    noise_db=-60,
    noise_slope=1,
    tilt_db=0,
    ripple_db=0,
    telephone=False,
    level_dbfs=-20,
    seed=1,
)
TESTED: tuple[UserEmotion, ...] = ("angry", "happy", "neutral", "sad", "fearful")


def people(split: str, count: int) -> list[Speaker]:
    """Adults of the synthesizer that is always there, women and men in turn."""
    found = [s for s in speakers(split) if s.engine == "espeak" and s.age == "adult" and s.language == "en-us"]  # type: ignore[arg-type]
    women, men = ([s for s in found if s.gender == gender] for gender in ("female", "male"))
    return [s for pair in zip(women, men, strict=False) for s in pair][:count]


@pytest.fixture(scope="module")
def calm() -> Waveform:
    return plain(TEXTS[0], people("train", 1)[0]).wave.resampled(SAMPLE_RATE)


def test_no_voice_is_in_both_splits() -> None:
    train, unseen = ({(s.engine, s.voice) for s in speakers(split)} for split in ("train", "unseen"))
    assert train
    assert unseen
    assert not train & unseen
    assert len({s.name for s in speakers("train")}) == len(speakers("train"))


def test_same_arguments_same_samples_and_another_seed_another_clip() -> None:
    who = people("train", 1)[0]
    first, again, other = (say(TEXTS[0], who, "happy", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.samples, again.samples)
    assert first.sha256 != other.sha256
    assert first.sample_rate == SAMPLE_RATE
    assert np.abs(first.samples).max() <= 1


def test_what_was_said_before_changes_nothing() -> None:
    who = next(s for s in speakers("train") if s.engine == "espeak" and s.language == "sv")
    other = next(s for s in speakers("train") if s.engine == "espeak" and s.language == "es")
    first = plain("Mötet är på torsdag.", who).wave
    plain("Mañana vamos a pintar la cocina.", other)
    assert np.array_equal(plain("Mötet är på torsdag.", who).wave.samples, first.samples)


def test_world_moves_what_it_is_told(calm: Waveform) -> None:
    before = measured(calm).values
    higher = measured(render(calm, VoiceShift(pitch_st=5))).values
    assert higher["pitch_st"] - before["pitch_st"] == pytest.approx(5, abs=0.6)
    wider = measured(render(calm, VoiceShift(range_factor=1.8))).values
    assert wider["pitch_range"] > 1.4 * before["pitch_range"]
    brighter = measured(render(calm, VoiceShift(tilt_db=3))).values
    assert brighter["alpha"] > before["alpha"] + 3
    longer_tract = measured(render(calm, VoiceShift(formant=0.85))).values
    assert longer_tract["f3"] < before["f3"] - 0.05
    breathy = measured(render(calm, VoiceShift(breath=0.5))).values
    assert breathy["hnr"] < before["hnr"] - 1
    assert render(calm, VoiceShift(gain_db=-6)).level_dbfs == pytest.approx(calm.level_dbfs - 6, abs=0.1)


def test_a_faster_voice_is_shorter(calm: Waveform) -> None:
    assert render(calm, VoiceShift(rate=1.25)).duration_s == pytest.approx(calm.duration_s / 1.25, abs=0.002)


def test_a_loud_shift_never_clips_and_a_tiny_sound_passes(calm: Waveform) -> None:
    assert np.abs(render(calm, VoiceShift(gain_db=40)).samples).max() < 1
    assert len(render(Waveform(np.ones(50, np.float32) * 0.1, SAMPLE_RATE), VoiceShift(pitch_st=3)).samples) == 50


def test_recipes_keep_the_order_of_the_published_profiles() -> None:
    rng = np.random.default_rng(0)
    drawn = {e: [manner(e, rng).shift for _ in range(300)] for e in USER_EMOTIONS}

    def mean(emotion: UserEmotion, name: str) -> float:
        return float(np.mean([getattr(shift, name) for shift in drawn[emotion]]))

    assert mean("angry", "gain_db") > mean("happy", "gain_db") > mean("neutral", "gain_db") > mean("sad", "gain_db")
    assert mean("angry", "tilt_db") > mean("happy", "tilt_db") > 0 > mean("sad", "tilt_db")
    assert mean("sad", "rate") < mean("neutral", "rate") < mean("fearful", "rate")
    assert mean("sad", "range_factor") < 1 < mean("happy", "range_factor")
    assert mean("angry", "press_db") > mean("happy", "press_db") + 2
    assert mean("surprised", "final_st") > 3


@pytest.fixture(scope="module")
def unseen_clips() -> list[Clip]:
    clips = []
    for who in people("unseen", 6):
        plan = [(TEXTS[i], "neutral") for i in range(3)] + [(TEXTS[0], e) for e in TESTED] + [(TEXTS[1], "angry")]
        for number, (text, emotion) in enumerate(plan):
            found = measured(say(text, who, emotion, seed=number, augment=False))  # type: ignore[arg-type]
            assert found.values, found.reason
            clips.append(Clip(who.name, who.voice, who.engine, who.gender, who.age, emotion, found.values))
    return clips


def test_shipped_classifier_on_unseen_voices(unseen_clips: list[Clip]) -> None:
    result = scored(unseen_clips, heads(), seed=0)  # five emotions: chance is .2
    assert result["emotion_cold"]["uar"] >= 0.5, shown(result)
    assert result["emotion_baseline"]["uar"] >= 0.7, shown(result)
    assert result["gender_cold"]["uar"] >= 0.85, shown(result)
    assert result["gender_baseline"]["uar"] >= 0.9, shown(result)
    for name in ("emotion_cold", "emotion_baseline"):
        right = result[name]["right_when_told"]
        assert right is None or right >= 0.6, shown(result)


def test_a_head_learns_is_written_and_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    clips = []
    for i in range(200):
        emotion, values = ("sad", -1.0) if i % 2 else ("happy", 1.0)
        numbers = {"a": values + rng.normal(0, 0.7), "b": rng.normal()}
        clips.append(Clip(f"s{i % 20}", f"v{i % 10}", "espeak", "male", "adult", emotion, numbers))
    head, held_out = fitted(clips, "emotion", ["a", "b"], precision=0.9)
    assert held_out["accuracy"] > 0.85
    assert held_out["right_when_told"] >= 0.9
    assert head.probabilities({"a": 2.0, "b": 0.0})["happy"] > 0.9
    _write(tmp_path, dict.fromkeys(("emotion_cold", "emotion_relative", "gender_cold", "gender_calm"), head), {})
    read = heads(tmp_path / "acoustic.npz")["gender_calm"]
    assert read.labels == head.labels
    assert read.probabilities({"a": 0.3, "b": 1.0}) == pytest.approx(head.probabilities({"a": 0.3, "b": 1.0}), abs=1e-5)


def test_score_reads_a_table_of_recordings_and_names_what_is_wrong(tmp_path: Path) -> None:
    who = people("unseen", 1)[0]
    lines = ["file,emotion,gender,speaker"]
    for number, emotion in enumerate(["neutral"] * 4 + ["sad"]):
        write_wav(tmp_path / f"{number}.wav", say(TEXTS[0], who, emotion, seed=number))  # type: ignore[arg-type]
        lines.append(f"{number}.wav,{emotion},{who.gender},A")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines))
    result = score(labels)
    assert result["emotion_cold"]["n"] == 5
    assert result["emotion_baseline"]["n"] == 2  # three calm clips made the baseline and are left out
    assert "best label among those present" in shown(result)
    labels.write_text("file,gender\n0.wav,male")
    with pytest.raises(InputError, match="no column 'emotion'"):
        score(labels)
    labels.write_text("file,emotion,gender\n0.wav,bored,male")
    with pytest.raises(InputError, match=r"line 2: emotion 'bored'.*legal: angry"):
        score(labels)


def test_word_times_follow_the_words_through_emotion_pauses_and_room() -> None:
    """Each word's own stretch is louder than the room, and what is between two long pauses is where it is told to be."""
    who, text = people("train", 1)[0], "Yesterday somebody finally told me what had happened."
    for emotion in ("sad", "angry"):
        speech = said(text, who, emotion, seed=4, channel=QUIET)
        words = speech.words
        assert " ".join(word.text for word in words).split()[0] == "Yesterday"
        assert all(a.start_s <= b.start_s and a.end_s <= b.end_s + 1e-6 for a, b in pairwise(words))
        assert words[-1].end_s <= speech.wave.duration_s
        level = [_level(speech.wave, word.start_s, word.end_s) for word in words]
        assert min(level) > 10 * _level(speech.wave, 0.0, words[0].start_s - 0.02)
    calm, slow = (said(text, who, "neutral", seed=4, augment=False), said(text, who, "sad", seed=4, augment=False))
    longer = (slow.words[-1].end_s - slow.words[0].start_s) / (calm.words[-1].end_s - calm.words[0].start_s)
    assert longer > 1.05, "sad is slow, and its times with it"


def _level(wave: Waveform, start_s: float, end_s: float) -> float:
    part = wave.samples[round(start_s * wave.sample_rate) : round(end_s * wave.sample_rate)]
    return float(np.sqrt(np.mean(np.square(part, dtype=np.float64)) + 1e-12))
