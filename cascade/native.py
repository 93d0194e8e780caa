"""Calls into native code that cannot be stopped, made stoppable for who waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from cascade.cancel import CancelScope

Result = TypeVar("Result")

POLL_S = 0.02  # how often a waiting caller looks whether it was stopped


class NativeCalls:
    """Runs each in a thread beside: who is cancelled leaves at once, and the call ends unheard.

    One call at a time: the next one waits until a call that was left behind has ended.
    """

    def __init__(self, name: str) -> None:
        self._name = name  # of the threads
        self._busy = threading.Lock()

    def run(self, work: Callable[[], Result], cancel: CancelScope) -> Result:
        """What `work` returns or raises; Cancelled within about 20 ms of `cancel`."""
        cancel.check()
        while not self._busy.acquire(timeout=POLL_S):
            cancel.check()
        done, results, errors = threading.Event(), [], []

        def target() -> None:
            try:
                results.append(work())
            except BaseException as error:  # every one is the caller's to see
                errors.append(error)
            finally:
                self._busy.release()
                done.set()

        try:
            threading.Thread(target=target, name=self._name, daemon=True).start()
        except RuntimeError:  # no more threads to be had
            self._busy.release()
            raise
        while not done.wait(POLL_S):
            cancel.check()
        if errors:
            raise errors[0]
        cancel.check()
        return results[0]
