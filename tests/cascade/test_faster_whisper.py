from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.whisper import make_whisper
from fakes import tone

from cascade.asr import faster_whisper as whisper
from cascade.audio import Waveform, joined
from cascade.cancel import CancelScope
from cascade.engines import load_engine, parse_options
from cascade.errors import Cancelled, ConfigError, EngineFailed, EngineUnavailable, OutOfMemory
from cascade.native import NativeCalls
from cascade.tts.espeak import Espeak
from cascade.turn import Transcript

pytest.importorskip("faster_whisper")

SAID = (
    "I lost my job yesterday.",
    "The doctor called me this morning, and I do not know.",
    "Hello.",
    "We won the final!",
    "How are you today?",
)
RATE = 16_000


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("whisper") / "model")


@pytest.fixture(scope="session")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("whisper") / "english", multilingual=False)


def loaded(folder: Path, **options: Any) -> whisper.FasterWhisper:
    return whisper.load(whisper.Options.model_validate({"model": str(folder), "max_new_tokens": 12} | options))


@pytest.fixture(scope="module")
def engine(model: Path) -> whisper.FasterWhisper:
    return loaded(model)


@pytest.fixture(scope="module")
def spoken(voice: Espeak) -> list[Waveform]:
    arguments: dict[str, Any] = {"emotion": "neutral", "intensity": 0.7, "rate": 1.0, "seed": 0}
    return [voice.speak(text, cancel=CancelScope(), **arguments).wave for text in SAID]


def silence(seconds: float, rate: int = RATE) -> Waveform:
    return Waveform(np.zeros(round(seconds * rate), np.float32), rate)


def assert_alike(one: Transcript, other: Transcript) -> None:
    """The same words at the same times; probabilities may differ in the last digits that a batch's arithmetic leaves."""
    assert (one.text, one.language) == (other.text, other.language)
    times = [[(word.text, word.start_s, word.end_s) for word in each.words] for each in (one, other)]
    assert times[0] == times[1]
    assert one.confidence == pytest.approx(other.confidence, abs=0.02)


# One utterance


def test_words_with_times_and_probabilities(engine: whisper.FasterWhisper, spoken: list[Waveform]) -> None:
    for wave in spoken:
        transcript = engine.transcribe(wave, cancel=CancelScope())
        assert transcript.text == " ".join(word.text for word in transcript.words) != ""
        assert all(0 <= word.start_s <= word.end_s <= wave.duration_s for word in transcript.words)
        assert transcript.confidence == pytest.approx(np.mean([word.probability for word in transcript.words]))
        assert transcript.engine == "faster_whisper"


def test_different_speech_gives_different_words(engine: whisper.FasterWhisper, spoken: list[Waveform]) -> None:
    assert len({engine.transcribe(wave, cancel=CancelScope()).text for wave in spoken}) >= 3


def test_the_same_sound_gives_the_same_words_whatever_came_before(
    engine: whisper.FasterWhisper, spoken: list[Waveform]
) -> None:
    first = engine.transcribe(spoken[0], cancel=CancelScope())
    engine.transcribe(spoken[1], cancel=CancelScope())
    assert engine.transcribe(spoken[0], cancel=CancelScope()) == first


def test_any_sample_rate(engine: whisper.FasterWhisper, spoken: list[Waveform]) -> None:
    wave = spoken[1]
    heard = [engine.transcribe(wave.resampled(rate), cancel=CancelScope()) for rate in (RATE, 48_000)]
    assert heard[0].text == heard[1].text
    assert heard[0].words[-1].end_s == pytest.approx(heard[1].words[-1].end_s, abs=0.1)


def test_times_count_the_silence_that_was_cut_out(engine: whisper.FasterWhisper, spoken: list[Waveform]) -> None:
    wave = spoken[1].resampled(RATE)
    heard = engine.transcribe(joined([silence(6), wave]), cancel=CancelScope())
    assert heard.words[0].start_s > 5
    assert 6 < heard.words[-1].end_s <= 6 + wave.duration_s
    told_all = loaded(Path(engine.info.options["model"]), vad=False)
    assert told_all.transcribe(joined([silence(6), wave]), cancel=CancelScope()).text != heard.text


def test_quiet_speech_is_speech(engine: whisper.FasterWhisper, spoken: list[Waveform]) -> None:
    assert engine.transcribe(spoken[0].at_level(-65), cancel=CancelScope()).text


@pytest.mark.parametrize("wave", [silence(0.1), silence(2), tone(0.1), tone(2.0)], ids=lambda w: f"{w.level_dbfs}")
def test_no_speech_is_an_empty_transcript(engine: whisper.FasterWhisper, wave: Waveform) -> None:
    heard = engine.transcribe(wave, cancel=CancelScope())
    assert heard == Transcript(text="", confidence=0.0, engine="faster_whisper")
    assert engine.transcribe_many([wave], cancel=CancelScope()) == [heard]


@pytest.mark.parametrize("samples", [1, 150, 1600])
def test_very_short_sound_without_voice_activity_detection(model: Path, samples: int) -> None:
    every = loaded(model, vad=False)
    wave = Waveform(np.full(samples, 0.1, np.float32), RATE)
    for heard in (every.transcribe(wave, cancel=CancelScope()), *every.transcribe_many([wave], cancel=CancelScope())):
        assert all(word.end_s <= wave.duration_s for word in heard.words)


def test_what_the_model_takes_for_no_speech_is_left_out(
    model: Path, spoken: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    every = loaded(model, vad=False)
    assert all(heard.text for heard in every.transcribe_many(spoken[:2], cancel=CancelScope()))
    monkeypatch.setattr(whisper, "NO_SPEECH", -1.0)
    monkeypatch.setattr(whisper, "UNLIKELY", 0.0)
    for heard in every.transcribe_many(spoken[:2], cancel=CancelScope()):
        assert (heard.text, heard.words, heard.confidence) == ("", (), 0.0)


def test_a_language_is_told_only_when_it_is_sure(
    engine: whisper.FasterWhisper, spoken: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [wave.resampled(RATE).samples for wave in spoken]
    found = engine._languages(clips)
    assert {probability >= whisper.LANGUAGE_SURE for _, probability in found} == {True, False}
    monkeypatch.setattr(whisper, "LANGUAGE_SURE", 0.0)
    assert engine.transcribe(spoken[2], cancel=CancelScope()).language == "lb"
    monkeypatch.setattr(whisper, "LANGUAGE_SURE", 1.0)
    assert engine.transcribe(spoken[2], cancel=CancelScope()).language is None


def test_a_given_language_is_taken(model: Path, spoken: list[Waveform]) -> None:
    german = loaded(model, language="de")
    assert german.transcribe(spoken[0], cancel=CancelScope()).language == "de"
    assert german.transcribe(silence(1), cancel=CancelScope()).language == "de"


def test_an_english_model_hears_english(english: Path, spoken: list[Waveform]) -> None:
    engine = loaded(english)
    heard = engine.transcribe(spoken[0], cancel=CancelScope())
    assert heard.language == "en"
    assert engine.transcribe_many(spoken[:1], cancel=CancelScope())[0].language == "en"
    with pytest.raises(ConfigError, match=r"language = 'de': this model knows en$"):
        loaded(english, language="de")


def test_hotwords_and_beams_reach_the_model(model: Path, spoken: list[Waveform]) -> None:
    said = {
        loaded(model, **options).transcribe(spoken[1], cancel=CancelScope()).text
        for options in ({}, {"hotwords": "rained speech"}, {"max_new_tokens": 3})
    }
    assert len(said) == 3


@pytest.mark.parametrize("compute_type", ["int8", "float32", "int8_float32"])
def test_compute_types(model: Path, spoken: list[Waveform], compute_type: str) -> None:
    engine = loaded(model, compute_type=compute_type, device="cpu")
    assert engine.info.options["compute_type"].startswith(compute_type)
    assert engine.transcribe(spoken[0], cancel=CancelScope()).text


def test_what_it_says_of_itself(engine: whisper.FasterWhisper, model: Path) -> None:
    options = engine.info.options
    assert options["model"] == str(model)
    assert options["revision"] == "local"
    assert options["device"] in ("cpu", "cuda")
    assert options["max_new_tokens"] == 12
    assert "beam_size" not in options, "a default"
    assert json.dumps(options)


# Many utterances


def test_each_of_many_gets_its_own_words_in_any_order(engine: whisper.FasterWhisper, spoken: list[Waveform]) -> None:
    waves = [*spoken, silence(1), joined([silence(4), spoken[1].resampled(RATE)])]
    single = [engine.transcribe_many([wave], cancel=CancelScope())[0] for wave in waves]
    assert len({heard.text for heard in single}) >= 4
    assert len({heard.language for heard in single}) >= 2, "groups of languages are mixed, too"
    for order in (range(7), (6, 0, 5, 3, 1, 4, 2)):
        together = engine.transcribe_many([waves[index] for index in order], cancel=CancelScope())
        for index, heard in zip(order, together, strict=True):
            assert_alike(heard, single[index])


def test_many_as_one_by_one(engine: whisper.FasterWhisper, spoken: list[Waveform]) -> None:
    """A single utterance is read on behind its last word, a batched one is not: what the batch heard comes first."""
    for alone, batched in zip(
        [engine.transcribe(wave, cancel=CancelScope()) for wave in spoken],
        engine.transcribe_many(spoken, cancel=CancelScope()),
        strict=True,
    ):
        assert alone.text.startswith(batched.text)
        assert alone.language == batched.language


def test_telling_the_language_and_decoding_share_one_pass_of_the_encoder(
    engine: whisper.FasterWhisper, spoken: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    import faster_whisper

    plain, windows = faster_whisper.WhisperModel.encode, []

    def counted(self: Any, features: Any) -> Any:
        windows.extend(features.copy())
        return plain(self, features)

    monkeypatch.setattr(faster_whisper.WhisperModel, "encode", counted)
    engine.transcribe_many(spoken, cancel=CancelScope())
    assert len(windows) == len(spoken)
    windows.clear()
    engine.transcribe(spoken[0], cancel=CancelScope())
    assert windows
    assert not any(np.array_equal(one, other) for at, one in enumerate(windows) for other in windows[:at])


def test_what_was_heard_is_not_kept(engine: whisper.FasterWhisper, spoken: list[Waveform]) -> None:
    engine.transcribe_many(spoken[:2], cancel=CancelScope())
    assert engine._model._known == ()


def test_times_in_a_batch_are_those_of_each_utterance(engine: whisper.FasterWhisper, spoken: list[Waveform]) -> None:
    """The times of random weights mean little, but not all of them lie at the very end, where cut-off ones would."""
    every = list(zip(spoken, engine.transcribe_many(spoken, cancel=CancelScope()), strict=True))
    for name in ("start_s", "end_s"):
        inside = [any(getattr(word, name) < wave.duration_s - 0.1 for word in heard.words) for wave, heard in every]
        assert sum(inside) >= 3


def test_the_batch_is_what_was_asked_for(model: Path, spoken: list[Waveform], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, sizes = loaded(model, batch_size=2, language="en"), []
    encode = engine._model.encode
    monkeypatch.setattr(engine._model, "encode", lambda features: sizes.append(len(features)) or encode(features))
    engine.transcribe_many(spoken, cancel=CancelScope())
    assert sizes == [2, 2, 1]
    assert engine.transcribe_many([], cancel=CancelScope()) == []


def test_an_utterance_over_30_s_goes_alone_and_is_heard_to_its_end(
    engine: whisper.FasterWhisper, spoken: list[Waveform]
) -> None:
    whole = joined([wave.resampled(RATE) for wave in spoken * 5])
    assert whole.duration_s > 31
    long, short = engine.transcribe_many([whole, spoken[0]], cancel=CancelScope())
    assert long.words[-1].end_s > 30
    assert long.words[-1].end_s <= whole.duration_s
    assert_alike(short, engine.transcribe_many([spoken[0]], cancel=CancelScope())[0])


# Memory and other failures


def small_memory(engine: whisper.FasterWhisper, limit: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The library runs out of memory for batches above `limit`. The sizes that it was asked for."""
    asked: list[int] = []
    encode = engine._model.encode

    def encoded(features: np.ndarray) -> Any:
        batch = len(features) if features.ndim == 3 else 1
        asked.append(batch)
        if batch > limit:
            raise RuntimeError("CUDA failed with error out of memory")
        return encode(features)

    monkeypatch.setattr(engine._model, "encode", encoded)
    return asked


def test_a_batch_that_does_not_fit_is_halved(
    model: Path, spoken: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = loaded(model, language="en")
    expected = engine.transcribe_many(spoken, cancel=CancelScope())
    asked = small_memory(engine, 1, monkeypatch)
    for heard, meant in zip(engine.transcribe_many(spoken, cancel=CancelScope()), expected, strict=True):
        assert_alike(heard, meant)
    assert asked == [5, 2, 1, 1, 1, 1, 1]


def test_a_single_one_that_does_not_fit_is_out_of_memory(
    engine: whisper.FasterWhisper, spoken: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = small_memory(engine, 0, monkeypatch)
    with pytest.raises(OutOfMemory, match=r"out of memory with a batch of 1; take compute_type"):
        engine.transcribe_many(spoken, cancel=CancelScope())
    assert asked == [5, 2, 1]
    with pytest.raises(OutOfMemory):
        engine.transcribe(spoken[0], cancel=CancelScope())
    monkeypatch.undo()
    assert engine.transcribe(spoken[0], cancel=CancelScope()).text, "it goes on once there is memory"


@pytest.mark.parametrize("error", [RuntimeError("cuBLAS failed\nwith status 7"), ValueError("x"), IndexError()])
def test_other_failures_are_one_line(
    engine: whisper.FasterWhisper, spoken: list[Waveform], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(engine._model, "encode", fail)
    with pytest.raises(EngineFailed, match=r"^faster_whisper: .+$") as caught:
        engine.transcribe(spoken[0], cancel=CancelScope())
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, OutOfMemory)


def test_a_word_without_a_probability_is_a_failure(
    engine: whisper.FasterWhisper, spoken: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = engine._model.find_alignment

    def broken(*args: Any, **options: Any) -> Any:
        return [[word | {"probability": float("nan")} for word in words] for words in find(*args, **options)]

    monkeypatch.setattr(engine._model, "find_alignment", broken)
    with pytest.raises(EngineFailed, match="no number for its time or probability"):
        engine.transcribe(spoken[0], cancel=CancelScope())


# Stopping


@pytest.fixture
def stuck(
    engine: whisper.FasterWhisper, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A native call that does not end before it is let go: (entered, let go)."""
    entered, let_go = threading.Event(), threading.Event()
    encode = engine._model.encode

    def native(features: np.ndarray) -> Any:
        entered.set()
        assert let_go.wait(30)
        return encode(features)

    monkeypatch.setattr(engine._model, "encode", native)
    yield entered, let_go
    let_go.set()


def cancelled_when(event: threading.Event) -> CancelScope:
    """A scope that is cancelled as soon as `event` is set."""
    scope = CancelScope()
    threading.Thread(target=lambda: (event.wait(30), scope.cancel()), daemon=True).start()
    return scope


@pytest.mark.parametrize("many", [False, True])
def test_a_stopped_turn_leaves_a_native_call_behind_and_the_next_waits_for_it(
    engine: whisper.FasterWhisper,
    spoken: list[Waveform],
    stuck: tuple[threading.Event, threading.Event],
    many: bool,
) -> None:
    entered, let_go = stuck
    scope = cancelled_when(entered)
    call = partial(engine.transcribe_many, spoken) if many else partial(engine.transcribe, spoken[0])
    with pytest.raises(Cancelled):
        call(cancel=scope)
    assert not let_go.is_set(), "the native call still runs"
    soon = CancelScope()
    threading.Timer(0.05, soon.cancel).start()
    with pytest.raises(Cancelled):  # while it waits for the other one
        engine.transcribe(spoken[0], cancel=soon)
    threading.Timer(0.05, let_go.set).start()
    assert engine.transcribe(spoken[0], cancel=CancelScope()).text


def test_it_stops_between_segments(engine: whisper.FasterWhisper) -> None:
    scope = CancelScope()
    segments = whisper._checked(iter(range(3)), scope)
    assert next(segments) == 0
    scope.cancel()
    with pytest.raises(Cancelled):
        next(segments)


def test_an_already_stopped_turn_does_nothing(
    engine: whisper.FasterWhisper, spoken: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = CancelScope()
    scope.cancel()
    monkeypatch.setattr(engine, "_model", None)
    for call in (lambda: engine.transcribe(spoken[0], cancel=scope), lambda: engine.transcribe_many([], cancel=scope)):
        with pytest.raises(Cancelled):
            call()


def test_native_calls_are_one_at_a_time() -> None:
    calls, inside, most = NativeCalls("test"), [], []

    def work() -> None:
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.03)
        inside.pop()

    threads = [threading.Thread(target=calls.run, args=(work, CancelScope())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_through_the_table_of_engines(model: Path, spoken: list[Waveform]) -> None:
    engine = load_engine("asr", "faster_whisper", {"model": str(model), "max_new_tokens": 5})
    assert engine.transcribe(spoken[0], cancel=CancelScope()).engine == "faster_whisper"
    with pytest.raises(ConfigError, match="no option 'beams'"):
        parse_options("asr", "faster_whisper", {"beams": 3})
    with pytest.raises(EngineUnavailable, match=r"hf download Systran/faster-whisper-large-v3"):
        load_engine("asr", "faster_whisper", {"device": "cpu"})


# What belongs to the whole process


def process_state() -> tuple[Any, ...]:
    import torch

    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.random.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        logging.root.level,
        list(logging.root.handlers),
        logging.root.manager.disable,
        list(warnings.filters),
        dict(os.environ),
    )


def test_it_changes_nothing_around_it(model: Path, spoken: list[Waveform], capfd: pytest.CaptureFixture[str]) -> None:
    before = process_state()
    engine = loaded(model, language="en")
    engine.transcribe(spoken[0], cancel=CancelScope())
    engine.transcribe_many(spoken[:2], cancel=CancelScope())
    assert process_state() == before
    assert capfd.readouterr() == ("", "")


def test_a_first_import_changes_nothing_and_comes_late(model: Path) -> None:
    code = f"""
import logging, random, sys, warnings
import numpy as np
from cascade.asr import faster_whisper
from cascade.audio import Waveform
from cascade.cancel import CancelScope
assert not {{"faster_whisper", "ctranslate2", "torch"}} & set(sys.modules)
def state(): return (random.getstate(), np.random.get_state()[1].tolist(), logging.root.level, logging.root.handlers[:],
    warnings.filters[:])
before = state()
engine = faster_whisper.load(faster_whisper.Options(model={str(model)!r}, max_new_tokens=4, vad=False))
engine.transcribe(Waveform(np.zeros(16000, np.float32), 16000), cancel=CancelScope())
after = state()
assert after == before, [pair for pair in zip(before, after) if pair[0] != pair[1]]
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")
