"""The sounds that a page carries: as MP3, each once, and evenly fewer where all of them would be too much."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from distill.look import mp3

LEFT_OUT = "left out: see the end of the page"
NOT_THERE = "cannot be read: the file is missing or damaged"


@dataclass(frozen=True)
class Sounds:
    """index: by path, the sound's number and its seconds, or why it is not here."""

    mp3: tuple[bytes, ...]
    index: Mapping[str, tuple[int, float] | str]
    note: str


@dataclass
class _Made:
    """Sounds by what their files hold."""

    numbers: dict[str, int]
    sounds: list[tuple[bytes, float]]


def collect(run: Path, comparison: Mapping[str, Any], *, max_bytes: int) -> Sounds:
    """Sounds are kept or left out by item, contrast sets as one, for a reply alone cannot be compared."""
    of_sets = _paths(comparison)
    made = _Made({}, [])
    found = {path: _number(run, path, made) for paths in of_sets for path in paths}
    kept = _evenly(of_sets, found, [len(sound) for sound, _ in made.sounds], max_bytes)
    order = {number: at for at, number in enumerate(sorted(kept))}
    index: dict[str, tuple[int, float] | str] = {}
    for path, number in found.items():
        here = number is not None and number in order
        index[path] = (order[number], round(made.sounds[number][1], 3)) if here else LEFT_OUT  # type: ignore[index]
        if number is None:
            index[path] = NOT_THERE
    data = tuple(made.sounds[number][0] for number in sorted(kept))
    return Sounds(data, index, _note(index, data, max_bytes))


def _paths(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The paths of each contrast set or single item, in the order of the items."""
    sets: dict[str, list[str]] = {}
    for row in comparison["rows"]:
        item = row["item"]
        paths = sets.setdefault(item["contrast"] or item["id"], [])
        paths.append(f"{comparison['items']['folder']}/{item['audio']['path']}")
        paths += [answer["audio"] for answer in row["answers"].values() if answer.get("audio")]
    return list(sets.values())


def _number(run: Path, path: str, made: _Made) -> int | None:
    """A sound's number; the same sound has the same one. None where it cannot be read."""
    try:
        content = (run / path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest not in made.numbers:
            made.sounds.append(mp3(run / path))
            made.numbers[digest] = len(made.sounds) - 1
        return made.numbers[digest]
    except (OSError, soundfile.LibsndfileError):
        return None


def _evenly(sets: Iterable[list[str]], found: Mapping[str, int | None], sizes: list[int], max_bytes: int) -> set[int]:
    """The numbers of the sounds to keep: each set's share of the limit is saved up until it is enough for the next set."""
    share = min(1.0, max_bytes / max(1, sum(sizes)))
    saved, kept = 0.0, set[int]()
    for paths in sets:
        new = {number for path in paths if (number := found[path]) is not None} - kept
        size = sum(sizes[number] for number in new)
        saved += share * size
        if size <= saved + 0.5:
            kept |= new
            saved -= size
    return kept


def _note(index: Mapping[str, tuple[int, float] | str], data: tuple[bytes, ...], max_bytes: int) -> str:
    size = sum(4 * ((len(sound) + 2) // 3) for sound in data) / 1e6
    told = f"This page carries {len(data):,} sounds in {size:,.1f} MB, and needs no network."
    left, lost = (sum(found == why for found in index.values()) for why in (LEFT_OUT, NOT_THERE))
    if left:
        told += f" {left:,} of {len(index):,} are left out, evenly over the items, to stay below {max_bytes / 1e6:g} MB of MP3."
    if lost:
        told += f" {lost:,} of {len(index):,} cannot be read."
    return told
