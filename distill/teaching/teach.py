"""The whole of a run: plan, rows, gates, parts, and at the end manifest, card and page."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cascade.errors import EngineFailed
from distill.teaching.pool import DEATHS, Executor, WorkerDied
from distill.teaching.progress import Progress
from distill.teaching.records import Scenario
from distill.teaching.run import Run, RunSettings, open_run
from distill.teaching.worker import Equipment, Made


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `cache`: share found in it, by stage, of the rows made in this go."""

    turns: int
    kept: int
    dataset_sha256: str
    cache: dict[str, float]


def settings_of(equipment: Equipment, engines: dict[str, Any], asked: dict[str, Any]) -> RunSettings:
    return RunSettings(
        attune=version("attune"),
        profile=equipment.profile,
        engines=engines,
        settings=equipment.settings,
        asked=asked,
        turns=0,
    )


def teach(
    folder: Path,
    settings: RunSettings | None,
    plan: Iterable[Scenario] | None,
    executor: Executor,
    *,
    resume: bool,
) -> Outcome:
    """Raises InputError (folder, disk), EngineFailed (workers that die again and again). Everything made until then is kept."""
    with open_run(folder, settings, plan, resume=resume) as run:
        cache = {} if run.whole else _all_rows(run, executor)
        return _finished(run, cache)


def _all_rows(run: Run, executor: Executor) -> dict[str, float]:
    lines, deaths = run.todo(), 0
    with Progress(run.settings.turns, run.made_before) as progress:
        while True:
            before = progress.made
            try:
                with _closing(executor(lines)) as rows:
                    for row in rows:
                        run.keep(row)
                        progress.add(row)
                return progress.cache_share()
            except WorkerDied as error:
                deaths = 1 if progress.made > before else deaths + 1
                if deaths == DEATHS:
                    raise EngineFailed(f"{error}; what is made is kept: go on with --resume") from error
                lines = run.todo()


@contextmanager
def _closing(rows: Iterator[Made]) -> Iterator[Iterator[Made]]:
    """What an executor has begun ends with it: workers that go on would keep a stopped program from ending."""
    try:
        yield rows
    finally:
        if isinstance(rows, Generator):
            rows.close()


def _finished(run: Run, cache: dict[str, float]) -> Outcome:
    from distill.teaching.live.forgetting import described

    facts, made = described(run.folder, run.settings)
    run.tidy()
    return Outcome(facts.turns, facts.kept, made.dataset_sha256, cache)
