"""Stopping a turn: one flag, seen by every engine that works on it."""

from __future__ import annotations

import threading

from cascade.errors import Cancelled


class CancelScope:
    """A flag that is set once. Engines call `check()` between small steps of work (100 ms at most)."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if the turn was stopped."""
        if self._event.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> bool:
        """Sleep at most `seconds`; True as soon as the turn was stopped."""
        return self._event.wait(seconds)
