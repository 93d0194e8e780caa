"""Calibrated speakers, kept by name under the home folder."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from cascade.errors import InputError
from cascade.turn import Baseline

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT = "me"


def speaker_path(home: Path, name: str) -> Path:
    """Raises InputError unless the name is safe as a file's name."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"speaker {name!r}: use 1 to 64 letters, digits, dots, dashes, underscores; a letter or digit first"
        )
    return home / "speakers" / f"{name}.json"


def save_speaker(home: Path, name: str, baseline: Baseline) -> Path:
    """Keep a calibration, in place of an earlier one of that name. Raises InputError."""
    path = speaker_path(home, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".json.part")
        part.write_text(baseline.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --home") from error
    return path


def load_speaker(home: Path, name: str) -> Baseline:
    """Raises InputError when there is no such calibration, naming those there are, or when its file is damaged."""
    path = speaker_path(home, name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none yet"
        raise InputError(
            f"speaker {name!r} is not calibrated; known: {known}; do: attune calibrate A.wav B.wav C.wav --speaker {name}"
        )
    try:
        return Baseline.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a calibration that can be read; calibrate again") from error
