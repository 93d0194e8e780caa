"""What an engine rests on: packages, programs, checkpoints, a device. Looked at without importing anything heavy."""

from __future__ import annotations

import ctypes
import re
import shlex
import shutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Kind = Literal["package", "program", "checkpoint", "device", "file", "endpoint"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Need:
    """One thing an engine rests on. `name` with its version; `fix`: the one line that mends it, None when it is there."""

    kind: Kind
    name: str
    fix: str | None = None


def by_weight(need: Need) -> bool:
    """Sorts needs: a device first, for without it nothing else is worth fetching."""
    return need.kind != "device"


def package(module: str, distribution: str, install: str) -> Need:
    """A package by the module it is imported as; `install`: the line that brings it. Imports nothing."""
    try:
        found = find_spec(module) is not None
    except (ImportError, ValueError):  # a parent is missing, or someone put None into sys.modules to hide it
        found = False
    if not found:
        return Need("package", distribution, install)
    try:
        return Need("package", f"{distribution} {version(distribution)}")
    except PackageNotFoundError:
        return Need("package", distribution)


def extra(name: str) -> str:
    """The line that installs an extra of Attune's: from its clone where it runs from one, for no index has this Attune."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        return f"pip install 'attune[{name}]'"
    place = "." if Path.cwd() == root else root
    return f"pip install -e {shlex.quote(f'{place}[{name}]')}"


def program(name: str, install: str) -> Need:
    return Need("program", name, None if shutil.which(name) else install)


def device(wanted: Device, *, by_torch: bool = True) -> Need:
    """The device an option asks for. `auto` and `cpu` are always there."""
    if wanted != "cuda":
        name = "cuda" if wanted == "auto" and cuda_devices() and (not by_torch or torch_has_cuda()) else "cpu"
        return Need("device", name)
    if not cuda_devices():
        return Need("device", "cuda", 'no CUDA device here: it takes an NVIDIA GPU and its driver (or device = "cpu")')
    if by_torch and not torch_has_cuda():
        return Need("device", "cuda", "this torch is built for the CPU: install torch's CUDA build (pytorch.org)")
    return Need("device", "cuda")


@cache
def cuda_devices() -> int:
    """How many CUDA devices the driver shows; 0 without a driver. Asks the driver itself, so torch need not be imported."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@cache
def torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA; read from its version file, for importing torch takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    return re.search(r"^cuda\b[^=]*=\s*['\"]\d", text, re.M) is not None
