"""Vocal events through transformers, from tiny checkpoints with random weights."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.audio_tagger import LABELS, make_audio_tagger
from checkpoints.hazards import NO_NUMBER, NOTHING, SILENCE, Bomb, noise, process_state
from safetensors.torch import load_file, save_file

from cascade.audio import Samples, Waveform
from cascade.cancel import CancelScope
from cascade.engines import load_engine, parse_options
from cascade.errors import Cancelled, ConfigError, EngineFailed, EngineUnavailable, InputError, OutOfMemory
from cascade.paralinguistics import audio_tagger
from cascade.paralinguistics.audio_tagger import columns, events, in_batches, window_starts
from cascade.tts.espeak import Espeak
from cascade.turn import EventsCue, VocalEvent


@pytest.fixture(scope="session")
def speech(voice: Espeak) -> Waveform:
    said = voice.speak("I lost my job yesterday", emotion="sad", intensity=0.5, rate=1.0, seed=0, cancel=CancelScope())
    assert said.wave.sample_rate == 22_050
    return said.wave


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_audio_tagger(tmp_path_factory.mktemp("audio_tagger"))


@pytest.fixture(scope="session")
def engine(folder: Path) -> audio_tagger.AudioTagger:
    return load(folder)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return make_audio_tagger(tmp_path / "own")


def load(folder: Path, **options: Any) -> audio_tagger.AudioTagger:
    return audio_tagger.load(audio_tagger.Options(model=str(folder), **options))


def heard(engine: audio_tagger.AudioTagger, speech: Waveform, cancel: CancelScope | None = None) -> EventsCue:
    cues = engine.analyze(speech, baseline=None, cancel=cancel or CancelScope())
    assert (cues.emotion, cues.age, cues.gender) == (None, None, None)
    assert cues.events is not None
    return cues.events


def shown(found: Iterable[VocalEvent] | None) -> list[tuple[str, float, float, float]]:
    """kind, start_s, end_s, confidence; the last one rounded, for sums in another order differ in their last digits."""
    assert found is not None
    return [(e.kind, e.start_s, e.end_s, round(e.confidence, 4)) for e in found]


def shares_of(engine: audio_tagger.AudioTagger, window: Samples) -> np.ndarray[Any, Any]:
    """Probability of each label, (1, labels)."""
    return engine._network.run(lambda: engine._probabilities([window]), CancelScope())


# From windows to events


@pytest.mark.parametrize(
    ("length", "window", "hop", "starts"),
    [
        (5, 20, 5, [0]),
        (20, 20, 5, [0]),
        (21, 20, 5, [0, 1]),
        (30, 20, 5, [0, 5, 10]),
        (33, 20, 5, [0, 5, 10, 13]),
        (60, 20, 20, [0, 20, 40]),
    ],
)
def test_windows_cover_all(length: int, window: int, hop: int, starts: list[int]) -> None:
    assert window_starts(length, window, hop) == starts


def spans(count: int) -> list[tuple[float, float]]:
    """Windows of 2 s, 0.5 s apart."""
    return [(place * 0.5, place * 0.5 + 2.0) for place in range(count)]


@pytest.mark.parametrize(
    ("laugh", "expected"),
    [
        ([0.1] * 8, []),
        ([0.1, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], [(0.5, 2.5, 0.5)]),
        ([0.1, 0.4, 0.9, 0.5, 0.1, 0.1, 0.1, 0.1], [(0.5, 3.5, 0.9)]),
        ([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.8], [(0.0, 2.0, 0.4), (3.5, 5.5, 0.8)]),
        ([0.4, 0.1, 0.6, 0.1, 0.1, 0.1, 0.1, 0.1], [(0.0, 3.0, 0.6)]),
        ([0.3] * 8, [(0.0, 5.5, 0.3)]),
    ],
)
def test_windows_of_one_kind_become_events(laugh: list[float], expected: list[tuple[float, float, float]]) -> None:
    found = events({"laugh": laugh}, spans(8), threshold=0.3)
    assert shown(found) == [("laugh", *times) for times in expected]


def test_kinds_are_apart_and_in_the_order_of_their_start() -> None:
    found = events({"laugh": [0.1, 0.1, 0.9], "cough": [0.1, 0.9, 0.9], "sigh": [0.2] * 3}, spans(3), threshold=0.3)
    assert shown(found) == [("cough", 0.5, 3.0, 0.9), ("laugh", 1.0, 3.0, 0.9)]


def test_one_kind_may_have_many_labels() -> None:
    assert columns(dict(enumerate(LABELS)), "here") == {"laugh": [1, 2], "cough": [3], "cry": [4], "sigh": [5]}


def test_no_label_of_a_vocal_event() -> None:
    with pytest.raises(EngineUnavailable, match="not a tagger of vocal events \\(it tells Speech, Dog\\)"):
        columns({0: "Speech", 1: "Dog"}, "here")


def test_batches_are_halved_until_they_fit() -> None:
    sizes: list[int] = []

    def run(batch: Sequence[Samples]) -> Any:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise OutOfMemory("full")
        return np.array([[window[0]] for window in batch])

    windows = [np.full(1, place, np.float32) for place in range(10)]
    assert in_batches(windows, 8, run).ravel().tolist() == list(range(10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]


def test_one_window_that_does_not_fit() -> None:
    def run(batch: Sequence[Samples]) -> Any:
        raise OutOfMemory(f"full at {len(batch)}")

    with pytest.raises(OutOfMemory, match="full at 1"):
        in_batches([np.zeros(1, np.float32)] * 5, 4, run)


# What it says


def hearing(
    engine: audio_tagger.AudioTagger, monkeypatch: pytest.MonkeyPatch, probabilities: Callable[[int], dict[str, float]]
) -> None:
    """From now on the network hears this in its n-th window; nothing else."""
    count = 0

    def forward(input_values: torch.Tensor) -> SimpleNamespace:
        nonlocal count
        shares = torch.full((len(input_values), len(LABELS)), 0.01)
        for row in shares:
            for label, share in probabilities(count).items():
                row[LABELS.index(label)] = share
            count += 1
        return SimpleNamespace(logits=torch.logit(shares))

    monkeypatch.setattr(engine._model, "forward", forward)


def test_a_laugh_in_chosen_windows_has_its_times(
    engine: audio_tagger.AudioTagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5.2 s: windows at 0, 0.5, …, 3.0 and a last one at 3.2 s; batches of 8."""
    laughs = {2: {"Laughter": 0.4, "Giggle": 0.2}, 3: {"Giggle": 0.7, "Dog": 0.9}, 7: {"Cough": 0.31, "Laughter": 0.29}}
    hearing(engine, monkeypatch, lambda place: laughs.get(place, {}))
    found = heard(engine, noise(5.2)).events
    assert shown(found) == [("laugh", 1.0, 3.5, 0.7), ("cough", 3.2, 5.2, 0.31)]


def test_times_end_with_the_speech(engine: audio_tagger.AudioTagger, monkeypatch: pytest.MonkeyPatch) -> None:
    hearing(engine, monkeypatch, lambda place: {"Sigh": 0.8})
    short = noise(0.73, 22_050)
    (sigh,) = heard(engine, short).events or ()
    assert (sigh.start_s, sigh.end_s) == (0.0, short.duration_s)


def test_nothing_heard_is_not_unknown(engine: audio_tagger.AudioTagger, monkeypatch: pytest.MonkeyPatch) -> None:
    hearing(engine, monkeypatch, lambda place: {"Speech": 0.99, "Music": 0.99})
    assert heard(engine, noise(3)).events == ()


def test_the_weights_are_those_of_the_checkpoint(
    engine: audio_tagger.AudioTagger, speech: Waveform, tmp_path: Path
) -> None:
    again, other = load(make_audio_tagger(tmp_path / "a")), load(make_audio_tagger(tmp_path / "b", seed=1))
    assert heard(again, speech) == heard(engine, speech)
    window = speech.resampled(16_000).samples[:16_000]
    usual, shifted = shares_of(engine, window), shares_of(other, window)
    assert usual.shape == (1, len(LABELS))
    assert np.abs(usual - shifted).max() > 0.01


def test_the_batch_size_does_not_count(engine: audio_tagger.AudioTagger, folder: Path) -> None:
    one_by_one = shown(heard(load(folder, batch_size=1), noise(6)).events)
    assert one_by_one
    assert one_by_one == shown(heard(engine, noise(6)).events)


def test_memory_that_is_full_halves_the_batch(
    engine: audio_tagger.AudioTagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, real, sizes = heard(engine, noise(6)).events, engine._model.forward, []

    def tight(input_values: torch.Tensor) -> Any:
        sizes.append(len(input_values))
        if len(input_values) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return real(input_values)

    monkeypatch.setattr(engine._model, "forward", tight)
    assert shown(heard(engine, noise(6)).events) == shown(usual)
    assert sizes == [8, 4, 4, 1]


def test_any_sample_rate(engine: audio_tagger.AudioTagger, speech: Waveform) -> None:
    kinds = [
        sorted(e.kind for e in heard(engine, speech.resampled(rate)).events or ()) for rate in (16_000, 22_050, 48_000)
    ]
    assert kinds[0] == kinds[1] == kinds[2]


def test_one_label_or_many(tmp_path: Path, engine: audio_tagger.AudioTagger, folder: Path) -> None:
    window = noise(1).samples
    single = load(make_audio_tagger(tmp_path, problem_type="single_label_classification"))
    shares = shares_of(single, window)
    assert shares.sum() == pytest.approx(1.0)
    logits = torch.logit(torch.from_numpy(shares_of(engine, window)))
    assert shares == pytest.approx(torch.softmax(logits, dim=-1).numpy(), abs=1e-5)
    assert shares_of(load(folder, scores="softmax"), window) == pytest.approx(shares)
    assert shares_of(load(tmp_path, scores="sigmoid"), window) == pytest.approx(shares_of(engine, window))


def test_a_tagger_on_wav2vec2(tmp_path: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        id2label={0: "laughter", 1: "throat_clearing", 2: "speech"},
        problem_type="single_label_classification",
    )
    Wav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    found = heard(load(tmp_path, threshold=0.01, window_s=1.0, hop_s=1.0), noise(2.5, 22_050)).events
    assert {e.kind for e in found or ()} == {"laugh", "throat_clearing"}
    assert {(e.start_s, e.end_s) for e in found or ()} == {(0.0, 2.5)}


# What it cannot hear


def test_too_short_is_unknown(engine: audio_tagger.AudioTagger) -> None:
    cue = heard(engine, noise(0.05))
    assert cue.events is None
    assert cue.reason.startswith("too short")


def test_silence_has_no_events(engine: audio_tagger.AudioTagger) -> None:
    assert heard(engine, SILENCE).events == ()


@pytest.mark.parametrize("sound", [NOTHING, NO_NUMBER])
def test_what_is_no_sound(engine: audio_tagger.AudioTagger, sound: Waveform) -> None:
    with pytest.raises(InputError):
        heard(engine, sound)


def test_the_shortest_turn_is_heard(engine: audio_tagger.AudioTagger) -> None:
    assert heard(engine, noise(0.1, 8_000)).events is not None


def test_no_number_is_a_failure(engine: audio_tagger.AudioTagger, monkeypatch: pytest.MonkeyPatch) -> None:
    hearing(engine, monkeypatch, lambda place: {"Laughter": float("nan")})
    with pytest.raises(EngineFailed, match="gave no number"):
        heard(engine, noise(1))


# In a process with others


def test_cancelled_between_two_layers(engine: audio_tagger.AudioTagger, speech: Waveform) -> None:
    scope, ran = CancelScope(), []
    first, second = next(m for m in engine._model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)
    hooks = [
        first.register_forward_hook(lambda *_: scope.cancel()),
        second.register_forward_hook(lambda *_: ran.append("second")),
    ]
    try:
        with pytest.raises(Cancelled):
            heard(engine, speech, scope)
        heard(engine, speech)  # begins when the other has ended
    finally:
        [hook.remove() for hook in hooks]
    assert ran == ["second"], "only the one that was not cancelled goes so far"


def test_cancelled_before_it_began(engine: audio_tagger.AudioTagger) -> None:
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        heard(engine, SILENCE, scope)


def test_threads_do_not_disturb_each_other(engine: audio_tagger.AudioTagger, speech: Waveform) -> None:
    sounds = [speech, noise(2.0), noise(3.1)]
    alone = [heard(engine, sound) for sound in sounds]
    together: dict[int, EventsCue] = {}

    def hear(place: int) -> None:
        together[place] = heard(engine, sounds[place % 3])

    threads = [threading.Thread(target=hear, args=(place,)) for place in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [together[place] for place in range(6)] == alone * 2


def test_the_process_stays_as_it_was(
    folder: Path, speech: Waveform, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    before = process_state()
    heard(load(folder), speech)
    assert process_state() == before
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_info_and_options(folder: Path, engine: audio_tagger.AudioTagger) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert engine.info.options == {"model": str(folder), "device": device, "revision": "local"}
    assert load_engine("events", "audio_tagger", {"model": str(folder)}).info == engine.info
    with pytest.raises(ConfigError, match="leaves gaps; legal: at most window_s, 1"):
        parse_options("events", "audio_tagger", {"window_s": 1.0, "hop_s": 1.5})


def test_a_window_longer_than_the_network_hears(folder: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"window_s = 3 is longer than .* hears; legal: at most 2\.08"):
        load(folder, window_s=3.0)


# Checkpoints that are wrong


def refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    return str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file(own: Path, file: str, capfd: pytest.CaptureFixture[str]) -> None:
    (own / file).unlink()
    assert "is not whole" in refused(own, capfd)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_corrupt_file(own: Path, file: str, capfd: pytest.CaptureFixture[str]) -> None:
    (own / file).write_bytes(b"\x00{")
    assert str(own) in refused(own, capfd)


def test_a_network_without_its_head_is_not_made_up(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = load_file(own / "model.safetensors")
    del weights["classifier.dense.weight"]
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    assert "the weights classifier.dense.weight are missing" in refused(own, capfd)


@pytest.mark.parametrize("kind", ["bert", "no_such_model"])
def test_another_architecture(own: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = own / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": kind}))
    assert "not a checkpoint that can be read" in refused(own, capfd)


def test_a_tagger_of_other_sounds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_audio_tagger(tmp_path, labels=("yes", "no", "stop"))
    assert "not a tagger of vocal events (it tells yes, no, stop)" in refused(tmp_path, capfd)


def test_a_pickle_with_code_is_refused_unread(own: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (own / "model.safetensors").unlink()
    torch.save({"classifier.dense.weight": Bomb(tmp_path / "crater")}, own / "pytorch_model.bin")
    assert "not a checkpoint of plain tensors" in refused(own, capfd)
    assert not (tmp_path / "crater").exists()
