"""Samples one behind the other, as index tensors: what the thinker reads, and what the talker reads and writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from e2e_model.config import Talker
from e2e_model.interleave import Step, by_ratio, by_units, by_words, frames_by_share, frames_by_times, word_ends
from e2e_model.prompts import Row
from e2e_model.tokenizer import Speller, Unit


class Moves:
    """A dataclass of tensors that moves to a device as one."""

    def to(self, device: Any, **_: Any) -> Self:
        moved = {
            field.name: value.to(device) if isinstance(value := getattr(self, field.name), Tensor | Moves) else value
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Rows(Moves):
    """What the thinker reads: samples one behind the other. P: all places, T: tokens, A: states of speech.

    `speech_from`: which of the adapter's states each place takes.
    """

    ids: Tensor  # [T]
    token_at: Tensor  # [T] places
    speech_at: Tensor  # [A] places
    speech_from: Tensor  # [A]
    positions: Tensor  # [P]
    lengths: list[int]  # places of each sample
    ask_at: Tensor  # [Q] places whose next token counts
    asked: Tensor  # [Q] that token
    vector_at: Tensor  # [W] places whose states the emotion head takes
    vector_sample: Tensor  # [W]
    reply_at: list[list[int]]  # places of each sample's reply tokens


@dataclass(frozen=True, eq=False)
class Written(Moves):
    """What the talker shall read and write, samples one behind the other. U: units, F: frames, N: samples, P: all places.

    Every place of the row is one of: the sample's beginning, a unit, a frame, a `read`.
    """

    begin_at: Tensor  # [N] places
    emotion: Tensor  # [N] reply emotion, the last one: none told
    unit_at: Tensor  # [U]
    units: Tensor  # [U] ids
    unit_state: Tensor  # [U] index of the thinker's state
    state_seen: Tensor  # [U] 1 where the talker sees that state, else 0
    unit_sample: Tensor  # [U]
    frame_at: Tensor  # [F]
    frames: Tensor  # [F, K] codes
    frame_unit: Tensor  # [F] the unit that was read last
    frame_since: Tensor  # [F] frames since then, this one included
    frame_seen: Tensor  # [F] 1 where the talker sees the codes that it wrote, else 0
    read_at: Tensor  # [R]
    lengths: list[int]  # places of each sample
    ask_at: Tensor  # [Q] places whose next token counts
    asked: Tensor  # [Q] that token: a code of the first codebook, READ or END
    frame_from: Tensor  # [F] the place that each frame is written from


@dataclass(frozen=True, eq=False)
class Spoken:
    """One reply to be spoken: its units, its codes [K, F], and the order in which they come."""

    units: list[Unit]
    codes: np.ndarray[Any, Any]
    steps: list[Step]
    emotion: int  # reply emotion, the number of them: none told
    unseen: frozenset[int] = frozenset()  # frames whose codes are hidden from what comes after them
    thought_seen: bool = True  # whether the talker sees the thinker's states, or units alone


def spoken(
    speller: Speller,
    reply: Sequence[int],
    codes: np.ndarray[Any, Any],
    talker: Talker,
    *,
    emotion: int,
    timed: Sequence[tuple[str, float, float]] = (),
    frame_rate: float,
    by_letters: Callable[[], bool] = lambda: False,
) -> Spoken:
    """A reply's tokens and codes in the talker's order. timed: the synthesizer's words, if it told them; by_letters: see
    Speller.words."""
    words, frames = speller.words(reply, by_letters), codes.shape[1]
    units = [unit for word in words for unit in word]
    if talker.order == "ratio" or not units:
        return Spoken(units, codes, by_ratio(len(units), frames, talker.read, talker.write), emotion)
    texts = speller.word_texts(reply)
    ends = word_ends(texts, timed, frames / frame_rate) if len(texts) == len(words) else None
    letters = [len(word) for word in words]
    shares = frames_by_share(letters, frames) if ends is None else frames_by_times(ends, frames, frame_rate)
    if talker.order == "units":
        return Spoken(units, codes, by_units(_frames_of_units(speller, words, shares)), emotion)
    return Spoken(units, codes, by_words([len(word) for word in words], shares, talker.ahead), emotion)


def _frames_of_units(speller: Speller, words: Sequence[Sequence[Unit]], frames: Sequence[int]) -> list[int]:
    """How many frames each unit has, from those of the words; those of a word that cannot be read are its neighbour's."""
    made: list[int] = []
    left = 0
    for word, count in zip(words, frames, strict=True):
        if word:
            made += frames_by_share([speller.length(unit) for unit in word], count + left)
            left = 0
        elif made:
            made[-1] += count
        else:
            left += count
    return made


def gathered(rows: Sequence[Row], audio_lengths: list[int], speech_of: list[int], states: int) -> Rows:
    """Rows one behind the other, as index tensors."""
    first_state = np.concatenate([[0], np.cumsum(audio_lengths)]).astype(int)
    names = [field.name for field in dataclasses.fields(Rows) if field.name not in ("lengths", "reply_at")]
    out: dict[str, list[int]] = {name: [] for name in names}
    lengths: list[int] = []
    replies: list[list[int]] = []
    at = 0
    for sample, (row, utterance) in enumerate(zip(rows, speech_of, strict=True)):
        tokens = [at + k for k in range(row.before)]
        speech = [at + row.before + k for k in range(row.speech)]
        tokens += [at + k + row.speech for k in range(row.before, len(row.ids))]
        out["ids"] += row.ids
        out["token_at"] += tokens
        out["speech_at"] += speech
        if row.speech:
            out["speech_from"] += range(first_state[utterance], first_state[utterance] + row.speech)
        out["positions"] += row.places
        for k in (k for k, counts in enumerate(row.counts) if counts):
            out["ask_at"].append(tokens[k] - 1)
            out["asked"].append(row.ids[k])
        felt = tokens[row.reply[0] : min(row.reply[1], row.reply[0] + states)]
        out["vector_at"] += felt
        out["vector_sample"] += [sample] * len(felt)
        at += len(row.places)
        lengths.append(len(row.places))
        replies.append(tokens[row.reply[0] : row.reply[1]])
    return Rows(
        lengths=lengths,
        reply_at=replies,
        **{name: torch.tensor(values, dtype=torch.long) for name, values in out.items()},
    )


def written(spoken: Sequence[Spoken], reply_at: Sequence[Sequence[int]], *, read: int, end: int) -> Written:
    """Replies one behind the other. reply_at: the thinker's places of each one's tokens; read, end: those codes."""
    out: dict[str, list[int]] = {name: [] for name in _INDICES}
    lengths: list[int] = []
    frames: list[np.ndarray[Any, Any]] = []
    at = 0
    for sample, (one, places) in enumerate(zip(spoken, reply_at, strict=True)):
        out["begin_at"].append(at)
        out["emotion"].append(one.emotion)
        place, since = at + 1, 0
        for kind, index in one.steps:
            if kind != "unit":
                out["ask_at"].append(place - 1)
                out["asked"].append(int(one.codes[0, index]) if kind == "frame" else end if kind == "end" else read)
            since = since + 1 if kind == "frame" else 0
            if kind in ("unit", "next"):
                out["unit_at"].append(place)
                out["units"].append(one.units[index].id)
                out["unit_state"].append(places[one.units[index].token])
                out["state_seen"].append(one.thought_seen)
                out["unit_sample"].append(sample)
            elif kind == "frame":
                out["frame_at"].append(place)
                out["frame_from"].append(place - 1)
                out["frame_unit"].append(len(out["units"]) - 1)
                out["frame_since"].append(since)
                out["frame_seen"].append(index not in one.unseen)
                frames.append(one.codes[:, index])
            elif kind == "read":
                out["read_at"].append(place)
            place += kind != "end"
        lengths.append(place - at)
        at = place
    tensors = {name: torch.tensor(values, dtype=torch.long) for name, values in out.items()}
    books = len(spoken[0].codes) if spoken else 1
    codes = torch.from_numpy(np.stack(frames).astype(np.int64)) if frames else torch.zeros(0, books, dtype=torch.long)
    return Written(lengths=lengths, frames=codes, **tensors)


_INDICES = tuple(f.name for f in dataclasses.fields(Written) if f.name not in ("lengths", "frames"))
