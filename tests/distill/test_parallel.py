"""Two processes that train together, by gloo on this machine, give the losses of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import parallel_run
import pytest
import torch
from safetensors.torch import load_file
from training_jobs import OnPolicy

from distill.training.curves import CURVE, rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same stages by one process, and by two with DDP and with FSDP2."""
    folder = tmp_path_factory.mktemp("parallel")
    parallel_run.stages("auto", folder / "one", OnPolicy())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common = os.environ | together | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, str(ROOT / "tests" / "parallel_run.py"), str(folder)]
    both = [
        subprocess.Popen(command, env=common | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    said = [one.communicate(timeout=120)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], "\n".join(said)
    return folder


def curve(run: Path) -> list[dict[str, Any]]:
    return [*rows(run / "speak" / CURVE), *rows(run / "empathise" / CURVE)]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_give_the_losses_of_one(folder: Path, kind: str) -> None:
    one, two = curve(folder / "one"), curve(folder / kind)
    assert [(row["split"], row["step"], row["tokens"]) for row in two] == [
        (row["split"], row["step"], row["tokens"]) for row in one
    ]
    for alone, together in zip(one, two, strict=True):
        assert together["objectives"] == pytest.approx(alone["objectives"], abs=1e-4)
        assert together["total"] == pytest.approx(alone["total"], abs=1e-4)
        assert together.get("gradient_norm") == pytest.approx(alone.get("gradient_norm"), abs=1e-4)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("file", ["model.safetensors", "mean.safetensors", "optimizer.safetensors"])
def test_their_checkpoints_are_those_of_one(folder: Path, kind: str, file: str) -> None:
    one, two = (load_file(folder / run / "empathise" / "last" / file) for run in ("one", kind))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_a_signal_to_one_process_stops_all_after_the_same_step(folder: Path) -> None:
    said = [(folder / f"stopped-{rank}").read_text() for rank in "01"]
    assert said[0] == said[1]
    assert f"stopped after step {parallel_run.STOP_AFTER} of {parallel_run.STEPS}" in said[0]


def test_samples_are_made_by_the_whole_model(folder: Path) -> None:
    for step in ("step-000004", "step-000008"):
        values = [
            float((folder / kind / "speak" / "samples" / step / "seen.txt").read_text())
            for kind in ("one", "ddp", "fsdp2")
        ]
        assert values == pytest.approx([values[0]] * 3, abs=1e-4)
