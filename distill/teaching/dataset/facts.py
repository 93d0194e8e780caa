"""What can be said of a dataset, gathered in one pass over its shards.

Memory: digests, texts and contrast sets take some hundred bytes a row; nothing else grows with the dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from distill.teaching.dataset.leaks import Leaks, normalized
from distill.teaching.dataset.rows import digest_of_row
from distill.teaching.dataset.shards import PLACES, REJECTED, read_rows, shards_of

Row = Mapping[str, Any]
UNKNOWN = "unknown"  # how null is shown
SOURCES = ("made", "recorded", "live")
LABELS = (
    "task", "source", "domain", "user_emotion", "user_age", "user_gender", "heard_emotion", "strategy", "reply_emotion",
    "speaker",
)  # fmt: skip
TASK_LABELS = {
    "dialogue": LABELS,
    "speak": ("task", "source", "domain", "reply_emotion"),  # what a text for the talker alone has
    "listen": ("task", "source", "domain", "user_emotion", "user_age", "user_gender", "speaker"),
    "write": ("task", "source", "domain", "user_emotion", "strategy", "reply_emotion"),
}
BIN_WIDTH = {
    "user_duration_s": 0.5, "reply_duration_s": 0.5, "user_wer": 0.01, "user_emotion_agreement": 0.01, "reply_wer": 0.01,
    "reply_emotion_agreement": 0.01, "speech_quality": 0.01, "empathy": 0.01,
}  # fmt: skip
PITCH_BY = {"user_pitch_hz": "user_emotion", "reply_pitch_hz": "reply_emotion"}
PITCH_BIN_HZ = 1.0


@dataclass
class Histogram:
    """Counts of values in bins of one width; quantiles are as fine as the bins."""

    width: float
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, value: float) -> None:
        self.bins[int(np.floor(value / self.width + 1e-9))] += 1

    @property
    def count(self) -> int:
        return self.bins.total()

    def quantile(self, share: float) -> float:
        """The lower edge of the bin that holds it. Raises ValueError without a value."""
        seen = 0
        for number in sorted(self.bins):
            seen += self.bins[number]
            if seen >= share * self.count:
                return number * self.width
        raise ValueError("no values, no quantiles")


@dataclass
class Gate:
    """How many rows a gate turned away, and how many it alone."""

    rejected: int = 0
    alone: int = 0
    reason: str = ""  # an example: the first in the order of the alphabet, so that the order of rows does not matter


# --- contrast sets


@dataclass(frozen=True, order=True)
class Member:
    """One tone of a contrast set, and how it is answered."""

    emotion: str
    strategy: str
    reply_emotion: str

    def differs(self, other: Member) -> bool:
        return (self.strategy, self.reply_emotion) != (other.strategy, other.reply_emotion)


@dataclass
class Contrasts:
    """Sets of the same words in other tones. Only sets of which two tones or more passed the gates count."""

    _codes: dict[Member, int] = field(default_factory=dict)
    _sets: dict[str, bytes] = field(default_factory=dict)  # two bytes for each member
    _shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    SHOWN: ClassVar[int] = 10
    KEPT: ClassVar[int] = 40  # some of them turn out to have one tone only

    def add(self, row: Row) -> None:
        name, columns = row["contrast"], ("user_emotion", "strategy", "reply_emotion")
        member = Member(*(row[column] or UNKNOWN for column in columns))
        code = self._codes.setdefault(member, len(self._codes))
        self._sets[name] = self._sets.get(name, b"") + code.to_bytes(2, "big")
        self._shown.setdefault(name, []).append({c: row[c] for c in (*columns, "user_text", "reply_text", "index")})
        if len(self._shown) > self.KEPT:
            del self._shown[max(self._shown, key=rank)]

    def _pairs(self) -> list[list[bool]]:
        """For each set: whether the answers differ, for each two of its tones."""
        members = list(self._codes)
        found = []
        for codes in self._sets.values():
            told = [members[int.from_bytes(codes[at : at + 2], "big")] for at in range(0, len(codes), 2)]
            found.append([a.differs(b) for a, b in combinations(told, 2) if a.emotion != b.emotion])
        return [pairs for pairs in found if pairs]

    def counts(self) -> dict[str, int]:
        """sets; sets_differ: at least two tones get another strategy or reply emotion; sets_all_differ: any two do; pairs of
        tones; pairs_differ.
        """
        sets = self._pairs()
        return {
            "sets": len(sets),
            "sets_differ": sum(any(pairs) for pairs in sets),
            "sets_all_differ": sum(all(pairs) for pairs in sets),
            "pairs": sum(len(pairs) for pairs in sets),
            "pairs_differ": sum(sum(pairs) for pairs in sets),
        }

    def shown(self) -> list[list[dict[str, Any]]]:
        """Up to ten sets, drawn by their names' hash: the tones of each in the order of the plan."""
        whole = [self._shown[name] for name in sorted(self._shown, key=rank)]
        several = [tones for tones in whole if len({tone["user_emotion"] for tone in tones}) > 1]
        return [sorted(tones, key=lambda tone: int(tone["index"])) for tones in several[: self.SHOWN]]


# --- examples


def rank(name: str) -> str:
    """A place in an order that nobody chose: which rows are shown depends on their names alone."""
    return hashlib.sha256(name.encode()).hexdigest()


@dataclass
class Examples:
    """A few rows to hear, by kind: ("good", user emotion), ("speak", reply emotion), ("listen", user emotion),
    ("write", strategy), ("rejected", gate)."""

    kept: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)

    PER_KIND: ClassVar[dict[str, int]] = {"good": 2, "speak": 1, "listen": 1, "write": 1, "rejected": 2}
    COLUMNS: ClassVar[tuple[str, ...]] = (
        "id", "task", "domain", "user_audio", "user_text", "user_emotion", "user_age", "user_gender", "heard_text",
        "heard_emotion", "think_language", "strategy", "reply_text", "reply_emotion", "reply_audio", "rejected",
    )  # fmt: skip

    def add(self, row: Row) -> None:
        kind, label = "good", row["user_emotion"]
        if row["rejected"]:
            kind, label = "rejected", gate_of(row["rejected"][0])
        elif row["task"] == "speak":
            kind, label = "speak", row["reply_emotion"]
        elif row["task"] == "listen":
            kind = "listen"
        elif row["task"] == "write":
            kind, label = "write", row["strategy"]
        best = self.kept.setdefault((kind, label or UNKNOWN), [])
        best.append({name: row[name] for name in self.COLUMNS})
        best.sort(key=lambda one: rank(one["id"]))
        del best[self.PER_KIND[kind] :]


def gate_of(reason: str) -> str:
    """The gate's name, with which each reason begins."""
    return reason.partition(":")[0].strip()


# --- all of it


@dataclass
class Facts:
    """Sums over a dataset's rows: `Facts.of(folder)`, or `add` each row once, in any order."""

    rows: Counter[str] = field(default_factory=Counter)  # by place
    labels: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # column, value, place
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # strategy, user emotion; of good rows
    known: Counter[str] = field(default_factory=Counter)  # rows in which a column is not null
    measured: dict[str, Histogram] = field(default_factory=lambda: {k: Histogram(w) for k, w in BIN_WIDTH.items()})
    pitch: dict[tuple[str, str], Histogram] = field(default_factory=dict)  # measure, label
    gates: dict[str, Gate] = field(default_factory=dict)
    contrasts: Contrasts = field(default_factory=Contrasts)
    examples: Examples = field(default_factory=Examples)
    leaks: Leaks = field(default_factory=Leaks)
    _engines: Counter[str] = field(default_factory=Counter)
    _microseconds: Counter[tuple[str, str]] = field(default_factory=Counter)  # whole numbers: the same in any order
    _digests: bytearray = field(default_factory=bytearray)
    _texts: bytearray = field(default_factory=bytearray)

    @classmethod
    def of(cls, folder: Path) -> Facts:
        """All rows of a dataset's folder. Raises InputError: a shard that cannot be read."""
        facts = cls()
        for place in PLACES:
            for path in shards_of(folder, place):
                for row in read_rows(path):
                    facts.add(row, place)
        return facts

    def add(self, row: Row, place: str) -> None:
        """`place`: one of PLACES. Raises InputError: sound that cannot be decoded."""
        self.rows[place] += 1
        self._digests += _key(row, place) + bytes.fromhex(digest_of_row(row))
        self._engines[row["engines"]] += 1
        self.known.update(name for name, value in row.items() if value is not None)
        labels = TASK_LABELS[row["task"]]
        self.labels.update((name, row[name] or UNKNOWN, place) for name in labels)
        self.labels.update(("user_events", kind, place) for kind in row["user_events"] or ())
        self.examples.add(row)
        self.leaks.add(row, place)
        for whose in ("user", "reply"):
            self._microseconds[place, whose] += round(1e6 * (row[f"{whose}_duration_s"] or 0.0))
        self._measure(row)
        if place == REJECTED:
            self._reject(row["rejected"])
        elif row["task"] == "dialogue":
            self._dialogue(row)

    def _measure(self, row: Row) -> None:
        for name, histogram in self.measured.items():
            if row[name] is not None:
                histogram.add(row[name])

    def _reject(self, reasons: list[str]) -> None:
        names = {gate_of(reason) for reason in reasons}
        for name in sorted(names):
            gate = self.gates.setdefault(name, Gate())
            gate.rejected += 1
            gate.alone += len(names) == 1
            mine = [reason.partition(":")[2].strip() for reason in reasons if gate_of(reason) == name]
            gate.reason = min([*mine, *([gate.reason] if gate.reason else [])])

    def _dialogue(self, row: Row) -> None:
        if row["user_text"]:
            self._texts += hashlib.sha256(normalized(row["user_text"]).encode()).digest()[:8]
        self.answers[row["strategy"] or UNKNOWN, row["user_emotion"] or UNKNOWN] += 1
        for measure, label in PITCH_BY.items():
            if row[measure] is not None:
                key = (measure, row[label] or UNKNOWN)
                self.pitch.setdefault(key, Histogram(PITCH_BIN_HZ)).add(row[measure])
        if row["contrast"]:
            self.contrasts.add(row)

    # --- what it comes to

    @property
    def turns(self) -> int:
        return self.rows.total()

    @property
    def kept(self) -> int:
        return self.turns - self.rows[REJECTED]

    def hours(self, whose: str, place: str | None = None) -> float:
        """Of speech. whose: user or reply; place None: all that is not rejected."""
        places = [place] if place else [one for one in PLACES if one != REJECTED]
        return sum(self._microseconds[one, whose] for one in places) / 3.6e9

    def by_label(self, column: str) -> dict[str, dict[str, int]]:
        """Value → place → rows, most frequent value first."""
        found: dict[str, dict[str, int]] = {}
        for (name, value, place), count in self.labels.items():
            if name == column:
                found.setdefault(value, {})[place] = count
        return dict(sorted(found.items(), key=lambda item: (-sum(item[1].values()), item[0])))

    @property
    def distinct_texts(self) -> int:
        """Of good dialogue rows, without regard to case and punctuation."""
        return len(np.unique(np.frombuffer(bytes(self._texts), "u8"))) if self._texts else 0

    def engines(self) -> dict[tuple[str, str, str], int]:
        """(stage, name, version) → rows."""
        found: Counter[tuple[str, str, str]] = Counter()
        for text, rows in self._engines.items():
            for stage, info in json.loads(text).items():
                found[stage, info["name"], info["version"]] += rows
        return dict(sorted(found.items()))

    def _ordered(self) -> Any:
        """Keys and digests of all rows in the order of place, source and index: uint8 (rows, 42)."""
        entries = np.frombuffer(bytes(self._digests), np.uint8).reshape(-1, KEY_BYTES + 32)
        return entries[np.lexsort(entries[:, :KEY_BYTES].T[::-1])]

    @property
    def dataset_sha256(self) -> str:
        """Over the rows' digests in the order of place, source and index: how rows are cut into shards does not count."""
        return hashlib.sha256(self._ordered()[:, KEY_BYTES:].tobytes()).hexdigest()

    def doubled(self) -> list[str]:
        """Ids that are there more than once."""
        ids, counts = np.unique(self._ordered()[:, 1:KEY_BYTES], axis=0, return_counts=True)
        return [f"{SOURCES[one[0]]}-{int.from_bytes(bytes(one[1:]), 'big'):08d}" for one in ids[counts > 1]]


KEY_BYTES = 10


def _key(row: Row, place: str) -> bytes:
    return bytes([PLACES.index(place), SOURCES.index(row["source"])]) + int(row["index"]).to_bytes(8, "big")
