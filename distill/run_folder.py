"""A run's folder belongs to one run: its settings are written first, and a run goes on only with the same."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cascade.errors import InputError

SETTINGS = "settings.json"
LOCK = ".lock"
VERSIONS = "versions"  # of packages
COMMAND = "command"  # the options that were given to the command that began the run
FREE = (VERSIONS, COMMAND)  # written down, and free to change


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone; released by the system if the process dies. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another place") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another run is working there; wait for it, or choose another folder") from None
        yield
    finally:
        os.close(handle)


def make_folder(folder: Path, *, resume: bool) -> None:
    """Raises InputError: it cannot be made, or there is nothing to go on with."""
    if resume and not folder.is_dir():
        raise InputError(f"{folder}: no run is here to go on with; leave --resume out to begin one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from error


def check_run(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Begin a run here, or go on with it. Raises InputError: a run is there and `resume` was not said, or it is another, or the
    folder holds something else.
    """
    path, settings = folder / SETTINGS, json.loads(json.dumps(settings))
    if not path.is_file():
        _check_empty(folder)
        part = path.with_name(f".{SETTINGS}.part")
        part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
        return
    if not resume:
        raise InputError(f"{folder}: holds a run already; --resume goes on with it, or choose another folder")
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{path}: is no settings file of Attune; choose another folder") from None
    old, new = _flat(there), _flat(settings)
    differs = next((key for key in sorted({*old, *new}) if old.get(key) != new.get(key)), None)
    if differs:
        was, now = (repr(one[differs]) if differs in one else "not given" for one in (old, new))
        raise InputError(
            f"{folder}: holds another run ({differs} = {was}, now {now}); "
            "go on with the same settings, or choose another folder"
        )


def command_of(folder: Path) -> dict[str, Any]:
    """The options that the run here was begun with, as JSON has them; none if no run is here that says so."""
    try:
        there = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    command = there.get(COMMAND) if isinstance(there, dict) else None
    return command if isinstance(command, dict) else {}


def _check_empty(folder: Path) -> None:
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if others:
        raise InputError(f"{folder}: is not empty (it holds {others[0]}); choose a new folder")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    inner = {key: one for key, one in value.items() if name or key not in FREE}
    return {key: v for part, one in inner.items() for key, v in _flat(one, f"{name}.{part}".lstrip(".")).items()}
