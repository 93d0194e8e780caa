"""What a turn's state holds while the graph works on it, and what is told to whoever watches.

The state is checkpointed, so it holds plain JSON values and audio by path, never samples. Keys of a turn are overwritten by
the next one; `history` and `baseline` live as long as the session.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from langgraph.graph.state import CompiledStateGraph

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Speech
from cascade.profiles import Engines
from cascade.turn import AudioRef, Cues, Failure, Stage, Thought, Transcript, Turn
from graphs.stages import Outcome, StageRunner

# The stages of perception: each writes the key of its own name.
Listening = Literal["asr", "emotion", "speaker", "events", "prosody"]


class InputState(TypedDict, total=False):
    """What a caller gives: a typed `text`, or the path of a recording (`wav`), or speech in the context."""

    text: str | None
    wav: str | None
    seed: int
    history: list[dict[str, Any]]  # Exchanges; a session keeps its own


class State(InputState, total=False):
    turn_id: str
    session_id: str
    index: int
    created_at: str
    audio: dict[str, Any] | None  # AudioRef of the user's speech
    asr: dict[str, Any]  # StageRecord of each stage
    emotion: dict[str, Any]
    speaker: dict[str, Any]
    events: dict[str, Any]
    prosody: dict[str, Any]
    respond: dict[str, Any]  # Response
    judging: dict[str, Any]
    transcript: dict[str, Any]
    cues: dict[str, Any]
    attempt: int
    complaints: list[str]
    turn: dict[str, Any]  # the record of the last turn
    baseline: dict[str, Any] | None


class StageRecord(TypedDict):
    """A stage's Outcome as JSON."""

    value: dict[str, Any] | None
    seconds: float
    failure: dict[str, Any] | None


def stage_record(outcome: Outcome[Any]) -> StageRecord:
    value = outcome.value.model_dump(mode="json") if outcome.value is not None else None
    return {
        "value": value,
        "seconds": outcome.seconds,
        "failure": outcome.failure.model_dump(mode="json") if outcome.failure else None,
    }


class Response(TypedDict):
    """What `respond` came to. `spoken`: the sentences that became sound, whether or not the reply was finished."""

    thought: dict[str, Any] | None
    reply: dict[str, Any] | None
    audio: dict[str, Any] | None
    spoken: list[str]
    stopped: bool  # by the person
    failures: list[dict[str, Any]]
    stages_s: dict[str, float]
    first_sound_s: float | None
    total_s: float


@dataclass(frozen=True)
class Known:
    """What is known of a turn beforehand, for a teacher that made it itself: it goes before what is heard.

    `listened`: whether the recognizer hears the turn and its reply all the same, to measure them.
    """

    transcript: Transcript | None = None
    cues: Cues = field(default_factory=Cues)
    listened: bool = True


@dataclass
class Context:
    """What the nodes need beside the state; nothing of it is checkpointed."""

    engines: Engines
    folder: Path  # the session's files
    cancel: CancelScope = field(default_factory=CancelScope)
    runner: StageRunner = field(default_factory=StageRunner)
    gate: bool = False  # teaching: listen_back may send a reply back; chat: it only scores
    baseline: dict[str, Any] | None = None  # a calibration; goes before the session's own
    ears: bool = True  # whether listen_back runs at all
    user_speech: Waveform | None = None  # the turn's audio, if it is in memory already
    known: Known = field(default_factory=Known)
    started: float = field(default_factory=time.perf_counter)  # when the turn began

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started


# What leaves through the stream writer, in the order of a turn.


@dataclass(frozen=True)
class Heard:
    """A stage of perception is done."""

    stage: Stage
    seconds: float
    transcript: Transcript | None = None
    cues: Cues | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Perceived:
    transcript: Transcript | None
    cues: Cues


@dataclass(frozen=True)
class Thinking:
    thought: Thought


@dataclass(frozen=True)
class Sentence:
    """Text that will be spoken; it is not sound yet."""

    index: int
    text: str
    at_s: float


@dataclass(frozen=True)
class Sound:
    """One sentence, spoken. flows: it is the next piece of a reply that is spoken as one, where nobody tells which words are
    in which piece: its text is empty, and no pause comes before it.
    """

    index: int
    text: str
    speech: Speech
    at_s: float
    flows: bool = False


@dataclass(frozen=True)
class Again:
    """A reply was sent back: what was streamed of it is void."""

    complaints: tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """The reply is whole and its audio saved; scores are still to come."""

    audio: AudioRef | None
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Done:
    turn: Turn


TurnGraph = CompiledStateGraph[State, Context, InputState, State]  # takes one turn: the teacher's graph, the student's

Event = Heard | Perceived | Thinking | Sentence | Sound | Again | Answered | Done
