"""What flows through Attune: the records of one turn, frozen, versioned, and written as JSON.

A turn is Transcript + Cues → Thought → Reply, with the audio beside it by path and sha256. **Unknown is a value**: a cue
that an engine cannot tell, or is not sure enough of, has no label; it is never written as a default.
Label sets: the user's emotions, ages, vocal events and the reply emotions of OSUM-EChat (arXiv 2508.09600).
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1

Emotion = Literal["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised", "other"]
Age = Literal["child", "adult", "elder"]
Gender = Literal["female", "male"]
EventKind = Literal["laugh", "cough", "cry", "scream", "sigh", "throat_clearing", "sneeze", "other"]
ReplyEmotion = Literal[
    "joyful", "sorry", "happy", "angry", "surprised", "disgusted", "sad", "afraid", "tearful", "comforting", "neutral"
]
Strategy = Literal["reflect", "validate", "ask", "encourage", "suggest", "celebrate", "clarify", "care"]
Stage = Literal["asr", "emotion", "speaker", "events", "prosody", "reasoning", "tts", "judging"]

EMOTIONS: tuple[Emotion, ...] = get_args(Emotion)
AGES: tuple[Age, ...] = get_args(Age)
GENDERS: tuple[Gender, ...] = get_args(Gender)
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)
REPLY_EMOTIONS: tuple[ReplyEmotion, ...] = get_args(ReplyEmotion)
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
STAGES: tuple[Stage, ...] = get_args(Stage)


class Record(BaseModel):
    """Base of everything that flows: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AudioRef(Record):
    """Audio by path (relative to the record that holds it, or absolute) and content."""

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    sample_rate: int = Field(gt=0)
    duration_s: float = Field(ge=0)


class Word(Record):
    """One word with its time in the audio (seconds) and the recognizer's posterior."""

    text: str
    start_s: float = Field(ge=0)
    end_s: float = Field(ge=0)
    probability: float = Field(default=1.0, ge=0, le=1)


class Transcript(Record):
    """What was said. `text` is empty when speech was there but no word was recognised."""

    text: str
    language: str | None = None
    words: tuple[Word, ...] = ()
    confidence: float | None = Field(default=None, ge=0, le=1)
    engine: str


class Cue(Record):
    """A distribution over one label set. `label` is None (unknown) unless the best label reaches `threshold`.

    `unknown` is the share that the engine itself gave to "cannot tell": with it the probabilities sum to 1.
    """

    labels: ClassVar[tuple[str, ...]] = ()

    probabilities: dict[str, float] = Field(default_factory=dict)
    unknown: float = Field(default=0.0, ge=0, le=1)
    threshold: float = Field(default=0.5, ge=0, le=1)
    engine: str
    reason: str = ""  # why it is unknown, for a person to read

    @model_validator(mode="after")
    def _is_a_distribution(self) -> Self:
        illegal = sorted(set(self.probabilities) - set(self.labels))
        if illegal:
            raise ValueError(f"labels {illegal} are not in {list(self.labels)}")
        total = sum(self.probabilities.values()) + self.unknown
        bad = any(not 0 <= p <= 1 for p in self.probabilities.values())
        if self.probabilities and (bad or not math.isclose(total, 1.0, abs_tol=1e-3)):
            raise ValueError(f"probabilities must each lie in 0..1 and sum to 1, they sum to {total:.4f}")
        return self

    @property
    def best(self) -> str | None:
        """The most probable label, sure or not; None when the engine gave no distribution."""
        return max(self.probabilities, key=lambda k: self.probabilities[k]) if self.probabilities else None

    @property
    def confidence(self) -> float | None:
        return self.probabilities[self.best] if self.best else None

    @property
    def label(self) -> str | None:
        """The label if it is sure enough, else None: unknown."""
        return self.best if self.confidence is not None and self.confidence >= self.threshold else None


class EmotionCue(Cue):
    labels: ClassVar[tuple[str, ...]] = EMOTIONS


class AgeCue(Cue):
    labels: ClassVar[tuple[str, ...]] = AGES


class GenderCue(Cue):
    labels: ClassVar[tuple[str, ...]] = GENDERS


class VocalEvent(Record):
    kind: EventKind
    start_s: float = Field(ge=0)
    end_s: float = Field(ge=0)
    confidence: float = Field(ge=0, le=1)


class EventsCue(Record):
    """Vocal events with times. `events` is None when nobody can tell, empty when none was heard."""

    events: tuple[VocalEvent, ...] | None = None
    engine: str
    reason: str = ""


class Prosody(Record):
    """How the voice moved. A measure that could not be taken is None."""

    pitch_hz: float | None = Field(default=None, gt=0)  # median over voiced frames
    pitch_range_st: float | None = Field(default=None, ge=0)  # 10th to 90th percentile, semitones
    rate_syllables_s: float | None = Field(default=None, ge=0)  # syllable nuclei per second of speech
    level_dbfs: float | None = None  # mean level of speech, 0 dB = full scale sine's peak
    pause_share: float | None = Field(default=None, ge=0, le=1)  # share of silence between first and last speech
    pauses: int | None = Field(default=None, ge=0)  # silences of 200 ms and more
    engine: str


class Baseline(Record):
    """How one speaker sounds when calm, in the features of one analyzer; later turns are read relative to it."""

    engine: str
    source: Literal["calibration", "session"]
    features: dict[str, float]
    clips: int = Field(ge=1)


class Cues(Record):
    """How it was said. A part is None when its stage has not run or failed."""

    emotion: EmotionCue | None = None
    age: AgeCue | None = None
    gender: GenderCue | None = None
    events: EventsCue | None = None
    prosody: Prosody | None = None
    voice: Baseline | None = None  # this turn's own features, from which a session's baseline grows

    def merged(self, other: Cues) -> Cues:
        """Both together; where both have a part, this one's stays."""
        return Cues(
            **{k: mine if (mine := getattr(self, k)) is not None else getattr(other, k) for k in Cues.model_fields}
        )


class Thought(Record):
    """Dual think (OSUM-EChat): what was said, how it was said, and from it the way to answer."""

    heard: str
    emotion: Emotion | None = None
    age: Age | None = None
    gender: Gender | None = None
    events: tuple[EventKind, ...] | None = None
    topic: str | None = None  # what it is about, in the reasoner's own terms
    strategy: Strategy
    reply_emotion: ReplyEmotion
    intensity: float = Field(default=0.7, ge=0, le=1)  # of the reply emotion
    rate: float = Field(default=1.0, gt=0.3, lt=3)  # 1 = the voice's usual speed
    reasoning: str = Field(description="the language form: one short free paragraph")

    def tag(self) -> str:
        """The tag form: one line; an unknown cue is written as unknown."""
        events = "unknown" if self.events is None else "+".join(self.events) or "none"
        cues = "".join(
            f"<{name}>{value or 'unknown'}"
            for name, value in (
                ("age", self.age),
                ("gender", self.gender),
                ("emotion", self.emotion),
                ("event", events),
            )
        )
        return f"<heard>{self.heard}{cues}<strategy>{self.strategy}<reply>{self.reply_emotion}"

    def language(self) -> str:
        """The language form: the reasoning as a paragraph."""
        return self.reasoning


class TokenChoice(Record):
    """One token a language model could have written. id: in its own vocabulary, None where it is not told."""

    text: str
    id: int | None = None
    logprob: float


class Token(Record):
    """A piece a language model wrote, and what it might have written instead, most probable first."""

    text: str
    id: int | None = None
    logprob: float | None = None
    top: tuple[TokenChoice, ...] = ()


class Reply(Record):
    """The answer to be spoken."""

    text: str = Field(min_length=1)
    emotion: ReplyEmotion
    intensity: float = Field(default=0.7, ge=0, le=1)
    rate: float = Field(default=1.0, gt=0.3, lt=3)
    tokens: tuple[Token, ...] = ()  # as a language model wrote the text; empty where the reasoner is none


class Exchange(Record):
    """What a later turn needs to know of an earlier one."""

    said: str
    emotion: Emotion | None = None
    strategy: Strategy | None = None
    replied: str  # as far as it was heard
    reply_emotion: ReplyEmotion | None = None
    topic: str | None = None


class Opinion(Record):
    """A language model's judgement on one scale: the mean of `scores`, each asked for anew, with the first one's reason."""

    scale: Literal["emotion_1_5", "task_0_100"]
    task: Literal["emotion", "age", "gender", "event", "several"] | None = None  # what the 0–100 scale looked at
    score: float
    scores: tuple[float, ...]
    reason: str
    judge: str


class Scores(Record):
    """What the judge measured on a reply. None: not measured."""

    listen_back: str | None = None  # what a recognizer heard in the reply's audio
    reply_wer: float | None = Field(default=None, ge=0)
    emotion_agreement: float | None = Field(default=None, ge=0, le=1)
    speech_quality: float | None = Field(default=None, ge=1, le=5)  # mean opinion score, predicted
    opinions: tuple[Opinion, ...] = ()
    empathy: float | None = Field(default=None, ge=0, le=1)
    complaints: tuple[str, ...] = ()  # each one is a reason to say it again
    unmeasured: tuple[str, ...] = ()  # what was asked for and could not be had, with the reason
    engine: str


class Failure(Record):
    """A stage that did not do its work, in one line for a person."""

    stage: Stage
    kind: Literal["unavailable", "failed", "timeout", "rejected"]
    message: str


class EngineInfo(Record):
    """Which engine served a stage: enough to make the turn again."""

    name: str
    version: str
    options: dict[str, Any] = Field(default_factory=dict)


class Timings(Record):
    """Seconds since the turn began, or lengths in seconds, as named."""

    stages_s: dict[str, float] = Field(default_factory=dict)
    first_sound_s: float | None = None
    total_s: float = 0.0

    def real_time_factor(self, reply_s: float) -> float | None:
        """Seconds of work per second of reply speech."""
        return self.total_s / reply_s if reply_s > 0 else None


class Turn(Record):
    """One exchange, whole. A turn with a failure can be shown; it can never become a training target."""

    schema_version: int = SCHEMA_VERSION
    id: str
    session_id: str
    index: int = Field(ge=0)
    created_at: datetime
    source: Literal["speech", "text"]
    user_audio: AudioRef | None = None
    transcript: Transcript | None = None
    cues: Cues = Cues()
    thought: Thought | None = None
    reply: Reply | None = None
    reply_audio: AudioRef | None = None
    heard_text: str | None = None  # how much of the reply was heard, if the person stopped it
    timings: Timings = Timings()
    engines: dict[Stage, EngineInfo] = Field(default_factory=dict)
    seed: int = 0
    failures: tuple[Failure, ...] = ()
    scores: Scores | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_schema(cls, data: Any) -> Any:
        version = data.get("schema_version", SCHEMA_VERSION) if isinstance(data, dict) else SCHEMA_VERSION
        if version != SCHEMA_VERSION:
            raise ValueError(f"turn schema version {version!r}; this Attune reads version {SCHEMA_VERSION}")
        return data

    @model_validator(mode="after")
    def _source_has_its_content(self) -> Self:
        if self.source == "speech" and self.user_audio is None:
            raise ValueError("a spoken turn needs user_audio")
        if self.source == "text" and self.user_audio is not None:
            raise ValueError("a typed turn has no user_audio")
        return self

    @property
    def is_target(self) -> bool:
        """Whether it may be learnt from: whole, heard to the end, spoken, and nothing failed."""
        parts = (self.transcript, self.thought, self.reply, self.reply_audio)
        return not self.failures and self.heard_text is None and all(part is not None for part in parts)

    def problems_of_audio(self, folder: Path) -> list[str]:
        """The dear check: read the audio and compare. Paths are taken relative to `folder`. Empty when all is well."""
        from cascade.audio import problems_of_ref

        refs = {"user_audio": self.user_audio, "reply_audio": self.reply_audio}
        return [
            f"{name}: {why}" for name, ref in refs.items() if ref is not None for why in problems_of_ref(ref, folder)
        ]
