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
from click.testing import CliRunner, Result
from fakes import tone

import cli
from cascade.audio import write_wav
from distill.teaching.dataset.leaks import leaks_of
from distill.teaching.dataset.manifest import problems_of, read_manifest

ROOT = Path(__file__).parents[2]
TURNS = 6
SETTINGS = "block = 2\ncalibrate = false\ncandidates = 1\n[sampling]\nlisten_share = 0.0\n"
GOOD = {"text": "I found the keys under the sofa.", "emotion": "happy"}
EASY = SETTINGS + "[gates]\nuser_emotion_best = false\nmin_empathy = 0\nmin_reply_emotion = 0\n"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cli", "teach", "--profile", "embedded", *map(str, arguments)]


def run(*arguments: object) -> Result:
    """In this process; the workers have their own."""
    return CliRunner().invoke(cli.main, ["teach", "--profile", "embedded", *map(str, arguments)])


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("settings") / "teach.toml", SETTINGS)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, settings: Path) -> Path:
    out = tmp_path_factory.mktemp("data") / "tiny"
    arguments = command("--turns", TURNS, "-o", out, "--settings", settings, "--workers", 2)
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert re.search(rf"Kept \d+ of {TURNS} turns", result.stdout)
    assert f"\n0 of {TURNS} turns, 0 s so far\n" in result.stderr
    assert f"\n{TURNS} of {TURNS} turns, kept " in result.stderr
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
    out.mkdir()
    arguments = command(
        "--turns", TURNS, "-o", out, "--settings", settings, "--workers", 1, "--cache", "none", "--resume"
    )
    for there, way in (("settings.json", signal.SIGTERM), ("work/*/0*", signal.SIGKILL)):
        running = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not list(out.glob(there)):
            assert time.monotonic() < deadline, f"no {there} came"
            time.sleep(0.05)
        running.send_signal(way)
        told = running.communicate()[1]
        if way == signal.SIGTERM:
            assert running.returncode == 128 + signal.SIGTERM
            assert told.endswith(f"attune: stopped; nothing made so far is lost: attune teach -o {out} --resume\n")
    assert not (out / "manifest.json").exists()
    result = run("-o", out, "--resume", "--workers", 1)
    assert result.exit_code == 0, result.stderr
    assert read_manifest(out).dataset_sha256 == read_manifest(dataset).dataset_sha256
    assert problems_of(out) == []


def test_ctrl_c_of_a_terminal_ends_it_and_its_workers_without_a_word_of_theirs(tmp_path: Path) -> None:
    """A terminal sends it to the whole group, here while the workers begin."""
    out = tmp_path / "d"
    running = subprocess.Popen(
        command("-o", out, "--workers", 2), cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stderr is not None
    lines = [running.stderr.readline() for _ in range(2)]
    assert lines == ["Loading the engines.\n", "0 of 500 turns, 0 s so far\n"]
    time.sleep(0.3)
    os.killpg(running.pid, signal.SIGINT)
    told = running.communicate(timeout=20)[1]
    assert running.returncode == 130
    assert "Traceback" not in told
    assert told.endswith(f"attune teach -o {out} --resume\n")


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("attune: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def test_two_runs_do_not_mix(dataset: Path) -> None:
    assert "holds a run already; --resume goes on with it" in refused("-o", dataset, "--turns", 5)
    assert "its run has seed = 0, not 3" in refused("-o", dataset, "--resume", "--seed", 3)


def test_what_cannot_be_is_one_line_before_anything_is_made(tmp_path: Path) -> None:
    out = tmp_path / "d"
    assert f"{out}: no such folder, so no run to go on with; leave out --resume" in refused("-o", out, "--resume")
    assert "cache 'nonsense://x': give the path of a file, or a URL" in refused("-o", out, "--cache", "nonsense://x")
    for text, line in (
        ("[gates]\nmin_empathie = 1", "gates.min_empathie is not known; legal: max_user_wer, user_emotion_best"),
        ("[gatez]\nx = 1", "gatez is not known; legal: user_voices, candidates"),
        ('candidates = "many"', "candidates = 'many'; legal: a whole number"),
        ("candidates = 99", "candidates = 99; legal: 16 or less"),
        ('teacher_sees = "all"', "teacher_sees = 'all'; legal: asked, heard"),
        ("gates = 3", "gates = 3; legal: a table"),
        ("seed = 3", "seed = 3 does not belong there; give it as --seed"),
    ):
        bad = written(tmp_path / "bad.toml", text)
        assert f"attune: {bad}: {line}" in refused("-o", out, "--settings", bad)
    voices = written(tmp_path / "voices.toml", f'user_voices = "{tmp_path}/nobody"')
    assert f'user_voices = "{tmp_path}/nobody": no such folder; legal: simulated, or' in refused(
        "-o", out, "--settings", voices
    )
    assert "cannot be written" in refused("-o", written(tmp_path / "file", "x") / "d", "--turns", 2)
    assert not out.exists()


def test_a_bad_line_is_told_with_its_place_or_left_out(tmp_path: Path) -> None:
    lines = [json.dumps(GOOD), "{broken", json.dumps(GOOD | {"emotion": "blue"}), json.dumps({"text": "Not so bad."})]
    turns = written(tmp_path / "turns.jsonl", "\n".join(lines))
    line = refused("-o", tmp_path / "d", "--scenarios", turns)
    assert f"{turns}:2:" in line
    assert "1 more" in line
    assert not (tmp_path / "d").exists()
    easy = written(tmp_path / "easy.toml", EASY)
    more = ("--scenarios", turns, "--on-bad", "skip", "--workers", 1, "--settings", easy)
    result = run("-o", tmp_path / "d", *more, "--turns", 1)
    assert result.exit_code == 0, result.stderr
    assert f"left out: {turns}:3:" in result.stderr
    assert "Kept 1 of 1 turns" in result.stdout
    assert "its run has turns = 1, not 2" in refused("-o", tmp_path / "d", "--resume", "--turns", 2)


def test_recordings_without_words_are_told_and_a_run_that_keeps_nothing_fails(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    write_wav(folder / "hum.wav", tone(1.0))
    result = run("-o", tmp_path / "d", "--scenarios", folder, "--workers", 1)
    assert "attune: 1 of 1 turns are recordings without their words" in result.stderr
    assert "labels.csv (path, text, emotion" in result.stderr
    assert result.exit_code == 1, result.output
    assert "attune: none of 1 turns passed the gates: no dataset came out" in result.stderr
    assert "Kept" not in result.stdout
    assert read_manifest(tmp_path / "d").rows["rejected"] == 1


def test_where_no_live_turn_waits_no_dataset_is_begun(tmp_path: Path) -> None:
    result = run("-o", tmp_path / "d", "--from-stream", "here", "--once")
    assert result.exit_code == 1, result.output
    assert "d holds no turn that passed the gates: there is nothing to train on" in result.stderr
    assert not list(tmp_path.glob("d/*"))
