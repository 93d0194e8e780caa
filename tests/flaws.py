"""Files that are not a person's turn, each wrong in its own way."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import soundfile
from fakes import tone

BAD_INPUTS = ("missing", "directory", "empty", "text", "truncated", "no samples", "nan", "20 ms", "silence", "3 hours")


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def bad_inputs(folder: Path) -> dict[str, tuple[Path, str]]:
    """name → (path, a word that the message must hold)"""
    whole = write(folder / "whole.wav", tone().samples)
    truncated = folder / "truncated.wav"
    truncated.write_bytes(whole.read_bytes()[:-5000])
    text = folder / "text.wav"
    text.write_text("these are words, not sound")
    empty = folder / "empty.wav"
    empty.write_bytes(b"")
    gap = tone().samples.copy()
    gap[100] = np.nan
    long = folder / "long.wav"  # three hours by its header, sparse on disk
    size = 3 * 3600 * 16_000 * 2
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", size
    )
    with long.open("wb") as file:
        file.write(header)
        file.truncate(44 + size)
    return {
        "missing": (folder / "nowhere.wav", "no such file"),
        "directory": (folder, "directory"),
        "empty": (empty, "empty"),
        "text": (text, "not audio"),
        "truncated": (truncated, "truncated"),
        "no samples": (write(folder / "none.wav", np.zeros(0, np.float32)), "no samples"),
        "nan": (write(folder / "nan.wav", gap, subtype="FLOAT"), "NaN"),
        "20 ms": (write(folder / "short.wav", tone(0.02).samples), "too short"),
        "silence": (write(folder / "silence.wav", np.zeros(16_000, np.float32)), "silence"),
        "3 hours": (long, "too long"),
    }
