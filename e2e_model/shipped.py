"""Where the student lies that comes with Attune. Its card is the README.md in that folder."""

from __future__ import annotations

from pathlib import Path

STUDENT = Path(__file__).with_name("students") / "nano"
