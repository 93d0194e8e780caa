"""What a run shows while it works: how far, how many were kept, how fast, how long still."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque

from distill.teaching.worker import Made

WINDOW = 200  # rows from which the pace is taken
EVERY_S, EVERY_S_IN_A_LOG = 0.5, 15.0


class Progress:
    """`made`: rows that were there before. One line on a terminal, now and then a line in a log."""

    def __init__(self, turns: int, made: int) -> None:
        self.turns, self.made, self.kept = turns, made, 0
        self.seen = 0
        self.gates: Counter[str] = Counter()
        self.cache: dict[str, tuple[dict[str, int], dict[str, int]]] = {}  # by worker: its latest counts
        self._times: deque[float] = deque([time.monotonic()], maxlen=WINDOW)
        self._live = sys.stderr.isatty()
        self._shown = time.monotonic() if not self._live else 0.0

    def add(self, made: Made) -> None:
        self.made += 1
        self.seen += 1
        self.kept += not made.rejected
        self.gates.update({reason.partition(":")[0] for reason in made.rejected})
        self.cache[made.worker] = (made.hits, made.misses)
        self._times.append(time.monotonic())
        if self._times[-1] - self._shown > (EVERY_S if self._live else EVERY_S_IN_A_LOG):
            self.show()

    def line(self) -> str:
        passed_s = self._times[-1] - self._times[0]
        pace = (len(self._times) - 1) / passed_s if passed_s > 0 else 0.0
        left = f", {_span((self.turns - self.made) / pace)} left" if pace > 0 else ""
        kept = f", kept {self.kept / self.seen:.0%}" if self.seen else ""
        return f"{self.made} of {self.turns} turns{kept}, {60 * pace:.0f} a minute{left}"

    def show(self, end: bool = False) -> None:
        self._shown = time.monotonic()
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


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
