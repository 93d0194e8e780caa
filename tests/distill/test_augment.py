"""Speech made otherwise: resonances move where they are said to, words stay where they were, the same chance gives the same."""

from __future__ import annotations

import numpy as np
import pytest

from distill.training.augment import Augment, stretched, warped
from e2e_model.features import log_mel

RATE = 16_000


def tone(hz: float, seconds: float = 0.5) -> np.ndarray:  # type: ignore[type-arg]
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("hz", [700.0, 2500.0])
def test_a_tone_moves_by_the_factor(hz: float, factor: float) -> None:
    moved = warped(log_mel(tone(hz)), factor)[20].argmax()
    assert abs(int(moved) - int(log_mel(tone(hz * factor))[20].argmax())) <= 1


def test_time_is_stretched_evenly() -> None:
    mel = log_mel(np.concatenate([tone(300), tone(3000), tone(300)]))
    longer = stretched(mel, 1.2)
    assert len(longer) == round(len(mel) * 1.2)
    high = np.flatnonzero(longer.argmax(1) > 40) / len(longer)
    assert high.min() == pytest.approx(1 / 3, abs=0.03)
    assert high.max() == pytest.approx(2 / 3, abs=0.03)


def test_none_changes_nothing_and_chance_repeats() -> None:
    mel = log_mel(tone(500))
    assert np.array_equal(Augment.none()(mel.copy(), np.random.default_rng(0)), mel)
    one, same, other = (Augment()(mel.copy(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert one.shape != other.shape or not np.allclose(one, other)
    assert one.dtype == np.float32
    assert len(one) <= len(mel) * Augment().longest + 1


def test_short_speech() -> None:
    for frames in (1, 2, 3):
        made = Augment()(np.zeros((frames, 80), np.float32), np.random.default_rng(frames))
        assert made.shape[1] == 80
        assert len(made) >= 1
