"""Stopping work: one flag, seen by every engine that works on a turn."""

from __future__ import annotations

import threading

from cascade.errors import Cancelled


class CancelScope:
    """A flag that is set once. Engines call `check()` between small steps of work (100 ms at most).

    A scope inside another is cancelled with it, and can be cancelled alone: one stage that ran out of time.
    """

    def __init__(self, outer: CancelScope | None = None) -> None:
        self._event = threading.Event()
        self._outer = outer

    def cancel(self) -> None:
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set() or (self._outer is not None and self._outer.cancelled)

    def check(self) -> None:
        """Raise `Cancelled` if the work was stopped."""
        if self.cancelled:
            raise Cancelled
