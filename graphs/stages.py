"""Running an engine inside a graph: in a thread, with a deadline, stoppable, and with failure as a result.

LangGraph's own node timeout cannot stop a thread, and its `error_handler` leaves a join of several branches waiting
forever for the branch that failed (1.2.22), so both are done here, the same for every stage.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cascade.cancel import CancelScope
from cascade.errors import (
    AttuneError,
    Cancelled,
    EngineFailed,
    EngineTimeout,
    EngineUnavailable,
    OutOfMemory,
    is_out_of_memory,
    one_line,
)
from cascade.turn import Failure, Stage

T = TypeVar("T")
OUT_OF_MEMORY_TRIES = 2
WATCH_S = 0.05  # how often a waiting stage looks whether the person stopped the turn


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a stage came to: a value, or a failure, or neither when the person stopped the turn."""

    value: T | None = None
    seconds: float = 0.0
    failure: Failure | None = None


@dataclass
class StageRunner:
    """Runs the stages of one turn after another; remembers which engine still hangs in an earlier call."""

    hanging: dict[Stage, threading.Thread] = field(default_factory=dict)

    async def run(
        self, stage: Stage, work: Callable[[CancelScope], T], *, deadline_s: float, cancel: CancelScope
    ) -> Outcome[T]:
        """Call `work(scope)` in a thread. Never raises for what an engine does; `deadline_s` covers all tries."""
        began = time.perf_counter()
        for left in range(OUT_OF_MEMORY_TRIES - 1, -1, -1):
            try:
                value = await self._once(stage, work, deadline_s - (time.perf_counter() - began), cancel)
                return Outcome(value, time.perf_counter() - began)
            except OutOfMemory as error:
                if not left:
                    return Outcome(None, time.perf_counter() - began, failure_of(stage, error))
            except Cancelled:
                return Outcome(None, time.perf_counter() - began)
            except AttuneError as error:
                return Outcome(None, time.perf_counter() - began, failure_of(stage, error))
        raise AssertionError("unreachable: the last try returns")

    async def _once(self, stage: Stage, work: Callable[[CancelScope], T], seconds: float, cancel: CancelScope) -> T:
        earlier = self.hanging.get(stage)
        if earlier is not None and earlier.is_alive():
            raise EngineFailed("still hanging in an earlier turn")
        scope = CancelScope(cancel)
        thread, future = _in_thread(lambda: work(scope), f"attune-{stage}")
        done = await _first_of(future, seconds, cancel)
        if done:
            return future.result()
        scope.cancel()
        future.cancel()  # what it still comes to is nobody's
        self.hanging[stage] = thread
        if cancel.cancelled:
            raise Cancelled
        raise EngineTimeout(f"no answer within {seconds:.3g} s (deadline_s of [{stage}] in the profile)")

    async def iterate(
        self, stage: Stage, make: Callable[[CancelScope], Iterator[T]], *, deadline_s: float, cancel: CancelScope
    ) -> AsyncIterator[T]:
        """Items of a generator that works in a thread, as they come. Raises EngineError, Cancelled."""
        scope = CancelScope(cancel)
        iterator = make(scope)
        end = object()
        while True:
            item: Any = await self._once(stage, lambda _: next(iterator, end), deadline_s, scope)
            if item is end:
                return
            yield item


def _in_thread(work: Callable[[], T], name: str) -> tuple[threading.Thread, asyncio.Future[T]]:
    """A daemon thread of its own: an engine that hangs must not keep the program from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(value)

    def body() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:
            error = as_attune_error(raised)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    thread = threading.Thread(target=body, name=name, daemon=True)
    thread.start()
    return thread, future


async def _first_of(future: asyncio.Future[Any], seconds: float, cancel: CancelScope) -> bool:
    """Wait for the future, the deadline, or the person; True if the future is done."""
    deadline = time.perf_counter() + seconds
    while not future.done() and not cancel.cancelled:
        left = deadline - time.perf_counter()
        if left <= 0:
            break
        await asyncio.wait([future], timeout=min(WATCH_S, left))
    return future.done()


def as_attune_error(error: BaseException) -> BaseException:
    """An engine's exception as the graph tells it: Attune's own as they are, others in one line."""
    if isinstance(error, AttuneError | Cancelled):
        return error
    text = one_line(error, 180)
    return (
        OutOfMemory(f"out of memory: {text}")
        if is_out_of_memory(error)
        else EngineFailed(f"{type(error).__name__}: {text}")
    )


def failure_of(stage: Stage, error: AttuneError) -> Failure:
    kinds = {EngineTimeout: "timeout", EngineUnavailable: "unavailable"}
    return Failure(stage=stage, kind=kinds.get(type(error), "failed"), message=str(error))  # type: ignore[arg-type]
