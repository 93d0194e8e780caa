"""What every engine that runs on torch needs: its device, a way to stop it, and libraries kept from changing the process.

Only such engines import this module: it imports torch.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import random
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from cascade.cancel import CancelScope
from cascade.errors import EngineFailed, EngineUnavailable, OutOfMemory, is_out_of_memory, one_line
from cascade.native import NativeCalls
from cascade.needs import Device

Result = TypeVar("Result")


_scope = threading.local()
_globals = threading.RLock()


def device_of(wanted: Device) -> torch.device:
    """`auto` takes CUDA where torch sees it. Raises EngineUnavailable."""
    seen = torch.cuda.is_available()
    if wanted == "cuda" and not seen:
        raise EngineUnavailable('device = "cuda", and torch sees none; use auto or cpu, or mend the driver')
    return torch.device("cuda" if seen and wanted != "cpu" else "cpu")


def make_stoppable(model: torch.nn.Module) -> None:
    """From now on each of the model's layers looks, before it runs, whether the caller's scope (`stopped_by`) was cancelled."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList):
            for layer in module:
                layer.register_forward_pre_hook(_check)
    model.register_forward_pre_hook(_check)


def _check(*_: Any) -> None:
    scope: CancelScope | None = getattr(_scope, "current", None)
    if scope is not None:
        scope.check()


@contextlib.contextmanager
def stopped_by(cancel: CancelScope) -> Iterator[None]:
    """Stoppable models that this thread runs inside raise Cancelled soon after `cancel` is set."""
    outer = getattr(_scope, "current", None)
    _scope.current = cancel
    try:
        cancel.check()
        yield
    finally:
        _scope.current = outer


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Around a library that sets what belongs to the whole process: seeds, thread counts, logging, warnings, environment.

    All of it is as before afterwards, and what the library prints or warns is dropped. One thread at a time.
    """
    with _globals, contextlib.ExitStack() as undo:
        states = random.getstate(), np.random.get_state(), torch.get_num_threads(), torch.get_default_dtype()
        environment = dict(os.environ)
        root, level, disabled = logging.root, logging.root.level, logging.root.manager.disable
        handlers, levels = list(root.handlers), _levels()
        undo.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
        undo.enter_context(warnings.catch_warnings(record=True))
        undo.enter_context(contextlib.redirect_stdout(io.StringIO()))
        undo.enter_context(contextlib.redirect_stderr(io.StringIO()))
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_num_threads(states[2])
            torch.set_default_dtype(states[3])
            for key in set(os.environ) - set(environment):
                del os.environ[key]
            os.environ.update(environment)
            root.setLevel(level)
            root.handlers[:] = handlers
            logging.disable(disabled)
            for name, was in levels.items():
                logging.getLogger(name).setLevel(was)


def _levels() -> dict[str, int]:
    loggers = logging.root.manager.loggerDict
    return {name: logger.level for name, logger in loggers.items() if isinstance(logger, logging.Logger)}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Around the loading of a library's model: the process stays as it is, and nothing is printed or logged."""
    with preserved():
        logging.disable(logging.CRITICAL)
        yield


@contextlib.contextmanager
def running(engine: str, cancel: CancelScope) -> Iterator[None]:
    """Around a forward pass of a stoppable network. Raises Cancelled, OutOfMemory, EngineFailed."""
    try:
        with stopped_by(cancel), torch.inference_mode():
            yield
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        why = one_line(error)
        if is_out_of_memory(error):
            raise OutOfMemory(f"{engine}: out of memory ({why}); give it less at once or another device") from error
        raise EngineFailed(f"{engine}: the network failed ({why})") from error


class Network:
    """Runs a stoppable network for an engine, from any thread, one call at a time. Who is cancelled leaves at once, waiting or
    not; the work itself ends at the network's next layer.
    """

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._calls = NativeCalls(engine)

    def run(self, work: Callable[[], Result], cancel: CancelScope) -> Result:
        """What `work` returns. Raises Cancelled, OutOfMemory, EngineFailed."""

        def inside() -> Result:
            with running(self._engine, cancel):
                return work()

        return self._calls.run(inside, cancel)


def check_pickle(path: Path) -> None:
    """Raise EngineUnavailable unless a .pt or .bin file holds tensors and plain values alone: others can run code when read."""
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it would run {foreign[1]}" if foreign else one_line(error, 80)
        raise EngineUnavailable(
            f"{path}: not a checkpoint of plain tensors ({why}); get it again from where you trust it"
        ) from error
