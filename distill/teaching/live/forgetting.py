"""Rows of live turns in a dataset's folder: changed by one process at a time, and deleted when their contributors withdraw."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cascade.errors import InputError
from cascade.turn import Record
from distill.teaching.dataset.columns import pa, schema
from distill.teaching.dataset.manifest import MANIFEST, Manifest
from distill.teaching.dataset.shards import PLACES, read_rows, shards_of, write_shard
from distill.teaching.live.consent import locked

if TYPE_CHECKING:
    from distill.teaching.dataset.facts import Facts

LOCK = ".live.lock"
PREFIX = "live-"  # of shards that hold live turns
STALE = ".manifest.stale.json"  # what the manifest was before rows came or went
PAGE = "report.html"  # it lets rows be heard


def forget(folder: Path, contributors: Iterable[str]) -> int:
    """Delete every row of these contributors from a dataset; how many there were. Call `renew` then.

    Each shard is rewritten whole or not at all. Raises InputError.
    """
    theirs, gone = set(contributors), 0
    if not folder.is_dir():
        return 0
    with at_work(folder):
        for path in (path for place in PLACES for path in shards_of(folder, place)):
            owners = [row["contributor"] for row in read_rows(path, ["contributor"])]
            found = sum(owner in theirs for owner in owners)
            if found:
                changing(folder)
                _rewrite(path, theirs, left=len(owners) - found)
                gone += found
    return gone


def _rewrite(path: Path, contributors: set[str], left: int) -> None:
    if not left:
        path.unlink()
        return
    kept = (row for row in read_rows(path) if row["contributor"] not in contributors)
    write_shard(path, (pa.Table.from_pylist([row], schema=schema()) for row in kept))


def changing(folder: Path) -> None:
    """Call it before rows come or go: a manifest that no longer holds steps aside, a page with their sound goes."""
    if (folder / MANIFEST).exists():
        os.replace(folder / MANIFEST, folder / STALE)
    (folder / PAGE).unlink(missing_ok=True)


def renew(folder: Path) -> bool:
    """Write manifest, card and page of a whole dataset whose rows have changed; whether there was anything to do.

    Raises InputError.
    """
    if not (folder / STALE).exists():
        return False
    described(folder, _settings(folder / STALE))
    return True


def described(folder: Path, settings: Record | Mapping[str, Any]) -> tuple[Facts, Manifest]:
    """Write card, page and, last, the manifest of all rows that are there. Raises InputError."""
    from distill.teaching.dataset import card, manifest, page
    from distill.teaching.dataset.facts import Facts

    with at_work(folder):
        facts = Facts.of(folder)
        card.write(folder, settings, facts)
        page.write(folder, settings, facts)
        made = manifest.finished(folder, settings, facts)
        (folder / STALE).unlink(missing_ok=True)
        return facts, made


def _settings(path: Path) -> dict[str, Any]:
    try:
        return Manifest.model_validate_json(path.read_bytes()).settings
    except ValidationError as error:
        raise InputError(
            f"{path}: not a manifest of this Attune ({error.errors()[0]['msg']}); make the dataset again"
        ) from None


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """The live rows of a folder are this process's alone. Halves of shards, whose writer died, go. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another place") from error
    with locked(folder / LOCK):
        for half in (half for place in PLACES for half in (folder / place).glob(f".{PREFIX}*.part")):
            half.unlink(missing_ok=True)
        yield
