"""The training loop: any stage, on a CPU, a GPU or many, going on exactly where it was killed.

Before each pack torch's generator is seeded from (seed, stage, epoch, place), and a batch is made from these alone: there is no
state of chance to keep, and a run that was killed gives the curve of one that was not.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from cascade.errors import EngineFailed, InputError, OutOfMemory, is_out_of_memory
from distill.training import checkpoints, curves, guards, stream
from distill.training.average import Average
from distill.training.checkpoints import BEST, LAST, State
from distill.training.job import Job, Result, Schedule, identity
from distill.training.optimizers import optimizers, set_rate
from distill.training.parallel import World
from distill.training.progress import Progress, peak_flops
from distill.training.step import Learner, Report, update
from distill.training.stream import Dealt, Step

DRAW_EVERY_S = 60.0


def train(
    job: Job, schedule: Schedule, run: Path, *, seed: int, resume: bool = False, tell: Callable[[str], None] = print
) -> Result:
    """Train a stage in RUN/<stage>; afterwards the model holds the last weights (`checkpoints.use`: those to use).

    With `resume` it goes on from the last checkpoint, or begins if there is none; a stage that is through is only loaded.
    Raises InputError (folder, checkpoint, no packs), EngineFailed (loss, memory; the batch is kept), Stopped (signals).
    """
    loop = Loop(job, schedule, run, seed, resume, tell)
    with guards.stop_on_signals() as stop, loop.opened():
        return loop.run(stop)


class Loop:
    """One stage on its way."""

    def __init__(
        self, job: Job, schedule: Schedule, run: Path, seed: int, resume: bool, tell: Callable[[str], None]
    ) -> None:
        self.job, self.schedule, self.seed = job, schedule, seed
        self.run_folder, self.stage = run, run / job.name
        self.world = World(schedule.parallel, schedule.dtype)
        self.tell = tell if self.world.main else lambda _: None
        packs = len(stream.some(job.packs(0), job.name, "to learn from"))
        self.steps, self.held_out = schedule.total_steps(packs), stream.held_out(job)
        frozen = checkpoints.frozen_fingerprint(job.model)
        facts = {"stage": job.name, "seed": seed, "steps": self.steps, "packs": packs, "frozen weights": frozen}
        self.same = {**identity(schedule), **facts}
        self.state = self._begun(resume)
        self._equip()
        if self.state.step:
            means = self.average.means if self.average else None
            checkpoints.load(self.stage / LAST, self.world.model, self.optimizers, means)
            self.tell(f"{job.name}: goes on after step {self.state.step} of {self.steps}")

    def _begun(self, resume: bool) -> State:
        """The checkpoint's state, or the beginning. Raises InputError: a stage is there and `resume` was not said."""
        if self.world.main:
            self.stage.mkdir(parents=True, exist_ok=True)
            for name in (LAST, BEST):
                checkpoints.settle(self.stage / name)
        self.world.wait()
        if not resume and any((self.stage / name).exists() for name in (LAST, curves.CURVE)):
            raise InputError(f"{self.stage}: holds a run already; --resume goes on with it, or choose another folder")
        return checkpoints.read_state(self.stage / LAST, self.same) if (self.stage / LAST).exists() else State()

    def _equip(self) -> None:
        """Everything around the model that learns; what it knew at the checkpoint is loaded."""
        model = self.job.model
        enable = getattr(model, "gradient_checkpointing_enable", None)
        if self.schedule.gradient_checkpointing and callable(enable):
            enable()
        self.world.spread(model, compiled=self.schedule.compile, on_policy=getattr(self.job, "on_policy", False))
        self.learner = Learner(self.job, self.world, self.seed, self.schedule.clip)
        self.optimizers = optimizers(self.world.model, self.schedule)
        self.average = Average(self.world.model, self.schedule.ema) if self.schedule.ema else None
        self.divergence = guards.Divergence()
        self.drawn_s = time.monotonic()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The curve's file, on the first process; the guard hears what was written of it before."""
        resumed = self.state.step or None
        for row in curves.rows(self.stage / curves.CURVE, resumed) if resumed else []:
            if row["split"] == "train":
                self._runs_away(row["total"], row["objectives"])
        self.world.wait()
        self.curve = curves.Curve(self.stage, resumed) if self.world.main else None
        if self.curve is not None and self.curve.board is None:
            self.tell("TensorBoard is not installed: the curves are in curve.jsonl and curves.png alone")
        try:
            yield
        finally:
            if self.curve is not None:
                self.curve.close()

    def run(self, stop: guards.Stop) -> Result:
        """From where it stands to the end."""
        if self.state.step == 0:
            with self._memory():
                self._evaluate()
        self.world.model.train()
        progress, began = self._progress(), time.perf_counter()
        for step, dealt in stream.ahead(self._dealt, self._todo(), self.schedule.threads):
            rate = self.schedule.rate(step.number, self.steps)
            with self._memory(dealt):
                report = self._learn(step, dealt, rate, stop)
            seconds = time.perf_counter() - began  # with the making of its batches
            self._keep(step, report, rate, seconds)
            if self.world.main:
                progress.add(step.number, report.total, rate, report.told.tokens, seconds)
            with self._memory():
                self._after(step.number, report.told.stop or (stop.asked and self.world.size == 1))
            began = time.perf_counter()
        with self.world.whole():
            pass  # the job's model has the last weights, on every process
        return self._result()

    def _progress(self) -> Progress:
        flops = getattr(self.job, "flops_per_token", None)
        peak = peak_flops(self.world.device, self.world.dtype) if flops and self.world.main else None
        return Progress(self.job.name, self.steps, flops, peak * self.world.size if peak else None)

    def _todo(self) -> Iterator[Step]:
        numbers = range(self.state.step + 1, self.steps + 1)
        return stream.steps(self.job, self.schedule.packs_per_step, numbers, (self.state.epoch, self.state.place))

    def _dealt(self, step: Step) -> tuple[Step, list[Dealt]]:
        return step, list(stream.deal(self.job, step.packs, self.world.rank, self.world.size))

    def _learn(self, step: Step, dealt: list[Dealt], rate: float, stop: guards.Stop) -> Report:
        report, prepared = self.learner.gradients(len(step.packs), dealt, lambda: stop.asked)
        reason = self._reason(report)
        if reason:
            raise EngineFailed(self._kept(step, prepared, report, reason))
        set_rate(self.optimizers, rate)
        update(self.optimizers)
        if self.average:
            self.average.follow()
        return report

    def _averaged(self) -> AbstractContextManager[None]:
        """Inside, the model is the one that is kept."""
        return self.average.in_place() if self.average else nullcontext()

    def _reason(self, report: Report) -> str:
        """Why a step cannot be used; nothing if it can."""
        for name, value in (("loss", report.total), ("gradient's norm", report.gradient_norm)):
            if not math.isfinite(value):
                return f"the {name} is {value}"
        return "the loss runs away" if self._runs_away(report.total, report.objectives) else ""

    def _runs_away(self, total: float, objectives: Mapping[str, float]) -> bool:
        return self.divergence.sees(total, [name for name in objectives if name in self.job.weights])

    def _kept(self, step: Step, prepared: list[Dealt], report: Report, reason: str) -> str:
        """Save the worst pack, on the process that has it; the line to say."""
        place = guards.worst(report.totals)
        one = step.packs[place]
        if place % self.world.size == self.world.rank:
            where = {"step": step.number, "epoch": one.epoch, "place": one.place, "pack": one.pack}
            found = {"objectives": report.objectives, "totals": report.totals, "gradient_norm": report.gradient_norm}
            facts = {"stage": self.job.name, "reason": reason, "seed": self.seed, **where, **found}
            guards.save_bad_batch(self.stage, prepared[place // self.world.size].batch, facts)
        self.world.wait()
        return (
            f"{self.job.name}: {reason} in step {step.number} (epoch {one.epoch}, pack {one.place}), kept as "
            f"{self.stage / guards.BAD_BATCH}.safetensors: look at it, or begin anew with a lower learning rate"
        )

    @contextmanager
    def _memory(self, dealt: Sequence[Dealt] = ()) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            at = f" at a pack of {max(one.batch.tokens for one in dealt)} tokens" if dealt else ""
            raise OutOfMemory(
                f"{self.job.name}: out of memory{at}; lower the capacity of packs (and raise packs_per_step by as much), or "
                "set gradient_checkpointing or dtype bfloat16, then begin anew"
            ) from error

    def _keep(self, step: Step, report: Report, rate: float, seconds: float) -> None:
        state = self.state
        state.step, (state.epoch, state.place) = step.number, step.after
        state.tokens, state.seconds = state.tokens + report.told.tokens, state.seconds + seconds
        row = self._row("train", step.packs[-1].epoch, report.total, report.objectives)
        self._write(row | {"rate": rate, "gradient_norm": report.gradient_norm})

    def _row(self, split: str, epoch: int, total: float, objectives: dict[str, float]) -> dict[str, Any]:
        where = {"split": split, "step": self.state.step, "epoch": epoch}
        spent = {"tokens": self.state.tokens, "seconds": round(self.state.seconds, 3)}
        return {**where, "total": total, "objectives": objectives, **spent}

    def _write(self, row: dict[str, Any]) -> None:
        if self.curve is not None:
            self.curve.add(row)

    def _after(self, number: int, stopped: bool) -> None:
        """What is due after a step."""
        every, end = self.schedule, number == self.steps
        if end or number % every.evaluate_every == 0:
            self._evaluate()
        if end or stopped or number % every.save_every == 0:
            self._save()
        if end or (every.samples_every and number % every.samples_every == 0):
            self._samples(number)
        if end or time.monotonic() - self.drawn_s > DRAW_EVERY_S:
            self._draw()
        if stopped and not end:
            line = f"{self.job.name}: stopped after step {number} of {self.steps}; nothing learnt is lost"
            raise guards.Stopped(f"{line}: attune train -o {self.run_folder} --resume")

    def _evaluate(self) -> None:
        """A line of the curve from the held-out packs; the weights are kept if they are the best so far."""
        dealt = stream.deal(self.job, self.held_out, self.world.rank, self.world.size)
        with self._averaged():
            total, means = self.learner.held_out(dealt)
            state = self.state
            self._write(self._row("held_out", state.epoch, total, means))
            state.first_total = total if state.first_total is None else state.first_total
            state.last_total = total
            if state.best_total is None or total < state.best_total:
                state.best_total, state.best_step = total, state.step
                checkpoints.save(self.stage / BEST, self.world, self.world.model, [], state, self.same)

    def _save(self) -> None:
        means = self.average.means if self.average else None
        checkpoints.save(self.stage / LAST, self.world, self.world.model, self.optimizers, self.state, self.same, means)

    @torch.no_grad()
    def _samples(self, number: int) -> None:
        folder = self.stage / "samples" / f"step-{number:06d}"
        part = folder.with_name(f".{folder.name}.part")
        with self._averaged(), self.world.whole():
            if self.world.main:
                self.tell(f"{self.job.name}: samples to hear, after step {number}")
                for old in (part, folder):
                    shutil.rmtree(old, ignore_errors=True)
                part.mkdir(parents=True)
                stream.reseed(self.seed, self.job.name, stream.SAMPLES, 0, number)
                self.job.model.eval()
                self.job.samples(part)
                self.job.model.train()
                os.replace(part, folder)
            self.world.wait()

    def _draw(self) -> None:
        if self.world.main:
            curves.draw(self.run_folder)
        self.drawn_s = time.monotonic()

    def _result(self) -> Result:
        state, device = self.state, self.world.device
        assert state.first_total is not None
        assert state.best_total is not None
        assert state.last_total is not None
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        held_out = (state.first_total, state.best_total, state.best_step, state.last_total)
        return Result(state.step, *held_out, state.tokens, state.seconds, peak)
