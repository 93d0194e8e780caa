"""What was heard, in words for a language model: uncertain where it is uncertain, unknown said as unknown."""

from __future__ import annotations

from collections.abc import Sequence

from cascade.engines import Prompt
from cascade.turn import Cue, EventsCue, Prosody, Transcript, VocalEvent

CANNOT_TELL = "unknown, you cannot tell"
UNSURE_WORD = 0.5  # below this posterior a word is named as doubtful
SECOND_GUESS = 0.1  # a second label is worth telling from here on

# Rough bounds of conversational English, only to choose an adjective; the figure stands beside it.
_RATE = ((3.0, "slow"), (5.0, "of usual pace"), (float("inf"), "fast"))
_RANGE = ((2.5, "flat"), (6.0, "moving as usual"), (float("inf"), "moving widely"))
_LEVEL = ((-40.0, "very quiet"), (-30.0, "quiet"), (-15.0, "of usual loudness"), (float("inf"), "loud"))


def evidence(prompt: Prompt) -> dict[str, str]:
    """The fields of prompts/cues.txt."""
    cues = prompt.cues
    return {
        "words": words_in_words(prompt.transcript),
        "emotion": cue_in_words(cues.emotion),
        "age": cue_in_words(cues.age),
        "gender": cue_in_words(cues.gender),
        "events": _events(cues.events),
        "prosody": prosody_in_words(cues.prosody),
    }


def words_in_words(transcript: Transcript) -> str:
    """What was said and how sure its recognition is."""
    text = " ".join(transcript.text.split())
    if not text:
        return "speech was there, but no word of it could be made out"
    if transcript.engine == "typed":
        return f'"{text}" (typed: there is no voice)'
    sure = "" if transcript.confidence is None else f" ({transcript.confidence:.2f} sure)"
    doubtful = [f'"{w.text}" {w.probability:.2f}' for w in transcript.words if w.probability < UNSURE_WORD]
    return f'"{text}"{sure}' + (f"; doubtful words: {', '.join(doubtful)}" if doubtful else "")


def cue_in_words(cue: Cue | None) -> str:
    """A label with its probability and a second guess; unknown where the cue is not sure enough."""
    if cue is None or cue.best is None:
        return CANNOT_TELL
    ranked = sorted(cue.probabilities.items(), key=lambda item: -item[1])
    (first, share), others = ranked[0], ranked[1:]
    if cue.label is None:
        told = ", ".join(f"{label} {p:.2f}" for label, p in ranked[:2])
        return f"{CANNOT_TELL}: not sure enough ({told})"
    second = f"; second guess {others[0][0]}, {others[0][1]:.2f}" if others and others[0][1] >= SECOND_GUESS else ""
    return f"sounds {first}, {share:.2f}{second}"


def _events(cue: EventsCue | None) -> str:
    return CANNOT_TELL if cue is None or cue.events is None else events_in_words(cue.events)


def events_in_words(events: Sequence[VocalEvent]) -> str:
    told = [f"{e.kind.replace('_', ' ')} at {e.start_s:.1f}-{e.end_s:.1f} s ({e.confidence:.2f})" for e in events]
    return ", ".join(told) or "none heard"


def prosody_in_words(prosody: Prosody | None) -> str:
    """Adjectives with their figures; a measure that was not taken is left out."""
    if prosody is None:
        return CANNOT_TELL
    told = [
        _graded(prosody.rate_syllables_s, _RATE, "syllables a second"),
        _graded(prosody.pitch_range_st, _RANGE, "semitones of pitch"),
        _graded(prosody.level_dbfs, _LEVEL, "dBFS"),
        None if prosody.pitch_hz is None else f"pitch about {prosody.pitch_hz:.0f} Hz",
        None if prosody.pauses is None else f"{prosody.pauses} pause{'s' * (prosody.pauses != 1)}",
    ]
    return ", ".join(part for part in told if part) or CANNOT_TELL


def _graded(value: float | None, bounds: Sequence[tuple[float, str]], unit: str) -> str | None:
    if value is None:
        return None
    word = next(word for bound, word in bounds if value < bound)
    return f"{word} ({value:.0f} {unit})" if abs(value) >= 10 else f"{word} ({value:.1f} {unit})"
