"""What a student gives while it answers, in the order it is made: Think, then Text and Audio interleaved, then End."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Ended = Literal["end", "length", "stopped"]


@dataclass(frozen=True)
class Said:
    """An earlier exchange: what the person said and what was answered."""

    user: str
    reply: str


@dataclass(frozen=True)
class Think:
    """What the student made of the speech. A part is None when it is not known.

    text: the think as it stands before the reply ("" without one); probabilities: of the cue heads, by cue and label; sure: 0..1,
    of what was heard (SpeechLM.sureness).
    """

    text: str = ""
    heard: str | None = None
    emotion: str | None = None
    age: str | None = None
    gender: str | None = None
    events: tuple[str, ...] | None = None
    strategy: str | None = None
    reply_emotion: str | None = None
    sure: float | None = None
    probabilities: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """The next piece of the reply's text."""

    text: str


@dataclass(frozen=True, eq=False)
class Audio:
    """The next piece of the reply's speech."""

    samples: np.ndarray[tuple[int], np.dtype[np.float32]]  # [N]
    sample_rate: int  # Hz


@dataclass(frozen=True)
class End:
    """The reply is over. reason: it ended by itself, ran into a limit, or was stopped; steps: by part of the model."""

    reason: Ended
    text: str
    steps: dict[str, int] = field(default_factory=dict)


Event = Think | Text | Audio | End
