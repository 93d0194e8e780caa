"""What flows while a dataset is made: a Scenario (what shall be said, by whom and how) becomes a Sample or a rejection.

A Sample is one row of the dataset: the user's speech, what is known and what was heard of it, the teacher's thought and reply,
the reply's speech, scores, and where all of it came from. Nothing in it depends on when, where or in what order it was made, so
that the same seed and profile give the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import Field

from cascade.audio import Waveform
from cascade.turn import (
    Age,
    Cues,
    Emotion,
    EngineInfo,
    EventKind,
    Exchange,
    Gender,
    Prosody,
    Record,
    Reply,
    ReplyEmotion,
    Scores,
    Thought,
    Transcript,
    Word,
)

Split = Literal["train", "validation", "test"]
Task = Literal["dialogue", "speak", "listen", "write"]
Source = Literal["made", "recorded", "live"]
SPLITS: tuple[Split, ...] = get_args(Split)
TASKS: tuple[Task, ...] = get_args(Task)


class Labels(Record):
    """How a user turn shall sound, or is known to sound. None: not known, and never guessed. `events` (): none on purpose."""

    emotion: Emotion | None = None
    age: Age | None = None
    gender: Gender | None = None
    events: tuple[EventKind, ...] | None = None


class Scenario(Record):
    """One turn to be made. task "dialogue": the user says `text` and the teacher answers; "speak": the voice says `text` in
    `reply_emotion`, for the student's talker alone; "listen": the user says `text`, for the student's ears alone;
    "write": the teacher answers `text` on paper, told how it is said, and nobody speaks.

    `template`: the family of wordings the text comes from, and `contrast`: the set of same words in other tones; no split shares
    one with another. `voice`: a simulated speaker's name; None where there is a `recording`, of a `speaker` who may have a name.
    `intensity`: of the emotion, 0..1. `followed` False: nobody could follow these words, and the teacher shall say so.
    """

    index: int = Field(ge=0)  # its place in the plan
    task: Task = "dialogue"
    split: Split
    source: Source = "made"
    domain: str
    template: str
    contrast: str | None = None
    text: str | None  # None: not known, a recording without its words
    labels: Labels = Labels()
    intensity: float = Field(default=0.7, ge=0, le=1)
    voice: str | None = None
    speaker: str | None = None
    recording: str | None = None  # path, with its sha256 beside it
    recording_sha256: str | None = None
    reply_emotion: ReplyEmotion | None = None
    history: tuple[Exchange, ...] = ()
    followed: bool = True
    seed: int = Field(default=0, ge=0)
    contributor: str | None = None  # of a live turn: whose consent it rests on

    @property
    def id(self) -> str:
        return f"{self.source}-{self.index:08d}"


class Worst(Record):
    """The poorest of the replies that were weighed, text alone: the other half of a preference."""

    text: str
    emotion: ReplyEmotion
    strategy: str
    empathy: float


@dataclass(frozen=True, eq=False)
class Sample:
    """One row, whole. `rejected`: why it is no training target, each reason with its gate's name first; empty when it is one.

    A part is None when it was not made or is not known. `reply_vector`: of the reply's voice, in the space `vector_space` names.
    """

    scenario: Scenario
    user_speech: Waveform | None = None
    user_words: tuple[Word, ...] = ()  # when they are heard; empty where nobody knows
    transcript: Transcript | None = None  # what the recognizer heard; None where that gate did not look
    cues: Cues = field(default_factory=Cues)  # what the analyzers heard, as distributions
    thought: Thought | None = None
    reply: Reply | None = None
    reply_speech: Waveform | None = None
    reply_words: tuple[Word, ...] = ()
    reply_prosody: Prosody | None = None
    reply_vector: tuple[float, ...] | None = None
    vector_space: str | None = None
    scores: Scores | None = None
    user_wer: float | None = None
    user_emotion_agreement: float | None = None  # probability that the analyzer gave to the emotion asked for
    worst: Worst | None = None
    engines: dict[str, EngineInfo] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
