"""Reading an emotion2vec checkpoint without trusting it: config.yaml, tokens.txt and model.pt are data, nothing in them is run.

FunASR evaluates one entry of config.yaml as Python, imports code that it names, installs packages, and starts from random
weights where one is missing. So what FunASR is given is rebuilt here from the entries that a network needs, and checked.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.audio import SAMPLE_RATE
from cascade.errors import EngineUnavailable, one_line
from cascade.paralinguistics.label_maps import label_map

FILES = ("config.yaml", "model.pt", "tokens.txt")
ARCHITECTURE = "Emotion2vec"
UNUSED = "unuse"  # FunASR leaves out the outputs whose label begins so
MOST_LAYERS = 64  # of the convolutional front end; the published ones have 7
Layer = tuple[int, int, int]  # channels, kernel, stride


@dataclass(frozen=True)
class Source:
    """model_conf: the network's layout as FunASR wants it. scopes: (saved, built) beginnings of weights' names that stand for
    each other. labels: one for each output, in its order.
    """

    folder: Path
    model_conf: dict[str, Any]
    scopes: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    frame_rate_hz: float


def read_checkpoint(folder: Path) -> Source:
    """Raises EngineUnavailable: not this architecture, a layout that cannot be, a label without a meaning."""
    config = _config(folder / "config.yaml")
    if config.get("model") != ARCHITECTURE:
        named = repr(config["model"]) if "model" in config else "none named in config.yaml"
        raise EngineUnavailable(
            f"{folder}: wrong architecture, {named}; it takes a FunASR checkpoint of {ARCHITECTURE}"
        )
    try:
        layout = dict(config["model_conf"])
        audio = dict(layout["modalities"]["audio"])
        layers = conv_layers(audio["feature_encoder_spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise EngineUnavailable(f"{folder}/config.yaml: no layout of {ARCHITECTURE} ({error}); get it again") from error
    audio |= {"feature_encoder_spec": repr(layers), "decoder": None}  # the decoder serves training only
    words = ["" if str(word).lower() == "none" else str(word) for word in config.get("scope_map") or ()]
    return Source(
        folder=folder,
        model_conf={**layout, "modalities": {"audio": audio}},
        scopes=(*zip(words[::2], words[1::2], strict=False), ("module.", ""), ("", "")),
        labels=_labels(folder / "tokens.txt"),
        frame_rate_hz=SAMPLE_RATE / math.prod(stride for _, _, stride in layers),
    )


def _config(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)  # unresolved: ${…} reads the environment
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        why = one_line(error, 80)
        raise EngineUnavailable(f"{path}: not YAML that can be read ({why}); get it again") from error
    if not isinstance(config, dict):
        raise EngineUnavailable(f"{path}: holds no settings; get it again")
    return {str(key): value for key, value in config.items()}


def conv_layers(spec: object) -> list[Layer]:
    """'[(512, 10, 5)] + [(512, 3, 2)] * 4' → its layers. Only such lists, + and * are read. Raises ValueError."""
    if not isinstance(spec, str):
        raise ValueError(f"feature_encoder_spec is {spec!r}, not text")
    try:
        layers = _layers(ast.parse(spec, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("feature_encoder_spec is not a list of layers") from error
    if not layers:
        raise ValueError("feature_encoder_spec has no layer")
    return layers


def _layers(node: ast.expr) -> list[Layer]:
    match node:
        case ast.List(elts=items):
            layers = [_layer(item) for item in items]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            layers = _layers(left) + _layers(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))) if 0 < times <= MOST_LAYERS:
            layers = _layers(left) * times
        case _:
            raise ValueError(f"feature_encoder_spec holds {ast.unparse(node)[:40]!r}, which is no list of layers")
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"feature_encoder_spec has {len(layers)} layers; legal: up to {MOST_LAYERS}")
    return layers


def _layer(node: ast.expr) -> Layer:
    match node:
        case ast.Tuple(
            elts=[ast.Constant(value=int(channels)), ast.Constant(value=int(kernel)), ast.Constant(value=int(stride))]
        ) if min(channels, kernel, stride) > 0:
            return channels, kernel, stride
    raise ValueError(f"feature_encoder_spec holds {ast.unparse(node)[:40]!r}; legal: (channels, kernel, stride)")


def _labels(path: Path) -> tuple[str, ...]:
    try:
        labels = tuple(line.rstrip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise EngineUnavailable(f"{path}: cannot be read ({error}); get it again") from error
    foreign = label_map("emotion2vec").foreign(label for label in labels if not label.startswith(UNUSED))
    if foreign or not labels:
        what = f"the label {foreign[0]!r} has no meaning in label_maps.toml" if foreign else "holds no label"
        raise EngineUnavailable(f"{path}: {what}; it takes the labels of emotion2vec+")
    return labels


def check_loaded(network: Any, source: Source) -> None:
    """Raise EngineUnavailable unless each of the network's weights is the checkpoint's: FunASR would start from random ones."""
    import torch

    saved: Any = torch.load(source.folder / "model.pt", map_location="cpu", weights_only=True, mmap=True)
    for key in ("state_dict", "model_state_dict", "model"):  # where FunASR looks, in this order
        saved = saved[key] if isinstance(saved, dict) and key in saved else saved
    for name, weights in network.state_dict().items():
        found = _weights(saved, name, source.scopes)
        if found is None or not torch.equal(found.to(weights.dtype), weights.cpu()):
            raise EngineUnavailable(
                f"{source.folder}: wrong architecture: model.pt holds no weights {name} of the shape in config.yaml"
            )


def _weights(saved: Any, name: str, scopes: Iterable[tuple[str, str]]) -> Any:
    import torch

    if not isinstance(saved, dict):
        return None
    aliases = [kept + name.removeprefix(built) for kept, built in scopes if name.startswith(built)]
    return next((saved[alias] for alias in aliases if isinstance(saved.get(alias), torch.Tensor)), None)
