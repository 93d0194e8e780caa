"""Makes rows in processes of this machine, or wherever an `Executor` has its workers."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice

from cascade.errors import AttuneError, EngineFailed
from cascade.turn import EngineInfo
from distill.teaching.worker import Equipment, Made, begin, make_rows

CHUNK = 4  # scenarios at once: the same words in several tones lie side by side, and share work
AHEAD = 2  # chunks waiting for each worker
DEATHS = 3  # workers lost one after another, without a row between, before the run gives up

Executor = Callable[[Iterable[str]], Iterator[Made]]  # scenarios as JSON lines → rows, in any order


class WorkerDied(EngineFailed):
    """A worker was killed, often for want of memory. What it was making can be made again."""


def infos(equipment: Equipment) -> dict[str, EngineInfo]:
    """The engines of a profile, loaded once in a process of its own. Raises ConfigError, EngineUnavailable."""
    with _pool(1, None) as pool:
        found = pool.submit(_infos, equipment).result()
        if isinstance(found, str):
            raise EngineFailed(found)
        return found


def _infos(equipment: Equipment) -> dict[str, EngineInfo] | str:
    try:
        engines = equipment.engines()
    except AttuneError as error:
        return str(error)
    try:
        return {str(stage): info for stage, info in engines.infos.items()}
    finally:
        engines.close()


@contextmanager
def _pool(workers: int, equipment: Equipment | None) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, one thread each: more would only get in each other's way."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    pool = (
        ProcessPoolExecutor(workers, mp_context=context, initializer=begin, initargs=(equipment,))
        if equipment
        else ProcessPoolExecutor(workers, mp_context=context)
    )
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()  # a row that is half made is made again
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


def local(equipment: Equipment, workers: int) -> Executor:
    """An executor of `workers` processes. Raises WorkerDied where one was killed."""

    def execute(lines: Iterable[str]) -> Iterator[Made]:
        source = iter(lines)
        with _pool(workers, equipment) as pool:
            running: set[Future[list[Made]]] = set()
            while True:
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
