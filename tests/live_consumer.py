"""A process that collects turns, and may kill itself: python live_consumer.py URL FOLDER never|judging|between|before_done."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from cascade.cancel import CancelScope
from distill.teaching.live import collect as collecting
from distill.teaching.live.sources import RedisSource
from distill.teaching.records import Sample


def die(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def main(url: str, folder: str, dies: str) -> None:
    judged = 0

    def gate(sample: Sample) -> tuple[str, ...]:
        nonlocal judged
        judged += 1
        if dies == "judging" and judged == 3:
            die()
        return ("empathy: 0.1",) if sample.scenario.seed % 3 == 0 else ()

    if dies == "between":
        write = collecting.write_shard
        collecting.write_shard = lambda *given: (write(*given), die())
    if dies == "before_done":
        RedisSource.done = die
    cancel = CancelScope()
    source = RedisSource(url, min_idle_ms=300, cancel=cancel, tell=print)
    print("ready", flush=True)
    sys.stdin.readline()
    print(collecting.collect(source, Path(folder), gate=gate, shard_rows=4, once=True, cancel=cancel, tell=print))


if __name__ == "__main__":
    main(*sys.argv[1:])
