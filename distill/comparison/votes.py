"""Blind votes that listeners saved from the page, counted: whose reply fits better to what was said, and how."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from cascade.errors import InputError, one_line
from cascade.turn import Record
from distill.comparison.report import fingerprint
from distill.comparison.statistics import figure

A, B, TIE = range(3)


class Vote(Record):
    """left and right: the systems that were heard as A and B."""

    item: str
    left: str
    right: str
    choice: Literal["left", "right", "tie"]
    time: datetime


class VoteFile(Record):
    """What the page saves. comparison: what was judged, as `distill.comparison.report.fingerprint` tells it."""

    version: Literal[1]
    comparison: str
    listener: str = Field(min_length=1)
    votes: tuple[Vote, ...]


def read_votes(files: Sequence[Path], comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The report's section of votes. A listener's vote on an item and two systems counts once, the last one.

    Raises InputError: a file that is broken, of another comparison, or of items and systems that it does not hold.
    """
    last: dict[tuple[str, str, frozenset[str]], Vote] = {}
    for path in files:
        found = read_file(path)
        _check(path, found, comparison)
        for vote in found.votes:
            key = (found.listener, vote.item, frozenset((vote.left, vote.right)))
            if key not in last or vote.time >= last[key].time:
                last[key] = vote
    return {"files": sorted(path.name for path in files), "pairs": list(_pairs(last.values(), comparison))}


def read_file(path: Path) -> VoteFile:
    """What a listener saved, of whatever comparison. Raises InputError."""
    try:
        return VoteFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a file that the page saved") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise InputError(f"{path}: {where}: {first['msg']}; give a file that the page saved") from error
    except ValueError as error:
        raise InputError(f"{path}: broken JSON ({one_line(error)}); give a file that the page saved") from error


def _check(path: Path, found: VoteFile, comparison: Mapping[str, Any]) -> None:
    judged = fingerprint(comparison)
    if found.comparison != judged:
        raise InputError(
            f"{path}: votes on another comparison (sha256 {found.comparison[:12]}…, this one is {judged[:12]}…); leave it out"
        )
    systems = [system["name"] for system in comparison["systems"]]
    items = {row["item"]["id"] for row in comparison["rows"]}
    for vote in found.votes:
        unknown = next((name for name in (vote.left, vote.right) if name not in systems), None)
        if unknown or vote.left == vote.right:
            raise InputError(
                f"{path}: a vote on {vote.left!r} and {vote.right!r}; legal are two of {', '.join(systems)}"
            )
        if vote.item not in items:
            raise InputError(
                f"{path}: a vote on item {vote.item!r}, which this comparison does not hold; leave the file out"
            )


def _pairs(votes: Iterable[Vote], comparison: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Pairs in the order of the systems. The interval is bootstrapped over items, for votes on one item are not independent."""
    order = [system["name"] for system in comparison["systems"]]
    groups = {row["item"]["id"]: row["item"]["group"] for row in comparison["rows"]}
    counted: dict[tuple[str, str], dict[str, list[int]]] = {}
    for vote in votes:
        a, b = sorted((vote.left, vote.right), key=order.index)
        won = {"left": vote.left, "right": vote.right}.get(vote.choice)
        counts = counted.setdefault((a, b), {}).setdefault(vote.item, [0, 0, 0])
        counts[{a: A, b: B}.get(won or "", TIE)] += 1
    for a, b in sorted(counted, key=lambda pair: (order.index(pair[0]), order.index(pair[1]))):
        by_item = {item: counted[a, b][item] for item in groups if item in counted[a, b]}
        shares = {item: (counts[A] + counts[TIE] / 2, float(sum(counts))) for item, counts in by_item.items()}
        share = figure(shares, groups, comparison["seed"])
        assert share is not None, "a pair has a vote"
        wins, losses, ties = (sum(counts[which] for counts in by_item.values()) for which in (A, B, TIE))
        yield {"a": a, "b": b, "a_wins": wins, "b_wins": losses, "ties": ties, "share_a": share.value, "low": share.low,
               "high": share.high, "by_item": by_item}  # fmt: skip
