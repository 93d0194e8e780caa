"""What every codec is: a waveform in, tokens out, and back, whole or as it comes."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

CONFIG_FILE = "codec.json"
WEIGHTS_FILE = "codec.safetensors"


class CodecStream(Protocol):
    """Tokens in as they come, sound out as soon as it is certain. All pieces joined are what `decode` gives."""

    def push(self, codes: Tensor) -> Tensor:
        """codes: [K, t] int64, t ≥ 1. Returns [n] samples, perhaps none."""

    def end(self) -> Tensor:
        """The samples that were still waiting for what comes next, [n]. The stream is over."""


class LevelStream(CodecStream, Protocol):
    """Of a codec whose tokens have levels."""

    def push_levels(self, levels: Tensor) -> Tensor:
        """levels: [t, K · places] float, in place of tokens, and between two of them where a token is not sure."""


class Codec(nn.Module, ABC):
    """Speech as tokens. Frames of `samples_per_frame` samples, `codebooks` tokens each, of `codebook_size` kinds."""

    kind: ClassVar[str]
    sample_rate: int
    codebooks: int
    codebook_size: int
    samples_per_frame: int

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.samples_per_frame

    @property
    def levels(self) -> tuple[int, ...]:
        """A token is a mixed-radix number with these places, the lowest first, each standing for a value of its own; none: tokens
        have no such inside."""
        return ()

    @abstractmethod
    def encode(self, wave: Tensor) -> Tensor:
        """wave: [B, N] float. Returns [B, K, T] int64, T = ceil(N / samples_per_frame).

        Zeros after the end of a wave change none of its own tokens: waves can be padded to one batch.
        """

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """codes: [B, K, T] int64. Returns [B, T · samples_per_frame]."""

    @abstractmethod
    def stream(self) -> CodecStream:
        """A decoder of one utterance, token by token."""

    @abstractmethod
    def config_dict(self) -> dict[str, Any]:
        """All that `from_config` needs, as JSON has it."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """With random weights. Raises ConfigProblem."""

    def fingerprint(self) -> str:
        """sha256 over kind, configuration and weights."""
        return self._fingerprint(self.state_dict())

    def tokens_fingerprint(self) -> str:
        """The same over what makes its tokens alone: those of one codec mean nothing to another, whatever speaks them."""
        return self._fingerprint({name: x for name, x in self.state_dict().items() if self._makes_tokens(name)})

    def _makes_tokens(self, weight: str) -> bool:
        return True

    def _fingerprint(self, weights: Mapping[str, Tensor]) -> str:
        digest = hashlib.sha256(json.dumps([self.kind, self.config_dict()], sort_keys=True).encode())
        for name, tensor in sorted(weights.items()):
            values = tensor.detach().float().cpu().contiguous()
            digest.update(f"{name} {list(values.shape)}".encode())
            digest.update(values.numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write `folder`/codec.json and codec.safetensors.

        `half`: weights in float16. What loads back is then another codec by its fingerprint, so tokens are made with that one.
        """
        weights = {name: _stored(tensor, half) for name, tensor in self.state_dict().items()}
        about = {"kind": self.kind, "config": self.config_dict(), "fingerprint": self._fingerprint(weights)}
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / WEIGHTS_FILE, save(weights))
        _write(folder / CONFIG_FILE, (json.dumps(about, indent=1) + "\n").encode())

    def whole_frames(self, wave: Tensor) -> Tensor:
        """wave: [B, N], zeros after it until its length is a whole number of frames."""
        return functional.pad(wave, (0, -wave.shape[-1] % self.samples_per_frame))


class Usage(NamedTuple):
    """How much of its codebook a codec uses, mean over codebooks."""

    share: float  # of the tokens there are, how many occur
    perplexity: float  # 2 ** entropy: as many tokens, equally frequent, would say as much


def usage(codes: Tensor, codebook_size: int) -> Usage:
    """codes: [B, K, T]."""
    shares, perplexities = [], []
    for tokens in codes.transpose(0, 1).flatten(1):  # [K, B · T]
        counts = torch.bincount(tokens, minlength=codebook_size).double()
        shares.append(float((counts > 0).double().mean()))
        perplexities.append(float(torch.special.entr(counts / counts.sum()).sum().exp()))
    return Usage(sum(shares) / len(shares), sum(perplexities) / len(perplexities))


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
