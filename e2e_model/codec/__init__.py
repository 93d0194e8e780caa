"""Speech as tokens and back: Attune's own small codec, and Mimi."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from e2e_model.codec.base import CONFIG_FILE, WEIGHTS_FILE, Codec, CodecStream, Usage, usage
from e2e_model.codec.fsq import FsqCodec, FsqConfig
from e2e_model.codec.mimi import MimiCodec
from e2e_model.errors import CheckpointProblem, ConfigProblem

__all__ = ["Codec", "CodecStream", "FsqCodec", "FsqConfig", "MimiCodec", "Usage", "load_codec", "usage"]

KINDS: dict[str, type[Codec]] = {"fsq": FsqCodec, "mimi": MimiCodec}


def load_codec(folder: Path) -> Codec:
    """What `Codec.save` wrote, on the CPU, float32, ready to use. Raises CheckpointProblem, which names the file."""
    about = _read(folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    try:
        codec = KINDS[about["kind"]].from_config(about["config"])
        codec.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (ConfigProblem, TypeError) as error:
        raise CheckpointProblem(f"{folder / CONFIG_FILE}: {error}; copy the codec again") from error
    except (SafetensorError, OSError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointProblem(
            f"{path}: not this codec's weights, or cut off ({why}); copy the codec again"
        ) from error
    if codec.fingerprint() != about["fingerprint"]:
        raise CheckpointProblem(
            f"{path}: not the weights that were saved: the fingerprint differs; copy the codec again"
        )
    return codec.eval()


def _read(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not JSON"
        raise CheckpointProblem(f"{path}: cannot be read ({why}); give a folder that holds a codec") from error
    if not isinstance(about, dict) or set(about) != {"kind", "config", "fingerprint"}:
        raise CheckpointProblem(f"{path}: not a codec's; it has kind, config and fingerprint: copy the codec again")
    if about["kind"] not in KINDS or not isinstance(about["config"], dict):
        raise CheckpointProblem(f"{path}: kind = {about['kind']!r}; legal: {', '.join(KINDS)}")
    return about
