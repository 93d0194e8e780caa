"""Stage 0: Attune's codec learns to make speech again from its own tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cascade.audio import Samples, Waveform, write_wav
from cascade.errors import InputError
from distill.training.job import Batch
from distill.training.spectral import (
    MEL_RESOLUTION,
    log_magnitude_distance,
    magnitudes,
    mel_distance,
    spectral_convergence,
)
from e2e_model.codec import FsqCodec

WEIGHTS = {"convergence": 1.5, "log_magnitude": 3.0, "mel": 2.0}
CROP_S = 1.0
CROPS_PER_PACK = 8  # more steps taught more than larger ones
SAMPLES = 4
SAMPLE_S = 10.0

Crops = list[int]  # which waves


class Waves(Protocol):
    """Mono float32 sounds at the codec's rate: a list of arrays, or something that reads them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Samples: ...


class Resynthesis(nn.Module):
    """The codec as the loop trains it: a waveform in, the sums of what is to be small out."""

    def __init__(self, codec: FsqCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, wave: Tensor) -> dict[str, Tensor]:
        """wave: [B, N]."""
        return resynthesis_sums(self.codec(wave), wave, self.codec.sample_rate)


def resynthesis_sums(made: Tensor, wave: Tensor, sample_rate: int) -> dict[str, Tensor]:
    """How far speech that was made, [B, N], is from how it was; by objective, summed over the batch."""
    with torch.autocast(wave.device.type, enabled=False):  # spectra need float32
        ours, theirs = magnitudes(made), magnitudes(wave)
        return {
            "convergence": spectral_convergence(ours, theirs),
            "log_magnitude": log_magnitude_distance(ours, theirs),
            "mel": mel_distance(ours[MEL_RESOLUTION], theirs[MEL_RESOLUTION], sample_rate),
        }


class CodecJob:
    """An epoch takes one crop of each wave, wherever chance puts it; held-out crops stay where they are."""

    name = "codec"

    def __init__(self, codec: FsqCodec, train: Waves, held_out: Waves, *, seed: int) -> None:
        if not len(train) or not len(held_out):
            raise InputError(
                f"codec: {len(train)} sounds to train on, {len(held_out)} held out; both are needed: make a larger dataset"
            )
        self.model = Resynthesis(codec)
        self.weights: Mapping[str, float] = WEIGHTS
        self._codec, self._train, self._held_out, self._seed = codec, train, held_out, seed
        self._crop = round(CROP_S * codec.sample_rate)

    def packs(self, epoch: int) -> Sequence[Crops]:
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._train))
        return _packed(order.tolist())

    def held_out(self) -> Sequence[Crops]:
        return _packed(list(range(len(self._held_out))))

    def batch(self, pack: Any, epoch: int) -> Batch:
        waves = self._held_out if epoch < 0 else self._train
        crops = np.stack([self._cropped(waves[index], epoch, index) for index in pack])
        frames = crops.size // self._codec.samples_per_frame
        counts = dict.fromkeys(self.weights, float(len(crops)))
        return Batch({"wave": torch.from_numpy(crops)}, counts, frames)

    def _cropped(self, wave: Samples, epoch: int, index: int) -> Samples:
        room = max(0, len(wave) - self._crop)
        start = np.random.default_rng((self._seed, epoch + 1, index)).integers(room + 1)
        crop = wave[start : start + self._crop].astype(np.float32)
        return np.pad(crop, (0, self._crop - len(crop)))

    def prepare(self, batch: Batch) -> Batch:
        return batch

    @torch.no_grad()
    def samples(self, folder: Path) -> None:
        """Held-out sounds as they are and through the codec."""
        rate = self._codec.sample_rate
        device = next(self._codec.parameters()).device
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(min(SAMPLES, len(self._held_out))):
            wave = self._held_out[index][: round(SAMPLE_S * rate)]
            made = self._codec(torch.from_numpy(wave)[None].to(device))[0].float().cpu().numpy()
            write_wav(folder / f"{index:02d}-original.wav", Waveform(wave, rate))
            write_wav(folder / f"{index:02d}-codec.wav", Waveform(made, rate))


def _packed(order: list[int]) -> list[Crops]:
    return [order[at : at + CROPS_PER_PACK] for at in range(0, len(order), CROPS_PER_PACK)]
