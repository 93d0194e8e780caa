"""A run of teaching: a folder that knows what is to be made and what is done, whole after a kill at any moment.

    plan.jsonl            the scenarios, one a line; written before anything else
    settings.json         what decides the rows; a run goes on only with the same
    work/rows/00000123    a row that is made (Arrow IPC); written whole or not at all
    work/blocks/00003     a block of scenarios whose parts are written; its rows are gone from work/rows
    train/part-00003.parquet, validation/…, test/…, rejected/…
    manifest.json         last: the dataset is whole

Rows depend on their scenarios alone and parts on their blocks alone, so neither order nor a kill changes the dataset.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from cascade.errors import InputError
from cascade.turn import EngineInfo, Record
from distill.run_folder import LOCK, SETTINGS, locked
from distill.teaching.live.forgetting import PREFIX, STALE
from distill.teaching.records import SPLITS, Scenario
from distill.teaching.settings import Settings
from distill.teaching.worker import Made, table_from

PLAN, MANIFEST = "plan.jsonl", "manifest.json"
PARTS = (*SPLITS, "rejected")


class RunSettings(Record):
    """Everything the rows rest on. `skipped`: planned turns that could not be had, by reason."""

    attune: str
    profile: str
    engines: dict[str, EngineInfo]
    settings: Settings
    asked: dict[str, Any]  # the options that made the plan
    turns: int
    skipped: dict[str, int] = Field(default_factory=dict)


class Run:
    """Open it with `open_run`: one at a time in a folder."""

    def __init__(self, folder: Path, settings: RunSettings) -> None:
        self.folder, self.settings = folder, settings
        self._rows, self._blocks = folder / "work" / "rows", folder / "work" / "blocks"
        self._left: dict[int, int] = {}  # rows still to be made, by block
        self.made_before = 0

    @property
    def whole(self) -> bool:
        return any((self.folder / name).is_file() for name in (MANIFEST, STALE))

    def todo(self) -> Iterator[str]:
        """The scenarios, as JSON lines, whose rows are not there yet. Blocks of which all rows are there are closed at once."""
        self._left = {}
        size, have = self.settings.settings.block, {int(path.name) for path in self._rows.iterdir()}
        closed = {int(path.name) for path in self._blocks.iterdir()}
        turns = self.settings.turns
        for block in range(-(-turns // size)):
            if block not in closed:
                members = range(block * size, min((block + 1) * size, turns))
                self._left[block] = sum(index not in have for index in members)
        self.made_before = turns - sum(self._left.values())
        for block in [block for block, left in self._left.items() if not left]:
            self._close(block)
        return self._lines(lambda index: index // size not in closed and index not in have)

    def _lines(self, wanted: Callable[[int], bool]) -> Iterator[str]:
        with (self.folder / PLAN).open(encoding="utf-8") as lines:
            yield from (line for index, line in enumerate(lines) if wanted(index))

    def keep(self, made: Made) -> None:
        """Put a row down; with its last row a block becomes parts of the dataset. Raises InputError (disk)."""
        _write(self._rows / f"{made.index:08d}", made.row)
        block = made.index // self.settings.settings.block
        self._left[block] -= 1
        if not self._left[block]:
            self._close(block)

    def _close(self, block: int) -> None:
        from distill.teaching.dataset.shards import write_shard

        size = self.settings.settings.block
        members = range(block * size, min((block + 1) * size, self.settings.turns))
        files = [self._rows / f"{index:08d}" for index in members]
        parts: dict[str, list[Any]] = {part: [] for part in PARTS}
        for file in files:
            table = table_from(file)
            rejected = bool(table.column("rejected")[0].as_py())
            parts["rejected" if rejected else table.column("split")[0].as_py()].append(table)
        for part, tables in parts.items():
            if tables:
                write_shard(self.folder / part / f"part-{block:05d}.parquet", tables)
        _write(self._blocks / f"{block:05d}", b"")
        for file in files:
            file.unlink()
        self._left.pop(block, None)

    def tidy(self) -> None:
        """After the manifest: what only the making needed goes."""
        shutil.rmtree(self.folder / "work", ignore_errors=True)


@contextmanager
def open_run(
    folder: Path, settings: RunSettings | None, plan: Iterable[Scenario] | None, *, resume: bool
) -> Iterator[Run]:
    """Begin a run, or with `resume` go on with the one that is there.

    `settings` and `plan`: None when only going on. Raises InputError: not empty, another run's settings, a run in progress, a
    disk that cannot be written.
    """
    with locked(folder):
        _sweep(folder)
        there = read_settings(folder)
        if there is None:
            if settings is None or plan is None:
                raise InputError(f"{folder}: holds no run to go on with; leave out --resume to begin one")
            _check_empty(folder)
            there = _begun(folder, settings, plan)
        elif not resume:
            raise InputError(f"{folder}: holds a run already; --resume goes on with it, or choose another folder")
        elif settings is not None:
            _check_same(folder, there, settings)
        for name in ("rows", "blocks"):
            (folder / "work" / name).mkdir(parents=True, exist_ok=True)
        yield Run(folder, there)


def read_settings(folder: Path) -> RunSettings | None:
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        return RunSettings.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: not the settings of this Attune ({key}: {first['msg']}); choose another folder"
        ) from None


def _check_empty(folder: Path) -> None:
    others = sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, PLAN, "work"))
    if others:
        raise InputError(f"{folder}: is not empty (it holds {others[0]}); choose a new folder")


def _begun(folder: Path, settings: RunSettings, plan: Iterable[Scenario]) -> RunSettings:
    """The plan first: settings.json says that it is whole."""
    count = 0
    try:
        handle, part = tempfile.mkstemp(dir=folder, prefix=f".{PLAN}.", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for scenario in plan:
                assert scenario.index == count, "a plan counts its scenarios"
                file.write(scenario.model_dump_json(exclude_defaults=True) + "\n")
                count += 1
        os.replace(part, folder / PLAN)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another place") from error
    if not count:
        raise InputError("there is no turn to be made; give --turns or scenarios")
    settings = settings.model_copy(update={"turns": count})
    _write(folder / SETTINGS, (settings.model_dump_json(indent=2) + "\n").encode())
    return settings


def _check_same(folder: Path, there: RunSettings, asked: RunSettings) -> None:
    """Raises InputError with the first setting that differs."""
    old, new = (_flat(json.loads(one.model_dump_json(exclude={"turns", "skipped"}))) for one in (there, asked))
    differs = next((key for key in sorted({*old, *new}) if old.get(key) != new.get(key)), None)
    if differs:
        raise InputError(
            f"{folder}: its run has {differs} = {old.get(differs)!r}, now it is {new.get(differs)!r}; rows of both would not go "
            "together: use the same, or another folder"
        )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: v for inner, one in value.items() for key, v in _flat(one, f"{name}.{inner}".lstrip(".")).items()}


def _sweep(folder: Path) -> None:
    """Halves of files that a killed run left."""
    for place in (folder, folder / "work" / "rows", folder / "work" / "blocks", *(folder / part for part in PARTS)):
        for path in place.glob(".*.part"):
            if not path.name.startswith(f".{PREFIX}"):  # a collector of live turns may be writing it
                path.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); nothing made so far is lost: mend that and go on with --resume"
        ) from error
