"""Checkpoints of Whisper that cannot be loaded: one clear line each, before a word is spoken."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints.everything import Checkpoints
from checkpoints.whisper import make_whisper

from cascade import needs
from cascade.asr import faster_whisper as whisper
from cascade.asr import whisper_checkpoint
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.errors import EngineUnavailable


@pytest.fixture(scope="session")
def model(checkpoints: Checkpoints) -> Path:
    return checkpoints.whisper


@pytest.fixture(scope="session")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("whisper") / "english", multilingual=False)


def loaded(folder: Path, **options: Any) -> whisper.FasterWhisper:
    return whisper.load(whisper.Options.model_validate({"model": str(folder), "max_new_tokens": 12} | options))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_model(path: Path) -> None:
    """Of another architecture: the name that CTranslate2 finds first."""
    path.write_bytes(path.read_bytes().replace(b"WhisperSpec\0", b"Wav2Vec2Spc\0", 1))


def without(key: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        whole = json.loads(path.read_text())
        del whole[key]
        path.write_text(json.dumps(whole))

    return change


FLAWS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("model.bin", cut, "no Whisper that CTranslate2 can load"),
    ("model.bin", lambda path: path.write_bytes(b""), "no Whisper that CTranslate2 can load"),
    (
        "model.bin",
        lambda path: path.write_bytes(random.Random(0).randbytes(4096)),
        "no Whisper that CTranslate2 can load",
    ),
    ("model.bin", other_model, "no Whisper that CTranslate2 can load"),
    ("model.bin", Path.unlink, "holds no model.bin"),
    ("config.json", Path.unlink, "holds no config.json"),
    ("config.json", lambda path: path.write_text("[]"), "not a JSON object"),
    ("config.json", without("alignment_heads"), "no alignment_heads"),
    ("config.json", without("lang_ids"), "no lang_ids"),
    ("tokenizer.json", Path.unlink, "holds no tokenizer.json"),
    ("tokenizer.json", cut, "no Whisper that CTranslate2 can load"),
    ("vocabulary.json", Path.unlink, "holds no vocabulary"),
    ("vocabulary.json", cut, "no Whisper that CTranslate2 can load"),
    ("vocabulary.json", lambda path: path.write_text('["a"]'), "disagree on <|endoftext|>"),
    ("preprocessor_config.json", cut, "not a JSON object"),
    ("preprocessor_config.json", lambda path: path.write_text('{"feature_size": 128}'), "reads 80 mel bands"),
]


@pytest.mark.parametrize(("name", "change", "line"), FLAWS)
def test_a_checkpoint_with_a_flaw_is_one_line(
    model: Path, tmp_path: Path, name: str, change: Callable[[Path], Any], line: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    change(folder / name)
    with pytest.raises(EngineUnavailable) as caught:
        loaded(folder)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(model: Path, english: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    shutil.copy(english / "tokenizer.json", folder)
    with pytest.raises(EngineUnavailable, match="disagree"):
        loaded(folder)


def test_without_preprocessor_config_there_are_80_mel_bands(
    model: Path, tmp_path: Path, spoken_sentence: Waveform
) -> None:
    folder = tmp_path / "80"
    shutil.copytree(model, folder)
    (folder / "preprocessor_config.json").unlink()
    heard = loaded(folder).transcribe(spoken_sentence, cancel=CancelScope())
    assert heard == loaded(model).transcribe(spoken_sentence, cancel=CancelScope())
    large = make_whisper(tmp_path / "128", mels=128)
    assert loaded(large).transcribe(spoken_sentence, cancel=CancelScope()).text
    (large / "preprocessor_config.json").unlink()
    with pytest.raises(EngineUnavailable, match=r"128 mel bands, preprocessor_config.json is missing, which means 80"):
        loaded(large)


def test_a_vocabulary_as_text_is_read(model: Path, tmp_path: Path, spoken_sentence: Waveform) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    tokens = json.loads((folder / "vocabulary.json").read_text())
    (folder / "vocabulary.json").unlink()
    (folder / "vocabulary.txt").write_text("\n".join(tokens))
    assert loaded(folder).transcribe(spoken_sentence, cancel=CancelScope()).text


def test_a_compute_type_that_the_device_lacks_is_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctranslate2

    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda device: {"int8", "float32"})
    with pytest.raises(EngineUnavailable, match=r"'float16' does not run on cpu; legal here: float32, int8$"):
        loaded(model, compute_type="float16", device="cpu")


def test_a_model_that_does_not_fit_into_memory_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cascade.asr import whisper_encoder

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA failed with error out of memory")

    monkeypatch.setattr(whisper_encoder, "Encoder", fail)
    with pytest.raises(EngineUnavailable, match="take a smaller compute_type or model"):
        loaded(model)


def test_a_cuda_device_without_cublas_12(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "cuda_devices", lambda: 1)
    monkeypatch.setattr(whisper_checkpoint, "_has_cublas", lambda: True)
    assert [whisper_checkpoint.cuda_or_cpu(wanted).name for wanted in ("auto", "cpu", "cuda")] == [
        "cuda",
        "cpu",
        "cuda",
    ]
    monkeypatch.setattr(whisper_checkpoint, "_has_cublas", lambda: False)
    assert whisper_checkpoint.cuda_or_cpu("auto").name == "cpu"
    assert whisper_checkpoint.device_of("auto") == "cpu"
    with pytest.raises(EngineUnavailable, match=r"cannot open libcublas\.so\.12: pip install"):
        whisper_checkpoint.device_of("cuda")
