"""Checkpoints in Hugging Face's form, read strictly: nothing downloaded, no code of theirs run, no weight missing or left over.

Only engines that run on torch import this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cascade.errors import EngineUnavailable, one_line
from cascade.torch_tools import check_pickle, quietly


def config_of(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises EngineUnavailable."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineUnavailable(f"{folder}/config.json cannot be read ({one_line(error)}); get it again") from error
    if not isinstance(config, dict):
        raise EngineUnavailable(f"{folder}/config.json is no JSON object; get it again")
    return config


def extractor(kind: Any, folder: Path) -> Any:
    """The checkpoint's own feature extractor. Raises EngineUnavailable."""
    try:
        with quietly():
            return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError:
        raise
    except Exception as error:  # whatever a library makes of a corrupt file
        raise EngineUnavailable(
            f"{folder}/preprocessor_config.json cannot be used ({one_line(error)}); get it again"
        ) from error


def pretrained(kind: Any, folder: Path, *, inert: tuple[str, ...] = ()) -> Any:
    """A transformers model with all of its weights, float32, in evaluation mode.

    inert: names that may be missing, for they have no part in inference. No pickled code is run, nothing is downloaded.
    Raises EngineUnavailable: corrupt, another architecture, weights missing or left over.
    """
    safe = any(folder.glob("*.safetensors"))
    for pickled in () if safe else sorted(folder.glob("*.bin")):
        check_pickle(pickled)
    try:
        with quietly():
            model, report = kind.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safe,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except ImportError:
        raise
    except Exception as error:  # whatever a library makes of a corrupt file
        raise EngineUnavailable(
            f"{folder}: not a checkpoint that can be read ({one_line(error)}); get it again"
        ) from error
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"]} - set(inert))
    if wrong:
        raise EngineUnavailable(f"{folder}: wrong architecture for {type(model).__name__}: {_which(wrong[0], report)}")
    return model.eval()


def _which(name: str, report: dict[str, Any]) -> str:
    return f"the weights {name} are {'missing' if name in report['missing_keys'] else 'left over'}"
