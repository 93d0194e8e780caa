"""What a run will take: counted as it is really built, computed, and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import students
import torch
from dataset_samples import usual_samples, write_dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cascade.errors import ConfigError
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished
from distill.training.assemble import assembled, set_training
from distill.training.costs import flops_per_token, kept_bytes, load_of, state_bytes, work_of
from distill.training.data import Dataset, open_dataset
from distill.training.optimizers import optimizers
from distill.training.order import Order
from distill.training.plan import Lengths, plan_of, shown
from distill.training.refine import RefineJob
from distill.training.stages import TABLE, StageName, scaled
from distill.training.student_job import StudentJob
from e2e_model.build import build, resolved
from e2e_model.codec import MimiCodec
from e2e_model.config import Config
from e2e_model.model import PARTS, SpeechLM

Make = Callable[[], SpeechLM]
SHORT = {"window_s": 3.0}  # what is filled up to a window is quickly computed


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, usual_samples())
    finished(folder, {"seed": 7}, Facts.of(folder))
    return open_dataset(folder)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture
def make(request: pytest.FixtureRequest, dataset: Dataset, checkpoints: Path) -> Make:
    """A small student of a flavour, as training begins with it."""
    lm = students.nano() if request.param == "nano" else students.base(checkpoints, request.param, encoder=SHORT)

    def made() -> SpeechLM:
        again = assembled(lm.config, dataset, lm.codec, seed=0)
        again.emotion_frames = lm.emotion_frames
        return again

    return made


def job_of(lm: SpeechLM, dataset: Dataset, name: StageName) -> Any:
    stage = TABLE[name]
    set_training(lm, stage.pretrained if lm.config.thinker.source else stage.from_zero)
    kind = RefineJob if name == "refine" else StudentJob
    given: Any = Lengths(lm.config, lm.codec)
    return kind(stage, lm, dataset, given, capacity=2048, seed=0, chance=Order(lm.config, (), Path()).chance)


def learnt(job: Any, batch: Any, dtype: torch.dtype = torch.float32) -> int:
    """Forward and backward, and the bytes that lay between them, weights left out."""
    own = {one.untyped_storage().data_ptr() for one in (*job.model.parameters(), *job.model.buffers())}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept),
    ):
        sums = job.model(**batch.tensors)
    torch.autograd.backward([sums[name] for name in job.weights if name in sums and sums[name].requires_grad])
    return sum(sizes.values())


@pytest.mark.parametrize("make", ["nano", "base", "full"], indirect=True)
def test_parameters_are_those_of_a_student_really_built(make: Make, dataset: Dataset, tmp_path: Path) -> None:
    lm = make()
    lm.codec.save(tmp_path / "codec")
    codec = tmp_path / "codec" if lm.config.codec.kind == "fsq" else None
    order = Order(lm.config, (dataset.folder,), Path("unused"), stages=("empathise",), codec=codec)
    plan = plan_of(order, device="H100", timed=False)
    built = {name: sum(p.numel() for _, p in lm.part_parameters(name)) for name in PARTS}
    assert plan.parameters == {**built, "codec": sum(p.numel() for p in lm.codec.parameters())}
    job_of(lm, dataset, "empathise")
    assert sum(plan.stages[0].trains.values()) == sum(p.numel() for p in lm.parameters() if p.requires_grad)
    assert 0 < sum(plan.stages[0].trains.values()) < sum(built.values())


@pytest.mark.parametrize(("flavour", "encoder", "thinker"), [("base", 88.2e6, 0.596e9), ("full", 637e6, 4.022e9)])
def test_real_sizes_are_the_published_ones(flavour: str, encoder: float, thinker: float) -> None:
    config = resolved(Config.flavoured(flavour).with_(thinker={"lora": None}))
    with torch.device("meta"):
        lm: Any = build(config, MimiCodec({}, config.codec.codebooks), range(151_669), pretrained=False)
    counted = {name: sum(p.numel() for _, p in lm.part_parameters(name)) for name in ("encoder", "thinker")}
    assert counted == {"encoder": pytest.approx(encoder, rel=0.002), "thinker": pytest.approx(thinker, rel=0.002)}
    assert lm.encoder.config.num_mel_bins == config.mels


@pytest.mark.parametrize("make", ["nano", "base"], indirect=True)
@pytest.mark.parametrize("name", ["understand", "speak", "empathise"])
def test_operations_are_those_that_torch_counts(make: Make, name: StageName, dataset: Dataset) -> None:
    lm = make()
    job = job_of(lm, dataset, name)
    batch = job.batch(job.packs(0)[0], 0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        learnt(job, batch)
    told = sum(part.total for part in work_of(lm, load_of(lm, batch)).values())
    assert told == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert flops_per_token(job, packs=1) == pytest.approx(told / batch.tokens)


@pytest.mark.parametrize("make", ["base"], indirect=True)
def test_a_frozen_thinker_hands_gradients_back_and_makes_none(make: Make, dataset: Dataset) -> None:
    lm = make()
    load = load_of(lm, (job := job_of(lm, dataset, "understand")).batch(job.packs(0)[0], 0))
    through = work_of(lm, load)["thinker"]
    assert through.flows
    assert through.backward < 1.3 * through.forward
    set_training(lm, ("talker",))
    assert work_of(lm, load)["thinker"].backward == 0


@pytest.mark.parametrize("make", ["nano"], indirect=True)
def test_refining_reads_six_times(make: Make, dataset: Dataset) -> None:
    lm = make()
    job = job_of(lm, dataset, "refine")
    load = load_of(lm, job.batch(job.packs(0)[0], 0))
    assert [reading.learns for reading in load.thinker] == [True, True, True, False, False, False, False]
    assert work_of(lm, load)["talker"].total == 0


@pytest.mark.parametrize("make", ["nano", "base"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_those_that_autograd_keeps(make: Make, dtype: torch.dtype, dataset: Dataset) -> None:
    lm = make()
    job = job_of(lm, dataset, "empathise")
    batch = job.batch(job.packs(0)[0], 0)
    whole, slim = kept_bytes(lm, load_of(lm, batch), dtype)
    assert whole == pytest.approx(learnt(job, batch, dtype), rel=0.2)
    assert slim < 0.7 * whole


@pytest.mark.parametrize("make", ["base"], indirect=True)
def test_adapters_need_gradients_and_moments_others_none(make: Make, dataset: Dataset) -> None:
    lm = make()
    job = job_of(lm, dataset, "empathise")
    made = optimizers(job.model, scaled(job.stage, pretrained=True, dtype="float32").schedule)
    learnt(job, job.batch(job.packs(0)[0], 0))
    for parameter in job.model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for optimizer in made:
        optimizer.step()
    moments = sum(
        value.nbytes
        for optimizer in made
        for state in optimizer.state.values()
        for key, value in state.items()
        if key != "step"
    )
    gradients = sum(p.grad.nbytes for p in job.model.parameters() if p.grad is not None)
    weights = sum(p.nbytes for p in job.model.parameters())
    assert state_bytes([*job.model.parameters()], set()) == (weights, gradients, moments)


def test_a_run_is_told_before_it_begins(dataset: Dataset) -> None:
    order = Order(students.nano().config, (dataset.folder,), Path("unused"), steps={"speak": 7})
    plan = plan_of(order, timed=False)
    assert [stage.name for stage in plan.stages] == list(order.stages)
    speak = next(stage for stage in plan.stages if stage.name == "speak")
    assert speak.steps == 7
    assert speak.tokens == pytest.approx(7 * 2 * speak.tokens_per_epoch / speak.packs_per_epoch, abs=7)
    assert json.loads(json.dumps(plan.plain()))["rows"] == len(dataset.rows("train"))
    text = shown(plan)
    assert all(word in text for word in (*PARTS, "codec", "refine", "checkpointed", "assumed"))
    assert not any(stage.measured for stage in plan.stages)


def test_small_students_are_timed(dataset: Dataset) -> None:
    plan = plan_of(Order(students.nano().config, (dataset.folder,), Path("unused"), stages=("understand", "refine")))
    assert all(stage.measured and stage.tokens_per_s for stage in plan.stages)
    assert "~" not in shown(plan)


def test_a_device_that_is_not_known_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="choose B200"):
        plan_of(Order(students.nano().config, (dataset.folder,), Path("unused")), device="Abacus")
