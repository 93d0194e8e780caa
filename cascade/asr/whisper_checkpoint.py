"""A Whisper of CTranslate2's on disk: which device runs it, loaded, and whether its files belong together."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.errors import EngineUnavailable, is_out_of_memory, one_line
from cascade.needs import Device, Need
from cascade.needs import device as device_need

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

    from cascade.asr.whisper_encoder import Encoder

FILES = ("model.bin", "config.json", "tokenizer.json", "vocabulary.*")
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")  # what every prompt is made of
CUBLAS = "libcublas.so.12"  # the one that CTranslate2 4 opens by itself
ComputeType = Literal["auto", "float16", "int8_float16", "int8", "float32", "int8_float32"]


def device_of(wanted: Device) -> Literal["cpu", "cuda"]:
    """`auto` takes CUDA where CTranslate2 can use it. Raises EngineUnavailable."""
    import ctranslate2

    need = cuda_or_cpu(wanted)
    if need.fix or (wanted == "cuda" and not ctranslate2.get_cuda_device_count()):
        raise EngineUnavailable(f'device = "cuda": {need.fix or "CTranslate2 sees no CUDA device; mend the driver"}')
    return "cuda" if need.name == "cuda" and ctranslate2.get_cuda_device_count() else "cpu"


def cuda_or_cpu(wanted: Device) -> Need:
    """As every engine's device, and that cuBLAS is there: CTranslate2 would miss it only when it hears the first word."""
    need = device_need(wanted, by_torch=False)
    if need.name != "cuda" or need.fix or _has_cublas():
        return need
    if wanted == "auto":
        return Need("device", "cpu")
    install = "pip install nvidia-cublas-cu12, and put its folder into LD_LIBRARY_PATH"
    return Need("device", "cuda", f'CTranslate2 cannot open {CUBLAS}: {install} (or device = "cpu")')


def _has_cublas() -> bool:
    try:
        ctypes.CDLL(CUBLAS)
    except OSError:
        return False
    return True


def loaded(folder: Path, device: Literal["cpu", "cuda"], compute_type: ComputeType, cpu_threads: int) -> Encoder:
    """Raises EngineUnavailable, in one line, for whatever cannot be read or does not fit together."""
    import ctranslate2

    from cascade.asr.whisper_encoder import Encoder

    kind = compute_type if compute_type != "auto" else "float16" if device == "cuda" else "int8"
    legal = ctranslate2.get_supported_compute_types(device)
    if kind not in legal:
        raise EngineUnavailable(
            f"compute_type = {kind!r} does not run on {device}; legal here: {', '.join(sorted(legal))}"
        )
    _check_json(folder)
    try:
        model = Encoder(str(folder), device=device, compute_type=kind, cpu_threads=cpu_threads, local_files_only=True)
    except Exception as error:  # each of its three libraries has its own
        advice = "take a smaller compute_type or model" if is_out_of_memory(error) else "convert or download it again"
        raise EngineUnavailable(
            f"{folder}: no Whisper that CTranslate2 can load ({one_line(error)}); {advice}"
        ) from error
    _check_fit(folder, model)
    return model


def _check_json(folder: Path) -> None:
    """Both files that the libraries pass over when they are broken. Raises EngineUnavailable.

    preprocessor_config.json may be missing: then there are 80 mel bands, as all had before large-v3.
    """
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.exists():
        _object(preprocessor)
    if not _object(folder / "config.json").get("alignment_heads"):
        raise EngineUnavailable(
            f"{folder}: config.json has no alignment_heads; it is not that of a Whisper of CTranslate2's"
        )


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise EngineUnavailable(f"{path}: not a JSON object; get it again from the model's source")
    return found


def _check_fit(folder: Path, model: WhisperModel) -> None:
    """Raises EngineUnavailable if tokenizer or features belong to another model."""
    if model.model.is_multilingual and not _object(folder / "config.json").get("lang_ids"):
        raise EngineUnavailable(
            f"{folder}: config.json has no lang_ids, which a multilingual model needs; convert it again"
        )
    wanted, given = model.model.n_mels, len(model.feature_extractor.mel_filters)
    if wanted != given:
        raise EngineUnavailable(
            f"{folder}: the model reads {wanted} mel bands, preprocessor_config.json"
            f" {'says' if (folder / 'preprocessor_config.json').exists() else 'is missing, which means'} {given};"
            " get the file of this model"
        )
    tokens = _vocabulary(folder)
    for token in SPECIAL:
        number = model.hf_tokenizer.token_to_id(token)
        if number is None or number >= len(tokens) or tokens[number] != token:
            raise EngineUnavailable(
                f"{folder}: tokenizer.json and the vocabulary disagree on {token}; get both of one model"
            )


def _vocabulary(folder: Path) -> list[str]:
    path = min(folder.glob("vocabulary.*"))  # .json before .txt
    text = path.read_text(encoding="utf-8")
    tokens: list[str] = json.loads(text) if path.suffix == ".json" else text.split("\n")
    return tokens
