"""A tiny F5-TTS voice model, its vocoder and a voice bank, made on the spot. What they say is noise; all else is real."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from cascade.audio import Waveform, write_wav
from cascade.torch_tools import preserved
from cascade.tts.f5_checkpoint import MEL, MEL_BANDS, PARTS
from cascade.tts.f5_library import library
from cascade.tts.voice_bank import add_clip

ARCH = {
    "dim": 64,
    "depth": 2,
    "heads": 2,
    "dim_head": 32,
    "ff_mult": 2,
    "text_dim": 32,
    "conv_layers": 1,
    "text_mask_padding": True,
    "attn_mask_enabled": False,
}
HALF_BASE = {**ARCH, "dim": 512, "depth": 8, "heads": 8, "dim_head": 64, "text_dim": 512, "conv_layers": 4}
LETTERS = [" ", *(chr(code) for code in range(33, 127)), "，", "。", "ni3", "hao3"]
VOCOS = {"dim": 32, "intermediate_dim": 64, "num_layers": 2}
PUBLISHED_VOCOS = {"dim": 512, "intermediate_dim": 1536, "num_layers": 8}


def make_f5(folder: Path, *, seed: int = 0, arch: Mapping[str, Any] = ARCH, vocos: Mapping[str, int] = VOCOS) -> Path:
    """folder/model_1.safetensors, vocab.txt, arch.json and folder/vocos; returns folder."""
    (folder / "vocos").mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(LETTERS) + "\n", encoding="utf-8")
    (folder / "arch.json").write_text(json.dumps(dict(arch)))
    found = library()
    with preserved():
        torch.manual_seed(seed)
        network = found.DiT(**arch, text_num_embeds=len(LETTERS), mel_dim=MEL_BANDS)
        model = found.CFM(transformer=network, mel_spec_kwargs=MEL)
        for parameter in network.parameters():
            if not parameter.any():  # set to zero for training: so the output would not depend on what goes in
                torch.nn.init.normal_(parameter, std=0.2)
        weights = {f"ema_model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file({**weights, "initted": torch.tensor(True), "step": torch.tensor(1)}, folder / "model_1.safetensors")
        make_vocos(folder / "vocos", sizes=vocos)
    return folder


def make_vocos(folder: Path, *, n_fft: int = 1024, hop_length: int = 256, sizes: Mapping[str, int] = VOCOS) -> None:
    stft = {"n_fft": n_fft, "hop_length": hop_length, "padding": "center"}
    arguments = {
        "feature_extractor": {"sample_rate": 24_000, "n_mels": MEL_BANDS, **stft},
        "backbone": {"input_channels": MEL_BANDS, **sizes},
        "head": {"dim": sizes["dim"], **stft},
    }
    config = {part: {"class_path": PARTS[part], "init_args": arguments[part]} for part in PARTS}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    model = library().Vocos.from_hparams(str(folder / "config.yaml"))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def make_bank(folder: Path, clips: Mapping[str, tuple[Waveform, str]]) -> Path:
    """A voice bank of clips and their texts by reply emotion; returns folder."""
    folder.mkdir(parents=True)
    for emotion, (wave, text) in clips.items():
        source = folder / "source.wav"
        write_wav(source, wave)
        add_clip(folder, emotion, source, text)
        source.unlink()
    return folder
