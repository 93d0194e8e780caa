"""How much of a program's time is spent inside functions that it calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

Calls = list[tuple[Any, str]]


class Clock:
    """Seconds spent inside the wrapped functions, on any thread; one that calls another counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = threading.local()

    @contextmanager
    def running(self) -> Iterator[None]:
        if getattr(self._inside, "now", False):
            yield
            return
        self._inside.now, start = True, time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
            self._inside.now = False

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What it gives as an iterator, alone or first in a tuple, is timed as it is iterated."""

        @wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            with self.running():
                out = function(*args, **options)
            if isinstance(out, tuple) and isinstance(out[0], Iterator):
                return self._iterated(out[0]), *out[1:]
            return self._iterated(out) if isinstance(out, Iterator) else out

        return timed

    def _iterated(self, items: Iterator[Any]) -> Iterator[Any]:
        end = object()
        while True:
            with self.running():
                item = next(items, end)
            if item is end:
                return
            yield item

    @contextmanager
    def patched(self, calls: Calls) -> Iterator[None]:
        """`calls`: (module or class, name of its function)."""
        with ExitStack() as undo:
            for owner, name in calls:
                undo.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, self.wrapped(getattr(owner, name)))
            yield
