"""What is measured of one answer. All of it is held against what was truly said and how, never against what the system heard.

An answer that failed counts as wrong wherever something can be right; where there is no sound, nothing is said of its quality.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, get_args

import numpy as np

from cascade.asr.words import word_error_rate, words_of
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Analyzer, Prompt
from cascade.judging.listener import agreement
from cascade.paralinguistics.acoustic import LIMIT, heads
from cascade.reasoning.critic import complaints, empathy, on_topic
from cascade.turn import Cue, Emotion, Reply, Stage, Transcript, Turn
from distill.comparison.instructions import follows
from distill.comparison.listening import Tools, verbatim_share
from distill.comparison.records import Item, Measure
from distill.comparison.statistics import Ratio, Told
from distill.comparison.tone_fit import tone_fit
from distill.teaching.make import known_cues

CueName = Literal["emotion", "age", "gender"]
CUES: tuple[CueName, ...] = get_args(CueName)
STAGE_OF: dict[CueName, Stage] = {"emotion": "emotion", "age": "speaker", "gender": "speaker"}
RIGHT, WRONG = (1.0, 1.0), (0.0, 1.0)
TRUTH = "truth"  # the engine's name of what is known


def _table() -> Iterator[Measure]:
    source = files("distill.comparison") / "data" / "measures.toml"
    for name, row in tomllib.loads(source.read_text(encoding="utf-8")).items():
        yield Measure(name=name, **row)


MEASURES: tuple[Measure, ...] = tuple(_table())  # in the order of the report


@dataclass
class Measured:
    """Of one answer. notes: by measure, why it is low or missing, in one line. listen_back: what the ears heard in its sound."""

    values: dict[str, Ratio] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    listen_back: str | None = None


def values_of(
    item: Item, turn: Turn | None, speech: Waveform | None, tools: Tools, twins: Sequence[Emotion] = ()
) -> Measured:
    """`speech`: of the reply; None: the answer failed. `twins`: the other tones in which the same words were asked.

    Raises EngineFailed, Cancelled.
    """
    found = Measured()
    reply = turn.reply if turn and speech else None
    found.values["answered"] = RIGHT if reply else WRONG
    _heard_words(item, turn, found)
    for cue in CUES:
        _heard_cue(item, turn, cue, found)
    _heard_events(item, turn, found)
    _content(item, turn, reply, twins, found)
    if reply and speech:
        _sound(item, reply, speech, tools, found)
    if reply and turn and tools.judge:
        _opinions(item, turn, tools, found)
    return found


# --- what was heard


def _heard_words(item: Item, turn: Turn | None, found: Measured) -> None:
    if item.text is None or not words_of(item.text):
        return
    if turn and turn.reply and turn.transcript is None:
        found.notes["transcript_wer"] = "it does not tell the words it heard"
        return
    heard = turn.transcript.text if turn and turn.transcript else ""
    found.values["transcript_wer"] = _word_errors(item.text, heard)


def _word_errors(said: str, heard: str) -> Ratio:
    count = len(words_of(said))
    return float(round(word_error_rate(said, heard) * count)), float(count)


def told_of(item: Item, turn: Turn | None, cue: CueName) -> Told | None:
    """What was told of a cue; None where the truth is not known, or where the system tells nothing of it by its kind.

    An answer that failed before it could tell is unknown.
    """
    truth = getattr(item.labels, cue)
    if truth is None:
        return None
    told: Cue | None = getattr(turn.cues, cue) if turn else None
    if told is None:
        return Told(truth, None, None, {}) if turn is None or _failed(turn, STAGE_OF[cue]) else None
    return Told(truth, told.label, told.best, told.probabilities)


def _failed(turn: Turn, stage: Stage) -> bool:
    return turn.reply is None or any(failure.stage == stage for failure in turn.failures)


def _heard_cue(item: Item, turn: Turn | None, cue: CueName, found: Measured) -> None:
    told = told_of(item, turn, cue)
    if told is None:
        if getattr(item.labels, cue) is not None:
            found.notes[f"{cue}_accuracy"] = "it tells nothing of this cue"
        return
    found.values[f"{cue}_accuracy"] = RIGHT if told.told == told.truth else WRONG
    found.values[f"{cue}_best"] = RIGHT if told.best == told.truth else WRONG
    found.values[f"{cue}_told"] = RIGHT if told.told else WRONG


def _heard_events(item: Item, turn: Turn | None, found: Measured) -> None:
    """By kind, whenever they were; one kind counts once."""
    if item.labels.events is None:
        return
    cue = turn.cues.events if turn else None
    if cue is None and turn is not None and not _failed(turn, "events"):
        found.notes["event_recall"] = "it tells nothing of this cue"
        return
    truth = set(item.labels.events)
    told = {event.kind for event in cue.events} if cue and cue.events else set()
    if truth:
        found.values["event_recall"] = (float(len(truth & told)), float(len(truth)))
    if told:
        found.values["event_precision"] = (float(len(truth & told)), float(len(told)))


# --- what was answered


def _content(item: Item, turn: Turn | None, reply: Reply | None, twins: Sequence[Emotion], found: Measured) -> None:
    values = found.values
    if item.check:
        values["instruction_followed"] = RIGHT if reply and follows(item.check, reply.text) else WRONG
    if reply:
        values["reply_words"] = (float(len(words_of(reply.text))), 1.0)
    if item.text is None:
        found.notes["empathy"] = "what was said is not known"
        return
    if twins and item.labels.emotion:
        values["contrast_fit"] = (_wins(item, reply, twins), 1.0)
    values["empathy"] = (_empathy(item, reply, found), 1.0)


def _empathy(item: Item, reply: Reply | None, found: Measured) -> float:
    assert item.text is not None, "asked before"
    prompt = Prompt(Transcript(text=item.text, engine=TRUTH), known_cues(item.labels, item.audio.duration_s))
    if reply is None:
        found.values["situation_fit"] = WRONG
        return 0.0
    faults = complaints(prompt, reply)
    found.values["objections"] = RIGHT if faults else WRONG
    fits = on_topic(prompt, reply)
    if fits is not None:
        found.values["situation_fit"] = RIGHT if fits else WRONG
    if faults:
        found.notes["objections"] = "; ".join(faults)
    return empathy(prompt, reply)


def _wins(item: Item, reply: Reply | None, twins: Sequence[Emotion]) -> float:
    """How often the reply fits its own tone better than a twin's; equal counts half, no reply nothing."""
    if reply is None:
        return 0.0
    assert item.text is not None, "asked before"
    assert item.labels.emotion is not None, "asked before"
    own = tone_fit(reply, item.text, item.labels.emotion).score
    others = [tone_fit(reply, item.text, tone).score for tone in twins]
    return sum(1.0 if own > other else 0.5 * (own == other) for other in others) / len(others)


def twins_of(items: Iterable[Item]) -> dict[str, tuple[Item, ...]]:
    """The other items of each one's contrast set whose tone is another; of the items that have one."""
    sets: dict[str, list[Item]] = {}
    for item in items:
        if item.contrast and item.text and item.labels.emotion:
            sets.setdefault(item.contrast, []).append(item)
    twins = {
        one.id: tuple(other for other in group if other.labels.emotion != one.labels.emotion)
        for group in sets.values()
        for one in group
    }
    return {id: others for id, others in twins.items() if others}


def tones_of(twins: Iterable[Item]) -> tuple[Emotion, ...]:
    return tuple(twin.labels.emotion for twin in twins if twin.labels.emotion)


def contrast_pairs(items: Sequence[Item], replies: Mapping[str, Reply | None]) -> dict[str, Ratio]:
    """By item: of the pairs it is in, how many have both replies fit their own tone better. `replies`: None where one failed."""
    found = {}
    for id, twins in twins_of(items).items():
        one = next(item for item in items if item.id == id)
        right = [
            _wins(one, replies[id], tones_of([twin])) == 1.0 and _wins(twin, replies[twin.id], tones_of([one])) == 1.0
            for twin in twins
        ]
        found[id] = (float(sum(right)), float(len(right)))
    return found


# --- how it sounds


def _sound(item: Item, reply: Reply, speech: Waveform, tools: Tools, found: Measured) -> None:
    found.values["reply_s"] = (speech.duration_s, 1.0)
    if tools.ears and words_of(reply.text):
        found.listen_back = tools.ears.transcribe(speech, cancel=tools.cancel).text
        found.values["reply_wer"] = _word_errors(reply.text, found.listen_back)
        share = verbatim_share(reply.text, tools.expected)
        if share:
            found.notes["reply_wer"] = f"{share:.0%} of its sentences are expected by the ears word for word"
    if tools.emotion:
        meant = agreement(reply.emotion, tools.emotion.analyze(speech, baseline=None, cancel=tools.cancel))
        if meant is None:
            found.notes["reply_emotion_agreement"] = "the analyzer cannot tell"
        else:
            found.values["reply_emotion_agreement"] = (meant, 1.0)
        likeness = _likeness(speech, tools.reference(item.id), tools.emotion, tools.cancel)
        if likeness is not None:
            found.values["voice_similarity"] = (likeness, 1.0)
    for name, scorer in tools.quality.items():
        found.values[name] = (scorer.score(speech, tools.cancel), 1.0)


def _likeness(speech: Waveform, other: Waveform | None, analyzer: Analyzer, cancel: CancelScope) -> float | None:
    if other is None:
        return None
    a, b = (voice_vector(wave, analyzer, cancel) for wave in (speech, other))
    if a is None or b is None or not (size := float(np.linalg.norm(a) * np.linalg.norm(b))):
        return None
    return float(a @ b) / size


def voice_vector(speech: Waveform, analyzer: Any, cancel: CancelScope) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """(D,): the emotion encoder's, else the features the acoustic classifier rests on, each in its standard deviations."""
    if hasattr(analyzer, "embed"):
        return np.asarray(analyzer.embed(speech, cancel=cancel).utterance, np.float64)
    voice = analyzer.analyze(speech, baseline=None, cancel=cancel).voice
    if voice is None:
        return None
    head = heads()["emotion_cold"]
    x = np.array([voice.features[name] for name in head.names])
    return np.asarray(np.clip((x - head.mean) / head.scale, -LIMIT, LIMIT))


def _opinions(item: Item, turn: Turn, tools: Tools, found: Measured) -> None:
    assert tools.judge is not None, "asked before"
    if item.text is None:
        found.notes["judge_emotion"] = found.notes["judge_task"] = "what was said is not known"
        return
    truth = turn.model_copy(
        update={
            "transcript": Transcript(text=item.text, engine=TRUTH),
            "cues": known_cues(item.labels, item.audio.duration_s),
        }
    )
    values, notes = tools.judge.judged(item, truth, tools.cancel)
    found.values |= values
    found.notes |= notes
