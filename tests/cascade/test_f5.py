"""F5-TTS: the library's real DiT, CFM and Vocos on a tiny random voice model and clips of eSpeak NG's voice."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from checkpoints.f5 import make_bank, make_f5, make_vocos
from checkpoints.hazards import Bomb, process_state
from safetensors.torch import load_file, save_file

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Speech, load_engine
from cascade.errors import Cancelled, EngineFailed, EngineUnavailable, InputError, OutOfMemory
from cascade.needs import extra
from cascade.tts import f5
from cascade.tts.emotions import NEUTRAL_DBFS
from cascade.tts.espeak import Espeak
from cascade.tts.f5_library import library
from cascade.tts.f5_noise import noise_of
from cascade.tts.silence import pauses_s
from cascade.tts.voice_bank import load_bank

TEXT = "I will be there at nine, and we can talk."
SENTENCE = "That would bring anyone low."


@pytest.fixture(scope="session")
def clips(voice: Espeak) -> dict[str, tuple[Waveform, str]]:
    def said(emotion: Any) -> tuple[Waveform, str]:
        speech = voice.speak(TEXT, emotion=emotion, intensity=1.0, rate=1.2, seed=0, cancel=CancelScope())
        return speech.wave, TEXT

    return {"neutral": said("neutral"), "happy": said("happy"), "sad": said("sad")}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, clips: dict[str, tuple[Waveform, str]]) -> Path:
    made = make_f5(tmp_path_factory.mktemp("f5") / "model")
    make_bank(made.parent / "bank", clips)
    return made


@pytest.fixture(scope="session")
def engine(folder: Path) -> f5.F5:
    return load(folder)


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(folder.parent, tmp_path / "own")
    return tmp_path / "own" / "model"


def options(folder: Path, **more: Any) -> dict[str, Any]:
    voices = folder.parent / "bank"
    return {"model": str(folder), "vocoder": str(folder / "vocos"), "voices": str(voices), "nfe_steps": 4, **more}


def load(folder: Path, **more: Any) -> f5.F5:
    engine: f5.F5 = load_engine("tts", "f5", options(folder, **more))
    return engine


def say(engine: f5.F5, text: str = SENTENCE, **more: Any) -> Waveform:
    return spoken(engine, text, **more).wave


def spoken(engine: f5.F5, text: str = SENTENCE, **more: Any) -> Speech:
    asked: dict[str, Any] = {"emotion": "neutral", "intensity": 0.7, "rate": 1.0, "seed": 0, "cancel": CancelScope()}
    return engine.speak(text, **{**asked, **more})


def test_a_sentence_is_speech_at_the_level_of_a_calm_reply(engine: f5.F5) -> None:
    speech = spoken(engine)
    wave = speech.wave
    assert (wave.sample_rate, wave.samples.dtype, speech.words) == (24_000, np.float32, ())
    assert np.isfinite(wave.samples).all()
    assert wave.level_dbfs == pytest.approx(NEUTRAL_DBFS, abs=0.3)
    # As fast as the clip: as many bytes of text a second. The tiny model is never silent.
    clip = engine._voices["neutral"]
    expected_s = len(SENTENCE) / len(clip.text) * len(clip.samples) / 24_000
    assert wave.duration_s == pytest.approx(expected_s, abs=0.1)


def test_ends_are_faded_and_have_little_silence(engine: f5.F5) -> None:
    wave = say(engine)
    steps = np.abs(np.diff(wave.samples))
    assert wave.samples[0] == wave.samples[-1] == 0
    usual = float(np.percentile(steps, 99))
    assert max(steps[:24].max(), steps[-24:].max()) < usual / 2
    before, _, after = pauses_s(wave)
    assert max(before, after) <= f5.MARGIN_S + 0.02


def test_same_arguments_same_samples_another_seed_others(engine: f5.F5, folder: Path) -> None:
    first = say(engine, seed=3)
    np.testing.assert_array_equal(first.samples, say(engine, seed=3).samples)
    np.testing.assert_array_equal(first.samples, say(load(folder), seed=3).samples)
    assert len(first.samples) != len(other := say(engine, seed=4).samples) or not np.allclose(first.samples, other)


def test_threads_do_not_disturb_each_other(engine: f5.F5) -> None:
    alone = [say(engine, seed=seed) for seed in range(3)]
    together: dict[int, Waveform] = {}
    threads = [threading.Thread(target=lambda s=seed: together.update({s: say(engine, seed=s)})) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, wave in enumerate(alone):
        np.testing.assert_array_equal(wave.samples, together[seed].samples)


def test_the_emotions_clip_is_what_is_followed(engine: f5.F5) -> None:
    neutral, sad, tearful = (say(engine, emotion=emotion) for emotion in ("neutral", "sad", "tearful"))
    assert not np.array_equal(neutral.samples, sad.samples)
    np.testing.assert_array_equal(sad.samples, tearful.samples)
    assert engine.info.options["stand_ins"]["tearful"] == "sad"
    assert engine.info.options["stand_ins"]["joyful"] == "happy"
    assert "sad" not in engine.info.options["stand_ins"]


def test_info_tells_what_it_takes_to_make_it_again(engine: f5.F5, folder: Path) -> None:
    shown = engine.info.options
    assert (engine.info.name, shown["model"], shown["revision"]) == ("f5", str(folder), "local")
    assert shown["vocoder"] == str(folder / "vocos")
    assert shown["nfe_steps"] == 4
    assert shown["device"].split(":")[0] in ("cpu", "cuda")
    assert shown["clips"]["sad"] == load_bank(folder.parent / "bank").clips["sad"].wav.name
    json.dumps(shown)


def test_rate_speed_and_the_clips_own_speed_set_the_pace(engine: f5.F5, own: Path) -> None:
    usual = say(engine).duration_s
    assert say(engine, rate=1.5).duration_s == pytest.approx(usual / 1.5, abs=0.05)
    bank = own.parent / "bank" / "bank.toml"
    bank.write_text(bank.read_text().replace("speed = 1", "speed = 0.8"))
    assert say(load(own, speed=2.0)).duration_s == pytest.approx(usual / 1.6, abs=0.05)


def test_a_word_gets_time_to_spare(engine: f5.F5) -> None:
    assert say(engine, "Yes.").duration_s > 0.5


def test_options_of_the_flow_matter(engine: f5.F5, folder: Path) -> None:
    usual = say(engine).samples
    for more in ({"nfe_steps": 8}, {"cfg_strength": 0.5}, {"sway": 0.0}):
        other = say(load(folder, **more)).samples
        assert len(other) != len(usual) or not np.allclose(other, usual, atol=1e-4)


def test_a_long_text_is_made_in_pieces(engine: f5.F5) -> None:
    text = "So you lost your job yesterday, and it has left its mark; " * 12
    pieces = f5.split(text.strip(), engine._voices["neutral"].most_bytes(1.0))
    assert len(pieces) >= 2
    wave = say(engine, text)
    assert wave.duration_s > f5.WINDOW_S
    assert wave.level_dbfs == pytest.approx(NEUTRAL_DBFS, abs=0.3)
    parts_s = sum(say(engine, piece, seed=at).duration_s for at, piece in enumerate(pieces))
    assert wave.duration_s == pytest.approx(parts_s - f5.JOIN_S * (len(pieces) - 1), abs=0.01)


def test_pieces_are_joined_without_a_click() -> None:
    tone = np.sin(np.arange(12_000) / 24_000 * 2 * np.pi * 100.25).astype(np.float32)  # ends at its peak
    wave = f5.finished([Waveform(tone, 24_000), Waveform(-np.flip(tone).copy(), 24_000)])
    usual = 2 * np.pi * 100.25 / 24_000 * float(np.abs(wave.samples).max())
    assert np.abs(np.diff(wave.samples)).max() < 1.5 * usual
    assert wave.duration_s == pytest.approx(1.0 - f5.JOIN_S)


def test_a_peak_is_not_clipped() -> None:
    samples = np.zeros(24_000, np.float32)
    samples[12_000:12_003] = 1.0
    assert np.abs(f5.finished([Waveform(samples, 24_000)]).samples).max() == pytest.approx(f5.HEADROOM)


def test_silence_at_the_ends_is_cut(folder: Path, engine: f5.F5) -> None:
    spaced, quiet = load(folder), torch.zeros(1, 9600)
    spaced._vocoder.head.register_forward_hook(
        lambda _, __, out: torch.cat([quiet.to(out), out, quiet.to(out)], dim=-1)
    )
    wave = say(spaced)
    before, _, after = pauses_s(wave)
    assert (before, after) == pytest.approx((f5.MARGIN_S, f5.MARGIN_S), abs=0.011)
    assert wave.duration_s == pytest.approx(say(engine).duration_s + 2 * f5.MARGIN_S, abs=0.03)


def test_splitting_keeps_every_word_within_the_limit() -> None:
    text = "One two, three four five; six seven eight nine ten eleven. Twelve!"
    assert f5.split(text, 200) == [text]
    pieces = f5.split(text, 26)
    assert pieces == ["One two, three four five;", "six seven eight nine ten", "eleven. Twelve!"]
    chinese = f5.split("你好，今天天气很好。我很高兴。", 30)
    assert "".join(chinese) == "你好，今天天气很好。我很高兴。"
    assert all(len(piece.encode()) <= 30 for piece in chinese)
    assert "".join(f5.split("a" * 50, 20)) == "a" * 50
    assert f5.split("Yes … … no", 4) == ["Yes", "no"]


def test_text_that_cannot_be_said(engine: f5.F5) -> None:
    with pytest.raises(InputError, match="nothing to say"):
        say(engine, " … ")
    with pytest.raises(EngineFailed, match="vocabulary has no letter of 'Здравствуйте'"):
        say(engine, "Здравствуйте")
    assert say(engine, "你好").duration_s > 0.1


def test_cancelled_from_within_sampling(folder: Path) -> None:
    engine, scope, runs = load(folder, nfe_steps=64), CancelScope(), []
    first, *_, last = engine._model.transformer.transformer_blocks
    first.register_forward_hook(lambda *_: (runs.append("first"), scope.cancel())[0])
    last.register_forward_hook(lambda *_: runs.append("last"))
    with pytest.raises(Cancelled):
        say(engine, cancel=scope)
    with engine._calls._busy:  # the call left behind has ended
        assert runs == ["first"]


def test_what_follows_a_cancelled_sentence_is_not_touched_by_it(engine: f5.F5) -> None:
    fresh, scope, voice = say(engine), CancelScope(), engine._voices["neutral"]
    hook = engine._model.transformer.transformer_blocks[0].register_forward_hook(lambda *_: scope.cancel())
    with pytest.raises(Cancelled):
        engine._said("Something else is said.", voice, 1.0, 0, scope)
    hook.remove()
    again = engine._said(SENTENCE, voice, 1.0, 0, CancelScope())  # in the same thread, where the library keeps a text
    np.testing.assert_array_equal(f5.finished([again]).samples, fresh.samples)


def test_cancelled_before_it_began(engine: f5.F5) -> None:
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        say(engine, cancel=scope)


def test_the_process_stays_as_it_was(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    library()
    before, modules = process_state(), set(sys.modules)
    engine = load(folder)
    assert process_state() == before
    say(engine)
    assert process_state() == before
    assert not {name for name in set(sys.modules) - modules if name.startswith(("torchaudio", "f5_tts.model"))}
    assert capfd.readouterr() == ("", "")


def test_noise_is_the_callers_alone() -> None:
    network, cpu = torch.nn.Identity(), torch.device("cpu")
    state = torch.get_rng_state()
    others: list[torch.Tensor] = []
    with noise_of(7, cpu, until=network):
        mine = torch.randn(5)
        thread = threading.Thread(target=lambda: others.append(torch.randn(5)))
        thread.start()
        thread.join()
        network(mine)
        after = torch.randn(5)
    torch.set_rng_state(state)
    assert torch.equal(others[0], torch.randn(5))
    assert torch.equal(after, torch.randn(5))  # out of the way once the network ran
    assert torch.equal(mine, torch.randn(5, generator=torch.Generator().manual_seed(7)))
    torch.set_rng_state(state)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(torch.OutOfMemoryError("CUDA out of memory. Tried"), OutOfMemory), (RuntimeError("size mismatch"), EngineFailed)],
)
def test_failures_of_the_network_are_the_engines(folder: Path, error: Exception, raised: type[Exception]) -> None:
    engine = load(folder)

    def fail(*_: Any) -> None:
        raise error

    engine._model.transformer.register_forward_pre_hook(fail)
    with pytest.raises(raised, match=str(error)[:13]) as caught:
        say(engine)
    assert type(caught.value) is raised


@pytest.mark.parametrize(("value", "problem"), [(float("nan"), "gave no number"), (0.0, "gave silence")])
def test_what_is_no_speech_is_refused(folder: Path, value: float, problem: str) -> None:
    engine = load(folder)
    engine._vocoder.head.register_forward_hook(lambda _, __, out: torch.full_like(out, value))
    with pytest.raises(EngineFailed, match=problem):
        say(engine)


def rewritten(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def fewer_words(model: Path) -> None:
    lines = (model / "vocab.txt").read_text(encoding="utf-8").splitlines()
    (model / "vocab.txt").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")


def other_class(model: Path) -> None:
    path = model / "vocos" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["head"] = {"class_path": "subprocess.check_output", "init_args": {"args": ["touch", str(model / "crater")]}}
    path.write_text(yaml.safe_dump(config))


def bomb(model: Path) -> None:
    (model / "vocos" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(model / "crater")))


def one_tensor_less(model: Path) -> None:
    weights = load_file(model / "model_1.safetensors")
    del weights["ema_model.transformer.proj_out.bias"]
    save_file(weights, model / "model_1.safetensors")


SPOILT: dict[str, tuple[Any, str]] = {
    "cut weights": (
        lambda m: (m / "model_1.safetensors").write_bytes((m / "model_1.safetensors").read_bytes()[:5000]),
        "not safetensors that can be read",
    ),
    "weights that are text": (
        lambda m: (m / "model_1.safetensors").write_text("version https://git-lfs.github.com/spec/v1"),
        "not safetensors that can be read",
    ),
    "no weights": (lambda m: (m / "model_1.safetensors").unlink(), r"holds no file \*.safetensors"),
    "two weights": (
        lambda m: shutil.copy(m / "model_1.safetensors", m / "model_2.safetensors"),
        r"holds 2 files \*.safetensors",
    ),
    "a weight less": (one_tensor_less, "wrong architecture, transformer.proj_out.bias is not there"),
    "other size": (lambda m: rewritten(m / "arch.json", dim=128), "wrong architecture, .*give the arch.toml"),
    "more layers": (
        lambda m: rewritten(m / "arch.json", depth=3),
        "wrong architecture, transformer.transformer_blocks.2",
    ),
    "no arch": (lambda m: (m / "arch.json").unlink(), "wrong architecture, .*after F5TTS_v1_Base.yaml"),
    "odd argument": (lambda m: rewritten(m / "arch.json", wings=2), "not the arguments of a DiT .*wings"),
    "broken arch": (lambda m: (m / "arch.json").write_text("{"), "arch.json: cannot be read"),
    "a list": (lambda m: (m / "arch.json").write_text("[]"), "not a table"),
    "no vocabulary": (lambda m: (m / "vocab.txt").unlink(), "holds no file vocab.txt"),
    "fewer words": (fewer_words, "vocab.txt: holds 98 tokens, the weights know 99"),
    "no space": (lambda m: (m / "vocab.txt").write_text("a\nb\n"), "whose first line is a space"),
    "binary vocabulary": (lambda m: (m / "vocab.txt").write_bytes(b"\xff\xfe\x00"), "vocab.txt: cannot be read"),
    "code in the vocoder": (bomb, "not a checkpoint of plain tensors"),
    "code in its config": (other_class, "head is 'subprocess.check_output'; F5-TTS's vocoder has vocos.heads"),
    "empty config": (lambda m: (m / "vocos" / "config.yaml").write_text(""), "not a Vocos config"),
    "no config": (lambda m: (m / "vocos" / "config.yaml").unlink(), "holds no config.yaml"),
    "another vocoder's weights": (
        lambda m: torch.save({"a": torch.zeros(2)}, m / "vocos" / "pytorch_model.bin"),
        "not a Vocos vocoder of F5-TTS",
    ),
    "another hop": (lambda m: make_vocos(m / "vocos", hop_length=512), "needs 256 a frame"),
    "no neutral": (
        lambda m: (m.parent / "bank" / "bank.toml").unlink(),
        "attune voices add neutral CLIP.wav --text 'its words' --bank",
    ),
    "a lost clip": (lambda m: next((m.parent / "bank").glob("sad*.wav")).unlink(), "sad-.*wav: the bank names it"),
    "a spoilt clip": (
        lambda m: next((m.parent / "bank").glob("sad*.wav")).write_bytes(b"RIFF"),
        "sad-.*wav: not audio",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_checkpoint_that_is_not_right_is_one_line(own: Path, name: str) -> None:
    spoil, problem = SPOILT[name]
    spoil(own)
    with pytest.raises(EngineUnavailable, match=problem) as raised:
        load(own)
    assert "\n" not in str(raised.value)
    assert not (own / "crater").exists()


def test_a_model_one_level_down_with_an_arch_in_toml(own: Path, engine: f5.F5) -> None:
    arch = json.loads((own / "arch.json").read_text())
    inner = own / "inner"
    inner.mkdir()
    for name in ("model_1.safetensors", "vocab.txt"):
        (own / name).rename(inner / name)
    (own / "arch.json").unlink()
    lines = (f"{key} = {json.dumps(value)}" for key, value in arch.items())
    (inner / "arch.toml").write_text("\n".join(lines))
    np.testing.assert_array_equal(say(load(own)).samples, say(engine).samples)


def test_needs_are_met_here_and_name_the_line_where_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = f5.needs(f5.Options(**options(folder)))
    assert [need.fix for need in found] == [None] * len(found)
    assert {need.kind for need in found} == {"package", "checkpoint", "device", "file"}
    missing = {need.name: need.fix for need in f5.needs(f5.Options()) if need.fix}
    assert "hf download SWivid/F5-TTS F5TTS_v1_Base/model_1250000.safetensors" in missing["SWivid/F5-TTS@84e5a41"]
    monkeypatch.setitem(sys.modules, "vocos", None)
    for devices, line in (
        (0, f"{extra('f5-cpu')} && pip install --no-deps -r /"),
        (1, extra("f5")),
    ):
        monkeypatch.setattr(f5, "cuda_devices", lambda count=devices: count)
        (gap,) = [need for need in f5.needs(f5.Options(**options(folder))) if need.fix]
        assert (gap.kind, gap.name) == ("package", "vocos")
        assert gap.fix is not None
        assert gap.fix.startswith(line)
    assert Path(f5.__file__).with_name("f5-cpu.txt").is_file()
