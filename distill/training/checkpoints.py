"""Where a stage stands, on disk: whole at every moment, and refused if it was cut or changed.

    last/  model.safetensors      parameters that train, and buffers; the frozen are the run's own and only fingerprinted
           mean.safetensors       the same, averaged along the way, if that was asked for
           optimizer.safetensors  their optimizers' states, by "name|state"
           state.json             step and place in the data, the best so far, sha256 of the files
    best/  model.safetensors (the mean, if there is one), state.json

A folder is written beside its place and takes it by renaming: the former goes only when the new one is whole. No generator's
state is kept, because chance hangs on (seed, epoch, place in it) alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from cascade.errors import InputError
from distill.training.parallel import World, as_sharded, full, learnt, put

LAST, BEST = "last", "best"
MODEL, MEAN, OPTIMIZER, STATE = "model.safetensors", "mean.safetensors", "optimizer.safetensors", "state.json"
SAMPLE = 64  # values of each frozen tensor in their fingerprint


@dataclass
class State:
    """Where a stage stands. (epoch, place): the next pack."""

    step: int = 0
    epoch: int = 0
    place: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first_total: float | None = None  # held-out totals
    best_total: float | None = None
    best_step: int = 0
    last_total: float | None = None


def frozen_fingerprint(model: nn.Module) -> str:
    """sha256 over names, shapes and the first values of what does not train. Taken before the model is sharded."""
    digest = hashlib.sha256()
    for name, one in model.named_parameters():
        if not one.requires_grad:
            digest.update(f"{name} {tuple(one.shape)}".encode())
            digest.update(one.detach().reshape(-1)[:SAMPLE].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def save(
    folder: Path,
    world: World,
    model: nn.Module,
    optimizers: list[Optimizer],
    state: State,
    same: Any,
    means: Mapping[str, Tensor] | None = None,
) -> None:
    """`same`: what must be the same when the stage goes on (JSON). No optimizers: a model to use. means: the weights averaged.
    All processes call it."""
    files = {MODEL: _on_cpu(learnt(model), world)}
    if means is not None:
        files[MEAN] = _on_cpu(means, world)
    if optimizers:
        files[OPTIMIZER] = _on_cpu(_states(model, optimizers), world)
    if world.main:
        _put_down(folder, files, {**asdict(state), "same": same})
    world.wait()


def _on_cpu(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    kept = {}
    for name, tensor in tensors.items():
        whole = full(tensor.detach())
        if world.main:
            kept[name] = whole.cpu().contiguous()
    return kept


def _names(model: nn.Module) -> dict[int, str]:
    return {id(one): name for name, one in model.named_parameters()}


def _states(model: nn.Module, optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    names = _names(model)
    return {
        f"{names[id(parameter)]}|{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _put_down(folder: Path, files: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
    new = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name, tensors in files.items():
            save_file(tensors, new / name)
        facts["sha256"] = {name: _sha256(new / name) for name in files}
        (new / STATE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        _take_place(new, folder)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder}: the checkpoint cannot be written ({error}); the former is whole: make room, then --resume"
        ) from error


def _take_place(new: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def settle(folder: Path) -> None:
    """After a kill: with nothing in its place, the new folder was whole already, for the old had left."""
    new, old = (folder.with_name(f".{folder.name}.{which}") for which in ("new", "old"))
    if old.exists() and not folder.exists():
        os.replace(new if new.exists() else old, folder)
    for rest in (new, old):
        shutil.rmtree(rest, ignore_errors=True)


def read_state(folder: Path, same: Any) -> State:
    """Raises InputError: cut, changed, or of other settings."""
    facts = _facts(folder)
    there = facts.pop("same")
    differs = next((key for key in sorted({*there, *same}) if there.get(key) != same.get(key)), None)
    if differs:
        raise InputError(
            f"{folder}: was made with {differs} = {there.get(differs)!r}, now it is {same.get(differs)!r}; "
            "go on with the same, or begin in another folder"
        )
    return State(**facts)


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / STATE).read_text(encoding="utf-8"))
        for name, digest in facts.pop("sha256").items():
            if _sha256(folder / name) != digest:
                raise InputError(f"{folder / name}: is not as it was written (sha256 differs); begin in another folder")
        return dict(facts)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{folder}: is no whole checkpoint ({type(error).__name__}); begin in another folder"
        ) from error


def load(
    folder: Path,
    model: nn.Module,
    optimizers: list[Optimizer] | None = None,
    means: Mapping[str, Tensor] | None = None,
) -> None:
    """Weights, and their means and the optimizers' states if asked for, in place. `read_state` first: it checks the files."""
    _fill(learnt(model), folder / MODEL)
    if means is not None:
        _fill(means, folder / MEAN)
    if optimizers is not None:
        _load_states(folder, model, optimizers)


def _fill(here: Mapping[str, Tensor], file: Path) -> None:
    there = load_file(file)
    if {name: tensor.shape for name, tensor in there.items()} != {name: tensor.shape for name, tensor in here.items()}:
        odd = sorted(name for name in {*there, *here} if name not in there or name not in here) or ["a shape"]
        raise InputError(f"{file}: is of another model (first difference: {odd[0]}); begin in another folder")
    for name, tensor in here.items():
        put(tensor, there[name])


def _load_states(folder: Path, model: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    kept: dict[str, dict[str, Tensor]] = {}
    for name, value in load_file(folder / OPTIMIZER).items():
        parameter, _, key = name.rpartition("|")
        kept.setdefault(parameter, {})[key] = value
    names = _names(model)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = kept.get(names[id(parameter)], {})
                optimizer.state[parameter] = {key: as_sharded(parameter, value) for key, value in state.items()}


def use(folder: Path, model: nn.Module) -> int:
    """Put a stage's best or last weights into the model, averaged if the stage did so; their step."""
    facts = _facts(folder)
    _fill(learnt(model), folder / (MEAN if (folder / MEAN).is_file() else MODEL))
    return int(facts["step"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
