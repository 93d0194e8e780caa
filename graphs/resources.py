"""What a process and its children took of the machine: processor time and peak memory (Linux tells both), energy where a counter
may be read.
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
RAPL = Path("/sys/class/powercap")  # Running Average Power Limit: counters of Intel's and AMD's processors
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Usage:
    """Of a process and all that it started and that still runs. None: the system does not tell."""

    cpu_s: float | None
    peak_memory_mb: float | None  # sum of each one's own peak of resident memory: an upper bound of the peak of the sum


def usage(pid: int) -> Usage:
    """Of a running process, from /proc; elsewhere than on Linux nothing is told."""
    if not (PROC / "self" / "stat").is_file():
        return Usage(None, None)
    family = [pid, *descendants(pid)]
    cpu = [_cpu_s(one) for one in family]
    peaks = [_peak_mb(one) for one in family]
    return Usage(sum(cpu), round(sum(peaks), 1))


def descendants(pid: int) -> list[int]:
    """Children, their children and so on; those that end meanwhile are left out."""
    parents: dict[int, list[int]] = {}
    for path in PROC.iterdir():
        if path.name.isdigit() and (stat := _stat(int(path.name))):
            parents.setdefault(int(stat[1]), []).append(int(path.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _stat(pid: int) -> list[str]:
    """proc(5): the fields after the name in brackets, which may hold blanks; [] where the process has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    """User and system time of a process, and of those children it has waited for."""
    stat = _stat(pid)
    return sum(int(ticks) for ticks in stat[11:15]) / TICKS if stat else 0.0


def _peak_mb(pid: int) -> float:
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), 0.0)


def own_peak_memory_mb() -> int:
    """The most this process has held (resident)."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): macOS tells bytes, Linux KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def energy_j() -> tuple[float | None, str]:
    """Joules that processors and GPUs have counted until now, or None and why; of the whole machine, whoever used it."""
    counted, notes = 0.0, []
    packages = sorted(RAPL.glob("intel-rapl:[0-9]*/energy_uj")) if RAPL.is_dir() else []
    readings = [reading for path in packages if (reading := _microjoules(path)) is not None]
    if readings:
        counted += sum(readings) / 1e6
    else:
        notes.append("no energy counter of the processor may be read here")
    gpus = _gpus_j()
    if gpus is not None:
        counted += gpus
    return (counted, "; ".join(notes)) if readings or gpus is not None else (None, "; ".join(notes))


def _microjoules(path: Path) -> int | None:
    try:
        return int(path.read_text()) if path.parent.name.count(":") == 1 else None  # a package, not a part of one
    except (OSError, ValueError):
        return None


def _gpus_j() -> float | None:
    """NVIDIA's counters, where their package is installed and a driver answers."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(at) for at in range(pynvml.nvmlDeviceGetCount())]
        return float(sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)) / 1e3
    except Exception:  # no package, no driver, no counter: its own classes, and ImportError
        return None
