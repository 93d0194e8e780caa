"""Mimi (Défossez et al., arXiv 2410.00037) through transformers: 24 kHz, 12.5 Hz, up to 32 codebooks of 2048."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from e2e_model.codec.base import Codec
from e2e_model.errors import CheckpointProblem, ConfigProblem

if TYPE_CHECKING:
    from transformers import MimiConfig

# Of a configuration file: who wrote it, not what the model is.
BOOKKEEPING = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "model_type"}


class MimiCodec(Codec):
    """Its weights never train here. `codebooks`: how many of them are spoken, the coarsest first."""

    kind: ClassVar[str] = "mimi"

    def __init__(self, model_config: Mapping[str, Any], codebooks: int = 8) -> None:
        """model_config: of transformers' MimiConfig. Weights are random."""
        from transformers import MimiConfig, MimiModel

        super().__init__()
        self._model_config = {name: value for name, value in model_config.items() if name not in BOOKKEEPING}
        try:
            config = MimiConfig(**self._model_config)
        except Exception as error:  # whatever transformers makes of it
            raise ConfigProblem(
                f"codec: no configuration of Mimi ({_one_line(error)}); give one of MimiConfig"
            ) from error
        _check(config, codebooks)
        self.sample_rate = config.sampling_rate
        self.codebooks = codebooks
        self.codebook_size = config.codebook_size
        self.samples_per_frame = round(config.sampling_rate / config.frame_rate)
        self.model = MimiModel(config).requires_grad_(False)
        self.model.eval()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(cls, folder: Path, codebooks: int = 8) -> Self:
        """From a folder with transformers' config.json and model.safetensors. Raises CheckpointProblem."""
        from transformers import MimiModel

        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise CheckpointProblem(
                    f"{folder}: no {name}; give a folder with Mimi's config.json and model.safetensors"
                )
        try:
            model_config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            loaded: Any = MimiModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # safetensors, JSON, shapes: all mean that the folder is not what it should be
            raise CheckpointProblem(
                f"{folder}: no Mimi that can be loaded ({_one_line(error)}); copy it again"
            ) from error
        model, report = loaded
        lacking = sorted(report["missing_keys"])
        if lacking:
            raise CheckpointProblem(
                f"{folder}: {len(lacking)} weights of Mimi are not there ({lacking[0]}); copy it again"
            )
        codec = cls(model_config, codebooks)
        codec.model.load_state_dict(model.state_dict())
        return codec

    def train(self, mode: bool = True) -> Self:
        """Stays as it is: nothing of it trains."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        padded = self.whole_frames(wave)[:, None]
        codes: Tensor = self.model.encode(padded, num_quantizers=self.codebooks).audio_codes
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        wave: Tensor = self.model.decode(codes).audio_values
        return wave[:, 0]

    def stream(self) -> MimiStream:
        return MimiStream(self)

    def config_dict(self) -> dict[str, Any]:
        return {"codebooks": self.codebooks, "model": self._model_config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        if set(config) != {"codebooks", "model"}:
            raise ConfigProblem(f"codec: {', '.join(sorted(config))}; Mimi has codebooks and model")
        return cls(config["model"], config["codebooks"])


class MimiStream:
    """Exact: the transformer keeps its cache, and the convolutions around it get as many inputs again as they reach back."""

    def __init__(self, codec: MimiCodec) -> None:
        self._quantizer = codec.model.quantizer
        self._decoder: Any = codec.model.decoder
        self._samples_per_state = codec.samples_per_frame // codec.model.config.latent_stride
        self._stride = codec.model.config.latent_stride
        self._reach = seanet_reach(codec.model.config)
        self._latents: Tensor | None = None  # [1, H, 1], the last one
        self._states: Tensor | None = None  # [1, H, up to reach], the last ones
        self._cache: Any = None
        self._nothing = torch.zeros(0, device=next(codec.parameters()).device)

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        latents = self._quantizer.decode(codes[None])  # [1, H, t]
        upsampled = self._upsampled(latents)
        out = self._decoder.decoder_transformer(upsampled.transpose(1, 2), past_key_values=self._cache, use_cache=True)
        self._cache = out.past_key_values
        return self._sound(out.last_hidden_state.transpose(1, 2))

    def end(self) -> Tensor:
        return self._nothing  # nothing waits: every layer is causal

    def _upsampled(self, latents: Tensor) -> Tensor:
        """[1, H, t · stride]. Each output has seen its own latent and the one before."""
        seen = latents if self._latents is None else torch.cat([self._latents, latents], dim=2)
        self._latents = latents[:, :, -1:]
        upsampled: Tensor = self._decoder.upsample(seen)
        return upsampled[:, :, upsampled.shape[2] - latents.shape[2] * self._stride :]

    def _sound(self, states: Tensor) -> Tensor:
        """states: [1, H, s]. Returns [s · samples_per_state]."""
        seen = states if self._states is None else torch.cat([self._states, states], dim=2)
        self._states = seen[:, :, -self._reach :]
        wave: Tensor = self._decoder.decoder_seanet(seen)[0, 0]
        return wave[wave.shape[0] - states.shape[2] * self._samples_per_state :]


def seanet_reach(config: MimiConfig) -> int:
    """How many inputs before its own a sample of the convolutional decoder depends on, counted from the end to the start."""
    reach = config.last_kernel_size - 1
    for ratio in reversed(config.upsampling_ratios or []):
        for layer in range(config.num_residual_layers):
            reach += (config.residual_kernel_size - 1) * config.dilation_growth_rate**layer
        reach = (
            -(-reach // ratio) + 1
        )  # a transposed convolution of two strides' width: its own input and the one before
    return reach + config.kernel_size - 1


def _check(config: MimiConfig, codebooks: int) -> None:
    if not config.use_causal_conv or config.trim_right_ratio != 1:
        raise ConfigProblem(
            "codec: this Mimi is not causal and cannot stream; use_causal_conv and trim_right_ratio = 1 can"
        )
    if config.latent_stride < 2:
        raise ConfigProblem(
            f"codec: Mimi's frame_rate = {config.frame_rate}; half the rate of its encoder or less is legal"
        )
    least, most = config.num_semantic_quantizers, config.num_quantizers
    if not least <= codebooks <= most:
        raise ConfigProblem(f"codec: codebooks = {codebooks}; this Mimi has {least} to {most}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
