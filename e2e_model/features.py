"""Waveform → log-mel, as Whisper reads it (Radford et al., arXiv 2212.04356): 25 ms windows, 10 ms apart, log10, relative to
the loudest but keeping the level."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

MELS_HZ = 100
Mel = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Samples = np.ndarray[tuple[int], np.dtype[np.float32]]


@cache
def _extractor(mels: int, sample_rate: int) -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=mels, sampling_rate=sample_rate)  # type: ignore[no-untyped-call]


def log_mel(samples: Samples, *, mels: int = 80, sample_rate: int = 16_000) -> Mel:
    """[T, mels], T = samples // 160; speech of any length, nothing filled up."""
    made = _extractor(mels, sample_rate)(
        samples, sampling_rate=sample_rate, padding=False, truncation=False, return_tensors="np"
    )
    return np.ascontiguousarray(made["input_features"][0].T, dtype=np.float32)


def floor_of(mel: Any) -> Any:
    """What silence is in this log-mel: Whisper cuts 8 decades below the loudest, and divides by 4."""
    return mel.max() - 2.0
