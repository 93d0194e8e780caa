"""The manifest: what a dataset's folder holds, with checksums; written last, so that it says the dataset is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from cascade.engines import ENGINES
from cascade.errors import InputError
from cascade.turn import Record
from distill.files import whole_file
from distill.teaching.dataset.columns import ROW_VERSION
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.shards import PLACES, read_rows

MANIFEST = "manifest.json"
# Not in Attune's table: synthesizers that only simulated users speak with.
LICENCES = {"festival": "MIT-like", "world": "MIT"}
SAYS_NOTHING = "unknown"  # the engine that serves a stage nobody can serve


class FileEntry(Record):
    """A file by path (relative to the folder) and content. rows, split: of a shard."""

    path: str
    sha256: str
    bytes: int
    rows: int | None = None
    split: Literal["train", "validation", "test", "rejected"] | None = None


class EngineEntry(Record):
    stage: str
    name: str
    version: str
    licence: str
    rows: int


class GateEntry(Record):
    """Rows a gate turned away, those it alone turned away, and one of its reasons."""

    rejected: int
    alone: int
    reason: str


class Manifest(Record):
    """`dataset_sha256`: over the rows' contents in order; shards, checksums and versions of libraries do not enter it."""

    attune: str
    schema_version: int
    dataset_sha256: str
    settings: dict[str, Any]
    rows: dict[str, int]  # by split, and rejected
    counts: dict[str, dict[str, dict[str, int]]]  # label's column → value → split → rows
    hours: dict[str, float]  # of speech that is not rejected: user, reply
    yields: dict[str, GateEntry]  # by gate
    contrasts: dict[str, int]
    leaks: tuple[str, ...]  # what two splits share and must not: none, by construction
    engines: tuple[EngineEntry, ...]
    files: tuple[FileEntry, ...]


def finished(folder: Path, settings: Record | Mapping[str, Any], facts: Facts) -> Manifest:
    """Check that no row is there twice, take the checksums and write the manifest; everything else has been written.

    Raises InputError: a row that is there twice, a disk that cannot be written.
    """
    if doubled := facts.doubled():
        more = f" and {len(doubled) - 1} more" if len(doubled) > 1 else ""
        raise InputError(f"{folder}: row {doubled[0]}{more} is there twice; remove the shard that doubles it")
    labels = ("task", "source", "domain", "user_emotion", "user_age", "user_gender", "strategy", "reply_emotion")
    manifest = Manifest(
        attune=version("attune"),
        schema_version=ROW_VERSION,
        dataset_sha256=facts.dataset_sha256,
        settings=plain(settings),
        rows={place: facts.rows[place] for place in PLACES},
        counts={column: facts.by_label(column) for column in labels},
        hours={whose: round(facts.hours(whose), 4) for whose in ("user", "reply")},
        yields={
            name: GateEntry(rejected=gate.rejected, alone=gate.alone, reason=gate.reason)
            for name, gate in sorted(facts.gates.items())
        },
        contrasts=facts.contrasts.counts(),
        leaks=tuple(facts.leaks.lines()),
        engines=tuple(engine_entries(facts)),
        files=tuple(_entry(folder, path) for path in _files(folder)),
    )
    with whole_file(folder / MANIFEST) as file:
        file.write(manifest.model_dump_json(indent=1).encode() + b"\n")
    return manifest


def plain(settings: Record | Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them."""
    return settings.model_dump(mode="json") if isinstance(settings, Record) else dict(settings)


def engine_entries(facts: Facts) -> Iterator[EngineEntry]:
    for (stage, name, engine_version), rows in facts.engines().items():
        if name != SAYS_NOTHING:
            yield EngineEntry(stage=stage, name=name, version=engine_version, licence=licence_of(name), rows=rows)


def licence_of(engine: str) -> str:
    """Of an engine and its weights, as Attune's table has it."""
    known = {name: spec.licence for rows in ENGINES.values() for name, spec in rows.items()} | LICENCES
    return known.get(engine, "not known to Attune")


def _files(folder: Path) -> list[Path]:
    """All files of the dataset but the manifest; hidden ones and the journal of a run are none of it."""
    found = (path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return sorted(path for path in found if not _is_aside(path.relative_to(folder)))


def _is_aside(path: Path) -> bool:
    return path.parts[0] == "work" or any(part.startswith(".") for part in path.parts)


def _entry(folder: Path, path: Path) -> FileEntry:
    place = path.relative_to(folder).parts[0]
    of_shard: dict[str, Any] = {}
    if place in PLACES and path.suffix == ".parquet":
        of_shard = {"split": place, "rows": sum(1 for _ in read_rows(path, ["index"]))}
    content = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    return FileEntry(path=path.relative_to(folder).as_posix(), **content, **of_shard)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Raises InputError: none there, or none of this Attune's."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); no finished dataset is here; a run that was begun goes on with "
            f"attune teach -o {folder} --resume"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "not JSON"
        raise InputError(f"{path}: not a manifest of this Attune ({where}: {first['msg']}); make it again") from None


def problems_of(folder: Path) -> list[str]:
    """What differs from the manifest: missing, changed and extra files, one line each; empty when all holds.

    Raises InputError: no manifest.
    """
    promised = {entry.path: entry for entry in read_manifest(folder).files}
    there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    problems = [f"{folder / name}: missing; the manifest lists it" for name in sorted(promised.keys() - there.keys())]
    problems += [f"{there[name]}: not in the manifest" for name in sorted(there.keys() - promised.keys())]
    for name in sorted(promised.keys() & there.keys()):
        if _sha256(there[name]) != promised[name].sha256:
            problems.append(f"{there[name]}: its content is not what the manifest says (sha256 differs)")
    return problems
