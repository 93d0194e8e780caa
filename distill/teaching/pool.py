"""Makes rows in processes of this machine, or wherever an `Executor` has its workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait as ended
from typing import Any

from cascade.errors import EngineFailed
from cascade.turn import EngineInfo
from distill.teaching.worker import Equipment, Made, begin, make_rows

CHUNK = 4  # scenarios at once: the same words in several tones lie side by side, and share work
AHEAD = 2  # chunks waiting for each worker
LEAVE_S = 5.0  # for the workers to end, once all rows are there
DEATHS = 3  # workers lost one after another, without a row between, before the run gives up

Executor = Callable[[Iterable[str]], Iterator[Made]]  # scenarios as JSON lines → rows, in any order


class WorkerDied(EngineFailed):
    """A worker was killed, often for want of memory. What it was making can be made again."""


def infos(equipment: Equipment) -> dict[str, EngineInfo]:
    """The engines of a profile, loaded once in a process of its own. Raises ConfigError, EngineUnavailable."""
    with _pool(1, None) as pool:
        with _undisturbed():
            found = pool.submit(_infos, equipment)
        return found.result()


def _infos(equipment: Equipment) -> dict[str, EngineInfo]:
    engines = equipment.engines()
    try:
        return {str(stage): info for stage, info in engines.infos.items()}
    finally:
        engines.close()


@contextmanager
def _pool(workers: int, equipment: Equipment | None) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, one thread each: more would only get in each other's way."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=begin, initargs=(equipment,))
    try:
        yield pool
    except BaseException:
        for process in _processes(pool):
            process.kill()  # a row that is half made is made again
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    leaving = _processes(pool)
    pool.shutdown(wait=False)
    until = time.monotonic() + LEAVE_S
    for process in leaving:
        if not ended([process.sentinel], max(0.0, until - time.monotonic())):
            process.kill()  # an engine that hangs must not keep a run that is done from ending


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until all processes that are begun here have what they begin with: one that is not yet known to its
    pool would be left behind, to find half of it and say so in a traceback. Of Ctrl-C, which reaches the whole group, those
    processes never hear: this one ends them.
    """
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _processes(pool: ProcessPoolExecutor) -> list[Any]:
    return list((pool._processes or {}).values())


def local(equipment: Equipment, workers: int) -> Executor:
    """An executor of `workers` processes. Raises WorkerDied where one was killed, and as `Worker` where none can begin."""

    def execute(lines: Iterable[str]) -> Iterator[Made]:
        source = iter(lines)
        with _pool(workers, equipment) as pool:
            running: set[Future[list[Made]]] = set()
            while True:
                with _undisturbed():
                    while len(running) < workers * AHEAD and (chunk := list(islice(source, CHUNK))):
                        running.add(pool.submit(make_rows, chunk))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        made = future.result()
                    except BrokenProcessPool as error:
                        raise WorkerDied("a worker was killed; give fewer --workers if memory ran out") from error
                    yield from made

    return execute
