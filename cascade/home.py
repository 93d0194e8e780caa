"""Where Attune keeps what belongs to a person: sessions, calibrated speakers, voices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_chosen: Path | None = None


def default_home() -> Path:
    """The home that `using_home` chose, else the usual one."""
    return _chosen or usual_home()


def usual_home() -> Path:
    """$ATTUNE_HOME, or the place XDG gives to programs' data: what a command without --home uses."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("ATTUNE_HOME") or Path(data) / "attune")


@contextmanager
def using_home(home: Path) -> Iterator[None]:
    """Within it, `home` is where the whole process keeps and finds things, in every thread."""
    global _chosen
    before, _chosen = _chosen, home
    try:
        yield
    finally:
        _chosen = before
