"""The scripts that go from nothing to a compared student: a tiny run for real, the GPU's as far as it goes without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dataset_samples import usual_samples, write_dataset

from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", f"runs/{script}", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_from_nothing_to_a_compared_student_and_the_same_line_goes_on(tmp_path: Path) -> None:
    shown = run("tiny.sh", tmp_path / "run")
    assert shown.returncode == 0, shown.stdout[-3000:] + shown.stderr[-3000:]
    assert "every held-out loss fell" in shown.stdout
    for step in ("teach", "understand", "codec", "write", "speak", "empathise", "speak-again", "compare"):
        assert f"== {step}: " in shown.stdout
    again = run("tiny.sh", tmp_path / "run")
    assert again.returncode == 0
    assert again.stdout.count(": done (") == 8, "nothing is made twice"


def test_a_run_with_something_missing_is_told(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "runs/check_run.py", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1
    assert "manifest.json: is not there" in shown.stdout


@pytest.mark.parametrize("script", ["laptop.sh", "gpu.sh"])
def test_a_size_that_is_none_is_one_line(script: str) -> None:
    shown = run(script, "huge")
    assert shown.returncode == 2
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize("flavour", ["base", "full"])
def test_every_line_of_the_gpu_run_is_one_that_attune_takes(flavour: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_dataset(data, usual_samples(), block=10)
    finished(data, {"seed": 7}, Facts.of(data))
    shown = run("gpu.sh", flavour, tmp_path / "run", DATA=str(data), GPUS="2", DRY_RUN="1")
    assert shown.returncode == 0, shown.stdout[-2000:] + shown.stderr[-2000:]
    assert "accelerate launch --num_processes 2 --multi_gpu" in shown.stdout
    assert "empathise" in shown.stdout
    assert not (tmp_path / "run").exists()
