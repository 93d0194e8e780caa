"""Where Attune keeps what belongs to a person: sessions, calibrated speakers, voices."""

from __future__ import annotations

import os
from pathlib import Path


def default_home() -> Path:
    """$ATTUNE_HOME, or the place XDG gives to programs' data."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("ATTUNE_HOME") or Path(data) / "attune")
