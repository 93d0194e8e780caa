"""What a stage shows while it learns: how far, how well, how fast, how much of the device, how long still."""

from __future__ import annotations

import sys
import time
from collections import deque

import torch

from distill.teaching.progress import EVERY_S, EVERY_S_IN_A_LOG, span

WINDOW = 50  # steps from which the pace is taken
PEAKS = {  # dense TFLOP/s in bfloat16 (V100, T4: half) and float32, from the makers' data sheets; the first that fits
    "B200": (2250.0, 80.0),
    "H200": (989.0, 67.0),
    "GH200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "A40": (149.7, 37.4),
    "A10": (125.0, 31.2),
    "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
    "V100": (125.0, 15.7),
    "T4": (65.0, 8.1),
}
SIDE = 512  # of the matrices that measure a CPU


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Operations a second at best: a GPU's by its name, a CPU's by multiplying matrices; None: not known."""
    if device.type == "cpu":
        return _measured(dtype)
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    half, single = next((value for key, value in PEAKS.items() if key in name), (None, None))
    tera = half if dtype == torch.bfloat16 else single
    return None if tera is None else 1e12 * tera


def _measured(dtype: torch.dtype) -> float:
    one = torch.ones(SIDE, SIDE, dtype=dtype)
    one @ one
    best_s = 1.0
    for _ in range(5):
        began = time.perf_counter()
        one @ one
        best_s = min(best_s, time.perf_counter() - began)
    return float(2 * SIDE**3 / best_s)


class Progress:
    """One line on a terminal, now and then a line in a log. `peak`: of all processes together."""

    def __init__(self, stage: str, steps: int, flops_per_token: float | None, peak: float | None) -> None:
        self.stage, self.steps = stage, steps
        self._use = flops_per_token / peak if flops_per_token and peak else None
        self._pace: deque[tuple[int, float]] = deque(maxlen=WINDOW)  # tokens and seconds of a step
        self._live = sys.stderr.isatty()
        self._shown = 0.0

    def add(self, step: int, total: float, rate: float, tokens: int, seconds: float) -> None:
        self._pace.append((tokens, seconds))
        now = time.monotonic()
        if now - self._shown > (EVERY_S if self._live else EVERY_S_IN_A_LOG) or step == self.steps:
            self._shown = now
            self._show(self.line(step, total, rate), end=step == self.steps)

    def line(self, step: int, total: float, rate: float) -> str:
        tokens, seconds = (sum(one) for one in zip(*self._pace, strict=True))
        speed = tokens / max(seconds, 1e-9)
        use = f", MFU {speed * self._use:.1%}" if self._use else ""
        left = span((self.steps - step) * seconds / len(self._pace))
        return (
            f"{self.stage}: step {step} of {self.steps}, loss {total:.4g}, rate {rate:.1e}, "
            f"{speed:,.0f} tokens/s{use}, {left} left"
        )

    def _show(self, line: str, end: bool) -> None:
        if self._live:
            print(f"\r\x1b[K{line}", end="\n" if end else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
