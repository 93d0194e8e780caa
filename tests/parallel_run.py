"""One of several processes that train together; started by its test with the environment of `accelerate launch`.

Two stages of one model by DDP and by FSDP2; that one is stopped in the first stage by a signal to the *last* process alone.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from training_jobs import OnPolicy

from distill.training.guards import Stopped
from distill.training.job import Batch, Schedule
from distill.training.loop import train

STEPS, STOP_AFTER = 8, 5


def schedule(parallel: Any, ema: float = 0.0) -> Schedule:
    return Schedule(
        learning_rate=3e-3,
        steps=STEPS,
        packs_per_step=3,
        evaluate_every=4,
        save_every=100,
        samples_every=4,
        parallel=parallel,
        ema=ema,
    )


class Interrupted(OnPolicy):
    made = 0

    def prepare(self, batch: Batch) -> Batch:
        self.made += batch.tensors["points"].shape[0] == 4
        if self.made == 2 * STOP_AFTER and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().prepare(batch)


def stages(parallel: Any, run: Path, first: OnPolicy, resume: bool = False) -> None:
    """The second stage trains what the first did not, and keeps the mean of its weights."""
    train(first, schedule(parallel), run, seed=1, resume=resume, tell=lambda _: None)
    then = OnPolicy(name="empathise")
    then.model = first.model
    then.model.requires_grad_(True).layers.requires_grad_(False)  # type: ignore[union-attr,operator]
    train(then, schedule(parallel, ema=0.8), run, seed=1, resume=resume, tell=lambda _: None)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    stages("ddp", folder / "ddp", OnPolicy())
    try:
        stages("fsdp2", folder / "fsdp2", Interrupted())
    except Stopped as stopped:
        (folder / f"stopped-{os.environ['RANK']}").write_text(str(stopped))
    stages("fsdp2", folder / "fsdp2", OnPolicy(), resume=True)
