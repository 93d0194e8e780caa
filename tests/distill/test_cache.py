"""Engines that remember: what is found is what would have been made, bit for bit, and only where all that matters is the same."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeAnalyzer, FakeRecognizer, FakeSynthesizer, Scripted, fake_engines, heard, sad, tone

from cascade.asr.pocketsphinx import PocketSphinx
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import EmotionFeatures, Speech
from cascade.errors import Cancelled, EngineFailed, InputError
from cascade.paralinguistics import acoustic, prosody
from cascade.profiles import Engines
from cascade.tts.espeak import Espeak
from cascade.turn import Baseline, Cues, EmotionCue, EngineInfo, Prosody, Stage, Transcript, Word
from distill.teaching import cache
from distill.teaching.cache import Tally, cached, engine_digest, packed, tallies, unpacked
from distill.teaching.stores import SqliteStore


class Kept:
    """A store in memory."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.entries.get(key)

    def put(self, key: str, value: bytes) -> None:
        self.entries[key] = value

    def close(self) -> None:
        raise AssertionError("a store is closed by whoever opened it")


class FakeEncoder(FakeAnalyzer):
    def embed(self, speech: Waveform, *, cancel: CancelScope) -> EmotionFeatures:
        return self.next(("embed", speech), cancel)


def with_engine(stage: Stage, engine: Any, store: Any) -> Any:
    return cached(fake_engines(**{stage: engine}), store)[stage]


SAY: dict[str, Any] = {"emotion": "comforting", "intensity": 0.7, "rate": 1.0, "seed": 3}


def speak(engine: Any, text: str = "That is hard.", **changes: Any) -> Speech:
    speech: Speech = engine.speak(text, **{**SAY, **changes}, cancel=CancelScope())
    return speech


def same_speech(a: Speech, b: Speech) -> bool:
    whole = a.wave.samples.tobytes() == b.wave.samples.tobytes() and a.wave.sample_rate == b.wave.sample_rate
    return whole and a.words == b.words


# --- real engines: fresh, kept and found again


def test_real_speech_comes_back_bit_for_bit(voice: Espeak, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "c.sqlite")
    fresh = speak(voice)
    first, second = (with_engine("tts", voice, store) for _ in range(2))
    assert same_speech(speak(first), fresh)
    found = speak(second)
    assert same_speech(found, fresh)
    assert found.words
    assert (found.wave.samples.flags.writeable, found.wave.samples.dtype) == (True, np.dtype(np.float32))
    assert (first.tally, second.tally) == (Tally(0, 1), Tally(1, 0))
    store.close()


def test_real_analysis_comes_back_bit_for_bit(
    spoken_sentence: Waveform, recognizer: PocketSphinx, tmp_path: Path
) -> None:
    store = SqliteStore(tmp_path / "c.sqlite")
    plain = fake_engines(
        asr=recognizer,
        emotion=acoustic.load(acoustic.Options()),
        prosody=prosody.load(prosody.Options()),
    )
    own = plain["emotion"].analyze(spoken_sentence, baseline=None, cancel=CancelScope()).voice
    for baseline in (None, own):
        fresh = answers(plain, spoken_sentence, baseline)
        for _ in range(2):
            got = answers(cached(plain, store), spoken_sentence, baseline)
            assert got == fresh
            assert [a.model_dump_json(exclude_unset=True) for a in got] == [
                a.model_dump_json(exclude_unset=True) for a in fresh
            ]
    engines = cached(plain, store)
    answers(engines, spoken_sentence, own)
    assert [tallies(engines)[stage] for stage in ("asr", "emotion", "prosody")] == [Tally(hits=1)] * 3
    store.close()


def answers(engines: Engines, speech: Waveform, baseline: Baseline | None) -> list[Any]:
    heard = engines["asr"].transcribe(speech, cancel=CancelScope())
    assert heard.words
    return [
        heard,
        *(engines[s].analyze(speech, baseline=baseline, cancel=CancelScope()) for s in ("emotion", "prosody")),
    ]


# --- what is the same, and what is not


@pytest.mark.parametrize(
    "change", [{"emotion": "sad"}, {"intensity": 0.71}, {"rate": 1.1}, {"seed": 4}, {"text": "That is hard!"}]
)
def test_every_argument_of_a_sentence_counts(change: dict[str, Any]) -> None:
    engine, store = FakeSynthesizer(), Kept()
    wrapped = with_engine("tts", engine, store)
    speak(wrapped)
    speak(wrapped)
    assert wrapped.tally == Tally(1, 1)
    speak(wrapped, **change)
    assert wrapped.tally == Tally(1, 2)


def test_the_sound_and_the_baseline_count_and_where_the_sound_lies_does_not() -> None:
    calm = Baseline(engine="fake", source="session", features={"pitch": 120.0}, clips=1)
    other = calm.model_copy(update={"features": {"pitch": 120.00000001}})
    engine = FakeAnalyzer(*[sad(p) for p in (0.1, 0.2, 0.3, 0.4)])
    wrapped = with_engine("emotion", engine, Kept())

    def share(speech: Waveform, baseline: Baseline | None) -> float:
        cues = wrapped.analyze(speech, baseline=baseline, cancel=CancelScope())
        return float(cues.emotion.probabilities["sad"])

    quieter = tone(level=0.0999)
    assert [share(tone(), b) for b in (None, calm, other)] == [0.1, 0.2, 0.3]
    assert share(quieter, None) == 0.4
    assert [share(tone(), b) for b in (None, calm, other)] == [0.1, 0.2, 0.3]
    assert share(quieter, None) == 0.4
    assert wrapped.tally == Tally(4, 4)


def test_another_version_or_other_options_are_another_engine() -> None:
    store = Kept()
    for number, info in enumerate(
        (
            EngineInfo(name="fake", version="1"),
            EngineInfo(name="fake", version="2"),
            EngineInfo(name="fake", version="1", options={"beam": 5}),
            EngineInfo(name="fake2", version="1"),
        )
    ):
        engine = FakeRecognizer(heard(str(number)))
        engine.info = info
        for _ in range(2):
            wrapped = with_engine("asr", engine, store)
            assert wrapped.transcribe(tone(), cancel=CancelScope()).text == str(number)
        assert wrapped.info == info


def test_a_file_among_the_options_counts_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    (tmp_path / "model").mkdir()

    def digest(value: str) -> str:
        return engine_digest(EngineInfo(name="x", version="1", options={"model": str(tmp_path / value)}))

    one = digest("a.txt")
    assert digest("b.txt") == one
    (tmp_path / "a.txt").write_text("two")
    assert digest("a.txt") != one
    empty = digest("model")
    (tmp_path / "model" / "weights").write_bytes(b"1")
    assert digest("model") != empty


def test_a_voice_of_f5_counts_by_its_clips(tmp_path: Path, spoken_sentence: Waveform) -> None:
    from cascade.audio import write_wav
    from cascade.tts.voice_bank import add_clip

    def digest() -> str:
        return engine_digest(
            EngineInfo(name="f5", version="1", options={"voices": str(bank), "clips": {"neutral": "n.wav"}})
        )

    bank, clip = tmp_path / "bank", tmp_path / "n.wav"
    write_wav(clip, spoken_sentence)
    add_clip(bank, "neutral", clip, "These words.", 1.0)
    before = digest()
    assert digest() == before
    add_clip(bank, "neutral", clip, "Those words.", 1.0)
    assert digest() != before
    again = digest()
    write_wav(clip, spoken_sentence.at_level(-30.0))
    add_clip(bank, "neutral", clip, "Those words.", 1.0)
    assert digest() != again


def test_new_code_or_weights_make_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    info = EngineInfo(name="x", version="1")
    before = engine_digest(info)
    monkeypatch.setattr(cache, "_ground", lambda: "another")
    assert engine_digest(info) != before


def test_an_entry_of_one_kind_is_never_taken_for_another() -> None:
    features = EmotionFeatures(np.float32([1, 2]), np.float32([[1, 2], [3, 4], [5, 6]]), 50.0)
    encoder = FakeEncoder(sad(), features)
    wrapped = with_engine("emotion", encoder, Kept())
    for _ in range(2):
        assert wrapped.analyze(tone(), baseline=None, cancel=CancelScope()) == sad()
        found = wrapped.embed(tone(), cancel=CancelScope())
        assert np.array_equal(found.utterance, features.utterance)
        assert np.array_equal(found.frames, features.frames)
        assert (found.frames.shape, found.frames.dtype, found.frame_rate_hz) == ((3, 2), np.dtype(np.float32), 50.0)
    assert wrapped.tally == Tally(2, 2)


# --- the seed by words


# --- what is not kept


def test_failures_are_not_kept() -> None:
    engine, store = FakeRecognizer(EngineFailed("broke"), heard("yes")), Kept()
    wrapped = with_engine("asr", engine, store)
    with pytest.raises(EngineFailed, match="broke"):
        wrapped.transcribe(tone(), cancel=CancelScope())
    assert store.entries == {}
    assert wrapped.transcribe(tone(), cancel=CancelScope()) == heard("yes")
    assert wrapped.tally == Tally(0, 2)


def test_sound_that_cannot_be_read_is_refused_each_time() -> None:
    wrapped = with_engine("emotion", acoustic.load(acoustic.Options()), Kept())
    for _ in range(2):
        with pytest.raises(InputError, match="NaN"):
            wrapped.analyze(Waveform(np.float32([0, np.nan]), 16_000), baseline=None, cancel=CancelScope())


def test_a_stopped_turn_is_stopped_and_leaves_nothing() -> None:
    scope, store = CancelScope(), Kept()

    def stopped(inner: CancelScope) -> Any:
        scope.cancel()
        inner.check()

    wrapped = with_engine("asr", FakeRecognizer(stopped, heard("yes")), store)
    with pytest.raises(Cancelled):
        wrapped.transcribe(tone(), cancel=scope)
    assert store.entries == {}
    wrapped.transcribe(tone(), cancel=CancelScope())
    with pytest.raises(Cancelled):  # although it could be found
        wrapped.transcribe(tone(), cancel=scope)


@pytest.mark.parametrize(
    "damage", [lambda e: e[:-5], lambda e: e[:40], lambda e: b"", lambda e: b"attune cache 0\n" + e[15:]]
)
def test_an_unreadable_or_older_entry_is_made_anew(damage: Any) -> None:
    store = Kept()
    wrapped = with_engine("tts", FakeSynthesizer(), store)
    fresh = speak(wrapped)
    (key,) = store.entries
    whole = store.entries[key]
    store.entries[key] = damage(whole)
    assert same_speech(speak(wrapped), fresh)
    assert wrapped.tally == Tally(0, 2)
    assert store.entries[key] == whole


def test_an_entry_that_is_no_legal_value_is_made_anew() -> None:
    store = Kept()
    wrapped = with_engine("asr", FakeRecognizer(heard("a"), heard("b")), store)
    wrapped.transcribe(tone(), cancel=CancelScope())
    (key,) = store.entries
    store.entries[key] = packed({"text": "a", "of another version": 1}, [])
    assert wrapped.transcribe(tone(), cancel=CancelScope()) == heard("b")


# --- the form of an entry


def test_odd_numbers_survive() -> None:
    odd = np.array([0.0, -0.0, 1e-45, -1.5, np.inf, -np.inf, np.nan, 1 / 3], np.float32)
    document, (found,) = unpacked(packed({"x": [-math.inf, 0.1 + 0.2]}, [odd]))
    assert found.tobytes() == odd.tobytes()
    assert document == {"x": [-math.inf, 0.1 + 0.2]}
    for shape in ((0,), (7, 3), (1, 1)):
        array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
        _, (found,) = unpacked(packed({}, [array]))
        assert np.array_equal(found, array)


def test_records_survive_whole() -> None:
    silent = Cues(prosody=Prosody(level_dbfs=-math.inf, engine="x"), emotion=EmotionCue(engine="x", reason="“why”"))
    words = Transcript(text="ä", words=(Word(text="ä", start_s=0.1, end_s=1 / 3),), confidence=None, engine="x")
    for codec, value in ((cache.CUES, silent), (cache.TRANSCRIPT, words)):
        found = codec.read(codec.pack(value))  # type: ignore[attr-defined]
        assert found == value
        assert found.model_fields_set == value.model_fields_set


# --- around the engines


def test_only_what_is_worth_it_is_wrapped_and_the_rest_shines_through() -> None:
    class Rich(Scripted):
        language_model = "its model"
        closed = 0

        def close(self) -> None:
            self.closed += 1

    rich, unknown = Rich(), FakeAnalyzer()
    unknown.info = EngineInfo(name="unknown", version="1")
    plain = fake_engines(asr=rich, emotion=FakeEncoder(), events=unknown)
    engines = cached(plain, Kept())
    for stage in ("events", "reasoning", "judging"):
        assert engines[stage] is plain[stage]
    assert set(tallies(engines)) == {"asr", "emotion", "speaker", "prosody", "tts"}
    assert engines["asr"].language_model == "its model"
    assert not hasattr(engines["speaker"], "embed")
    assert hasattr(engines["emotion"], "embed")
    assert engines.infos == plain.infos
    assert engines.deadline_s("asr") == plain.deadline_s("asr")
    engines.close()  # the store's close would raise
    assert rich.closed == 1


def test_threads_may_ask_at_once(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "c.sqlite")
    wrapped = with_engine("tts", FakeSynthesizer(), store)
    wrong: list[str] = []

    def work() -> None:
        for n in range(40):
            words = "word " * (n % 10 + 1)
            if len(speak(wrapped, words).words) != n % 10 + 1:
                wrong.append(words)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert wrong == []
    assert sum([wrapped.tally, Tally(1, 2)], Tally()).hits == wrapped.tally.hits + 1
    assert wrapped.tally.hits + wrapped.tally.misses == 160
    assert 10 <= wrapped.tally.misses <= 40
