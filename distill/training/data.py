"""A dataset of `attune teach`, opened to train from: checked first, its rows light in memory, its sound read when asked for."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from cascade.errors import InputError, one_line
from cascade.turn import AGES, EMOTIONS, EVENT_KINDS, GENDERS, REPLY_EMOTIONS, STRATEGIES, Exchange
from distill.teaching.dataset.columns import ROW_VERSION, pa, pq
from distill.teaching.dataset.manifest import FileEntry, Manifest, read_manifest
from distill.teaching.dataset.shards import read_rows, shards_of
from distill.teaching.records import SPLITS, Source, Split, Task

__all__ = ["Dataset", "Floats", "Row", "TopLogprobs", "Voice", "open_dataset", "open_datasets"]

Floats = np.ndarray[Any, np.dtype[np.float32]]
Voice = Literal["user", "reply"]
CHEAP_BYTES = 2 << 30  # some seconds of sha256; Parquet's page checksums guard what is read of larger sets
LEGAL: dict[str, tuple[str, ...]] = {
    "user_emotion": EMOTIONS, "user_age": AGES, "user_gender": GENDERS, "user_events": EVENT_KINDS,
    "heard_events": EVENT_KINDS, "strategy": STRATEGIES, "reply_emotion": REPLY_EMOTIONS,
    "worst_strategy": STRATEGIES, "worst_emotion": REPLY_EMOTIONS,
}  # fmt: skip
POSTERIORS = {"emotion_posterior": EMOTIONS, "age_posterior": AGES, "gender_posterior": GENDERS}
PLAIN = (
    "id", "split", "task", "source", "domain", "template", "contrast", "user_text", "heard_text", "user_emotion",
    "user_age", "user_gender", "user_duration_s", "user_emotion_agreement", "strategy", "topic", "think_language",
    "reply_text", "reply_emotion", "reply_intensity", "reply_rate", "reply_duration_s", "reply_emotion_agreement",
    "vector_space", "empathy", "worst_text", "worst_emotion", "worst_strategy", "worst_empathy",
)  # fmt: skip
TOKEN_IDS = "top_logprobs.list.element.id"  # enough to count tokens
LIGHT = (
    *PLAIN,
    *POSTERIORS,
    "user_events",
    "heard_events",
    "history",
    "user_words",
    "reply_words",
    "reply_vector",
    TOKEN_IDS,
)


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """One turn without its sound; the columns of the dataset by their names. None: not known, not measured, not there.

    Posteriors: over the labels in Attune's order; what lacks to 1 is “cannot tell”. `user_words`, `reply_words`: text, start_s,
    end_s; empty where times are not known.
    `reply_tokens`: how many tokens of the reply have alternatives (`Dataset.top_logprobs`). `shard`, `number`: where it lies.
    """

    id: str
    split: Split
    task: Task
    source: Source
    domain: str
    template: str
    contrast: str | None
    history: tuple[Exchange, ...]
    user_text: str | None
    user_words: tuple[tuple[str, float, float], ...]
    heard_text: str | None
    user_emotion: str | None
    user_age: str | None
    user_gender: str | None
    user_events: tuple[str, ...] | None
    heard_events: dict[str, float] | None  # kind → confidence, the surest of each kind
    emotion_posterior: tuple[float, ...] | None
    age_posterior: tuple[float, ...] | None
    gender_posterior: tuple[float, ...] | None
    user_duration_s: float | None
    user_emotion_agreement: float | None
    strategy: str | None
    topic: str | None
    think_language: str | None
    reply_text: str | None
    reply_emotion: str | None
    reply_intensity: float | None
    reply_rate: float | None
    reply_words: tuple[tuple[str, float, float], ...]
    reply_vector: Floats | None  # [D]
    vector_space: str | None
    reply_duration_s: float | None
    reply_emotion_agreement: float | None
    reply_tokens: int
    empathy: float | None
    worst_text: str | None
    worst_emotion: str | None
    worst_strategy: str | None
    worst_empathy: float | None
    shard: str  # relative to the dataset's folder
    number: int


@dataclass(frozen=True, eq=False)
class TopLogprobs:
    """The reply as a language model wrote it, L tokens with up to K alternatives each, most probable first.

    An id is −1 where it is not told; the rest of a shorter list is id −1, text "" and log-probability −inf.
    """

    texts: tuple[str, ...]  # [L]
    ids: np.ndarray[Any, np.dtype[np.int64]]  # [L]
    top_texts: tuple[tuple[str, ...], ...]  # [L, K]
    top_ids: np.ndarray[Any, np.dtype[np.int64]]  # [L, K]
    top_logprobs: Floats  # [L, K]


@dataclass(frozen=True)
class _Held:
    """One column of one row group."""

    shard: str
    rows: range
    values: Any


class Dataset:
    """Rows by split, in the order of the plan; what is large is read from the shards when asked for."""

    def __init__(self, folder: Path, manifest: Manifest, rows: Mapping[Split, list[Row]]) -> None:
        self.folder, self.manifest, self._rows = folder, manifest, rows
        self._held: dict[str, _Held] = {}  # by column: so that reading in order opens each row group once

    @property
    def sha256(self) -> str:
        """Of the rows' contents."""
        return self.manifest.dataset_sha256

    def __str__(self) -> str:
        """As messages name it."""
        return str(self.folder)

    def rows(self, split: Split) -> list[Row]:
        return self._rows[split]

    def all_rows(self) -> list[Row]:
        return [row for split in SPLITS for row in self._rows[split]]

    def audio(self, row: Row, whose: Voice) -> tuple[Floats, int] | None:
        """Samples and their rate in Hz. Raises InputError: a damaged shard, sound that cannot be decoded."""
        stored = self._value(row, f"{whose}_audio")
        if stored is None:
            return None
        try:
            samples, rate = soundfile.read(io.BytesIO(stored["bytes"]), dtype="float32")
        except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
            raise InputError(
                f"{self}: row {row.id}: its {whose}_audio cannot be decoded; make the dataset again"
            ) from error
        return samples, rate

    def top_logprobs(self, row: Row) -> TopLogprobs | None:
        """None where no language model wrote the reply, or it told none. Raises InputError: a damaged shard."""
        return _top_logprobs(self._value(row, "top_logprobs")) if row.reply_tokens else None

    def _value(self, row: Row, column: str) -> Any:
        held = self._held.get(column)
        if held is None or held.shard != row.shard or row.number not in held.rows:
            held = self._held[column] = _read_group(self.folder, row, column)
        return held.values[row.number - held.rows.start].as_py()


class Several(Dataset):
    """Datasets as one: the rows of each behind those of the one before it, their ids with the dataset they are of."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self._parts = {one.sha256: one for one in parts}
        self._rows = {
            split: [replace(row, id=f"{one.sha256}/{row.id}") for one in parts for row in one.rows(split)]
            for split in SPLITS
        }

    @property
    def sha256(self) -> str:
        return "+".join(self._parts)

    def __str__(self) -> str:
        return ", ".join(map(str, self._parts.values()))

    def _value(self, row: Row, column: str) -> Any:
        return self._parts[row.id.partition("/")[0]]._value(row, column)


def _read_group(folder: Path, row: Row, column: str) -> _Held:
    path = folder / row.shard
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            start = 0
            for group in range(file.num_row_groups):
                rows = range(start, start := start + file.metadata.row_group(group).num_rows)
                if row.number in rows:
                    values = file.read_row_group(group, columns=[column], use_threads=False).column(column)
                    return _Held(row.shard, rows, values)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); it is damaged: make it again") from error
    raise InputError(f"{path}: its row {row.number} is gone; it changed while it was read")


def _top_logprobs(tokens: list[dict[str, Any]]) -> TopLogprobs:
    width = max(len(token["top"]) for token in tokens)
    ids = np.full((len(tokens), width), -1, np.int64)
    logprobs = np.full((len(tokens), width), -np.inf, np.float32)
    for place, token in enumerate(tokens):
        count = len(token["top"])
        ids[place, :count] = [_id(choice) for choice in token["top"]]
        logprobs[place, :count] = [choice["logprob"] for choice in token["top"]]
    texts = [[choice["token"] for choice in token["top"]] for token in tokens]
    return TopLogprobs(
        texts=tuple(token["token"] for token in tokens),
        ids=np.array([_id(token) for token in tokens], np.int64),
        top_texts=tuple(tuple(row + [""] * (width - len(row))) for row in texts),
        top_ids=ids,
        top_logprobs=logprobs,
    )


def _id(choice: Mapping[str, Any]) -> int:
    return -1 if choice["id"] is None else int(choice["id"])


# --- opening


def open_dataset(folder: Path, *, verify: bool | None = None) -> Dataset:
    """Check a dataset and read its rows. `verify`: take each shard's sha256; None: where that is a matter of seconds.

    Raises InputError (one line) for: no folder, no manifest, another schema version, no rows to train or to validate on,
    shards that are missing, extra or changed, labels that Attune's lists do not hold.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that attune teach --out made")
    manifest = read_manifest(folder)
    _check_contents(folder, manifest)
    shards = {split: [entry for entry in manifest.files if entry.split == split] for split in SPLITS}
    entries = [entry for split in SPLITS for entry in shards[split]]
    cheap = sum(entry.bytes for entry in entries) <= CHEAP_BYTES
    for entry in entries:
        _check_shard(folder, entry, cheap if verify is None else verify)
    _check_extra(folder, {entry.path for entry in entries})
    return Dataset(folder, manifest, {split: list(_rows_of(folder, shards[split])) for split in SPLITS})


def open_datasets(folders: Sequence[Path]) -> Dataset:
    """Several datasets, in this order, as one; one as it is. Raises InputError as `open_dataset`, and for one that is given
    twice."""
    parts = [open_dataset(folder) for folder in folders]
    for place, one in enumerate(parts):
        for other in parts[:place]:
            if one.sha256 == other.sha256:
                raise InputError(f"{one}: holds the rows of {other}, which is given, too; give each dataset once")
    return parts[0] if len(parts) == 1 else Several(parts)


def _check_contents(folder: Path, manifest: Manifest) -> None:
    if manifest.schema_version != ROW_VERSION:
        raise InputError(
            f"{folder}: schema version {manifest.schema_version}; this Attune reads version {ROW_VERSION}: "
            "make the dataset again with this Attune"
        )
    for split, what in (("train", "train on"), ("validation", "measure progress on")):
        if not manifest.rows.get(split):
            raise InputError(
                f"{folder}: no rows to {what} (split {split}); make a larger dataset: attune teach --turns 500 or more"
            )


def _check_shard(folder: Path, entry: FileEntry, verify: bool) -> None:
    path = folder / entry.path
    try:
        size = path.stat().st_size
        changed = size != entry.bytes or (verify and _sha256(path) != entry.sha256)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); copy or make the dataset again") from error
    if changed:
        differs = f"{size} bytes, not {entry.bytes}" if size != entry.bytes else "sha256 differs"
        raise InputError(f"{path}: its content is not what the manifest says ({differs}); copy or make it again")


def _check_extra(folder: Path, listed: set[str]) -> None:
    for path in (path for split in SPLITS for path in shards_of(folder, split)):
        if path.relative_to(folder).as_posix() not in listed:
            raise InputError(f"{path}: not in the manifest; remove it, or make the dataset again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows_of(folder: Path, entries: list[FileEntry]) -> Iterator[Row]:
    for entry in entries:
        for number, record in enumerate(read_rows(folder / entry.path, LIGHT)):
            row = _row(record, entry.path, number)
            if problem := _problem(row):
                raise InputError(f"{folder}: row {row.id}: {problem}; make the dataset again with this Attune")
            yield row


def _row(record: Mapping[str, Any], shard: str, number: int) -> Row:
    vector = record["reply_vector"]
    plain = {name: record[name] for name in PLAIN}
    lists = {name: None if record[name] is None else tuple(record[name]) for name in (*POSTERIORS, "user_events")}
    return Row(
        **plain | lists,
        heard_events=_surest(record["heard_events"]),
        history=tuple(Exchange(**exchange) for exchange in record["history"]),
        user_words=_timed(record["user_words"]),
        reply_words=_timed(record["reply_words"]),
        reply_vector=None if vector is None else np.array(vector, np.float32),
        reply_tokens=len(record["top_logprobs"] or ()),
        shard=shard,
        number=number,
    )


def _timed(words: list[dict[str, Any]] | None) -> tuple[tuple[str, float, float], ...]:
    return tuple((word["text"], word["start_s"], word["end_s"]) for word in words or ())


def _surest(events: list[dict[str, Any]] | None) -> dict[str, float] | None:
    """The same kind may be heard several times."""
    if events is None:
        return None
    surest: dict[str, float] = {}
    for event in events:
        surest[event["kind"]] = max(event["confidence"], surest.get(event["kind"], 0.0))
    return surest


def _problem(row: Row) -> str | None:
    """What of a row Attune's lists of labels do not allow."""
    for column, legal in LEGAL.items():
        value = getattr(row, column)
        for label in [value] if isinstance(value, str) else value or ():
            if label not in legal:
                return f"{column} is {label!r}, which is none of {', '.join(legal)}"
    for column, legal in POSTERIORS.items():
        posterior = getattr(row, column)
        if posterior is not None and not _is_posterior(posterior, len(legal)):
            return f"{column} is no distribution over {', '.join(legal)}"
    return None


def _is_posterior(values: tuple[float | None, ...], count: int) -> bool:
    """As `cascade.turn.Cue` has it; what lacks to 1 is “cannot tell”."""
    known = [value for value in values if value is not None]
    return len(values) == len(known) == count and min(known) >= 0 and sum(known) <= 1 + 1e-3
