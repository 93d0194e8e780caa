"""Shards: opened by Hugging Face datasets, the same bytes however rows are cut, whole or not there."""

from __future__ import annotations

import errno
import io
import os
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from dataset_samples import full_sample, sample, talker_sample, tone

from cascade.errors import InputError
from distill.teaching.dataset.rows import table_of
from distill.teaching.dataset.shards import ROWS_PER_GROUP, read_rows, shards_of, write_shard


def tables(count: int) -> list[Any]:
    return [table_of(sample(index)) for index in range(count)]


def test_datasets_opens_it_and_its_sound_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Audio, load_dataset

    path = tmp_path / "train" / "part-00000.parquet"
    write_shard(path, [*tables(2), table_of(talker_sample(2)), table_of(full_sample(3))])
    rows = load_dataset("parquet", data_files={"train": str(path)}, cache_dir=str(tmp_path / "cache"))["train"]
    assert isinstance(rows.features["user_audio"], Audio)
    for name in ("user_audio", "reply_audio"):
        rows = rows.cast_column(name, Audio(decode=False))
    samples, rate = soundfile.read(io.BytesIO(rows[1]["reply_audio"]["bytes"]), dtype="float32")
    wave = tone(301, 0.5, 22_050)
    assert rate == 22_050
    assert (samples == wave.samples).all()
    assert rows[2]["user_audio"] is None
    assert rows[0]["history"] == []
    assert rows[3]["top_logprobs"][0]["top"][1]["token"] == "This"
    assert list(rows["index"]) == [0, 1, 2, 3]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    given = [*tables(3), table_of(full_sample(3))]
    assert write_shard(tmp_path / "a.parquet", given) == 4
    assert list(read_rows(tmp_path / "a.parquet")) == pa.concat_tables(given).to_pylist()
    assert list(read_rows(tmp_path / "a.parquet", ["index"])) == [{"index": index} for index in range(4)]


def test_how_rows_are_cut_into_tables_does_not_show(tmp_path: Path) -> None:
    count = 2 * ROWS_PER_GROUP + 3
    one_by_one = tables(count)
    whole = pa.concat_tables(one_by_one).combine_chunks()
    cut = [whole.slice(0, 5), whole.slice(5, 50), whole.slice(55)]
    for name, given in (("a", one_by_one), ("b", [whole]), ("c", cut), ("d", iter(one_by_one))):
        assert write_shard(tmp_path / name, given) == count
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


def test_row_groups_are_small_so_that_readers_need_little_memory(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", tables(ROWS_PER_GROUP + 1))
    about = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [about.row_group(at).num_rows for at in range(about.num_row_groups)] == [ROWS_PER_GROUP, 1]
    assert about.row_group(0).column(0).compression == "ZSTD"


def test_a_failure_midway_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(path, tables(1))
    before = path.read_bytes()

    def failing() -> Any:
        yield from tables(ROWS_PER_GROUP + 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(path, failing())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.parquet"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError) as caught:
        write_shard(tmp_path / "train" / "a.parquet", tables(1))
    line = f"{tmp_path}/train/a.parquet: no space left on the disk; free some and go on with --resume"
    assert str(caught.value) == f"{line}; nothing made so far is lost"
    assert os.listdir(tmp_path / "train") == []


def test_a_file_that_may_not_grow_is_one_line(tmp_path: Path) -> None:
    """The system itself says no, in the middle of pyarrow's writing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    given = tables(8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            InputError, match=r"a\.parquet: cannot be written \(File too large\); .*nothing made so far is lost"
        ):
            write_shard(tmp_path / "a.parquet", given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("a file, no folder")
    with pytest.raises(InputError, match=r"part\.parquet: cannot be written \((File exists|Not a directory)\)"):
        write_shard(tmp_path / "train" / "part.parquet", tables(1))


def test_a_damaged_shard_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(path, tables(3))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    for name, damaged in (("flipped", bytes(content)), ("cut", bytes(content[:-100])), ("empty", b"")):
        other = tmp_path / f"{name}.parquet"
        other.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{name}\.parquet: cannot be read \(.*\); it is damaged: make it again"):
            list(read_rows(other))


def test_a_shard_of_something_else_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="not a shard of this Attune"):
        list(read_rows(tmp_path / "a.parquet"))


def test_shards_come_in_order_without_halves(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        write_shard(tmp_path / "test" / f"part-{number:05d}.parquet", tables(1))
    (tmp_path / "test" / ".part-00003.parquet.abcd.part").write_bytes(b"half")
    assert [path.name for path in shards_of(tmp_path, "test")] == [f"part-{number:05d}.parquet" for number in range(3)]
    assert shards_of(tmp_path, "train") == []
