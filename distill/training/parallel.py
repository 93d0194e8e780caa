"""One process or many: which device, how the model is spread over them, and what they tell each other.

`accelerate launch` (or torchrun) starts the processes; accelerate's PartialState knows the device and the process group. Its
Accelerator is not used: it is one per process, while stages differ in their arithmetic, and it knows FSDP2 on GPUs only.
`fully_shard` itself runs on CPUs, too.
"""

from __future__ import annotations

import atexit
import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, send_to_device
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from cascade.errors import ConfigError, EngineUnavailable


class World:
    """All processes that train one model."""

    def __init__(self, parallel: str = "auto", dtype: str = "float32") -> None:
        self.state = processes()
        self.rank, self.size, self.device = self.state.process_index, self.state.num_processes, self.state.device
        self.dtype = getattr(torch, dtype)
        self.kind = _kind(parallel, self.size)

    @property
    def main(self) -> bool:
        return bool(self.rank == 0)

    def spread(self, model: nn.Module, *, compiled: bool = False, on_policy: bool = False) -> None:
        """Make `model`, what learns, and `loss` around it. FSDP2 shards a copy: the model itself stays one that anyone may use,
        and gets its weights in `whole`. on_policy: that is in every step, so keep it on the device."""
        self._plain, self._home = model, self.device if on_policy else torch.device("cpu")
        self.model = copy.deepcopy(model) if self.kind == "fsdp2" else model.to(self.device)
        for block in (blocks(self.model) or [self.model]) if compiled else []:
            block.compile()
        self.loss: nn.Module = Loss(self.model)
        if self.kind == "ddp":
            self.loss = _replicated(self.loss, self.device)
        if self.kind == "fsdp2":
            _shard(self.model, self.device, self.size)

    def learn(
        self, tensors: dict[str, Any], shares: Mapping[str, float], last: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of a pack. Gradients are summed over processes, after the step's last pack alone."""
        with self._apart(last):
            with self.arithmetic():
                loss, sums = self.loss(tensors, shares, self.kind == "ddp" and last)
            if loss.requires_grad:
                (loss * self.size if self.kind == "ddp" else loss).backward()  # DDP takes the mean
        return loss.detach(), sums

    def _apart(self, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self.loss, DistributedDataParallel) and not last:
            return self.loss.no_sync()
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(last)
        return nullcontext()

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Autocast to the dtype asked for; weights and their gradients stay as they are."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()

    def to_device(self, tensors: dict[str, Any]) -> dict[str, Any]:
        return cast("dict[str, Any]", send_to_device(tensors, self.device, non_blocking=True))

    def told(self, mine: Any) -> list[Any]:
        """What every process tells, in the order of their ranks."""
        if self.size == 1:
            return [mine]
        all_of_them: list[Any] = [None] * self.size
        distributed.all_gather_object(all_of_them, mine)
        return all_of_them

    def summed(self, values: Tensor) -> Tensor:
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        self.state.wait_for_everyone()

    def part(self) -> None:
        """Weights that a forward pass without a backward pass left whole become shards again: only so may others read them."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every process may use the job's model as if it were alone: generate, write samples. All enter and leave."""
        if self.model is not self._plain:
            self.part()
            there = learnt(self._plain)
            for name, tensor in learnt(self.model).items():
                put(there[name], full(tensor.detach()))
            self._plain.to(self.device).train(self.model.training)
        try:
            yield
        finally:
            if self.model is not self._plain:
                self._plain.to(self._home)
            self.wait()


def learnt(model: nn.Module) -> dict[str, Tensor]:
    """What learning changes: parameters that train (one that is tied, once) and buffers that a state has."""
    kept = {name: one for name, one in model.named_parameters() if one.requires_grad}
    state = model.state_dict().keys()
    return kept | {name: one for name, one in model.named_buffers() if name in state}


class Loss(nn.Module):
    """The model with its loss inside: DDP waits for a gradient of all that it sees, so sums without one stay in here."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tensors: dict[str, Any], shares: Mapping[str, float], anchored: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`shares`: what one unit of an objective's sum weighs. `anchored`: parameters that the batch left out get gradients of
        zero, too. The loss [], and all sums [] without a graph."""
        sums = self.model(**tensors)
        loss = sum(
            (share * sums[name].float() for name, share in shares.items()), torch.zeros((), device=_device(sums))
        )
        if anchored:
            loss = loss + sum(one.reshape(-1)[:0].sum() for one in self.model.parameters() if one.requires_grad)
        return loss, {name: value.detach().float() for name, value in sums.items()}


def _device(sums: Mapping[str, Tensor]) -> torch.device:
    return next(iter(sums.values())).device


def _kind(parallel: str, size: int) -> str:
    started = distributed.is_available() and distributed.is_initialized()
    if parallel == "fsdp2" and not started:
        raise ConfigError('parallel = "fsdp2" needs several processes: start it by accelerate launch')
    if parallel == "auto":
        asked = parse_flag_from_env("ACCELERATE_USE_FSDP") and started
        parallel = "fsdp2" if asked else "ddp"
    return "single" if parallel == "ddp" and size == 1 else parallel


def processes() -> PartialState:
    """What accelerate knows of the processes; the first call makes their group. Without a word about a CPU, each of several
    processes on one would take itself for the only one."""
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    atexit.register(_leave)
    return PartialState(cpu=on_cpu)


def _leave() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the first, or the only one; known before any process group is."""
    return int(os.environ.get("RANK", "0")) == 0


def _replicated(model: nn.Module, device: torch.device) -> nn.Module:
    here = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=here, gradient_as_bucket_view=True)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The modules that every batch runs through, if the model names any."""
    named = getattr(model, "shards", None)
    return list(named()) if callable(named) else []


def _shard(model: nn.Module, device: torch.device, size: int) -> None:
    if size > 1 and not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise EngineUnavailable(f"FSDP2 over several processes needs torch 2.13, here is {torch.__version__}; use DDP")
    mesh = init_device_mesh(device.type, (size,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the sum, not the mean
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled one
            if size > 1:
                module.set_reduce_scatter_unused_params(True, recurse=False)


def full(tensor: Tensor) -> Tensor:
    """A parameter or a state of its optimizer, whole. All processes call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def put(target: Tensor, value: Tensor) -> None:
    """Write a whole tensor into a parameter, sharded or not."""
    with torch.no_grad():
        target.copy_(as_sharded(target, value))


def as_sharded(like: Tensor, value: Tensor) -> Tensor:
    """A whole tensor in the shards of another, on its device."""
    value = value.to(like.device)
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value
