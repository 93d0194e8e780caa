"""Speech as somebody else might have said it, made of its log-mel: a few voices are not to be learnt by heart.

Another vocal tract (VTLP, Jaitly and Hinton 2013), another tempo (Ko et al. 2015), another room and microphone (a curve over the
mels), another level, and SpecAugment's masks (Park et al., arXiv 1904.08779).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from e2e_model.features import Mel

Array = np.ndarray[Any, np.dtype[Any]]
MASK_FRAMES, MASK_MELS = 25, 12  # the widest masks
BENDS = 5  # of a microphone's curve
HIGHEST_HZ = 8000.0  # of Whisper's log-mels


@dataclass(frozen=True)
class Augment:
    """How much is left to chance. tract, tempo: relative, at most; room, level: at most, in log-mel's units (a quarter decade of
    power each); masks: of each kind."""

    tract: float = 0.05
    tempo: float = 0.12
    room: float = 0.25
    level: float = 0.06
    masks: int = 2

    @classmethod
    def none(cls) -> Augment:
        return cls(0.0, 0.0, 0.0, 0.0, 0)

    @property
    def longest(self) -> float:
        """How many times as long speech may become."""
        return 1.0 + self.tempo

    def __call__(self, mel: Mel, rng: np.random.Generator) -> Mel:
        """[T, M] → [T', M]."""
        made: Array = mel
        if self.tract:
            made = warped(made, 1.0 + rng.uniform(-1, 1) * self.tract)
        if self.tempo:
            made = stretched(made, 1.0 + rng.uniform(-1, 1) * self.tempo)
        bends = rng.uniform(-1, 1, BENDS) * self.room
        curve = np.interp(np.linspace(0, BENDS - 1, made.shape[1]), np.arange(BENDS), bends)
        made = made + curve + rng.uniform(-1, 1) * self.level
        quiet = made.min()
        for _ in range(self.masks):
            width, height = int(rng.integers(MASK_FRAMES)), int(rng.integers(MASK_MELS))
            first, low = int(rng.integers(max(1, len(made) - width))), int(rng.integers(made.shape[1] - height))
            made[first : first + width] = quiet
            made[:, low : low + height] = quiet
        return np.ascontiguousarray(made, dtype=np.float32)


def warped(mel: Mel, factor: float) -> Mel:
    """All resonances `factor` times as high: what stood at f stands at f · factor; the highest mels repeat what is there."""
    places = _mel_of(_centres(mel.shape[1]) / factor, mel.shape[1])
    return np.ascontiguousarray(_between(mel.T, places).T)


def stretched(mel: Mel, factor: float) -> Mel:
    """`factor` times as long, at the same pitch."""
    return _between(mel, np.linspace(0, len(mel) - 1, max(1, round(len(mel) * factor))))


def _between(rows: Mel, places: Array) -> Mel:
    """[N, D] → [len(places), D], linear between the two nearest rows."""
    places = np.clip(places, 0, len(rows) - 1)
    low = np.minimum(places.astype(np.int64), max(0, len(rows) - 2))
    share = (places - low).astype(np.float32)[:, None]
    made: Mel = rows[low] * (1 - share) + rows[np.minimum(low + 1, len(rows) - 1)] * share
    return made


@cache
def _centres(mels: int) -> Array:
    """Where each mel lies in Hz, by Slaney's scale, as Whisper has it."""
    from transformers.audio_utils import mel_to_hertz

    return np.asarray(mel_to_hertz(np.arange(1, mels + 1) * _step(mels), mel_scale="slaney"))


def _mel_of(hz: Array, mels: int) -> Array:
    """Which mel, from 0, in between too."""
    from transformers.audio_utils import hertz_to_mel

    return np.asarray(hertz_to_mel(hz, mel_scale="slaney")) / _step(mels) - 1


def _step(mels: int) -> float:
    from transformers.audio_utils import hertz_to_mel

    return float(hertz_to_mel(HIGHEST_HZ, mel_scale="slaney")) / (mels + 1)
