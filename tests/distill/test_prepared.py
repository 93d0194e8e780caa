"""Log-mels and codec tokens worked out once: right, kept, gone on with after a kill, and never mixed up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_samples import sample, talker_sample, write_dataset
from torch import Tensor

from cascade.audio import Waveform
from cascade.errors import InputError
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished
from distill.training import prepared
from distill.training.data import Dataset, Row, open_dataset
from distill.training.prepared import Prepared, prepare

RATE = 8_000


class LevelCodec:
    """Two codebooks: a frame's level, and whether its first sample is above 0. Strict: whole waves of its own rate."""

    sample_rate, codebooks, codebook_size, samples_per_frame = 8_000, 2, 4096, 320

    def __init__(self, name: str = "a") -> None:
        self.name, self.shapes = name, []  # type: ignore[var-annotated]

    def tokens_fingerprint(self) -> str:
        return self.name

    def encode(self, wave: Tensor) -> Tensor:
        assert wave.dtype == torch.float32
        self.shapes.append(tuple(wave.shape))
        frames = -(-wave.shape[1] // 320)
        wave = torch.nn.functional.pad(wave, (0, frames * 320 - wave.shape[1])).view(len(wave), frames, 320)
        return torch.stack([(wave.abs().mean(-1) * 4000).long(), (wave[..., 0] > 0).long()], dim=1)


def energies(samples: Any) -> Any:
    """[T, 3], 100 frames a second."""
    frames = samples[: len(samples) // 80 * 80].reshape(-1, 80)
    return np.stack([frames.min(1), frames.max(1), frames.mean(1)], axis=1)


def dataset_at(folder: Path, count: int = 20) -> Dataset:
    samples = [
        talker_sample(index) if index % 7 == 6 else sample(index, split=("train", "validation")[index % 4 == 3])
        for index in range(count)
    ]
    write_dataset(folder, samples)
    finished(folder, {}, Facts.of(folder))
    return open_dataset(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset_at(tmp_path_factory.mktemp("data"))


def made(dataset: Dataset, folder: Path, **changes: Any) -> tuple[Prepared, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    given: dict[str, Any] = {"mel": energies, "sample_rate": RATE, "mel_key": "energies", "codec": LevelCodec()}
    given |= {"folder": folder, "progress": lambda done, of: told.append((done, of))} | changes
    return prepare(dataset, **given), told


def heard(dataset: Dataset, row: Row, whose: Any) -> Any:
    sound = dataset.audio(row, whose)
    return Waveform(*sound).resampled(RATE).samples if sound else None


def assert_right(dataset: Dataset, made: Prepared) -> None:
    for row in dataset.all_rows():
        user, reply = heard(dataset, row, "user"), heard(dataset, row, "reply")
        mel, codes = made.mel(row), made.codes(row)
        assert (len(mel), codes.shape[1]) == (made.mel_frames(row), made.code_frames(row))
        if user is None:
            assert made.mel_frames(row) == 0
        else:
            assert np.array_equal(mel, energies(user).astype(np.float16))
        assert (mel.dtype, codes.dtype, codes.shape[0]) == (np.float16, np.int16, 2)
        assert np.array_equal(codes, LevelCodec().encode(torch.from_numpy(reply)[None])[0].numpy())


def test_each_row_has_its_own(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "ROWS_PER_BLOCK", 6)
    found, told = made(dataset, tmp_path)
    assert_right(dataset, found)
    assert told[0] == (0, 40)
    assert told[-1] == (40, 40)
    torch.from_numpy(found.mel(dataset.rows("train")[0]))  # would warn of memory that cannot be written


def test_sound_is_encoded_in_batches_of_like_length() -> None:
    lengths = {0: 90, 1: 10, 2: 11, 3: 100, 4: 12, 5: 500}
    batches = list(prepared._batches(lengths, 200))
    assert batches == [[1, 2, 4], [0, 3], [5]]  # the last is longer than all that a batch may hold


def test_what_is_there_is_kept(dataset: Dataset, tmp_path: Path) -> None:
    made(dataset, tmp_path)
    codec = LevelCodec()

    def never(_: Any) -> Any:
        raise AssertionError("made again")

    again, told = made(dataset, tmp_path, codec=codec, mel=never)
    assert (codec.shapes, told) == ([], [(40, 40)])
    assert_right(dataset, again)


def test_codes_can_come_later(dataset: Dataset, tmp_path: Path) -> None:
    without, told = made(dataset, tmp_path, codec=None)
    row = dataset.rows("train")[0]
    assert without.mel_frames(row) == 40
    with pytest.raises(InputError, match="prepared without a codec"):
        without.codes(row)
    assert told[-1] == (20, 20)
    with_codes, told = made(dataset, tmp_path)
    assert told[0] == (20, 40)
    assert_right(dataset, with_codes)


@pytest.mark.parametrize(
    "change", [{"mel_key": "others"}, {"sample_rate": 4_000}, {"codec": LevelCodec("b")}], ids=["mel", "rate", "codec"]
)
def test_another_origin_is_another_store(dataset: Dataset, tmp_path: Path, change: dict[str, Any]) -> None:
    made(dataset, tmp_path)
    _, told = made(dataset, tmp_path, **change)
    assert told[0] == (20, 40)
    assert len(list(tmp_path.iterdir())) == 3


def test_another_dataset_is_another_store(dataset: Dataset, tmp_path: Path) -> None:
    made(dataset, tmp_path / "store")
    other, told = made(found := dataset_at(tmp_path / "other", 19), tmp_path / "store")
    assert told[0] == (0, 38)
    assert_right(found, other)


def test_the_files_order_does_not_matter(dataset: Dataset, tmp_path: Path) -> None:
    samples = [sample(index, split=("train", "validation")[index % 4 == 3]) for index in range(8)]
    stores = []
    for name, order in (("a", samples), ("b", samples[::-1])):
        write_dataset(tmp_path / name, order, block=8)
        finished(tmp_path / name, {}, Facts.of(tmp_path / name))
        stores.append(open_dataset(tmp_path / name))
    assert stores[0].sha256 == stores[1].sha256
    made(stores[0], tmp_path / "store")
    assert_right(stores[1], made(stores[1], tmp_path / "store")[0])


def test_a_cut_or_missing_block_is_made_again(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "ROWS_PER_BLOCK", 6)
    made(dataset, tmp_path)
    blocks = sorted(tmp_path.glob("mel-*/*.npy"))
    blocks[0].unlink()
    blocks[2].write_bytes(blocks[2].read_bytes()[:-1])
    again, told = made(dataset, tmp_path)
    assert told[0] == (40 - 12, 40)
    assert_right(dataset, again)


def test_a_damaged_index_is_one_line(dataset: Dataset, tmp_path: Path) -> None:
    made(dataset, tmp_path)
    index = next(tmp_path.glob("codes-*/index.json"))
    index.write_text("{")
    with pytest.raises(InputError, match="its index cannot be read; remove that folder"):
        made(dataset, tmp_path)


def test_features_that_are_not_finite_name_their_row(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row made-\d+: its user_audio has no finite log-mel"):
        made(dataset, tmp_path, mel=lambda samples: energies(samples) + np.inf)


def test_large_codebooks_need_wider_numbers(dataset: Dataset, tmp_path: Path) -> None:
    codec = LevelCodec()
    codec.codebook_size = 65_536
    found, _ = made(dataset, tmp_path, codec=codec)
    assert found.codes(dataset.rows("train")[0]).dtype == np.int32


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from test_prepared import made, prepared
from distill.training.data import open_dataset
prepared.ROWS_PER_BLOCK = 4
keep = prepared._Store.keep
def killed(store, number, items):
    if number == 3:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    keep(store, number, items)
prepared._Store.keep = killed
made(open_dataset(Path(sys.argv[3])), Path(sys.argv[4]))
"""


def test_a_kill_loses_the_block_at_work(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(here), str(here.parent), str(dataset.folder), str(tmp_path)]
    ended = subprocess.run(command, cwd=here.parents[1], capture_output=True, text=True, env={**os.environ})
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    monkeypatch.setattr(prepared, "ROWS_PER_BLOCK", 4)
    found, told = made(dataset, tmp_path)
    assert told[0] == (12, 40)
    assert_right(dataset, found)
