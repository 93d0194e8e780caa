"""A run: begins, goes on after a death at any write, refuses what would mix, and makes the same rows in any order."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import INFO, tone

from cascade.errors import EngineFailed, InputError
from distill.teaching.dataset.manifest import problems_of
from distill.teaching.dataset.rows import digest_of_row, table_of
from distill.teaching.dataset.shards import read_rows
from distill.teaching.pool import WorkerDied
from distill.teaching.records import SPLITS, Labels, Sample, Scenario
from distill.teaching.run import Run, RunSettings, open_run
from distill.teaching.settings import Settings
from distill.teaching.teach import teach
from distill.teaching.worker import Made, ipc_bytes

TURNS = 23
SETTINGS = RunSettings(
    attune="0", profile="embedded", engines={"asr": INFO}, settings=Settings(block=5), asked={"seed": 0}, turns=0
)


def plan(turns: int = TURNS) -> Iterator[Scenario]:
    for index in range(turns):
        split = SPLITS[index % 3]
        yield Scenario(
            index=index, split=split, domain="work", template=f"{split}-t", text=f"Sentence {index}.",
            labels=Labels(emotion="sad"), voice=f"{split}-v", seed=index,
        )  # fmt: skip


def made(line: str) -> Made:
    scenario = Scenario.model_validate_json(line)
    rejected = ("user_wer: 1.00, at most 0.3",) if scenario.index % 7 == 3 else ()
    sample = Sample(scenario, user_speech=tone(0.5 + scenario.index / 100), rejected=rejected)
    return Made(scenario.index, ipc_bytes(table_of(sample)), rejected, 0.1, "w", {"tts": 1}, {"tts": 3})


def executor(lines: Iterable[str]) -> Iterator[Made]:
    return map(made, lines)


def shuffled(lines: Iterable[str]) -> Iterator[Made]:
    rows = [made(line) for line in lines]
    random.Random(4).shuffle(rows)
    return iter(rows)


def digests(folder: Path) -> list[tuple[str, str]]:
    """Of all rows of a finished dataset, with the part each lies in."""
    found = []
    for part in (*SPLITS, "rejected"):
        for path in sorted((folder / part).glob("*.parquet")):
            found += [(f"{part}/{path.name}", digest_of_row(row)) for row in read_rows(path)]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    teach(folder, SETTINGS, plan(), executor, resume=False)
    return folder


def test_a_run_is_whole(undisturbed: Path) -> None:
    assert len(digests(undisturbed)) == TURNS
    assert problems_of(undisturbed) == []
    assert not (undisturbed / "work").exists()
    for name in ("README.md", "report.html", "manifest.json", "plan.jsonl", "settings.json"):
        assert (undisturbed / name).is_file(), name
    rejected = [path for path, _ in digests(undisturbed) if path.startswith("rejected")]
    assert len(rejected) == len([index for index in range(TURNS) if index % 7 == 3])


def test_the_order_of_the_work_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    outcome = teach(tmp_path / "d", SETTINGS, plan(), shuffled, resume=False)
    assert digests(tmp_path / "d") == digests(undisturbed)
    assert outcome.kept == TURNS - 3
    assert outcome.turns == TURNS
    assert outcome.cache == {"tts": 0.25}


class Killed(BaseException):
    """Nothing catches it, as nothing outlives a SIGKILL."""


def dying(at: int, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The program dies instead of its `at`-th rename: what it wrote until then is there, the rest is not."""
    count, rename = 0, os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count > at:
            raise Killed
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    return monkeypatch


def test_a_death_at_any_write_loses_nothing_and_doubles_nothing(undisturbed: Path, tmp_path: Path) -> None:
    folder, deaths = tmp_path / "d", 0
    for at in (0, 1, 2, 3, 5, 4, 7, 1, 6, 2, 9, 3, 8, 2, 5, 4, 100):
        with pytest.MonkeyPatch.context() as patched:
            dying(at, patched)
            try:
                teach(folder, SETTINGS, plan(), executor, resume=True)
                break
            except Killed:
                deaths += 1
    assert deaths >= 10
    assert digests(folder) == digests(undisturbed)
    assert problems_of(folder) == []


def test_a_worker_that_dies_is_replaced_and_one_that_always_dies_ends_the_run(
    undisturbed: Path, tmp_path: Path
) -> None:
    lives = 0

    def frail(lines: Iterable[str]) -> Iterator[Made]:
        nonlocal lives
        lives += 1
        for number, line in enumerate(lines):
            if lives <= 3 and number == 6:
                raise WorkerDied("a worker was killed")
            yield made(line)

    teach(tmp_path / "d", SETTINGS, plan(), frail, resume=False)
    assert lives == 4
    assert digests(tmp_path / "d") == digests(undisturbed)

    def dead(lines: Iterable[str]) -> Iterator[Made]:
        raise WorkerDied("a worker was killed")
        yield

    with pytest.raises(EngineFailed, match="go on with --resume"):
        teach(tmp_path / "e", SETTINGS, plan(), dead, resume=False)


def test_what_stops_a_run_ends_its_executor_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that went on would keep the program from ending."""
    ended = False

    def endless(lines: Iterable[str]) -> Iterator[Made]:
        nonlocal ended
        try:
            yield from map(made, lines)
        finally:
            ended = True

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        teach(tmp_path / "d", SETTINGS, plan(), endless, resume=False)
    assert ended, caught  # though its frames are still held


def test_a_whole_run_is_left_as_it_is(undisturbed: Path) -> None:
    before = digests(undisturbed)

    def none(lines: Iterable[str]) -> Iterator[Made]:
        raise AssertionError("there is nothing to make")
        yield

    assert teach(undisturbed, SETTINGS, plan(), none, resume=True).turns == TURNS
    assert digests(undisturbed) == before


def refused(folder: Path, settings: RunSettings | None = SETTINGS, *, resume: bool = False, turns: int = TURNS) -> str:
    with pytest.raises(InputError) as caught, open_run(folder, settings, plan(turns), resume=resume):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_would_mix_two_runs_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    assert "holds a run already; --resume goes on" in refused(undisturbed)
    other = SETTINGS.model_copy(update={"settings": Settings(block=5, seed=1)})
    assert "settings.seed = 0, now it is 1" in refused(undisturbed, other, resume=True)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("x")
    assert "is not empty (it holds mine.txt)" in refused(tmp_path / "letters")
    assert "no turn to be made" in refused(tmp_path / "none", turns=0)
    with open_run(tmp_path / "one", SETTINGS, plan(), resume=False):
        assert "another run is working there" in refused(tmp_path / "one", resume=True)
    with (
        pytest.raises(InputError, match="holds no run to go on with"),
        open_run(tmp_path / "new", None, None, resume=True),
    ):
        pass


def test_settings_that_cannot_be_read_are_one_line(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"attune": "0"}')
    assert "not the settings of this Attune" in refused(tmp_path, resume=True)


def test_a_full_disk_is_one_line_and_loses_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = Path.write_bytes, 9

    def full(self: Path, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return write(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match=r"No space left on device.*go on with --resume"):
            teach(tmp_path / "d", SETTINGS, plan(), executor, resume=False)
    assert not list((tmp_path / "d").rglob(".*.part"))
    teach(tmp_path / "d", SETTINGS, plan(), executor, resume=True)
    assert digests(tmp_path / "d") == digests(undisturbed)
