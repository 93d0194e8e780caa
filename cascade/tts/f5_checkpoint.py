"""F5-TTS's weights and its vocoder, found and read strictly: what does not fit is one line, at load.

A voice model is `*.safetensors` and `vocab.txt`, and where it is not of F5TTS_v1_Base's size an `arch.toml` or `arch.json` with
the arguments of the library's `DiT`. The vocoder is Vocos: `config.yaml`, `pytorch_model.bin`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from cascade.errors import EngineUnavailable, one_line
from cascade.torch_tools import check_pickle
from cascade.tts.f5_files import VOCODER_FILES, VoiceFiles
from cascade.tts.f5_library import Library

CONFIG = "F5TTS_v1_Base.yaml"  # of the library: the DiT's arguments and the mel spectrogram's
SAMPLE_RATE, HOP, MEL_BANDS = 24_000, 256, 100
MEL = {
    "n_fft": 1024,
    "hop_length": HOP,
    "win_length": 1024,
    "n_mel_channels": MEL_BANDS,
    "target_sample_rate": SAMPLE_RATE,
    "mel_spec_type": "vocos",
}
PREFIX = "ema_model."  # the moving average of the weights is what speaks
COUNTERS = {"initted", "step"}
# A vocoder's config names classes and their arguments: any others could run any code there is.
PARTS = {
    "feature_extractor": "vocos.feature_extractors.MelSpectrogramFeatures",
    "backbone": "vocos.models.VocosBackbone",
    "head": "vocos.heads.ISTFTHead",
}
PROBE_FRAMES = 8


def voice_model(library: Library, files: VoiceFiles, device: torch.device) -> Any:
    """The library's CFM in evaluation mode, float16 on CUDA as the library has it. Raises EngineUnavailable."""
    vocabulary, weights = _vocabulary(library, files.vocabulary), _weights(files.weights)
    arguments = {**_arch(library, files.arch), "text_num_embeds": len(vocabulary), "mel_dim": MEL_BANDS}
    try:
        with torch.device("meta"):  # its shapes alone: what does not fit is told before memory is taken
            shapes = library.DiT(**arguments).state_dict()
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        where = files.arch or library.configs / CONFIG
        raise EngineUnavailable(f"{where}: not the arguments of a DiT ({one_line(error)}); mend them") from error
    _check_fit({f"transformer.{name}": tuple(t.shape) for name, t in shapes.items()}, weights, files, len(vocabulary))
    model = library.CFM(
        transformer=library.DiT(**arguments),
        mel_spec_kwargs=MEL,
        odeint_kwargs={"method": "euler"},
        vocab_char_map=vocabulary,
    )
    model.load_state_dict(weights)
    model.transformer.clear_cache()  # makes the cache, which is lazily made and then each thread's own
    half = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 7
    return model.to(device, torch.float16 if half else torch.float32).eval()


def _vocabulary(library: Library, path: Path) -> dict[str, int]:
    try:
        numbers, size = library.tokenizer(str(path), "custom")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineUnavailable(f"{path}: cannot be read ({one_line(error)}); get it again") from error
    if numbers.get(" ") != 0 or len(numbers) != size:
        raise EngineUnavailable(f"{path}: not F5-TTS's vocabulary, whose first line is a space; get it again")
    return numbers


def _arch(library: Library, path: Path | None) -> Mapping[str, Any]:
    try:
        if path is None:
            arch = yaml.safe_load((library.configs / CONFIG).read_text(encoding="utf-8"))["model"]["arch"]
        else:
            text = path.read_text(encoding="utf-8")
            arch = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        raise EngineUnavailable(f"{path or CONFIG}: cannot be read ({one_line(error)}); mend it") from error
    if not isinstance(arch, dict):
        raise EngineUnavailable(f"{path or CONFIG}: not a table of the DiT's arguments")
    return arch


def _weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        held = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise EngineUnavailable(
            f"{path}: not safetensors that can be read ({one_line(error)}); get it again"
        ) from error
    plain = {name.removeprefix(PREFIX): tensor for name, tensor in held.items()}
    return {name: t for name, t in plain.items() if name not in COUNTERS and not name.startswith("mel_spec.")}


def _check_fit(
    own: Mapping[str, tuple[int, ...]], weights: Mapping[str, torch.Tensor], files: VoiceFiles, words: int
) -> None:
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    text = "transformer.text_embed.text_embed.weight"
    if text in given and text in own and given[text][0] != own[text][0]:
        raise EngineUnavailable(
            f"{files.vocabulary}: holds {words} tokens, the weights know {given[text][0] - 1}; get the two that belong together"
        )
    wrong = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if wrong:
        name, size = wrong[0], files.arch or CONFIG
        raise EngineUnavailable(
            f"{files.weights}: wrong architecture, {name} is {given.get(name, 'not there')}, {own.get(name, 'not wanted')} "
            f"after {size}; give the arch.toml or arch.json that belongs to it"
        )


def vocoder(library: Library, folder: Path, device: torch.device) -> Any:
    """The library's Vocos in evaluation mode, float32. Raises EngineUnavailable."""
    config, weights = (folder / file for file in VOCODER_FILES)
    _check_parts(config)
    check_pickle(weights)
    try:
        model = library.Vocos.from_hparams(str(config))
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        sound = model.eval().decode(torch.zeros(1, MEL_BANDS, PROBE_FRAMES))
    except Exception as error:  # whatever a library makes of arguments that are not its own
        raise EngineUnavailable(f"{folder}: not a Vocos vocoder of F5-TTS ({one_line(error)}); get it again") from error
    if abs(sound.shape[-1] - PROBE_FRAMES * HOP) > HOP:
        made = f"{sound.shape[-1]} samples of {PROBE_FRAMES} frames"
        raise EngineUnavailable(f"{folder}: the vocoder makes {made}, F5-TTS needs {HOP} a frame; use vocos-mel-24khz")
    return model.to(device)


def _check_parts(path: Path) -> None:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        named = {part: config[part]["class_path"] for part in PARTS}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise EngineUnavailable(f"{path}: not a Vocos config ({one_line(error)}); get it again") from error
    odd = next((part for part in PARTS if named[part] != PARTS[part]), None)
    if odd:
        raise EngineUnavailable(f"{path}: {odd} is {named[odd]!r}; F5-TTS's vocoder has {PARTS[odd]}")
