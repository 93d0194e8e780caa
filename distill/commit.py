"""Which code made something."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str | None:
    """Of the code that runs, where it lies in a clone."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
