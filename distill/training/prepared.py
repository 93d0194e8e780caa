"""What training reads of a dataset's sound, worked out once: log-mels of speech that is heard and codec tokens of the replies.

A store is a folder of blocks (`00000.npy`: rows one after another in time) and `index.json`, which lists the blocks that are
whole with the length of each row. A killed run loses the block it was at. A store is named after what it was made from: another
dataset, other features or another codec make another store beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cascade.audio import Samples, Waveform
from cascade.errors import InputError
from distill.files import whole_file
from distill.teaching.records import SPLITS
from distill.training.data import Dataset, Row, Voice
from e2e_model.codec.base import Codec

__all__ = ["Prepared", "prepare"]

Array = np.ndarray[Any, np.dtype[Any]]
INDEX = "index.json"
FORMAT = 1
ROWS_PER_BLOCK = 128  # about 50 MB of sound, 10 MB of log-mels
BATCH_S = 160.0  # of sound that the codec is given at once, its padding included
OPEN_BLOCKS = 256  # each holds one of the process's file handles


class Prepared:
    """A row's log-mel and its codec tokens. A row without that sound has 0 frames."""

    def __init__(self, rows: Sequence[Row], mels: Mapping[Voice, _Store], codes: _Store | None) -> None:
        self._places = {row.id: place for place, row in enumerate(rows)}
        self._mels, self._codes = mels, codes

    def mel(self, row: Row, whose: Voice = "user") -> Array:
        """[T, mels] float16, a copy."""
        return self._mels[whose].read(self._places[row.id])

    def codes(self, row: Row) -> Array:
        """[codebooks, T] int16 or int32, a copy. Raises InputError: prepared without a codec."""
        return np.ascontiguousarray(self._with_codes().read(self._places[row.id]).T)

    def mel_frames(self, row: Row, whose: Voice = "user") -> int:
        return self._mels[whose].length(self._places[row.id])

    def code_frames(self, row: Row) -> int:
        return self._with_codes().length(self._places[row.id])

    def _with_codes(self) -> _Store:
        if self._codes is None:
            raise InputError("the dataset was prepared without a codec; train one first (stage codec)")
        return self._codes


def prepare(
    dataset: Dataset,
    *,
    mel: Callable[[Samples], Array],
    sample_rate: int,
    mel_key: str,
    codec: Codec | None,
    folder: Path,
    progress: Callable[[int, int], None],
    device: str | torch.device = "cpu",
    heard: Sequence[Voice] = ("user",),
) -> Prepared:
    """Log-mels of the speech of all splits that is `heard`, and with a `codec` the replies' tokens. What is there is kept.

    `mel`: samples at `sample_rate` → [T, mels]; `mel_key` names it with its options. The codec is on `device`.
    `progress`: rows done and rows in all, over both. Raises InputError: sound that cannot be decoded, a full disk.
    """
    # A dataset's hash says nothing of the order of its files.
    rows = sorted(dataset.all_rows(), key=lambda row: (SPLITS.index(row.split), row.id))
    stores: list[tuple[_Store, Callable[[Sequence[Row]], list[Array]]]] = []
    mels: dict[Voice, _Store] = {}
    for whose in heard:
        features = {
            "kind": "mel",
            "dataset": dataset.sha256,
            "mel": mel_key,
            "sample_rate": sample_rate,
            "whose": whose,
        }
        mels[whose] = _Store(folder, features, len(rows))
        stores.append((mels[whose], partial(_mels_of, dataset, whose=whose, mel=mel, sample_rate=sample_rate)))
    codes = None
    if codec is not None:
        codes = _Store(
            folder, {"kind": "codes", "dataset": dataset.sha256, "codec": codec.tokens_fingerprint()}, len(rows)
        )
        stores.append((codes, lambda block: _codes_of(dataset, block, codec, device)))
    of = len(rows) * len(stores)
    progress(sum(store.rows_done for store, _ in stores), of)
    for store, made in stores:
        for number in store.missing():
            store.keep(number, made(rows[number * ROWS_PER_BLOCK : (number + 1) * ROWS_PER_BLOCK]))
            progress(sum(store.rows_done for store, _ in stores), of)
    return Prepared(rows, mels, codes)


# --- one block


def _waves(dataset: Dataset, rows: Sequence[Row], whose: Voice, sample_rate: int) -> Iterator[Samples | None]:
    for row in rows:
        sound = dataset.audio(row, whose)
        yield Waveform(*sound).resampled(sample_rate).samples if sound else None


def _mels_of(
    dataset: Dataset, rows: Sequence[Row], *, whose: Voice, mel: Callable[[Samples], Array], sample_rate: int
) -> list[Array]:
    """Each [T, mels] float16; all empty ones are [0, 0]."""
    made = []
    for row, wave in zip(rows, _waves(dataset, rows, whose, sample_rate), strict=True):
        frames = np.zeros((0, 0), np.float16) if wave is None else mel(wave).astype(np.float16)
        if not np.isfinite(frames).all():
            raise InputError(f"{dataset}: row {row.id}: its {whose}_audio has no finite log-mel; remove that row")
        made.append(frames)
    return made


def _codes_of(dataset: Dataset, rows: Sequence[Row], codec: Codec, device: str | torch.device) -> list[Array]:
    """Each [T, codebooks]: time first, so that rows lie one after another."""
    dtype = np.int16 if codec.codebook_size <= 1 << 15 else np.int32
    made: list[Array] = [np.zeros((0, 0), dtype)] * len(rows)
    found = enumerate(_waves(dataset, rows, "reply", codec.sample_rate))
    waves = {place: wave for place, wave in found if wave is not None}
    for batch in _batches({place: len(wave) for place, wave in waves.items()}, round(BATCH_S * codec.sample_rate)):
        codes = _encoded(codec, [waves[place] for place in batch], device)
        for place, one in zip(batch, codes, strict=True):
            frames = math.ceil(len(waves[place]) / codec.samples_per_frame)
            made[place] = one[:, :frames].T.astype(dtype)
    return made


def _batches(lengths: Mapping[int, int], capacity: int) -> Iterator[list[int]]:
    """Places of like length together, at most `capacity` samples with their padding, or one."""
    batch: list[int] = []
    for place in sorted(lengths, key=lambda place: (lengths[place], place)):  # the last is the longest
        if batch and (len(batch) + 1) * lengths[place] > capacity:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _encoded(codec: Codec, waves: Sequence[Samples], device: str | torch.device) -> Array:
    """[B, codebooks, T] of the longest; zeros after a wave's end change none of its tokens (`Codec.encode`)."""
    padded = np.zeros((len(waves), max(map(len, waves))), np.float32)  # [B, N]
    for line, wave in zip(padded, waves, strict=True):
        line[: len(wave)] = wave
    with torch.inference_mode():
        codes: Array = codec.encode(torch.from_numpy(padded).to(device)).cpu().numpy()
    return codes


# --- files


class _Store:
    """Arrays [T, width] of one kind for `rows` rows, in blocks."""

    def __init__(self, folder: Path, about: Mapping[str, Any], rows: int) -> None:
        self._about = {**about, "format": FORMAT, "rows": rows, "rows_per_block": ROWS_PER_BLOCK}
        key = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()[:16]
        self._folder, self._rows = folder / f"{about['kind']}-{key}", rows
        self._ends: dict[int, list[int]] = {}  # by block: where each row ends
        for number, ends in self._listed().items():
            if _is_whole(self._path(number), ends):
                self._ends[number] = ends

    @property
    def rows_done(self) -> int:
        return sum(map(len, self._ends.values()))

    def missing(self) -> list[int]:
        """Numbers of the blocks still to be made."""
        return [number for number in range(math.ceil(self._rows / ROWS_PER_BLOCK)) if number not in self._ends]

    def keep(self, number: int, items: Sequence[Array]) -> None:
        """The block first, then the index: what the index lists is whole. Raises InputError."""
        width = max(item.shape[1] for item in items)  # an item of 0 frames does not know it
        joined = np.concatenate([item.reshape(len(item), width) for item in items])
        with whole_file(self._path(number)) as file:
            np.save(file, joined)
        self._ends[number] = np.cumsum([len(item) for item in items]).tolist()
        with whole_file(self._folder / INDEX) as file:
            file.write(json.dumps({"about": self._about, "ends": self._ends}).encode())

    def length(self, place: int) -> int:
        _, start, end = self._span(place)
        return end - start

    def read(self, place: int) -> Array:
        """A copy, for torch takes no array that cannot be written."""
        number, start, end = self._span(place)
        return np.array(_mapped(self._path(number))[start:end])

    def _span(self, place: int) -> tuple[int, int, int]:
        number, line = divmod(place, ROWS_PER_BLOCK)
        ends = self._ends[number]
        return number, ends[line - 1] if line else 0, ends[line]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.npy"

    def _listed(self) -> dict[int, list[int]]:
        try:
            index = json.loads((self._folder / INDEX).read_bytes())
            if index["about"] != self._about:
                raise ValueError("another store")
            return {int(number): ends for number, ends in index["ends"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self._folder}: its index cannot be read; remove that folder, it is made again"
            ) from error


def _is_whole(path: Path, ends: Sequence[int]) -> bool:
    """Whether a block is as long as the index says; a cut or missing one is made again."""
    try:
        return len(np.load(path, mmap_mode="r")) == ends[-1]
    except (OSError, ValueError):
        return False


@lru_cache(maxsize=OPEN_BLOCKS)
def _mapped(path: Path) -> Array:
    array: Array = np.load(path, mmap_mode="r")
    return array
