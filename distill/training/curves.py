"""What a stage wrote down of its way, and the picture of it.

RUN/<stage>/curve.jsonl, one line a step or an evaluation:
    {"split": "train" | "held_out", "step", "epoch", "total", "objectives": {name: mean}, "tokens", "seconds",
     "rate", "gradient_norm"}
`tokens` and `seconds` count from the stage's beginning; "rate" and "gradient_norm" are of training steps alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE, PICTURE = "curve.jsonl", "curves.png"
STAGES = ("codec", "understand", "speak", "empathise", "refine")  # the order of panels
WIDE = 10.0  # a panel whose values span more than this ratio gets a logarithmic axis
SMOOTH = 30  # a panel shows the training loss as so many means, and each step faintly


def rows(path: Path, up_to: int | None = None) -> list[dict[str, Any]]:
    """The lines up to a step; one that a kill cut is left out."""
    if not path.is_file():
        return []
    read = (_row(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [row for row in read if row is not None and (up_to is None or row["step"] <= up_to)]


def _row(line: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except ValueError:
        return None


class Curve:
    """The file, and TensorBoard's beside it. `step`: the checkpoint's, after which lines are made again; None: all are."""

    def __init__(self, stage: Path, step: int | None) -> None:
        self.path = stage / CURVE
        kept = [] if step is None else rows(self.path, step)
        part = self.path.with_name(f".{CURVE}.part")
        part.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(part, self.path)
        self._file = self.path.open("a", encoding="utf-8")
        self.board = _board(stage / "tensorboard", step)

    def add(self, row: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); mend that, then --resume") from error
        if self.board is not None:
            self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        values = {f"{row['split']}/{name}": value for name, value in row["objectives"].items()}
        values[f"{row['split']}/total"] = row["total"]
        values |= {name: row[name] for name in ("rate", "gradient_norm") if name in row}
        for name, value in values.items():
            self.board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._file.close()
        if self.board is not None:
            self.board.close()


def _board(folder: Path, step: int | None) -> Any:
    """TensorBoard's writer where it is installed: an extra beside curve.jsonl."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=None if step is None else step + 1)


def draw(run: Path) -> Path:
    """RUN/curves.png: a panel for each stage that has a curve."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stages = [(name, found) for name in STAGES if (found := rows(run / name / CURVE))]
    figure = Figure(figsize=(5.2 * max(1, len(stages)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, found) in enumerate(stages):
        _panel(figure.add_subplot(1, len(stages), place + 1), name, found)
    part = run / f".{PICTURE}.part"
    figure.savefig(part, dpi=110, format="png")
    os.replace(part, run / PICTURE)
    return run / PICTURE


def _panel(axes: Axes, name: str, found: Sequence[dict[str, Any]]) -> None:
    train = [(row["step"], row["total"]) for row in found if row["split"] == "train"]
    held_out = [(row["step"], row["total"]) for row in found if row["split"] == "held_out"]
    means = list(_means(train))
    if train:
        axes.plot(*zip(*train, strict=True), color="tab:blue", alpha=0.25, linewidth=0.8)
        axes.plot(*zip(*means, strict=True), color="tab:blue", linewidth=1.6, label="training")
    if held_out:
        step, best = min(held_out, key=lambda one: one[1])
        label = f"held out, best {best:.3g} in step {step}"
        axes.plot(*zip(*held_out, strict=True), "o-", color="tab:orange", markersize=3.5, label=label)
    values = [value for _, value in (*means, *held_out)]
    if min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
    axes.set(title=name, xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)


def _means(points: Sequence[tuple[int, float]]) -> Iterator[tuple[float, float]]:
    width = max(1, len(points) // SMOOTH)
    for start in range(0, len(points), width):
        steps, values = zip(*points[start : start + width], strict=True)
        yield sum(steps) / len(steps), sum(values) / len(values)
