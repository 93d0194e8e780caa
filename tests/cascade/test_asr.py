from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import tone

from cascade.asr import pocketsphinx
from cascade.asr.language_model import arpa_from_text, known_words
from cascade.asr.voice_activity import read_turn, require_speech, speech_spans
from cascade.asr.words import word_error_rate, words_of
from cascade.audio import Waveform, joined, write_wav
from cascade.cancel import CancelScope
from cascade.errors import Cancelled, ConfigError, InputError
from cascade.tts.espeak import Espeak
from cascade.tts.espeak_process import EspeakProcess

SENTENCE = "I lost my job yesterday and I do not know what to do."


@pytest.fixture(scope="module")
def spoken(voice: Espeak) -> Waveform:
    return voice.speak(SENTENCE, emotion="neutral", intensity=0.7, rate=1.0, seed=0, cancel=CancelScope()).wave


@pytest.fixture(scope="module")
def in_silence(spoken: Waveform) -> Waveform:
    quiet = Waveform(np.zeros(spoken.sample_rate, np.float32), spoken.sample_rate)
    return joined([quiet, spoken, quiet])


def test_voice_activity_finds_the_sentence_in_silence(in_silence: Waveform, spoken: Waveform) -> None:
    spans = speech_spans(in_silence)
    assert spans[0][0] == pytest.approx(1.0, abs=0.2)
    assert spans[-1][1] == pytest.approx(1.0 + spoken.duration_s, abs=0.3)


def test_voice_activity_does_not_mind_the_level(in_silence: Waveform) -> None:
    assert speech_spans(in_silence.at_level(-60)) == speech_spans(in_silence.at_level(-20))


def test_a_tone_and_noise_are_not_speech(tmp_path: Path) -> None:
    noise = Waveform((0.05 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32), 16_000)
    for wave in (noise, tone(2.0)):
        with pytest.raises(InputError, match="no speech found"):
            require_speech(wave, "x.wav")
    write_wav(tmp_path / "noise.wav", noise)
    with pytest.raises(InputError, match=r"noise\.wav: no speech"):
        read_turn(tmp_path / "noise.wav")


def test_words_and_their_times(recognizer: pocketsphinx.PocketSphinx, in_silence: Waveform, spoken: Waveform) -> None:
    transcript = recognizer.transcribe(in_silence, cancel=CancelScope())
    assert word_error_rate(SENTENCE, transcript.text) <= 0.5
    assert transcript.text == " ".join(word.text for word in transcript.words)
    times = [time for word in transcript.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert times[0] == pytest.approx(1.0, abs=0.3)
    assert times[-1] == pytest.approx(1.0 + spoken.duration_s, abs=0.4)
    assert transcript.confidence is not None
    assert 0 < transcript.confidence <= 1


def test_the_same_sound_gives_the_same_words_whatever_came_before(
    recognizer: pocketsphinx.PocketSphinx, spoken: Waveform, voice: Espeak
) -> None:
    first = recognizer.transcribe(spoken, cancel=CancelScope())
    other = voice.speak("Who is there?", emotion="joyful", intensity=1.0, rate=1.2, seed=0, cancel=CancelScope()).wave
    recognizer.transcribe(other, cancel=CancelScope())
    assert recognizer.transcribe(spoken, cancel=CancelScope()) == first


def test_no_speech_is_an_empty_transcript(recognizer: pocketsphinx.PocketSphinx) -> None:
    transcript = recognizer.transcribe(tone(1.0), cancel=CancelScope())
    assert transcript.text == ""
    assert transcript.confidence == 0


def test_stopping_the_recognizer(recognizer: pocketsphinx.PocketSphinx, spoken: Waveform) -> None:
    scope, stopped_at = CancelScope(), []

    def stop() -> None:
        stopped_at.append(time.perf_counter())
        scope.cancel()

    threading.Timer(0.4, stop).start()
    with pytest.raises(Cancelled):
        recognizer.transcribe(joined([spoken] * 8), cancel=scope)
    assert time.perf_counter() - stopped_at[0] < 0.1
    assert recognizer.transcribe(spoken, cancel=CancelScope()).text


def test_dither_is_decided_by_the_signal(spoken: Waveform) -> None:
    clean = np.concatenate([spoken.at_level(-20).samples, np.zeros(16_000, np.float32)])
    noisy = clean + 10 ** (-45 / 20) * np.random.default_rng(0).standard_normal(len(clean))
    assert pocketsphinx.floor_db(clean) < pocketsphinx.CLEAN_FLOOR_DB < pocketsphinx.floor_db(noisy)


def test_noise_is_tried_only_where_it_may_help(recognizer: pocketsphinx.PocketSphinx) -> None:
    """eSpeak's plain voice is too clean for the recognizer: with noise it understands more, and is surer."""
    process = EspeakProcess()
    wave, _ = process.say(SENTENCE, voice="en-us", rate_wpm=150, pitch=50, pitch_range=50, amplitude=100)
    process.close()
    off = pocketsphinx.load(pocketsphinx.Options(dither="off"))
    without = off.transcribe(wave, cancel=CancelScope())
    off.close()
    decided = recognizer.transcribe(wave, cancel=CancelScope())
    assert word_error_rate(SENTENCE, decided.text) < word_error_rate(SENTENCE, without.text)
    assert (decided.confidence or 0) > (without.confidence or 0)


def test_a_domain_language_model_helps_its_own_sentences(
    tmp_path: Path, recognizer: pocketsphinx.PocketSphinx, voice: Espeak
) -> None:
    lines = ["Our neighbour's goat ate the wedding flowers.", "The plumber forgot his banjo.", SENTENCE]
    text = tmp_path / "domain.txt"
    text.write_text("\n".join(lines))
    engine = pocketsphinx.load(pocketsphinx.Options(language_model=text))
    said = "The plumber forgot his banjo."
    wave = voice.speak(said, emotion="neutral", intensity=0.7, rate=1.0, seed=0, cancel=CancelScope()).wave
    try:
        with_model = word_error_rate(said, engine.transcribe(wave, cancel=CancelScope()).text)
    finally:
        engine.close()
    without = word_error_rate(said, recognizer.transcribe(wave, cancel=CancelScope()).text)
    assert with_model <= 0.2
    assert without > with_model


def test_language_model_errors_say_what_to_do(tmp_path: Path) -> None:
    assert "banjo" in known_words()
    with pytest.raises(ConfigError, match="xqzt"):
        arpa_from_text("xqzt blorb", tmp_path / "a.arpa")
    (tmp_path / "a.doc").write_text("hello")
    with pytest.raises(ConfigError, match=r"\.arpa"):
        pocketsphinx.load(pocketsphinx.Options(language_model=tmp_path / "a.doc"))


def test_word_errors_ignore_case_and_punctuation() -> None:
    assert words_of("Don’t, I SAID: stop!") == ["don't", "i", "said", "stop"]
    assert word_error_rate("One two three four.", "one two four") == 0.25
