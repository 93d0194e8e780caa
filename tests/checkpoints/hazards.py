"""What tests of checkpoints share: sounds, a pickle with code in it, and a picture of what belongs to the whole process."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cascade.audio import Waveform

SILENCE = Waveform(np.zeros(16_000, np.float32), 16_000)
NO_NUMBER = Waveform(np.full(16_000, np.nan, np.float32), 16_000)
NOTHING = Waveform(np.zeros(0, np.float32), 16_000)


def noise(seconds: float, rate: int = 16_000) -> Waveform:
    samples = np.random.default_rng(0).standard_normal(round(seconds * rate)) * 0.1
    return Waveform(samples.astype(np.float32), rate)


class Bomb:
    """Pickled, it makes a file when it is read without care."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.crater), "w")


def process_state() -> tuple[object, ...]:
    """All that a library might have changed for others."""
    import torch

    root = logging.getLogger()
    return (
        random.getstate(),
        tuple(np.random.get_state()[1].tolist()),
        tuple(torch.get_rng_state().tolist()),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        (root.level, tuple(root.handlers), root.manager.disable),
        dict(os.environ),
        tuple(warnings.filters),
        tuple(sys.path),
    )
