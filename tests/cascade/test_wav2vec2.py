"""Age and gender through transformers, from tiny checkpoints with random weights."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.age_gender import make_age_gender
from checkpoints.hazards import NO_NUMBER, NOTHING, SILENCE, Bomb, noise, process_state
from safetensors.torch import load_file, save_file

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import load_engine
from cascade.errors import Cancelled, EngineFailed, EngineUnavailable, InputError, OutOfMemory
from cascade.paralinguistics import wav2vec2
from cascade.paralinguistics.wav2vec2 import age_probabilities, head_labels
from cascade.tts.espeak import Espeak
from cascade.turn import AgeCue, GenderCue

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def speech(voice: Espeak) -> Waveform:
    said = voice.speak("I lost my job", emotion="neutral", intensity=0.5, rate=1.0, seed=0, cancel=CancelScope())
    assert said.wave.sample_rate == 22_050
    return said.wave


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_age_gender(tmp_path_factory.mktemp("age_gender"))


@pytest.fixture(scope="session")
def engine(folder: Path) -> wav2vec2.Wav2Vec2:
    return load(folder)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return make_age_gender(tmp_path / "own")


def load(folder: Path, **options: Any) -> wav2vec2.Wav2Vec2:
    return wav2vec2.load(wav2vec2.Options(model=str(folder), **options))


def heard(engine: wav2vec2.Wav2Vec2, speech: Waveform, cancel: CancelScope | None = None) -> tuple[AgeCue, GenderCue]:
    cues = engine.analyze(speech, baseline=None, cancel=cancel or CancelScope())
    assert (cues.emotion, cues.events) == (None, None)
    assert cues.age is not None
    assert cues.gender is not None
    return cues.age, cues.gender


def heads_of(engine: wav2vec2.Wav2Vec2, speech: Waveform) -> tuple[float, dict[str, float]]:
    return engine._network.run(lambda: engine._heads(speech), CancelScope())


def saying(engine: wav2vec2.Wav2Vec2, monkeypatch: pytest.MonkeyPatch, age: float, odds: list[float]) -> None:
    """From now on the network gives this."""
    monkeypatch.setattr(engine._model, "forward", lambda _: (torch.tensor(age), torch.tensor(odds)))


# The formula


@pytest.mark.parametrize("years", [-20.0, 5.0, 35.0, 59.0, 60.0, 75.0, 140.0])
@pytest.mark.parametrize("child", [0.0, 0.3, 1.0])
def test_ages_are_a_distribution(years: float, child: float) -> None:
    ages = age_probabilities(years, child)
    assert sum(ages.values()) == pytest.approx(1.0, abs=1e-12)
    assert all(0 <= p <= 1 for p in ages.values())
    assert ages["child"] == child


def test_the_boundary_to_elder_is_soft() -> None:
    assert age_probabilities(60, 0.2) == pytest.approx({"child": 0.2, "adult": 0.4, "elder": 0.4})
    shares = [age_probabilities(years, 0.0)["elder"] for years in (30, 50, 56, 60, 64, 70, 90)]
    assert shares == sorted(shares)
    assert shares[0] < 0.01
    assert shares[-1] > 0.99
    assert age_probabilities(60 + wav2vec2.BOUNDARY_YEARS, 0.0)["elder"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_the_scale_gives_the_stated_mean_error() -> None:
    errors = np.random.default_rng(0).logistic(scale=wav2vec2.BOUNDARY_YEARS, size=200_000)
    assert np.abs(errors).mean() == pytest.approx(8.0, abs=0.05)


# What it says


@pytest.mark.parametrize(
    ("age", "odds", "age_label", "gender_label"),
    [
        (0.30, [0.9, 0.08, 0.02], "adult", "female"),
        (0.80, [0.05, 0.94, 0.01], "elder", "male"),
        (0.60, [0.05, 0.94, 0.01], None, "male"),
        (0.10, [0.1, 0.1, 0.8], "child", None),
        (0.30, [0.5, 0.5, 0.0], "adult", None),
    ],
)
def test_from_heads_to_cues(
    engine: wav2vec2.Wav2Vec2,
    monkeypatch: pytest.MonkeyPatch,
    age: float,
    odds: list[float],
    age_label: str | None,
    gender_label: str | None,
) -> None:
    saying(engine, monkeypatch, age, odds)
    ages, gender = heard(engine, noise(1))
    assert (ages.label, gender.label) == (age_label, gender_label)
    assert gender.probabilities == pytest.approx({"female": odds[0], "male": odds[1]})
    assert gender.unknown == pytest.approx(odds[2])
    assert (ages.probabilities["child"], ages.unknown) == (pytest.approx(odds[2]), 0.0)
    assert bool(ages.reason) == (age_label is None)
    assert bool(gender.reason) == (gender_label is None)


def test_a_childs_voice_does_not_tell_the_gender(engine: wav2vec2.Wav2Vec2, monkeypatch: pytest.MonkeyPatch) -> None:
    saying(engine, monkeypatch, 0.1, [0.1, 0.1, 0.8])
    assert heard(engine, noise(1))[1].reason == "sounds like a child (0.80), which does not tell the gender"


def test_the_weights_are_those_of_the_checkpoint(engine: wav2vec2.Wav2Vec2, speech: Waveform, tmp_path: Path) -> None:
    again, other = load(make_age_gender(tmp_path / "a")), load(make_age_gender(tmp_path / "b", seed=1))
    assert heard(again, speech) == heard(engine, speech)
    assert heard(other, speech)[1].probabilities != pytest.approx(heard(engine, speech)[1].probabilities, abs=0.01)


def test_each_head_counts(own: Path, engine: wav2vec2.Wav2Vec2, speech: Waveform) -> None:
    weights = load_file(own / "model.safetensors")
    weights["age.out_proj.bias"] += 0.3
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    before, after = heads_of(engine, speech), heads_of(load(own), speech)
    assert after[0] == pytest.approx(before[0] + 30, abs=0.01)
    assert after[1] == pytest.approx(before[1])


def test_the_network_is_the_published_one(own: Path) -> None:
    """Mean over the frames of all parts, then for each head out_proj(tanh(dense))."""
    weights = {name: value.double().numpy() for name, value in load_file(own / "model.safetensors").items()}
    network = load(own, device="cpu")._model
    parts = [torch.tensor(noise(seconds).samples)[None] for seconds in (1.0, 0.5)]
    with torch.inference_mode():
        states = [network.wav2vec2(part).last_hidden_state[0].double().numpy() for part in parts]
        age, gender = network(parts)
    pooled = np.concatenate(states).mean(axis=0)

    def head(name: str) -> np.ndarray[Any, Any]:
        inner = np.tanh(weights[f"{name}.dense.weight"] @ pooled + weights[f"{name}.dense.bias"])
        return weights[f"{name}.out_proj.weight"] @ inner + weights[f"{name}.out_proj.bias"]

    odds = np.exp(head("gender"))
    assert age.item() == pytest.approx(head("age")[0], abs=1e-4)
    assert gender.numpy() == pytest.approx(odds / odds.sum(), abs=1e-4)


def test_a_pickled_checkpoint_says_the_same(engine: wav2vec2.Wav2Vec2, speech: Waveform, tmp_path: Path) -> None:
    pickled = heard(load(make_age_gender(tmp_path, pickled=True)), speech)[1]
    assert pickled.probabilities == pytest.approx(heard(engine, speech)[1].probabilities, abs=1e-6)


def test_the_loudness_does_not_count(engine: wav2vec2.Wav2Vec2, speech: Waveform) -> None:
    loud, soft = (heard(engine, speech.at_level(level))[1].probabilities for level in (-20.0, -40.0))
    assert loud == pytest.approx(soft, abs=1e-3)


def test_any_sample_rate(engine: wav2vec2.Wav2Vec2, speech: Waveform) -> None:
    assert heard(engine, speech) == heard(engine, speech.resampled(16_000))
    at_48k = heard(engine, speech.resampled(48_000))[1].probabilities
    assert at_48k == pytest.approx(heard(engine, speech)[1].probabilities, abs=0.02)


def test_long_speech_is_read_in_parts(engine: wav2vec2.Wav2Vec2) -> None:
    lengths: list[int] = []
    front = engine._model.wav2vec2.feature_extractor
    hook = front.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[-1]))
    try:
        age, _ = heard(engine, noise(65.0))
    finally:
        hook.remove()
    assert len(lengths) == 3
    assert max(lengths) <= 30 * 16_000
    assert sum(lengths) == 65 * 16_000
    assert sum(age.probabilities.values()) == pytest.approx(1.0)


# What it cannot hear


@pytest.mark.parametrize(("sound", "reason"), [(noise(0.05), "too short"), (SILENCE, "silence")])
def test_nothing_is_made_up(engine: wav2vec2.Wav2Vec2, sound: Waveform, reason: str) -> None:
    for cue in heard(engine, sound):
        assert (cue.label, cue.probabilities) == (None, {})
        assert cue.reason.startswith(reason)


@pytest.mark.parametrize("sound", [NOTHING, NO_NUMBER])
def test_what_is_no_sound(engine: wav2vec2.Wav2Vec2, sound: Waveform) -> None:
    with pytest.raises(InputError):
        heard(engine, sound)


def test_the_shortest_turn_is_heard(engine: wav2vec2.Wav2Vec2) -> None:
    assert heard(engine, noise(0.1, 8_000))[0].probabilities


def test_no_number_is_a_failure(engine: wav2vec2.Wav2Vec2, monkeypatch: pytest.MonkeyPatch) -> None:
    saying(engine, monkeypatch, float("nan"), [0.3, 0.3, 0.4])
    with pytest.raises(EngineFailed, match="gave no number"):
        heard(engine, noise(1))


def test_out_of_memory(engine: wav2vec2.Wav2Vec2, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(engine._model, "forward", full)
    with pytest.raises(OutOfMemory, match="wav2vec2: out of memory"):
        heard(engine, noise(1))


# In a process with others


def test_cancelled_between_two_layers(engine: wav2vec2.Wav2Vec2, speech: Waveform) -> None:
    scope, ran = CancelScope(), []
    first, second = engine._model.wav2vec2.encoder.layers
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


def test_cancelled_before_it_began(engine: wav2vec2.Wav2Vec2) -> None:
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        heard(engine, SILENCE, scope)


def test_threads_do_not_disturb_each_other(engine: wav2vec2.Wav2Vec2, speech: Waveform) -> None:
    """One is cancelled, the others go on."""
    sounds, stopped = [speech, noise(2.0), noise(3.1)], CancelScope()
    alone = [heard(engine, sound) for sound in sounds]
    together: dict[int, object] = {}
    stopped.cancel()

    def hear(place: int) -> None:
        try:
            together[place] = heard(engine, sounds[place % 3], stopped if place == 4 else None)
        except Cancelled:
            together[place] = "cancelled"

    threads = [threading.Thread(target=hear, args=(place,)) for place in range(9)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert together.pop(4) == "cancelled"
    assert all(together[place] == alone[place % 3] for place in together)
    assert len(together) == 8


def test_the_process_stays_as_it_was(
    folder: Path, speech: Waveform, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    before = process_state()
    heard(load(folder), speech)
    assert process_state() == before
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_cold_load_is_silent_even_when_it_fails(folder: Path, own: Path) -> None:
    weights = load_file(own / "model.safetensors")
    del weights["age.dense.bias"]
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    code = (
        "import sys\nfrom cascade.errors import EngineUnavailable\nfrom cascade.paralinguistics import wav2vec2 as e\n"
        "assert 'torch' not in sys.modules\n"
        f"e.load(e.Options(model={str(folder)!r}, device='cpu'))\n"
        f"try: e.load(e.Options(model={str(own)!r}, device='cpu'))\nexcept EngineUnavailable: sys.exit(7)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout, shown.stderr) == (7, "", "")


def test_info(folder: Path, engine: wav2vec2.Wav2Vec2) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert engine.info.options == {"model": str(folder), "device": device, "revision": "local"}
    assert load_engine("speaker", "wav2vec2", {"model": str(folder)}).info == engine.info


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


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_file_that_is_no_json(own: Path, file: str, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    (own / file).write_text(text)
    assert file in refused(own, capfd)


def configured(folder: Path, **settings: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


@pytest.mark.parametrize("settings", [{"model_type": "hubert"}, {"model_type": None}, {"num_hidden_layers": 3}])
def test_another_architecture(own: Path, settings: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert "wrong architecture" in refused(configured(own, **settings), capfd)


def test_another_size(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "not a checkpoint that can be read" in refused(configured(own, intermediate_size=48), capfd)


@pytest.mark.parametrize(
    ("change", "complaint"), [("drop", "age.dense.bias are missing"), ("add", "mood.bias are left over")]
)
def test_weights_are_complete(own: Path, change: str, complaint: str, capfd: pytest.CaptureFixture[str]) -> None:
    weights = load_file(own / "model.safetensors")
    if change == "drop":
        del weights["age.dense.bias"]
    else:
        weights["mood.bias"] = torch.zeros(3)
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    assert complaint in refused(own, capfd)


def test_a_truncated_checkpoint(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = (own / "model.safetensors").read_bytes()
    (own / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "not a checkpoint that can be read" in refused(own, capfd)


def test_a_pickle_with_code_is_refused_unread(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = make_age_gender(tmp_path / "own", pickled=True)
    torch.save({"age.dense.weight": Bomb(tmp_path / "crater")}, own / "pytorch_model.bin")
    assert "not a checkpoint of plain tensors" in refused(own, capfd)
    assert not (tmp_path / "crater").exists()


def test_code_that_the_config_names_is_not_imported(own: Path, tmp_path: Path, speech: Waveform) -> None:
    (own / "evil.py").write_text(f"open({str(tmp_path / 'crater')!r}, 'w')")
    configured(own, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    assert heard(load(own), speech)[0].probabilities
    assert not (tmp_path / "crater").exists()


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["female", "male", "child"], ("female", "male", "child")),
        (["Male", "Child", "Female"], ("male", "child", "female")),
        (["age", "child", "female", "male"], ("child", "female", "male")),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ("female", "male", "child")),
        ([], ("female", "male", "child")),
    ],
)
def test_labels_of_the_gender_head(labels: list[str], order: tuple[str, ...]) -> None:
    config = {"model_type": "wav2vec2", "id2label": {str(place): label for place, label in enumerate(labels)}}
    assert head_labels(config, Path("here")) == order


def test_labels_of_something_else(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configured(own, id2label={"0": "angry", "1": "sad", "2": "calm"})
    assert "wrong labels: angry, sad, calm; legal: female, male, child" in refused(own, capfd)
