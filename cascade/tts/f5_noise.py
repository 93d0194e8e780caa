"""Noise of one's own for a library that draws it from the process's one generator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Own(TorchFunctionMode):
    """Inside, in this thread alone, `torch.randn` draws from the given generator."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.randn:
            given["generator"] = self._generator
        return func(*args, **given)


@contextlib.contextmanager
def noise_of(seed: int, device: torch.device, *, until: torch.nn.Module) -> Iterator[None]:
    """CFM.sample draws its noise and then runs its network, `until`, many times: from the first time on this is out of the way,
    for it costs microseconds at each of torch's functions.

    A seed given to CFM.sample would set the process's generators, and another thread's noise would come between.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_Own(torch.Generator(device).manual_seed(seed)))
        hook = until.register_forward_pre_hook(lambda *_: stack.close())
        try:
            yield
        finally:
            hook.remove()
