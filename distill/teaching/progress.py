"""What a run shows while it works: how far, how many were kept, how fast, how long still."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.teaching.worker import Made

WINDOW = 200  # rows from which the pace is taken
EVERY_S, EVERY_S_IN_A_LOG = 0.5, 15.0


class Progress:
    """`made`: rows that were there before. One line on a terminal, now and then a line in a log, also while no row comes.

    Used as a context: from when the run begins to make rows until it ends.
    """

    def __init__(self, turns: int, made: int) -> None:
        self.turns, self.made, self.kept = turns, made, 0
        self.seen = 0
        self.cache: dict[str, tuple[dict[str, int], dict[str, int]]] = {}  # by worker: its latest counts
        self._began = time.monotonic()
        self._times: deque[float] = deque([self._began], maxlen=WINDOW)
        self._live = sys.stderr.isatty()
        self._end = threading.Event()
        self._ticking = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._show()
        self._ticking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The last line stands before whatever is said next."""
        self._end.set()
        self._ticking.join()
        self._show(end=True)

    def add(self, made: Made) -> None:
        self.made += 1
        self.seen += 1
        self.kept += not made.rejected
        self.cache[made.worker] = (made.hits, made.misses)
        self._times.append(time.monotonic())

    def line(self) -> str:
        now, times = time.monotonic(), tuple(self._times)
        pace = (len(times) - 1) / (now - times[0]) if now > times[0] else 0.0
        done = f"{self.made} of {self.turns} turns"
        kept = f", kept {self.kept / self.seen:.0%}" if self.seen else ""
        speed = f", {60 * pace:.0f} a minute, {span((self.turns - self.made) / pace)} left" if pace > 0 else ""
        return f"{done}{kept}{speed}, {span(now - self._began)} so far"

    def _tick(self) -> None:
        while not self._end.wait(EVERY_S if self._live else EVERY_S_IN_A_LOG):
            self._show()

    def _show(self, end: bool = False) -> None:
        if self._live:
            print(f"\r\x1b[K{self.line()}", end="\n" if end else "", file=sys.stderr, flush=True)
        else:
            print(self.line(), file=sys.stderr, flush=True)

    def cache_share(self) -> dict[str, float]:
        """Hits among all questions to the cache, by stage, over all workers."""
        hits: Counter[str] = Counter()
        asked: Counter[str] = Counter()
        for found, missed in self.cache.values():
            hits.update(found)
            asked.update(found)
            asked.update(missed)
        return {stage: hits[stage] / count for stage, count in sorted(asked.items()) if count}


def span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
