"""Orders of reading and speaking: everything once, nothing spoken before it is read, and words where their times are."""

from __future__ import annotations

import numpy as np
import pytest

from e2e_model.interleave import Step, by_ratio, by_words, frames_by_share, frames_by_times, word_ends


def places(steps: list[Step], kind: str) -> list[int]:
    return [index for step, index in steps if step == kind]


@pytest.mark.parametrize("seed", range(20))
def test_by_words_reads_each_word_ahead_of_its_speech(seed: int) -> None:
    draw = np.random.default_rng(seed)
    count, ahead = int(draw.integers(1, 8)), int(draw.integers(0, 4))
    units, frames = draw.integers(0, 5, count).tolist(), draw.integers(0, 6, count).tolist()
    steps = by_words(units, frames, ahead)
    assert places(steps, "unit") == list(range(sum(units)))
    assert places(steps, "frame") == list(range(sum(frames)))
    assert steps[-1] == ("end", 0)
    assert len(places(steps, "end")) == 1
    assert len(places(steps, "read")) == max(0, count - ahead - 1)
    word_of_frame = np.repeat(np.arange(count), frames)
    read = 0
    for kind, index in steps:
        read += kind == "unit"
        if kind == "frame":
            wanted = sum(units[: word_of_frame[index] + ahead + 1])  # its own word and `ahead` more, no others
            assert read == wanted


@pytest.mark.parametrize("seed", range(20))
def test_by_ratio_takes_turns(seed: int) -> None:
    draw = np.random.default_rng(seed)
    units, frames = int(draw.integers(0, 30)), int(draw.integers(0, 40))
    read, write = int(draw.integers(1, 6)), int(draw.integers(1, 8))
    steps = by_ratio(units, frames, read, write)
    assert places(steps, "unit") == list(range(units))
    assert places(steps, "frame") == list(range(frames))
    assert steps[-1] == ("end", 0)
    seen = 0
    for kind, index in steps:
        seen += kind == "unit"
        if kind == "frame":
            assert seen == min(units, (min(index // write, max(0, -(-units // read) - 1)) + 1) * read)


def test_shares_of_frames_are_all_frames() -> None:
    assert frames_by_times([0.4, 1.0, 1.6], 40, 25) == [10, 15, 15]
    assert frames_by_times([0.4, 0.3, 9.0], 20, 25) == [10, 0, 10]  # times that go back, and beyond the end
    assert frames_by_share([1, 3], 8) == [2, 6]
    assert frames_by_share([0], 5) == [5]  # nothing that could be spelt
    assert frames_by_share([], 0) == [0]
    for seed in range(20):
        draw = np.random.default_rng(seed)
        letters, frames = draw.integers(0, 9, 6).tolist(), int(draw.integers(0, 99))
        assert sum(frames_by_share(letters, frames)) == frames
        assert min(frames_by_share(letters, frames)) >= 0


def test_words_end_where_the_next_begins() -> None:
    timed = [("out", 0.1, 0.3), ("of", 0.3, 0.4), ("here", 0.5, 0.9)]
    assert word_ends(["Out", "of", "here!"], timed, 1.0) == [0.3, 0.5, 1.0]


def test_words_run_together_share_their_room_by_letters() -> None:
    timed = [("get", 0.0, 0.3), ("out", 0.3, 0.6), ("of the", 0.6, 1.2), ("house", 1.2, 2.0)]
    ends = word_ends(["Get", "out", "of", "the", "house."], timed, 2.0)
    assert ends is not None
    assert ends == pytest.approx([0.3, 0.3 + 0.9 * 3 / 8, 0.3 + 0.9 * 5 / 8, 1.2, 2.0])


def test_marks_that_nobody_says_take_little_room() -> None:
    ends = word_ends(["well", "—", "yes"], [("well", 0.0, 0.4), ("yes", 0.5, 1.0)], 1.0)
    assert ends == pytest.approx([0.4, 0.5, 1.0])
    timed = [("yes", 0.2, 0.4), ("no", 0.4, 1.0)]
    assert word_ends(["—", "—", "yes", "no"], timed, 1.0) == pytest.approx([0.1, 0.2, 0.4, 1.0])


def test_too_few_times_are_none() -> None:
    assert word_ends(["one", "two", "three"], [("three", 0.0, 1.0)], 1.0) is None
    assert word_ends([], [], 1.0) is None
