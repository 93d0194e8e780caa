"""From what was said and how it sounded to a way of answering.

The strategies follow Hill's helping skills (exploration before insight before action; Helping Skills, 2009) and the
support strategies of ESConv (Liu et al., ACL 2021): first reflect, validate and ask, suggestions only later or when
asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from cascade.reasoning.lexica import acts
from cascade.reasoning.understanding import Understanding
from cascade.turn import Age, Cues, Emotion, EventKind, Exchange, Gender, ReplyEmotion, Strategy

_EVENT_SURE = 0.6  # a vocal event is spoken of from here on
LEANS = 0.6  # probability of all unpleasant (or all pleasant) emotions together from which an unsure voice leans
NOTICE_SURE = 0.6  # a mismatch of words and voice is spoken of from here on

# (valence, tone) → reply emotion, strategies in the order of a conversation. Anger is never answered with anger.
_TABLE: dict[tuple[str, str], tuple[ReplyEmotion, tuple[Strategy, ...]]] = {
    ("good", "happy"): ("joyful", ("celebrate", "ask", "celebrate")),
    ("good", "surprised"): ("surprised", ("ask", "celebrate")),
    ("good", "neutral"): ("happy", ("ask", "celebrate", "reflect")),
    ("good", "unknown"): ("happy", ("celebrate", "ask", "reflect")),
    ("good", "sad"): ("comforting", ("ask", "reflect", "validate")),
    ("good", "fearful"): ("comforting", ("encourage", "validate", "ask")),
    ("good", "angry"): ("neutral", ("validate", "ask", "reflect")),
    ("good", "disgusted"): ("neutral", ("ask", "validate")),
    ("bad", "sad"): ("comforting", ("reflect", "validate", "ask", "suggest", "encourage")),
    ("bad", "fearful"): ("comforting", ("encourage", "validate", "ask", "suggest")),
    ("bad", "angry"): ("neutral", ("validate", "ask", "reflect", "suggest")),
    ("bad", "disgusted"): ("sorry", ("validate", "ask", "reflect")),
    ("bad", "surprised"): ("comforting", ("ask", "reflect", "validate", "suggest")),
    ("bad", "happy"): ("comforting", ("ask", "reflect")),
    ("bad", "neutral"): ("sorry", ("reflect", "ask", "validate", "suggest")),
    ("bad", "unknown"): ("comforting", ("reflect", "validate", "ask", "suggest", "encourage")),
    ("mixed", "happy"): ("happy", ("reflect", "ask")),
    ("mixed", "angry"): ("neutral", ("validate", "ask", "reflect")),
    ("mixed", "any"): ("comforting", ("reflect", "ask", "validate", "encourage")),
    ("hope", "happy"): ("happy", ("encourage", "ask")),
    ("hope", "surprised"): ("happy", ("ask", "encourage")),
    ("hope", "angry"): ("neutral", ("validate", "ask")),
    ("hope", "sad"): ("comforting", ("encourage", "reflect", "ask")),
    ("hope", "fearful"): ("comforting", ("encourage", "validate", "ask")),
    ("hope", "any"): ("neutral", ("encourage", "ask", "reflect")),
    ("neutral", "happy"): ("happy", ("ask", "reflect")),
    ("neutral", "sad"): ("comforting", ("reflect", "ask", "validate")),
    ("neutral", "fearful"): ("comforting", ("validate", "ask", "encourage")),
    ("neutral", "angry"): ("neutral", ("validate", "ask")),
    ("neutral", "surprised"): ("surprised", ("ask", "reflect")),
    ("neutral", "disgusted"): ("sorry", ("validate", "ask")),
    ("neutral", "any"): ("neutral", ("ask", "reflect")),
}
_RATES = {"sad": 0.9, "fearful": 0.92, "angry": 0.95, "disgusted": 0.97, "happy": 1.05, "surprised": 1.03}
_PLEASANT = {"happy", "surprised"}
_UNPLEASANT = {"sad", "angry", "fearful", "disgusted"}


Leaning = Literal["uneasy", "bright", ""]


@dataclass(frozen=True)
class Hearing:
    """The cues that are sure enough to act on."""

    tone: str  # a user emotion, or "unknown"
    tone_from: str  # voice, event, words, nothing
    confidence: float | None
    emotion: Emotion | None
    age: Age | None
    events: tuple[EventKind, ...] | None
    gender: Gender | None = None  # goes into the tag; no wording depends on it
    leaning: Leaning = ""


@dataclass(frozen=True)
class Plan:
    strategy: Strategy
    emotion: ReplyEmotion
    intensity: float
    rate: float
    mood: str  # the valence the wording goes by: good, bad, mixed, hope, neutral
    agrees: bool  # words and voice


def hear(cues: Cues, understood: Understanding) -> Hearing:
    """The voice first, then a clear vocal event, then the feeling the person named."""
    emotion = cast("Emotion | None", cues.emotion.label) if cues.emotion else None
    age = cast("Age | None", cues.age.label) if cues.age else None
    events = _events(cues)
    confidence = cues.emotion.confidence if cues.emotion and emotion else None
    tone, source = _tone(emotion, events, understood.felt_emotion)
    gender = cast("Gender | None", cues.gender.label) if cues.gender else None
    sure = confidence if source == "voice" else None
    return Hearing(tone, source, sure, emotion, age, events, gender, _leaning(cues) if tone == "unknown" else "")


def _leaning(cues: Cues) -> Leaning:
    """Which emotion it is may be unknown, and yet be surely no pleasant one; then the voice of the reply goes by that."""
    odds = cues.emotion.probabilities if cues.emotion else {}
    if sum(odds.get(name, 0.0) for name in _UNPLEASANT) >= LEANS:
        return "uneasy"
    return "bright" if sum(odds.get(name, 0.0) for name in _PLEASANT) >= LEANS else ""


def _events(cues: Cues) -> tuple[EventKind, ...] | None:
    if cues.events is None or cues.events.events is None:
        return None
    sure = (event.kind for event in cues.events.events if event.confidence >= _EVENT_SURE)
    return tuple(dict.fromkeys(sure))


def _tone(emotion: Emotion | None, events: Sequence[str] | None, felt: str | None) -> tuple[str, str]:
    if emotion not in (None, "other"):
        return str(emotion), "voice"
    if events and "cry" in events:
        return "sad", "event"
    if felt:
        return felt, "words"
    return "unknown", "nothing"


def agree(valence: str, tone: str) -> bool:
    """Whether the words' valence and the voice point the same way."""
    return not (
        (valence == "good" and tone in _UNPLEASANT) or (valence == "bad" and tone == "happy") or
        (valence == "neutral" and tone in _UNPLEASANT)
    )  # fmt: skip


def mood_of(understood: Understanding) -> str:
    return "hope" if understood.stance == "hope" and understood.valence == "neutral" else understood.valence


def plan(understood: Understanding, heard: Hearing, history: Sequence[Exchange], attempt: int) -> Plan:
    """Choose strategy, reply emotion, intensity and rate."""
    mood = mood_of(understood)
    if mood == "good" and heard.leaning == "uneasy":
        mood = "neutral"  # good news in a voice that is surely not glad: no congratulations
    emotion, choices = _row(mood, heard.tone)
    strategy = _pick(choices, understood, history, attempt)
    if understood.act:
        row = acts()[understood.act]
        strategy, emotion = row["strategy"], _act_emotion(row["emotion"], heard.tone)
    if understood.wants_advice and not understood.act:
        strategy, emotion = "suggest", "neutral" if emotion in ("surprised", "joyful") else emotion
    if strategy == "celebrate" and (mood != "good" or heard.tone in _UNPLEASANT or heard.leaning == "uneasy"):
        strategy = "ask"
    emotion = leant(emotion, heard)
    return Plan(strategy, emotion, intensity(heard), rate(heard), mood, agree(understood.valence, heard.tone))


def leant(emotion: ReplyEmotion, heard: Hearing) -> ReplyEmotion:
    """The reply emotion, moved towards where an unsure voice leans; words of its own it gets only from a sure one."""
    if heard.leaning == "uneasy" and emotion in ("neutral", "happy", "joyful", "surprised"):
        return "comforting"
    return "happy" if heard.leaning == "bright" and emotion == "neutral" else emotion


def _row(mood: str, tone: str) -> tuple[ReplyEmotion, tuple[Strategy, ...]]:
    return _TABLE.get((mood, tone)) or _TABLE[(mood, "any")]


def _act_emotion(usual: ReplyEmotion, tone: str) -> ReplyEmotion:
    """A sad or frightened voice is answered softly whatever it says; a happy greeting happily."""
    if tone in ("sad", "fearful"):
        return "comforting"
    return "neutral" if tone in ("angry", "disgusted") else "happy" if tone == "happy" else usual


def _pick(
    choices: Sequence[Strategy], understood: Understanding, history: Sequence[Exchange], attempt: int
) -> Strategy:
    """Further along on a matter, further along the list; never the same twice running unless it is a celebration."""
    depth = 0
    for exchange in reversed(history):
        if understood.topic is None or exchange.topic != understood.topic:
            break
        depth += 1
    at = (depth + attempt) % len(choices)
    last = history[-1].strategy if history else None
    if choices[at] == last and last != "celebrate" and len(choices) > 1:
        at = (at + 1) % len(choices)
    return choices[at]


def intensity(heard: Hearing) -> float:
    """0.5 when the voice is unknown, up to 0.9 when it is certain."""
    return 0.5 if heard.confidence is None else round(min(0.9, 0.45 + 0.45 * heard.confidence), 2)


def rate(heard: Hearing) -> float:
    """Slower for a sad or frightened voice, and a little slower for the very young and the old."""
    return round(_RATES.get(heard.tone, 1.0) * (0.95 if heard.age in ("child", "elder") else 1.0), 3)
