"""emotion2vec through the real FunASR, from tiny checkpoints with random weights."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.emotion2vec import LABELS, WIDTH, make_emotion2vec
from checkpoints.hazards import NO_NUMBER, NOTHING, SILENCE, Bomb, noise, process_state

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import load_engine, parse_options
from cascade.errors import Cancelled, ConfigError, EngineFailed, EngineUnavailable, InputError, OutOfMemory
from cascade.paralinguistics import emotion2vec
from cascade.paralinguistics.emotion2vec_checkpoint import conv_layers
from cascade.tts.espeak import Espeak
from cascade.turn import EMOTIONS, EmotionCue

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def speech(voice: Espeak) -> Waveform:
    said = voice.speak("I lost my job", emotion="neutral", intensity=0.5, rate=1.0, seed=0, cancel=CancelScope())
    assert said.wave.sample_rate == 22_050
    return said.wave


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_emotion2vec(tmp_path_factory.mktemp("emotion2vec"))


@pytest.fixture(scope="session")
def engine(folder: Path) -> emotion2vec.Emotion2vec:
    return load(folder)


def load(folder: Path, **options: Any) -> emotion2vec.Emotion2vec:
    return emotion2vec.load(emotion2vec.Options(model=str(folder), **options))


def emotion_of(engine: emotion2vec.Emotion2vec, speech: Waveform, cancel: CancelScope | None = None) -> EmotionCue:
    cues = engine.analyze(speech, baseline=None, cancel=cancel or CancelScope())
    assert (cues.age, cues.gender, cues.events) == (None, None, None)
    assert cues.emotion is not None
    return cues.emotion


# What it says


def test_emotion_is_a_distribution_with_its_unknown(engine: emotion2vec.Emotion2vec, speech: Waveform) -> None:
    cue = emotion_of(engine, speech)
    assert set(cue.probabilities) == set(EMOTIONS)
    assert sum(cue.probabilities.values()) + cue.unknown == pytest.approx(1.0, abs=1e-9)
    assert cue.threshold == 0.5


def test_the_weights_are_those_of_the_checkpoint(
    engine: emotion2vec.Emotion2vec, speech: Waveform, tmp_path: Path
) -> None:
    again, other = load(make_emotion2vec(tmp_path / "a")), load(make_emotion2vec(tmp_path / "b", seed=1))
    assert emotion_of(again, speech) == emotion_of(engine, speech)
    assert emotion_of(other, speech).probabilities != pytest.approx(emotion_of(engine, speech).probabilities, abs=0.01)


def test_scores_are_read_by_their_labels_names(folder: Path, tmp_path: Path, speech: Waveform) -> None:
    turned = make_emotion2vec(tmp_path, labels=(*LABELS[1:], LABELS[0]))
    usual, shifted = emotion_of(load(folder), speech), emotion_of(load(turned), speech)
    assert shifted.probabilities["disgusted"] == pytest.approx(usual.probabilities["angry"])
    assert shifted.probabilities["angry"] == pytest.approx(usual.unknown)


def test_unk_is_unknown(engine: emotion2vec.Emotion2vec, speech: Waveform, tmp_path: Path) -> None:
    usual = emotion_of(engine, speech)
    labels = list(LABELS)
    place = next(i for i, label in enumerate(labels) if label.endswith(f"/{usual.label}"))
    labels[place], labels[-1] = labels[-1], labels[place]
    told = emotion_of(load(make_emotion2vec(tmp_path, labels=tuple(labels))), speech)
    assert told.unknown == pytest.approx(usual.confidence)
    assert told.label is None
    assert told.reason == f"the model cannot tell ({told.unknown:.2f})"


def test_below_the_threshold_there_is_no_label(folder: Path, speech: Waveform) -> None:
    cue = emotion_of(load(folder, threshold=1.0), speech)
    assert cue.label is None
    assert cue.reason == f"not sure: {cue.best} at {cue.confidence:.2f}, 1.00 is needed"
    assert emotion_of(load(folder, threshold=0.0), speech).label == cue.best


def test_any_sample_rate(engine: emotion2vec.Emotion2vec, speech: Waveform) -> None:
    at_16k = engine.embed(speech.resampled(16_000), cancel=CancelScope()).frames
    at_22k = engine.embed(speech, cancel=CancelScope()).frames
    at_48k = engine.embed(speech.resampled(48_000), cancel=CancelScope()).frames
    assert np.array_equal(at_16k, at_22k)
    assert np.corrcoef(at_16k.ravel(), at_48k[: len(at_16k)].ravel())[0, 1] > 0.99


def test_features(engine: emotion2vec.Emotion2vec, speech: Waveform) -> None:
    features = engine.embed(speech, cancel=CancelScope())
    assert features.frame_rate_hz == 50.0
    assert features.frames.shape[1] == WIDTH
    assert len(features.frames) == pytest.approx(speech.duration_s * 50, abs=2)
    assert features.utterance.shape == (WIDTH,)
    assert features.frames.dtype == features.utterance.dtype == np.float32
    assert np.allclose(features.utterance, features.frames.mean(axis=0), atol=1e-6)


def test_the_same_again(engine: emotion2vec.Emotion2vec, speech: Waveform) -> None:
    assert emotion_of(engine, speech) == emotion_of(engine, speech)


def test_long_speech_is_read_in_parts(engine: emotion2vec.Emotion2vec) -> None:
    lengths: list[int] = []
    front = engine._auto.model.modality_encoders["AUDIO"].local_encoder
    hook = front.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[-1]))
    try:
        features = engine.embed(noise(65.0), cancel=CancelScope())
    finally:
        hook.remove()
    assert len(lengths) == 3
    assert max(lengths) <= 30 * 16_000
    assert len(features.frames) == pytest.approx(65 * 50, abs=6)
    whole = emotion_of(engine, noise(65.0))
    alone = [emotion_of(engine, Waveform(part, 16_000)) for part in np.array_split(noise(65.0).samples, 3)]
    for emotion, share in whole.probabilities.items():
        assert share == pytest.approx(np.mean([cue.probabilities[emotion] for cue in alone]), abs=1e-6)
    assert whole.unknown == pytest.approx(np.mean([cue.unknown for cue in alone]), abs=1e-6)


# What it cannot hear


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (noise(0.02), "too short: 20 ms, 100 ms are needed"),
        (SILENCE, "silence: -inf dBFS, speech is above -70"),
    ],
)
def test_nothing_is_made_up(engine: emotion2vec.Emotion2vec, sound: Waveform, reason: str) -> None:
    cue = emotion_of(engine, sound)
    assert (cue.label, cue.probabilities, cue.reason) == (None, {}, reason)
    with pytest.raises(EngineFailed, match="no features of this sound"):
        engine.embed(sound, cancel=CancelScope())


@pytest.mark.parametrize("sound", [NOTHING, NO_NUMBER])
def test_what_is_no_sound(engine: emotion2vec.Emotion2vec, sound: Waveform) -> None:
    with pytest.raises(InputError):
        emotion_of(engine, sound)
    with pytest.raises(InputError):
        engine.embed(sound, cancel=CancelScope())


def test_the_shortest_turn_is_heard(engine: emotion2vec.Emotion2vec) -> None:
    assert emotion_of(engine, noise(0.1, 8_000)).probabilities


def test_no_number_is_a_failure(engine: emotion2vec.Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"x": torch.full((1, 50, WIDTH), torch.nan, device=next(engine._auto.model.parameters()).device)}
    monkeypatch.setattr(engine._auto.model, "extract_features", lambda *_, **__: broken)
    with pytest.raises(EngineFailed, match="gave no number"):
        emotion_of(engine, noise(1))


def test_out_of_memory(engine: emotion2vec.Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(engine._auto.model, "extract_features", full)
    with pytest.raises(OutOfMemory, match="emotion2vec: out of memory"):
        emotion_of(engine, noise(1))


# In a process with others


def test_cancelled_between_two_layers(engine: emotion2vec.Emotion2vec, speech: Waveform) -> None:
    scope, ran = CancelScope(), []
    first, second = engine._auto.model.blocks
    hooks = [
        first.register_forward_hook(lambda *_: scope.cancel()),
        second.register_forward_hook(lambda *_: ran.append("second")),
    ]
    try:
        with pytest.raises(Cancelled):
            emotion_of(engine, speech, scope)
        assert emotion_of(engine, speech).probabilities  # begins when the other has ended
    finally:
        [hook.remove() for hook in hooks]
    assert ran == ["second"], "only the one that was not cancelled goes so far"


def test_who_is_cancelled_waits_for_no_layer_and_no_other(engine: emotion2vec.Emotion2vec, speech: Waveform) -> None:
    entered, release = threading.Event(), threading.Event()
    scopes, left = [CancelScope(), CancelScope()], [threading.Event(), threading.Event()]

    def slow(*_: Any) -> None:
        entered.set()
        release.wait(20)

    def listen(place: int) -> None:
        with pytest.raises(Cancelled):
            emotion_of(engine, speech, scopes[place])
        left[place].set()

    hook = engine._auto.model.blocks[0].register_forward_hook(slow)
    threads = [threading.Thread(target=listen, args=(place,)) for place in (0, 1)]
    try:
        threads[0].start()
        assert entered.wait(20)
        threads[1].start()
        assert not left[1].wait(0.1)
        for place in (1, 0):  # the one that waits for its turn, then the one whose layer is slow
            scopes[place].cancel()
            assert left[place].wait(5)
        assert not release.is_set()
    finally:
        release.set()
        [thread.join() for thread in threads]
        assert emotion_of(engine, speech).probabilities
        hook.remove()


def test_cancelled_before_it_began(engine: emotion2vec.Emotion2vec) -> None:
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        emotion_of(engine, SILENCE, scope)
    with pytest.raises(Cancelled):
        engine.embed(noise(1), cancel=scope)


def test_two_threads_at_once(engine: emotion2vec.Emotion2vec, speech: Waveform) -> None:
    sounds = [speech, noise(2.0), noise(3.1)]
    alone = [emotion_of(engine, sound) for sound in sounds]
    together: dict[int, EmotionCue] = {}

    def hear(place: int) -> None:
        together[place] = emotion_of(engine, sounds[place % 3])

    threads = [threading.Thread(target=hear, args=(place,)) for place in range(9)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [together[place] for place in range(9)] == alone * 3


def test_the_process_stays_as_it_was(
    folder: Path, speech: Waveform, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    before = process_state()
    engine = load(folder)
    assert process_state() == before
    emotion_of(engine, speech)
    engine.embed(speech, cancel=CancelScope())
    assert process_state() == before
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_cold_load_is_silent_and_imports_late(folder: Path) -> None:
    code = (
        "import sys, random, torch\n"
        "from cascade.paralinguistics import emotion2vec as e\n"
        "assert 'funasr' not in sys.modules\n"
        "random.seed(1); torch.manual_seed(1); before = random.getstate(), torch.get_rng_state(), torch.get_num_threads()\n"
        f"e.load(e.Options(model={str(folder)!r}, device='cpu'))\n"
        "assert random.getstate() == before[0] and torch.get_num_threads() == before[2]\n"
        "assert torch.equal(torch.get_rng_state(), before[1])\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")


def test_the_module_alone_needs_no_torch() -> None:
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'funasr', 'omegaconf'): sys.modules[name] = None\n"
        "from cascade.paralinguistics import audio_tagger, emotion2vec, wav2vec2\n"
        "for m in (audio_tagger, emotion2vec, wav2vec2): print(next(n.fix for n in m.needs(m.Options()) if n.fix))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [f"pip install -e '.[{extra}]'" for extra in ("taggers", "emotion2vec", "taggers")]
    assert shown.stdout.splitlines() == lines


def test_info_and_options(folder: Path, engine: emotion2vec.Emotion2vec) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert engine.info.name == "emotion2vec"
    assert engine.info.options == {"model": str(folder), "device": device, "revision": "local"}
    assert load_engine("emotion", "emotion2vec", {"model": str(folder)}).info == engine.info
    with pytest.raises(ConfigError, match="threshold"):
        parse_options("emotion", "emotion2vec", {"threshold": 1.5})


# Checkpoints that are wrong


def refused(folder: Path) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


def changed(folder: Path, old: str, new: str) -> Path:
    text = (folder / "config.yaml").read_text()
    assert old in text
    (folder / "config.yaml").write_text(text.replace(old, new))
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return make_emotion2vec(tmp_path / "own")


@pytest.mark.parametrize("file", ["config.yaml", "model.pt", "tokens.txt"])
def test_a_missing_file(own: Path, file: str) -> None:
    (own / file).unlink()
    assert f"holds no {file}" in refused(own)


def test_another_architecture(own: Path) -> None:
    assert "wrong architecture, 'Paraformer'" in refused(changed(own, "model: Emotion2vec", "model: Paraformer"))


@pytest.mark.parametrize(
    "text", ["", "- a\n", "{", "model: Emotion2vec\n", "\x00\x01", "model: !!python/name:os.system ''"]
)
def test_a_config_that_is_none(own: Path, text: str) -> None:
    (own / "config.yaml").write_text(text)
    assert "config.yaml" in refused(own) or "wrong architecture" in refused(own)


def test_a_truncated_checkpoint(own: Path) -> None:
    whole = (own / "model.pt").read_bytes()
    (own / "model.pt").write_bytes(whole[: len(whole) // 2])
    assert "not a checkpoint of plain tensors" in refused(own)


def test_weights_of_another_size(own: Path) -> None:
    assert "wrong architecture: model.pt holds no weights" in refused(changed(own, "mlp_ratio: 4.0", "mlp_ratio: 2.0"))


def test_a_weight_that_is_missing_is_not_made_up(own: Path) -> None:
    saved = torch.load(own / "model.pt")
    del saved["model_state_dict"]["proj.weight"]
    torch.save(saved, own / "model.pt")
    assert "model.pt holds no weights proj.weight" in refused(own)


def test_a_checkpoint_without_the_training_decoder_loads(own: Path, speech: Waveform) -> None:
    decoder = "decoder: {decoder_dim: 8, decoder_groups: 4, decoder_kernel: 7, decoder_layers: 2, projection_layers: 1}"
    assert emotion_of(load(changed(own, "decoder: null", decoder)), speech).probabilities


def test_a_label_without_a_meaning(own: Path) -> None:
    tokens = own / "tokens.txt"
    tokens.write_text(tokens.read_text(encoding="utf-8").replace("开心/happy", "无聊/bored"), encoding="utf-8")
    assert "the label '无聊/bored' has no meaning" in refused(own)


def test_a_pickle_with_code_is_refused_unread(own: Path, tmp_path: Path) -> None:
    torch.save({"model_state_dict": Bomb(tmp_path / "crater")}, own / "model.pt")
    assert "not a checkpoint of plain tensors" in refused(own)
    assert not (tmp_path / "crater").exists()


def test_code_in_the_layout_is_refused_unread(own: Path, tmp_path: Path) -> None:
    spec = f"feature_encoder_spec: open('{tmp_path}/crater', 'w') and [(16, 10, 5)]"
    old = next(line for line in (own / "config.yaml").read_text().splitlines() if "feature_encoder_spec" in line)
    assert "no list of layers" in refused(changed(own, old.strip(), spec))
    assert not (tmp_path / "crater").exists()


def test_code_that_the_config_names_is_not_imported(own: Path, tmp_path: Path, speech: Waveform) -> None:
    (own / "evil.py").write_text(f"open({str(tmp_path / 'crater')!r}, 'w')")
    (own / "requirements.txt").write_text("evil")
    with (own / "config.yaml").open("a") as file:
        file.write(f"trust_remote_code: true\nremote_code: {own}/evil.py\noutput_dir: {tmp_path}/crater\n")
    assert emotion_of(load(own), speech).probabilities
    assert not (tmp_path / "crater").exists()


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("[(512, 10, 5)]", [(512, 10, 5)]),
        ("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)]", [(512, 10, 5), *[(512, 3, 2)] * 4, (512, 2, 2)]),
    ],
)
def test_layers_of_the_front_end(spec: str, layers: list[tuple[int, int, int]]) -> None:
    assert conv_layers(spec) == layers


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "[]",
        "[(512, 10)]",
        "[(512, 10, 0)]",
        "[(512, 10, 'a')]",
        "[(1, 1, 1)] * 999999999",
        "[(1, 1, 1)] * 60 * 60",
        "__import__('os').getcwd()",
        "[x for x in ()]",
        "[(1, 1, 1)] + " * 5000,
        7,
        None,
    ],
)
def test_layers_that_are_none(spec: object) -> None:
    with pytest.raises(ValueError, match="feature_encoder_spec"):
        conv_layers(spec)
