"""Where the files of an F5-TTS voice model lie; looked at without importing anything heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cascade.errors import EngineUnavailable
from cascade.models import MODELS, locate

VOCODER_FILES = ("config.yaml", "pytorch_model.bin")
VOCABULARY, WEIGHTS = "vocab.txt", "*.safetensors"
ARCHS = ("arch.toml", "arch.json")


@dataclass(frozen=True)
class VoiceFiles:
    """arch: the DiT's arguments; None: F5TTS_v1_Base's."""

    weights: Path
    vocabulary: Path
    arch: Path | None = None


def wanted(model: str) -> tuple[str, ...]:
    """What `locate` must find in the model's folder. A folder of one's own may have it all one level down."""
    if model in MODELS:
        return MODELS[model].include
    return () if Path(model).is_absolute() else (VOCABULARY, WEIGHTS)


def voice_files(model: str) -> VoiceFiles:
    """Raises EngineUnavailable: not here, a file missing, or more than one set of weights."""
    folder = locate(model, wanted(model))
    if model in MODELS:
        weights, vocabulary = MODELS[model].include
        return VoiceFiles(folder / weights, folder / vocabulary)
    weights_path = _only(folder, WEIGHTS)
    beside = weights_path.parent
    arch = next((beside / name for name in ARCHS if (beside / name).is_file()), None)
    return VoiceFiles(weights_path, _only(folder, VOCABULARY), arch)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted([*folder.glob(pattern), *folder.glob(f"*/{pattern}")])
    if not found:
        raise EngineUnavailable(
            f"{folder}: holds no file {pattern}; the model is not whole: download or convert it again"
        )
    if len(found) > 1:
        raise EngineUnavailable(f"{folder}: holds {len(found)} files {pattern}; leave only the one to be used")
    return found[0]
