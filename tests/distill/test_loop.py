"""The training loop on a small job: what must not change a loss, resume, guards, folders."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_jobs import Points

from cascade.errors import ConfigError, EngineFailed, InputError, OutOfMemory
from distill.training import checkpoints
from distill.training.curves import CURVE, PICTURE, draw, rows
from distill.training.guards import Divergence, Stopped, open_run
from distill.training.job import Batch, Job, Result, Schedule
from distill.training.loop import train
from distill.training.optimizers import optimizers, table
from distill.training.stream import ahead, steps

ROOT = Path(__file__).parents[2]
SCHEDULE = Schedule(learning_rate=3e-3, steps=12, packs_per_step=2, evaluate_every=4, save_every=5, warmup_steps=3)


def go(job: Job, run: Path, schedule: Schedule = SCHEDULE, resume: bool = False) -> Result:
    return train(job, schedule, run, seed=1, resume=resume, tell=lambda _: None)


def curve(run: Path) -> list[dict[str, Any]]:
    """Without what the clock says."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(run / "speak" / CURVE)]


def assert_same(one: list[dict[str, Any]], two: list[dict[str, Any]], within: float) -> None:
    assert len(one) == len(two)
    for left, right in zip(one, two, strict=True):
        assert {**left, "objectives": 0} == pytest.approx({**right, "objectives": 0}, abs=within)
        assert left["objectives"] == pytest.approx(right["objectives"], abs=within)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed")
    go(Points(), run)
    return run


def test_it_learns_and_writes_its_way_down(tmp_path: Path) -> None:
    job = Points(size=40, length=8)
    job.weights = {"place": 1.0}
    result = go(job, tmp_path, replace(SCHEDULE, steps=150, evaluate_every=50, learning_rate=1e-2))
    assert result.last_total < 0.8 * result.first_total
    assert result.tokens == 150 * 2 * 8
    written = curve(tmp_path)
    assert [row["step"] for row in written if row["split"] == "held_out"] == [0, 50, 100, 150]
    assert [row["step"] for row in written if row["split"] == "train"] == list(range(1, 151))
    assert written[-1]["total"] == written[-1]["objectives"]["place"]
    assert {"mark", "seen"} <= written[-1]["objectives"].keys()  # watched
    assert (tmp_path / PICTURE).stat().st_size > 5000
    assert list((tmp_path / "speak" / "tensorboard").iterdir())
    assert (tmp_path / "speak" / "samples" / "step-000150" / "seen.txt").is_file()


def test_a_frozen_parameter_stays_and_the_others_move(undisturbed: Path) -> None:
    kept, fresh = load_file(undisturbed / "speak" / "last" / checkpoints.MODEL), Points().model
    assert kept.keys() == {name for name, one in fresh.named_parameters() if one.requires_grad}
    for name, one in fresh.named_parameters():
        assert name not in kept or not torch.equal(kept[name], one)


class Packed(Points):
    """The same points, two packs in one: what a step sums over is the same."""

    def packs(self, epoch: int) -> Sequence[Any]:
        apart = super().packs(epoch)
        return [left + right for left, right in zip(apart[::2], apart[1::2], strict=True)]

    def batch(self, pack: Any, epoch: int) -> Batch:
        parts = [super(Packed, self).batch(half, epoch) for half in (pack[:4], pack[4:]) if half]
        tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
        counts = {name: sum(part.counts[name] for part in parts) for name in parts[0].counts}
        return Batch(tensors, counts, sum(part.tokens for part in parts))


def test_accumulation_and_packing_change_no_loss(tmp_path: Path) -> None:
    calm = replace(SCHEDULE, evaluate_every=100, clip=0.5)
    apart, together = Points(), Packed()
    for job in (apart, together):
        for layer in job.model.layers:  # type: ignore[union-attr]
            layer.drop = 0.0  # type: ignore[union-attr,assignment]
    go(apart, tmp_path / "apart", replace(calm, packs_per_step=2))
    go(together, tmp_path / "together", replace(calm, packs_per_step=1))
    assert_same(curve(tmp_path / "apart"), curve(tmp_path / "together"), 1e-5)


def test_threads_that_work_ahead_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    go(Points(), tmp_path, replace(SCHEDULE, threads=2))
    assert curve(tmp_path) == curve(undisturbed)


def test_ahead_keeps_the_order_and_passes_errors_on() -> None:
    def slow_first(value: int) -> int:
        time.sleep(0.01 if value == 0 else 0)
        return 10 // (5 - value)

    assert list(ahead(slow_first, range(5), 3)) == [2, 2, 3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        list(ahead(slow_first, range(6), 3))


def test_steps_are_one_stream_of_epochs() -> None:
    job = Points(size=3)
    made = list(steps(job, 2, range(1, 4), (0, 0)))
    assert [[(one.epoch, one.place) for one in step.packs] for step in made] == [
        [(0, 0), (0, 1)],
        [(0, 2), (1, 0)],
        [(1, 1), (1, 2)],
    ]
    assert list(steps(job, 2, range(2, 4), made[0].after)) == made[1:]


# Resume


class Killed(Points):
    """Its process is gone in the midst of a step."""

    def batch(self, pack: Any, epoch: int) -> Batch:
        if epoch == 2 and pack[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(pack, epoch)


def test_kill_minus_nine_and_resume_give_the_undisturbed_curve(undisturbed: Path, tmp_path: Path) -> None:
    code = f"from test_loop import *; go(Killed(), Path({str(tmp_path)!r}))"
    path = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'distill'}"
    ended = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    state = json.loads((tmp_path / "speak" / "last" / "state.json").read_text())
    assert state["step"] == 5
    assert curve(tmp_path)[-1]["step"] > 5  # made again below
    with (tmp_path / "speak" / CURVE).open("a") as file:
        file.write('{"split": "train", "st')  # a line that the kill cut
    result = go(Points(), tmp_path, resume=True)
    assert_same(curve(tmp_path), curve(undisturbed), 1e-6)
    assert result.tokens == 12 * 2 * 4
    one, two = (load_file(run / "speak" / "last" / checkpoints.OPTIMIZER) for run in (tmp_path, undisturbed))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_killed_before_the_first_checkpoint_it_begins_anew(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "speak").mkdir()
    (tmp_path / "speak" / CURVE).write_text('{"split": "held_out", "step": 0, "total": 9, "objectives": {}}\n')
    go(Points(), tmp_path, resume=True)
    assert curve(tmp_path) == curve(undisturbed)


def test_a_stage_that_is_through_is_only_loaded(undisturbed: Path) -> None:
    before = (undisturbed / "speak" / CURVE).read_bytes()
    job = Points()
    result = go(job, undisturbed, resume=True)
    assert (result.steps, result.tokens) == (12, 12 * 2 * 4)
    assert (undisturbed / "speak" / CURVE).read_bytes() == before
    kept = load_file(undisturbed / "speak" / "last" / checkpoints.MODEL)
    assert all(torch.equal(one, kept[name]) for name, one in job.model.named_parameters() if name in kept)


@pytest.mark.parametrize(
    "there", [(".last.old", ".last.new"), (".last.old",), ("last", ".last.new"), ("last", ".last.old")]
)
def test_a_checkpoint_is_whole_wherever_its_renaming_was_cut(tmp_path: Path, there: tuple[str, ...]) -> None:
    for name in there:
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    checkpoints.settle(tmp_path / "last")
    assert (tmp_path / "last" / "which").read_text() == (
        ".last.new" if there == (".last.old", ".last.new") else there[0]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_changed_or_cut_checkpoint_is_refused_by_name(undisturbed: Path, tmp_path: Path) -> None:
    for name, change in (
        (checkpoints.OPTIMIZER, lambda file: file[:-1] + bytes([file[-1] ^ 1])),
        (checkpoints.MODEL, lambda file: file[:100]),
    ):
        run = tmp_path / name
        shutil.copytree(undisturbed, run)
        path = run / "speak" / "last" / name
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(InputError, match=rf"last/{name}: is not as it was written"):
            go(Points(), run, resume=True)


def test_another_schedule_seed_or_frozen_part_is_refused(undisturbed: Path) -> None:
    with pytest.raises(InputError, match=r"made with learning_rate = 0.003, now it is 0.1"):
        go(Points(), undisturbed, replace(SCHEDULE, learning_rate=0.1), resume=True)
    with pytest.raises(InputError, match=r"made with seed = 1, now it is 2"):
        train(Points(), SCHEDULE, undisturbed, seed=2, resume=True)
    with pytest.raises(InputError, match=r"made with packs = 6, now it is 7"):
        go(Points(size=7), undisturbed, resume=True)
    other = Points()
    other.model.frozen.bias.data += 1  # type: ignore[union-attr,operator]
    with pytest.raises(InputError, match=r"made with frozen weights = "):
        go(other, undisturbed, resume=True)
    with pytest.raises(InputError, match=r"holds a run already; --resume"):
        go(Points(), undisturbed)
    go(Points(), undisturbed, replace(SCHEDULE, threads=1, save_every=7), resume=True)  # these decide no loss


def test_best_is_the_lowest_held_out_and_last_the_last(tmp_path: Path) -> None:
    result = go(Points(), tmp_path, replace(SCHEDULE, learning_rate=0.3, steps=12))
    totals = {row["step"]: row["total"] for row in curve(tmp_path) if row["split"] == "held_out"}
    assert result.best_step == min(totals, key=totals.__getitem__) != 12, "the test wants a run that gets worse"
    assert result.best_total == min(totals.values())
    assert result.last_total == totals[12]
    job = Points()
    for which, step in (("best", result.best_step), ("last", 12)):
        assert checkpoints.use(tmp_path / "speak" / which, job.model) == step
        kept = load_file(tmp_path / "speak" / which / checkpoints.MODEL)
        assert torch.equal(job.model.place.weight, kept["place.weight"])  # type: ignore[union-attr,arg-type]


def test_what_is_kept_is_the_mean_of_the_weights_along_the_way(undisturbed: Path, tmp_path: Path) -> None:
    way = []

    class Watched(Points):
        def prepare(self, batch: Batch) -> Batch:
            if self.model.training:
                way.append(self.model.place.weight.detach().clone())  # type: ignore[operator,union-attr]
            return super().prepare(batch)

    averaged = replace(SCHEDULE, ema=0.75, packs_per_step=1, steps=6, evaluate_every=3)
    job = Watched()
    result = go(job, tmp_path, averaged)
    expected, *after = [*way, job.model.place.weight.detach()]  # type: ignore[union-attr]
    for weight in after:
        expected = 0.75 * expected + 0.25 * weight
    last = tmp_path / "speak" / "last"
    assert checkpoints.use(last, job.model) == 6
    assert torch.allclose(job.model.place.weight, expected)  # type: ignore[union-attr,arg-type]
    assert not torch.allclose(load_file(last / checkpoints.MODEL)["place.weight"], expected)
    means = load_file(last / checkpoints.MEAN)
    assert result.best_step == 6, "the test wants a run that gets better"
    best = load_file(tmp_path / "speak" / "best" / checkpoints.MODEL)
    assert all(torch.equal(best[name], means[name]) for name in means)


# Guards


def test_a_loss_that_is_no_number_stops_with_its_batch(tmp_path: Path) -> None:
    with pytest.raises(
        EngineFailed, match=r"speak: the loss is nan in step \d+ \(epoch \d+, pack \d+\), kept as .*bad-batch"
    ) as raised:
        go(Points(spoiled=9), tmp_path)
    assert "\n" not in str(raised.value)
    facts = json.loads((tmp_path / "speak" / "bad-batch.json").read_text())
    assert 9 in facts["pack"]
    assert facts["reason"] == "the loss is nan"
    assert len(facts["totals"]) == 2
    tensors = load_file(tmp_path / "speak" / "bad-batch.safetensors")
    assert tensors["points"].isnan().any()
    assert tensors.keys() == {"points", "targets", "marks"}


class Exploding(Points):
    """A finite loss whose gradient is not."""

    def prepare(self, batch: Batch) -> Batch:
        if self.model.training:
            self.model.place.weight.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[union-attr,operator]
        return batch


def test_a_gradient_that_is_no_number_stops_before_the_weights_change(tmp_path: Path) -> None:
    job = Exploding()
    before = {name: one.clone() for name, one in job.model.named_parameters()}
    with pytest.raises(EngineFailed, match=r"the gradient's norm is (nan|inf) in step 1"):
        go(job, tmp_path)
    assert all(torch.equal(before[name], one) for name, one in job.model.named_parameters())


def seen_at(losses: Sequence[float]) -> int | None:
    guard = Divergence()
    return next((step for step, loss in enumerate(losses) if guard.sees(loss, ["text"])), None)


def test_a_loss_that_runs_away_is_seen_and_waves_are_not() -> None:
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
    falling = [3 * math.exp(-step / 60) + 0.05 + 0.02 * abs(noise[step]) for step in range(200)]
    assert seen_at(falling) is None
    assert seen_at([*falling[:100], *[falling[100] + 1.5 * step for step in range(20)]]) in range(101, 112)
    assert seen_at([*falling[:100], 50.0, *falling[101:]]) is None, "one bad step is no trend"
    assert seen_at([*falling, *[0.4] * 20]) is None, "still far below where it began"
    assert seen_at(noise) is None, "a loss around zero"
    assert seen_at([*noise[:100], *[20.0 + step for step in range(10)]]) is not None


def test_steps_on_paper_alone_say_nothing_of_those_with_sound() -> None:
    guard = Divergence()
    paper, sound = (0.3, ["text"]), (8.0, ["text", "units"])
    assert not any(guard.sees(*(sound if step % 8 == 0 else paper)) for step in range(600))
    assert not any(guard.sees(*sound) for _ in range(60)), "five in a row, and more"
    assert any(guard.sees(40.0 + step, ["text", "units"]) for step in range(10))
    assert any(guard.sees(4.0 + step, ["text"]) for step in range(10))


class Hungry(Points):
    def prepare(self, batch: Batch) -> Batch:
        if self.model.training:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"
            )
        return batch


def test_out_of_memory_is_one_line_that_names_what_to_lower(tmp_path: Path) -> None:
    with pytest.raises(
        OutOfMemory, match=r"speak: out of memory at a pack of 4 tokens; lower the capacity of packs"
    ) as raised:
        go(Hungry(), tmp_path)
    assert "\n" not in str(raised.value)


class Interrupted(Points):
    def batch(self, pack: Any, epoch: int) -> Batch:
        if epoch == 2 and pack[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().batch(pack, epoch)


def test_ctrl_c_saves_and_says_how_to_go_on(undisturbed: Path, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        Stopped, match=r"speak: stopped after step \d+ of 12; nothing learnt is lost: attune train -o .* --resume"
    ):
        go(Interrupted(), tmp_path, replace(SCHEDULE, save_every=100))
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(curve(tmp_path)) < len(curve(undisturbed))
    go(Points(), tmp_path, replace(SCHEDULE, save_every=100), resume=True)
    assert curve(tmp_path) == curve(undisturbed)


def test_a_mean_goes_on_where_it_stood(tmp_path: Path) -> None:
    averaged = replace(SCHEDULE, ema=0.8)
    go(Points(), tmp_path / "whole", averaged)
    with pytest.raises(Stopped):
        go(Interrupted(), tmp_path / "cut", averaged)
    go(Points(), tmp_path / "cut", averaged, resume=True)
    whole, cut = (load_file(tmp_path / run / "speak" / "last" / checkpoints.MEAN) for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")


class Empty(Points):
    def held_out(self) -> Sequence[Any]:
        return []


def test_an_empty_set_is_one_line_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="speak: the dataset has nothing held out for this stage"):
        go(Empty(), tmp_path)
    with pytest.raises(InputError, match="speak: the dataset has nothing to learn from for this stage"):
        go(Points(size=0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    run, settings = tmp_path / "run", {"flavour": "nano", "data": {"sha256": "ab"}, "versions": {"torch": "1"}}
    with open_run(run, settings, resume=False), pytest.raises(InputError, match="another run is working there"):
        open_run(run, settings, resume=True).__enter__()
    assert json.loads((run / "settings.json").read_text()) == settings
    with pytest.raises(InputError, match="holds a run already; --resume"), open_run(run, settings, resume=False):
        pass
    other = {**settings, "data": {"sha256": "cd"}}
    with (
        pytest.raises(InputError, match=r"another run \(data.sha256 = 'ab', now 'cd'\)"),
        open_run(run, other, resume=True),
    ):
        pass
    with open_run(run, {**settings, "versions": {"torch": "2"}}, resume=True):
        pass
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with (
        pytest.raises(InputError, match=r"is not empty \(it holds thesis.tex\)"),
        open_run(tmp_path / "full", settings, resume=True),
    ):
        pass


# Schedules, optimizers, pictures


def test_the_rate_rises_in_a_line_and_falls_to_its_final_share() -> None:
    for decay, middle in (("cosine", 0.55), ("linear", 0.55)):
        schedule = Schedule(learning_rate=1.0, steps=110, warmup_steps=10, final_share=0.1, decay=decay)  # type: ignore[arg-type]
        rates = [schedule.rate(step, 110) for step in range(1, 111)]
        assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
        assert rates[59] == pytest.approx(middle)
        assert rates[-1] == pytest.approx(0.1)
        assert rates[9:] == sorted(rates[9:], reverse=True)


def test_epochs_become_steps() -> None:
    assert Schedule(learning_rate=1.0, epochs=3, packs_per_step=4).total_steps(10) == 8


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": 3, "epochs": 1.0}, "steps or epochs"),
        ({}, "steps or epochs"),
        ({"steps": 3, "packs_per_step": 0}, "packs_per_step = 0: give 1 or more"),
        ({"steps": 3, "learning_rate": 0.0}, "learning_rate = 0.0: give more than 0"),
        ({"steps": 3, "optimizer": "sgd"}, "optimizer = 'sgd': choose adamw or muon"),
    ],
)
def test_a_schedule_that_is_not_legal_is_one_line(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Schedule(**{"learning_rate": 1e-3, **values})


def test_each_parameter_has_one_optimizer(tmp_path: Path) -> None:
    model = Points().model
    schedule = replace(SCHEDULE, optimizer="muon", rates={"layers": 0.5, "layers.1": 0.1, "mark": 2.0})
    names = {id(one): name for name, one in model.named_parameters()}
    found = {
        (row.optimizer, row.decays, row.rate): [names[id(one)] for one in each]
        for row, each in table(model, schedule).items()
    }
    assert found == {
        ("muon", True, 0.5 * schedule.muon_rate): ["layers.0.inner.weight"],
        ("muon", True, 0.1 * schedule.muon_rate): ["layers.1.inner.weight"],
        ("adamw", False, 0.5): ["layers.0.inner.bias"],
        ("adamw", False, 0.1): ["layers.1.inner.bias"],
        ("adamw", True, 1.0): ["place.weight"],
        ("adamw", False, 1.0): ["place.bias"],
        ("adamw", True, 2.0): ["mark.weight"],
        ("adamw", False, 2.0): ["mark.bias"],
    }
    assert [type(one).__name__ for one in optimizers(model, schedule)] == ["AdamW", "Muon"]
    go(Points(), tmp_path / "whole", schedule)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    assert go(Points(), tmp_path / "again", schedule, resume=True).last_total == curve(tmp_path / "whole")[-1]["total"]


def test_bfloat16_is_for_arithmetic_alone(tmp_path: Path, undisturbed: Path) -> None:
    go(Points(), tmp_path, replace(SCHEDULE, dtype="bfloat16"))
    kept = load_file(tmp_path / "speak" / "last" / checkpoints.MODEL)
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    exact, coarse = ([row["total"] for row in curve(run)] for run in (undisturbed, tmp_path))
    assert coarse != exact
    assert coarse == pytest.approx(exact, rel=0.05)


def test_a_stage_without_points_can_be_drawn(tmp_path: Path) -> None:
    assert draw(tmp_path).stat().st_size > 500


def test_sums_without_a_graph_are_left_alone(tmp_path: Path) -> None:
    """A step that has nothing to learn from for an objective weighs it not at all."""
    job = Points(size=3, length=4)
    job.weights = {"mark": 1.0}
    go(job, tmp_path, replace(SCHEDULE, packs_per_step=1, steps=6))
    without = [row for row in curve(tmp_path) if "mark" not in row["objectives"]]
    assert without
    assert all(row["total"] == row["gradient_norm"] == 0 for row in without)
