"""A Sample as one row of a table, and a row's digest."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import soundfile

from cascade.audio import Waveform
from cascade.errors import InputError
from cascade.turn import AGES, EMOTIONS, GENDERS, Cue, Cues, EngineInfo, Prosody, Scores, Token, TokenChoice, Word
from distill.teaching.dataset.columns import AUDIO_COLUMNS, ROW_VERSION, pa, schema
from distill.teaching.records import Sample

__all__ = ["digest_of", "digest_of_row", "row_of", "schema", "table_of"]


def table_of(sample: Sample) -> Any:
    """A pyarrow Table of one row, in `schema()`. The same sample gives the same table."""
    return pa.Table.from_pylist([row_of(sample)], schema=schema())


def row_of(sample: Sample) -> dict[str, Any]:
    """Every column by name. What is not known or is no finite number is None."""
    row = {
        **_which(sample),
        **_said(sample),
        **_heard(sample),
        **_answered(sample),
        **_spoken(sample),
        **_scored(sample.scores),
        "user_wer": sample.user_wer,
        "user_emotion_agreement": sample.user_emotion_agreement,
        "engines": _engines(sample.engines),
        "rejected": list(sample.rejected),
        "schema_version": ROW_VERSION,
    }
    return {name: _finite(value) for name, value in row.items()}


def _which(sample: Sample) -> dict[str, Any]:
    scenario = sample.scenario
    names = ("index", "split", "task", "source", "domain", "template", "contrast", "contributor", "recording_sha256")
    return {
        "id": scenario.id,
        **{name: getattr(scenario, name) for name in names},
        "speaker": scenario.voice or scenario.speaker or scenario.contributor,
        "seed": scenario.seed,
        "history": [exchange.model_dump() for exchange in scenario.history],
    }


def _said(sample: Sample) -> dict[str, Any]:
    scenario, labels = sample.scenario, sample.scenario.labels
    by_user = scenario.task != "speak"
    asked = by_user and scenario.source == "made" and labels.emotion is not None  # else the intensity is a mere default
    return {
        "user_audio": _audio(sample.user_speech, scenario.index, "user"),
        "user_duration_s": sample.user_speech.duration_s if sample.user_speech else None,
        "user_text": scenario.text if by_user else None,
        "user_words": _words(sample.user_words),
        "user_emotion": labels.emotion,
        "user_intensity": scenario.intensity if asked else None,
        "user_age": labels.age,
        "user_gender": labels.gender,
        "user_events": None if labels.events is None else list(labels.events),
    }


def _heard(sample: Sample) -> dict[str, Any]:
    heard, cues = sample.transcript, sample.cues
    return {
        "heard_text": heard.text if heard else None,
        "heard_confidence": heard.confidence if heard else None,
        "heard_language": heard.language if heard else None,
        "heard_words": [word.model_dump() for word in heard.words] if heard else None,
        "heard_emotion": cues.emotion.label if cues.emotion else None,
        "heard_age": cues.age.label if cues.age else None,
        "heard_gender": cues.gender.label if cues.gender else None,
        "heard_events": _events(cues),
        "emotion_posterior": _posterior(cues.emotion, EMOTIONS),
        "age_posterior": _posterior(cues.age, AGES),
        "gender_posterior": _posterior(cues.gender, GENDERS),
        **_prosody(cues.prosody, "user"),
    }


def _events(cues: Cues) -> list[dict[str, Any]] | None:
    heard = cues.events.events if cues.events else None
    return None if heard is None else [event.model_dump() for event in heard]


def _posterior(cue: Cue | None, labels: Sequence[str]) -> list[float] | None:
    """A label that the engine does not know has probability 0; no distribution at all is None."""
    return [cue.probabilities.get(label, 0.0) for label in labels] if cue and cue.probabilities else None


def _prosody(prosody: Prosody | None, whose: str) -> dict[str, Any]:
    names = ("pitch_hz", "pitch_range_st", "rate_syllables_s", "level_dbfs", "pause_share", "pauses")
    return {f"{whose}_{name}": getattr(prosody, name) if prosody else None for name in names}


def _answered(sample: Sample) -> dict[str, Any]:
    scenario, thought, reply, worst = sample.scenario, sample.thought, sample.reply, sample.worst
    for_talker = scenario.task == "speak"  # what is asked for is the reply itself
    tokens = reply.tokens if reply else ()
    return {
        "topic": thought.topic if thought else None,
        "think_tag": thought.tag() if thought else None,
        "think_language": thought.language() if thought else None,
        "strategy": thought.strategy if thought else None,
        "reply_text": reply.text if reply else scenario.text if for_talker else None,
        "reply_emotion": reply.emotion if reply else scenario.reply_emotion if for_talker else None,
        "reply_intensity": reply.intensity if reply else scenario.intensity if for_talker else None,
        "reply_rate": reply.rate if reply else None,
        "top_logprobs": [_token(token) for token in tokens] or None,
        "worst_text": worst.text if worst else None,
        "worst_emotion": worst.emotion if worst else None,
        "worst_strategy": worst.strategy if worst else None,
        "worst_empathy": worst.empathy if worst else None,
    }


def _token(token: Token) -> dict[str, Any]:
    def choice(one: Token | TokenChoice) -> dict[str, Any]:
        return {"token": one.text, "id": one.id, "logprob": one.logprob}

    return {**choice(token), "top": [choice(other) for other in token.top]}


def _words(words: Sequence[Word]) -> list[dict[str, Any]] | None:
    return [word.model_dump(include={"text", "start_s", "end_s"}) for word in words] or None


def _spoken(sample: Sample) -> dict[str, Any]:
    speech, vector = sample.reply_speech, sample.reply_vector
    return {
        "reply_audio": _audio(speech, sample.scenario.index, "reply"),
        "reply_duration_s": speech.duration_s if speech else None,
        "reply_words": _words(sample.reply_words),
        **_prosody(sample.reply_prosody, "reply"),
        "reply_vector": None if vector is None else list(vector),
        "vector_space": sample.vector_space,
    }


def _scored(scores: Scores | None) -> dict[str, Any]:
    renamed = {"reply_heard_text": "listen_back", "reply_emotion_agreement": "emotion_agreement"}
    renamed |= {name: name for name in ("reply_wer", "speech_quality", "empathy")}
    lists = ("complaints", "unmeasured")
    return {
        **{name: getattr(scores, field) if scores else None for name, field in renamed.items()},
        **{name: list(getattr(scores, name)) if scores else None for name in lists},
        "opinions": [opinion.model_dump(mode="json") for opinion in scores.opinions] if scores else None,
    }


def _engines(engines: Mapping[str, EngineInfo]) -> str:
    return _json({stage: info.model_dump(mode="json") for stage, info in engines.items()})


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _audio(wave: Waveform | None, index: int, whose: str) -> dict[str, Any] | None:
    """As 16-bit FLAC; a source of 16 bit is kept exactly."""
    if wave is None:
        return None
    pcm = np.clip(np.round(wave.samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, pcm, wave.sample_rate, format="FLAC", subtype="PCM_16")
    return {"bytes": file.getvalue(), "path": f"{index:08d}-{whose}.flac"}


# --- digests


def digest_of(table: Any) -> list[str]:
    """sha256 of each row of a table. Raises InputError: sound that cannot be decoded."""
    return [digest_of_row(row) for row in table.to_pylist()]


def digest_of_row(row: Mapping[str, Any]) -> str:
    """sha256 (hex) of what a row says: columns by name, sound by its samples. Neither the layout of the files nor the version
    of what wrote them counts. Raises InputError: sound that cannot be decoded.
    """
    sounds = {name: _sound(row, name) for name in AUDIO_COLUMNS}
    return hashlib.sha256(_json({**row, **sounds}).encode()).hexdigest()


def _sound(row: Mapping[str, Any], name: str) -> list[Any] | None:
    audio = row[name]
    if audio is None:
        return None
    try:
        samples, rate = soundfile.read(io.BytesIO(audio["bytes"]), dtype="int16")
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise InputError(f"row {row['id']}: its {name} cannot be decoded; make the dataset again") from error
    return [audio["path"], rate, hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()]
