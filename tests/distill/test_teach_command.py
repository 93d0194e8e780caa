"""`attune teach` as a person runs it: a dataset, its resumption after kill -9, and one clear line for what cannot be."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill.teaching.dataset.leaks import leaks_of
from distill.teaching.dataset.manifest import problems_of, read_manifest

ROOT = Path(__file__).parents[2]
TURNS = 10
SETTINGS = "block = 4\n[sampling]\nlisten_share = 0.0\n"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cli", "teach", "--profile", "embedded", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "teach.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, settings: Path) -> Path:
    out = tmp_path_factory.mktemp("data") / "tiny"
    result = run("--turns", TURNS, "-o", out, "--settings", settings, "--workers", 1)
    assert result.returncode == 0, result.stderr
    assert re.search(rf"Kept \d+ of {TURNS} turns", result.stdout)
    assert f"{TURNS} of {TURNS} turns" in result.stderr
    return out


def test_a_dataset_comes_out_whole(dataset: Path) -> None:
    assert problems_of(dataset) == []
    assert leaks_of(dataset) == []
    manifest = read_manifest(dataset)
    assert sum(manifest.rows.values()) == TURNS
    assert manifest.settings["profile"] == "embedded"
    assert not (dataset / "work").exists()


def test_killed_and_resumed_it_is_the_same(dataset: Path, settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "d"
    arguments = command(
        "--turns", TURNS, "-o", out, "--settings", settings, "--workers", 2, "--cache", "none", "--resume"
    )
    for rows in (1, 5):
        running = subprocess.Popen(
            arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while len([*out.glob("work/rows/0*"), *(4 * list(out.glob("work/blocks/0*")))]) < rows:
            assert time.monotonic() < deadline, "no row came"
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
    result = run("-o", out, "--resume", "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert read_manifest(out).dataset_sha256 == read_manifest(dataset).dataset_sha256
    assert problems_of(out) == []


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("attune: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def test_two_runs_do_not_mix(dataset: Path) -> None:
    assert "holds a run already; --resume goes on with it" in refused("-o", dataset, "--turns", 5)
    assert "its run has seed = 0, not 3" in refused("-o", dataset, "--resume", "--seed", 3)


def test_bad_input_is_one_line_with_its_place(tmp_path: Path) -> None:
    turns = tmp_path / "turns.jsonl"
    good = {"text": "I found the keys under the sofa.", "emotion": "happy"}
    turns.write_text(
        json.dumps(good) + "\n{broken\n" + json.dumps(good | {"text": "Hm, yes.", "emotion": "blue"}) + "\n"
    )
    line = refused("-o", tmp_path / "d", "--scenarios", turns)
    assert f"{turns}:2:" in line
    assert "1 more" in line
    assert not (tmp_path / "d" / "settings.json").exists()
    result = run("-o", tmp_path / "d", "--scenarios", turns, "--on-bad", "skip", "--workers", 1)
    assert result.returncode == 0, result.stderr
    assert f"left out: {turns}:3:" in result.stderr
    assert "of 1 turns" in result.stdout
    file = tmp_path / "file"
    file.write_text("x")
    assert "cannot be written" in refused("-o", file / "d", "--turns", 2)
    bad = tmp_path / "bad.toml"
    bad.write_text("[gates]\nmin_empathie = 1\n")
    assert "gates.min_empathie" in refused("-o", tmp_path / "e", "--settings", bad)
