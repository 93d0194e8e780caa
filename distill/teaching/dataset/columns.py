"""The columns of the dataset, each with its type and what it means; the card prints this table.

Null means: not known, not measured, or not there. It is never replaced by a default.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from cascade.errors import EngineUnavailable
from cascade.needs import extra

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise EngineUnavailable(f"a dataset's files need pyarrow, which is not installed: {extra('teach')}") from error

__all__ = ["AUDIO_COLUMNS", "COLUMNS", "GROUPS", "ROW_VERSION", "pa", "pq", "schema", "shown_type"]

ROW_VERSION = 2  # of these columns


@dataclass(frozen=True)
class Column:
    """One column. `type`: in Arrow; `about`: for a reader of the card."""

    name: str
    type: Any
    about: str


TEXT, WHOLE, REAL = pa.string(), pa.int64(), pa.float64()
TEXTS, VECTOR = pa.list_(pa.string()), pa.list_(pa.float32())
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as Hugging Face datasets stores it


def _records(*fields: tuple[str, Any]) -> Any:
    return pa.list_(pa.struct(list(fields)))


def _voice(whose: str) -> tuple[Column, ...]:
    """How a voice moved."""
    return (
        Column(f"{whose}_pitch_hz", REAL, "median over voiced frames"),
        Column(f"{whose}_pitch_range_st", REAL, "10th to 90th percentile, semitones"),
        Column(f"{whose}_rate_syllables_s", REAL, "syllable nuclei per second of speech"),
        Column(f"{whose}_level_dbfs", REAL, "mean level of speech"),
        Column(f"{whose}_pause_share", REAL, "share of silence between first and last speech"),
        Column(f"{whose}_pauses", WHOLE, "silences of 200 ms and more"),
    )


SPAN = (("start_s", REAL), ("end_s", REAL))
WORDS = _records(("text", TEXT), *SPAN)
HEARD_WORDS = _records(("text", TEXT), *SPAN, ("probability", REAL))
EVENTS = _records(("kind", TEXT), *SPAN, ("confidence", REAL))
EXCHANGES = _records(*((name, TEXT) for name in ("said", "emotion", "strategy", "replied", "reply_emotion", "topic")))
CHOICE = (("token", TEXT), ("id", WHOLE), ("logprob", REAL))
TOKENS = _records(*CHOICE, ("top", _records(*CHOICE)))
OPINIONS = _records(
    ("scale", TEXT), ("task", TEXT), ("score", REAL), ("scores", pa.list_(REAL)), ("reason", TEXT), ("judge", TEXT)
)

GROUPS: dict[str, tuple[Column, ...]] = {
    "Which row": (
        Column("id", TEXT, "source and index: unique"),
        Column("index", WHOLE, "place in the plan"),
        Column("split", TEXT, "train, validation or test; of a rejected row: where it would have gone"),
        Column(
            "task",
            TEXT,
            "dialogue: a person is answered; speak: a text for the talker; listen: a person, no answer; write: on paper",
        ),
        Column("source", TEXT, "made (synthetic), recorded (your own recordings) or live (given by a contributor)"),
        Column("domain", TEXT, "what it is about"),
        Column("template", TEXT, "family of wordings; no split shares one with another"),
        Column("contrast", TEXT, "set of the same words in other tones; no split shares one; null: in no set"),
        Column("speaker", TEXT, "the simulated voice, or the contributor; null: not known"),
        Column("contributor", TEXT, "of a live turn: whose consent it rests on"),
        Column("recording_sha256", TEXT, "of a recording's file"),
        Column("seed", WHOLE, "all chance in this row comes from it"),
        Column("history", EXCHANGES, "earlier turns of the conversation, oldest first; empty: it begins here"),
    ),
    "What the user said: as asked for, or as known": (
        Column("user_audio", AUDIO, "FLAC, 16 bit, mono, at its own rate; null for task speak"),
        Column("user_duration_s", REAL, "its length"),
        Column("user_text", TEXT, "what was really said"),
        Column("user_words", WORDS, "with times (seconds), from the synthesizer; null: not known"),
        Column("user_emotion", TEXT, "the emotion it was said in"),
        Column("user_intensity", REAL, "0 to 1, of that emotion, as asked for"),
        Column("user_age", TEXT, "child, adult or elder"),
        Column("user_gender", TEXT, "female or male"),
        Column("user_events", TEXTS, "vocal events (laugh, sigh …); empty: none, on purpose"),
    ),
    "What was heard of it": (
        Column("heard_text", TEXT, "the recognizer's words; null where it did not listen"),
        Column("heard_confidence", REAL, "0 to 1, the recognizer's own"),
        Column("heard_language", TEXT, "code of the language"),
        Column("heard_words", HEARD_WORDS, "with times (seconds) and posteriors"),
        Column("heard_emotion", TEXT, "the analyzer's label where it was sure enough"),
        Column("heard_age", TEXT, "likewise"),
        Column("heard_gender", TEXT, "likewise"),
        Column("heard_events", EVENTS, "vocal events with times; empty: none was heard; null: nobody could tell"),
        Column(
            "emotion_posterior",
            VECTOR,
            "over angry, disgusted, fearful, happy, neutral, sad, surprised, other; what lacks to 1: “cannot tell”",
        ),
        Column("age_posterior", VECTOR, "over child, adult, elder; likewise"),
        Column("gender_posterior", VECTOR, "over female, male; likewise"),
        *_voice("user"),
    ),
    "What the teacher thought and answered": (
        Column("topic", TEXT, "what it is about, in the teacher's terms"),
        Column("think_tag", TEXT, "the thought as tags, one line"),
        Column("think_language", TEXT, "the thought as a paragraph"),
        Column("strategy", TEXT, "reflect, validate, ask, encourage, suggest, celebrate, clarify or care"),
        Column("reply_text", TEXT, "what is answered; for task speak: the text to be spoken"),
        Column("reply_emotion", TEXT, "one of eleven, how it is spoken"),
        Column("reply_intensity", REAL, "0 to 1, of that emotion"),
        Column("reply_rate", REAL, "1 = the voice's usual speed"),
        Column("top_logprobs", TOKENS, "the reply's tokens as a language model wrote them, with alternatives"),
        Column("worst_text", TEXT, "the poorest of the replies that were weighed: the other half of a preference"),
        Column("worst_emotion", TEXT, "its reply emotion"),
        Column("worst_strategy", TEXT, "its strategy"),
        Column("worst_empathy", REAL, "its empathy by the rubric, 0 to 1"),
    ),
    "The reply's voice": (
        Column("reply_audio", AUDIO, "FLAC, 16 bit, mono, at its own rate"),
        Column("reply_duration_s", REAL, "its length"),
        Column("reply_words", WORDS, "with times (seconds), from the synthesizer"),
        *_voice("reply"),
        Column("reply_vector", VECTOR, "emotional features of the reply's voice"),
        Column("vector_space", TEXT, "whose features: vectors of different spaces do not compare"),
    ),
    "Scores": (
        Column("user_wer", REAL, "word error rate of heard_text against user_text"),
        Column("user_emotion_agreement", REAL, "probability that the analyzer gave to user_emotion"),
        Column("reply_heard_text", TEXT, "what a recognizer heard in reply_audio"),
        Column("reply_wer", REAL, "word error rate of that against reply_text"),
        Column("reply_emotion_agreement", REAL, "0 to 1: how likely the voice is taken for reply_emotion"),
        Column("speech_quality", REAL, "predicted mean opinion score of the reply, 1 to 5"),
        Column("empathy", REAL, "0 to 1, by a rubric"),
        Column("opinions", OPINIONS, "a language model's judgements"),
        Column("complaints", TEXTS, "the judge's; null where no judge looked"),
        Column("unmeasured", TEXTS, "what the judge was asked for and could not measure, with the reason"),
    ),
    "Where it comes from": (
        Column("engines", TEXT, "JSON: engine, version and options of each stage"),
        Column("rejected", TEXTS, "why it is no training target, each with its gate's name first; empty: it is one"),
        Column("schema_version", pa.int32(), f"of these columns: {ROW_VERSION}"),
    ),
}
COLUMNS: tuple[Column, ...] = tuple(column for group in GROUPS.values() for column in group)
AUDIO_COLUMNS = tuple(column.name for column in COLUMNS if column.type == AUDIO)


@cache
def schema() -> Any:
    """The Arrow schema, with the key by which `datasets.load_dataset("parquet", …)` sees the audio as audio."""
    features = {column.name: feature(column.type) for column in COLUMNS}
    about = json.dumps({"info": {"features": features}}, sort_keys=True)
    return pa.schema([(column.name, column.type) for column in COLUMNS], metadata={"huggingface": about})


def feature(kind: Any) -> Any:
    """An Arrow type as Hugging Face datasets (4 or newer) writes it down."""
    if kind == AUDIO:
        return {"_type": "Audio"}
    if pa.types.is_list(kind):
        return {"feature": feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: feature(field.type) for field in kind}
    names = {"double": "float64", "float": "float32"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


def shown_type(kind: Any) -> str:
    """A type for a person to read."""
    if kind == AUDIO:
        return "audio"
    if pa.types.is_list(kind):
        return f"list of {shown_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(field.name for field in kind) + "}"
    return {"double": "float64", "float": "float32"}.get(str(kind), str(kind))
