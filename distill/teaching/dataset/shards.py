"""Parquet shards: written whole or not at all, in small row groups, so that a reader needs little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cascade.errors import InputError, one_line
from distill.files import whole_file
from distill.teaching.dataset.columns import AUDIO_COLUMNS, pa, pq, schema
from distill.teaching.records import SPLITS

REJECTED = "rejected"
PLACES: tuple[str, ...] = (*SPLITS, REJECTED)  # folders of a dataset
ROWS_PER_GROUP = 32  # about 10 MB with sound
# Few values, many rows: stored once and pointed to.
REPEATED = (
    "split", "task", "source", "domain", "template", "contrast", "speaker", "contributor", "user_emotion", "user_age",
    "user_gender", "heard_language", "heard_emotion", "heard_age", "heard_gender", "topic", "strategy", "reply_emotion",
    "worst_emotion", "worst_strategy", "vector_space", "engines",
)  # fmt: skip


def write_shard(path: Path, tables: Iterable[Any]) -> int:
    """Write tables in `schema()` one after another; returns the count of rows. How rows are cut into tables does not show in
    the bytes. Raises InputError: no space, no permission.
    """
    count = 0
    with whole_file(path) as file, pq.ParquetWriter(file, schema(), **_layout()) as writer:
        for group in _groups(tables):
            writer.write_table(group)
            count += group.num_rows
    return count


def _layout() -> dict[str, Any]:
    """Statistics of sound help no reader; page checksums show a damaged disk."""
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": list(REPEATED),
        "write_statistics": [name for name in schema().names if name not in AUDIO_COLUMNS],
        "write_page_checksum": True,
    }


def _groups(tables: Iterable[Any]) -> Iterator[Any]:
    """The same rows in tables of ROWS_PER_GROUP, the last one shorter."""
    waiting: list[Any] = []
    for table in tables:
        waiting.append(table)
        while sum(one.num_rows for one in waiting) >= ROWS_PER_GROUP:
            joined = pa.concat_tables(waiting).combine_chunks()
            yield joined.slice(0, ROWS_PER_GROUP)
            waiting = [rest] if (rest := joined.slice(ROWS_PER_GROUP)).num_rows else []
    if sum(one.num_rows for one in waiting):
        yield pa.concat_tables(waiting).combine_chunks()


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a shard, one row group in memory at a time. Raises InputError: not a shard of this dataset, or damaged."""
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            _check_columns(path, file.schema_arrow)
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=columns, use_threads=False).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); it is damaged: make it again") from error


def _check_columns(path: Path, found: Any) -> None:
    if not found.equals(schema(), check_metadata=False):
        differs = sorted({str(field) for field in found} ^ {str(field) for field in schema()}) or ["order of columns"]
        raise InputError(f"{path}: not a shard of this Attune ({differs[0]}); make the dataset again")


def shards_of(folder: Path, place: str) -> list[Path]:
    """The shards of one of PLACES, in order."""
    return sorted((folder / place).glob("*.parquet"))
