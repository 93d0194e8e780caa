"""Turns that were given become rows of a dataset, each exactly once, whoever reads them and whenever one of them dies.

Several consumers may write into one folder. Each judges its turns alone; then, under the folder's lock, it looks which rows are
there, writes those that are not as shards of their own (`train/live-….parquet` …), and only then tells the source that they
are safe. A death before that leaves the turn with the source; after it, the row is found there by whoever reads it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

from cascade.cancel import CancelScope
from cascade.errors import AttuneError, Cancelled
from cascade.turn import Turn
from distill.teaching.dataset.rows import table_of
from distill.teaching.dataset.shards import PLACES, REJECTED, read_rows, shards_of, write_shard
from distill.teaching.live.contribution import Contribution, Unreadable
from distill.teaching.live.forgetting import PREFIX, at_work, changing, forget
from distill.teaching.live.sources import Source
from distill.teaching.records import Sample, Scenario, Split

Gate = Callable[[Sample], tuple[str, ...]]
Tell = Callable[[str], None]

SHARD_ROWS = 64
GATHER_S = 20.0  # how long a turn may wait for others before its shard is written
BLOCK_S, ONCE_S = 1.0, 0.2  # how long a reading waits for new turns
READ_AT_ONCE = 4  # turns in memory with their samples
SHARES: tuple[tuple[Split, float], ...] = (("train", 0.8), ("validation", 0.9), ("test", 1.0))  # cumulative, of people


@dataclass
class Collected:
    """What became of the turns that one consumer read. `known`: rows that were there already.

    `withdrawn`: turns of contributors who had withdrawn when they were to be written; `forgotten`: rows of theirs deleted.
    `reasons`: rows turned away, by gate.
    """

    kept: int = 0
    rejected: int = 0
    known: int = 0
    unreadable: int = 0
    withdrawn: int = 0
    forgotten: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def split_of(contributor: str) -> Split:
    """A person is in one split: the speakers of validation and test are never trained on."""
    drawn = int.from_bytes(hashlib.sha256(contributor.encode()).digest()[:8], "big") / 2**64
    return next(split for split, up_to in SHARES if drawn < up_to)


def index_of(contributor: str, turn_id: str) -> int:
    """A number for a turn that has no place in a plan: 60 bits of a hash, which Parquet's int64 holds."""
    return int.from_bytes(hashlib.sha256(f"{contributor} {turn_id}".encode()).digest()[:8], "big") >> 4


def sample_of(given: Contribution) -> Sample:
    """A turn as a row. How it was meant is not known: labels are what was heard, as cues."""
    turn, contributor = given.letter.turn, given.letter.contributor
    scenario = Scenario(
        index=index_of(contributor, turn.id),
        split=split_of(contributor),
        source="live",
        domain="conversation",
        template=f"live-{turn.id}",
        text=None,
        history=given.letter.history,
        seed=turn.seed,
        contributor=contributor,
    )
    return Sample(
        scenario,
        user_speech=given.user_speech,
        transcript=turn.transcript,
        cues=turn.cues,
        thought=turn.thought,
        reply=turn.reply,
        reply_speech=given.reply_speech,
        scores=turn.scores,
        engines={str(stage): info for stage, info in turn.engines.items()},
        rejected=_of_turn(turn),
    )


def _of_turn(turn: Turn) -> tuple[str, ...]:
    return () if turn.is_target else ("failed: the reply was stopped before its end",)


def collect(
    source: Source,
    folder: Path,
    *,
    gate: Gate,
    shard_rows: int = SHARD_ROWS,
    gather_s: float = GATHER_S,
    once: bool = False,
    cancel: CancelScope,
    tell: Tell,
) -> Collected:
    """Write what is given as rows under `folder` until cancelled; with `once`, until nothing waits in the source.

    What was judged is written whatever ends it, unless the source is away then: it still has those turns. Contributors who
    withdrew lose their rows, at the beginning, as it goes on, and at the end. Raises InputError (folder, disk), EngineFailed
    (the source refuses); nothing that was given is lost by that.
    """
    collector = _Collector(source, folder, gate, tell)
    try:
        collector.forget_withdrawn()
        for found in _batches(source, collector, shard_rows, once, cancel):
            for one in found:
                cancel.check()
                collector.take(one)
            if len(collector.rows) >= shard_rows or collector.waited_s > gather_s or (once and not found):
                collector.write()
            if not found:
                collector.forget_withdrawn()
    except Cancelled:
        pass
    finally:
        with suppress(Cancelled):
            collector.write()
    return collector.collected


def _batches(
    source: Source, collector: _Collector, shard_rows: int, once: bool, cancel: CancelScope
) -> Iterator[list[Contribution | Unreadable]]:
    """What is read, an empty list for each time that nothing came; with `once`, until nothing waits."""
    told = False
    while not cancel.cancelled:
        yield (found := source.read(min(READ_AT_ONCE, shard_rows - len(collector.rows)), ONCE_S if once else BLOCK_S))
        if once and not found:
            waiting = source.waiting()
            if not waiting:
                return
            if not told:
                collector.tell(f"{source.place}: {waiting} turns are with another run; they come here if it dies")
            told = True


@dataclass(frozen=True)
class _Row:
    """A turn that is judged, sound as FLAC."""

    entry: str
    id: str
    contributor: str
    place: str
    rejected: tuple[str, ...]
    table: Any


class _Collector:
    def __init__(self, source: Source, folder: Path, gate: Gate, tell: Tell) -> None:
        self.source, self.folder, self._gate, self.tell = source, folder, gate, tell
        self.rows: list[_Row] = []
        self.collected = Collected()
        self._since = monotonic()
        self._forgotten: set[str] = set()
        self._ids: dict[Path, tuple[tuple[int, int], frozenset[str]]] = {}  # of shards, as long as they are the same

    @property
    def waited_s(self) -> float:
        return monotonic() - self._since if self.rows else 0.0

    def take(self, one: Contribution | Unreadable) -> None:
        if isinstance(one, Unreadable):
            self.tell(f"{self.source.place}: {one.entry} is no turn that can be used: {one.reason}; left out")
            self.collected.unreadable += 1
            self.source.done([one.entry])
            return
        sample = sample_of(one)
        if not sample.rejected:
            sample = replace(sample, rejected=self._judged(sample))
        if not self.rows:
            self._since = monotonic()
        scenario = sample.scenario
        place = REJECTED if sample.rejected else scenario.split
        self.rows.append(_Row(one.entry, scenario.id, one.letter.contributor, place, sample.rejected, table_of(sample)))

    def _judged(self, sample: Sample) -> tuple[str, ...]:
        try:
            return self._gate(sample)
        except AttuneError as error:
            return (f"failed: {error}",)

    def write(self) -> None:
        """What is judged becomes shards, then the source may let go of it."""
        if not self.rows:
            return
        withdrawn = self.source.withdrawn()  # who withdraws from here on is forgotten below
        with at_work(self.folder):
            there = self._there()
            unseen: dict[str, _Row] = {}
            for row in self.rows:
                if row.contributor in withdrawn:
                    self.collected.withdrawn += 1
                elif row.id in there or row.id in unseen:
                    self.collected.known += 1
                else:
                    unseen[row.id] = row
            self._shards(list(unseen.values()))
        self.source.done([row.entry for row in self.rows])
        self.rows = []
        self.forget_withdrawn()

    def _there(self) -> set[str]:
        """Ids of the live rows in the folder. A shard is never changed in place, so each is read once."""
        now: dict[Path, tuple[tuple[int, int], frozenset[str]]] = {}
        for path in (path for place in PLACES for path in shards_of(self.folder, place)):
            if path.name.startswith(PREFIX):
                state = path.stat()
                key = (state.st_ino, state.st_mtime_ns)
                old = self._ids.get(path)
                now[path] = (
                    old if old and old[0] == key else (key, frozenset(row["id"] for row in read_rows(path, ["id"])))
                )
        self._ids = now
        return {one for _, shard in now.values() for one in shard}

    def _shards(self, rows: list[_Row]) -> None:
        if rows:
            changing(self.folder)
        name = f"{PREFIX}{hashlib.sha256(' '.join(row.id for row in rows).encode()).hexdigest()[:16]}.parquet"
        for place in PLACES:
            tables = [row.table for row in rows if row.place == place]
            if tables:
                write_shard(self.folder / place / name, tables)
        for row in rows:
            self.collected.rejected += bool(row.rejected)
            self.collected.kept += not row.rejected
            for gate in {reason.partition(":")[0] for reason in row.rejected}:
                self.collected.reasons[gate] = self.collected.reasons.get(gate, 0) + 1

    def forget_withdrawn(self) -> None:
        """Those who withdrew since it was last asked."""
        new = self.source.withdrawn() - self._forgotten
        if new:
            self.collected.forgotten += (gone := forget(self.folder, new))
            self._forgotten |= new
            if gone:
                self.tell(f"{self.folder}: {gone} rows deleted, their contributors withdrew")
