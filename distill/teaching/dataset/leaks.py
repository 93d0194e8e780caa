"""What two splits share and must not: who speaks, what is said, a recording, a family of wordings, a contrast set."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.teaching.dataset.shards import read_rows, shards_of
from distill.teaching.records import SPLITS

COLUMNS = (
    "id",
    "split",
    "source",
    "task",
    "speaker",
    "template",
    "contrast",
    "recording_sha256",
    "user_text",
    "reply_text",
)


@dataclass
class Leaks:
    """`add` each row once, in any order. Rejected rows do not count: nobody learns from them. About 150 bytes a row."""

    _met: dict[bytes, int] = field(default_factory=dict)  # hash of kind and value → its splits, a bit each
    _shared: dict[bytes, tuple[str, str]] = field(default_factory=dict)  # kind and value of what is in several
    _astray: list[str] = field(default_factory=list)

    def add(self, row: Mapping[str, Any], place: str) -> None:
        if place not in SPLITS:
            return
        if row["split"] != place:
            self._astray.append(f"{row['id']} belongs to {row['split']} and lies in {place}")
        bit = 1 << SPLITS.index(place)
        for kind, value in _of_one_split(row):
            key = hashlib.sha256(f"{kind}\0{value}".encode()).digest()[:12]
            splits = self._met[key] = self._met.get(key, 0) | bit
            if splits != bit:
                self._shared[key] = (kind, value)

    def lines(self) -> list[str]:
        """One a leak, in the order of the alphabet; empty when splits share nothing."""
        found = [
            f"{kind} {value!r} is in {' and in '.join(split for at, split in enumerate(SPLITS) if self._met[key] >> at & 1)}"
            for key, (kind, value) in self._shared.items()
        ]
        return sorted(found + self._astray)


def leaks_of(folder: Path) -> list[str]:
    """`Leaks.lines` of a dataset's folder. Raises InputError: a shard that cannot be read."""
    leaks = Leaks()
    for place in SPLITS:
        for path in shards_of(folder, place):
            for row in read_rows(path, COLUMNS):
                leaks.add(row, place)
    return leaks.lines()


def _of_one_split(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What no other split may have: kind and value. Rows of people have no template that means anything."""
    kinds = ("speaker", "recording_sha256", *(("template", "contrast") if row["source"] == "made" else ()))
    yield from ((kind, row[kind]) for kind in kinds if row[kind])
    text = row["reply_text"] if row["task"] == "speak" else row["user_text"]
    if text and normalized(text):
        yield "text", normalized(text)


def normalized(text: str) -> str:
    """Words alone, without regard to case and punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join(re.findall(r"[\w']+", folded))
