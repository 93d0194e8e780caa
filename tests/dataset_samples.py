"""Samples of every kind, small and made on the spot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cascade.audio import Waveform
from cascade.turn import (
    AgeCue,
    Cues,
    EmotionCue,
    EngineInfo,
    EventsCue,
    Exchange,
    GenderCue,
    Opinion,
    Prosody,
    Reply,
    Scores,
    Thought,
    Token,
    TokenChoice,
    Transcript,
    VocalEvent,
    Word,
)
from distill.teaching.dataset.rows import table_of
from distill.teaching.dataset.shards import REJECTED, write_shard
from distill.teaching.records import SPLITS, Labels, Sample, Scenario, Worst

TONES = {"sad": ("validate", "comforting"), "happy": ("celebrate", "joyful"), "angry": ("reflect", "neutral")}
ENGINES = {
    "asr": EngineInfo(name="pocketsphinx", version="5.1.1"),
    "reasoning": EngineInfo(name="counsellor", version="1", options={"candidates": 2}),
    "tts": EngineInfo(name="espeak", version="1.52", options={"voice": "f2"}),
}


def tone(hz: float, seconds: float, rate: int) -> Waveform:
    """Samples that 16 bits hold exactly."""
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return Waveform((np.round(wave * 32768) / 32768).astype(np.float32), rate)


def scenario(index: int, **changes: Any) -> Scenario:
    """Every three in a row: the same words in three tones; splits change with the set."""
    number = index // 3
    given: dict[str, Any] = {
        "index": index,
        "split": SPLITS[number % 3],
        "domain": ("work", "pets")[number % 2],
        "template": f"template-{number}",
        "contrast": f"set-{number}",
        "text": f"Well, that was thing number {number}.",
        "labels": Labels(emotion=tuple(TONES)[index % 3], age="adult", gender="female", events=()),
        "voice": f"voice-{number}",
        "seed": 1000 + index,
    }
    return Scenario(**given | changes)


def sample(
    index: int, *, rejected: tuple[str, ...] = (), parts: dict[str, Any] | None = None, **changes: Any
) -> Sample:
    """A dialogue with every part; `changes`: of the scenario, `parts`: of the sample."""
    about = scenario(index, **changes)
    strategy, emotion = TONES[about.labels.emotion or "sad"]
    text = f"That sounds like a lot, number {index}."
    given: dict[str, Any] = {
        "user_speech": tone(200 + index, 0.4, 16_000),
        "user_words": (Word(text="So", start_s=0.05, end_s=0.2),),
        "transcript": Transcript(
            text="well that was",
            confidence=0.5,
            engine="pocketsphinx",
            words=(Word(text="well", start_s=0.1, end_s=0.2),),
        ),
        "cues": Cues(
            emotion=EmotionCue(probabilities={"sad": 0.6, "happy": 0.2}, unknown=0.2, engine="acoustic"),
            gender=GenderCue(probabilities={"female": 0.75, "male": 0.25}, engine="acoustic"),
            prosody=Prosody(pitch_hz=180.0 + index, level_dbfs=-20.5, pauses=1, engine="prosody"),
        ),
        "thought": Thought(
            heard=about.text or "",
            emotion="sad",
            strategy=strategy,
            reply_emotion=emotion,
            reasoning="So it was. I say so.",
        ),
        "reply": Reply(text=text, emotion=emotion, intensity=0.6, rate=0.9),
        "reply_speech": tone(300 + index, 0.5, 22_050),
        "reply_words": (Word(text="That", start_s=0.0, end_s=0.25),),
        "reply_prosody": Prosody(pitch_hz=150.0, engine="prosody"),
        "reply_vector": (0.25, -1.5),
        "vector_space": "acoustic 1",
        "scores": Scores(reply_wer=0.125, emotion_agreement=0.5, empathy=0.8, engine="listener"),
        "user_wer": 0.5,
        "user_emotion_agreement": 0.6,
        "worst": Worst(text="I see.", emotion="neutral", strategy="ask", empathy=0.2),
        "engines": ENGINES,
        "rejected": rejected,
    }
    return Sample(scenario=about, **given | (parts or {}))


def full_sample(index: int = 7) -> Sample:
    """No column is null in it."""
    choices = (TokenChoice(text="That", id=5, logprob=-0.1), TokenChoice(text="This", logprob=-2.5))
    rest: dict[str, Any] = {
        "transcript": Transcript(
            text="well", language="en", confidence=0.5, engine="x", words=(Word(text="well", start_s=0.1, end_s=0.2),)
        ),
        "cues": Cues(
            emotion=EmotionCue(probabilities={"sad": 0.75, "happy": 0.25}, engine="x"),
            age=AgeCue(probabilities={"adult": 1.0}, engine="x"),
            gender=GenderCue(probabilities={"female": 0.75, "male": 0.25}, engine="x"),
            events=EventsCue(events=(VocalEvent(kind="sigh", start_s=0.1, end_s=0.2, confidence=0.5),), engine="x"),
            prosody=FULL_PROSODY,
        ),
        "thought": Thought(
            heard="so", topic="job", emotion="sad", strategy="ask", reply_emotion="sorry", reasoning="So it was."
        ),
        "reply": Reply(
            text="That is hard.", emotion="sorry", tokens=(Token(text="That", id=5, logprob=-0.1, top=choices),)
        ),
        "reply_prosody": FULL_PROSODY,
        "scores": Scores(
            listen_back="that is hard", reply_wer=0.0, emotion_agreement=0.5, speech_quality=3.5, empathy=1.0,
            opinions=(Opinion(scale="task_0_100", task="emotion", score=70, scores=(60.0, 80.0), reason="warm", judge="m"),),
            complaints=("critic: short",), unmeasured=("opinion: no model",), engine="panel",
        ),
    }  # fmt: skip
    history = (Exchange(said="hi", emotion="sad", strategy="ask", replied="hello", reply_emotion="sorry", topic="job"),)
    labels = Labels(emotion="sad", age="elder", gender="male", events=("sigh",))
    return sample(
        index,
        parts=rest,
        history=history,
        labels=labels,
        contributor="c1",
        recording_sha256="0" * 64,
        rejected=("empathy: 0.1",),
    )


FULL_PROSODY = Prosody(
    pitch_hz=190.5, pitch_range_st=3.5, rate_syllables_s=4.0, level_dbfs=-22.5, pause_share=0.25, pauses=2, engine="x"
)


def talker_sample(index: int, **changes: Any) -> Sample:
    """A text for the talker alone: no person, no thought, no scores."""
    given: dict[str, Any] = {
        "task": "speak", "contrast": None, "voice": None, "labels": Labels(), "reply_emotion": "joyful", "intensity": 0.9,
    }  # fmt: skip
    nothing = dict.fromkeys(
        ("user_speech", "transcript", "thought", "reply", "scores", "user_wer", "user_emotion_agreement", "worst",
         "reply_vector", "vector_space", "reply_prosody")
    )  # fmt: skip
    return sample(index, parts={**nothing, "cues": Cues(), "user_words": ()}, **given | changes)


def write_dataset(folder: Path, samples: Iterable[Sample], *, block: int = 5) -> None:
    """Shards as a run lays them down: of each block of the plan one in each place."""
    parts: dict[tuple[str, int], list[Any]] = {}
    for one in samples:
        place = REJECTED if one.rejected else one.scenario.split
        parts.setdefault((place, one.scenario.index // block), []).append(table_of(one))
    for (place, number), tables in parts.items():
        write_shard(folder / place / f"part-{number:05d}.parquet", tables)


def usual_samples(count: int = 30) -> list[Sample]:
    """Mostly dialogues; each fifth is rejected, each seventh is for the talker alone."""
    found = []
    for index in range(count):
        if index % 7 == 6:
            found.append(talker_sample(index))
        elif index % 5 == 4:
            found.append(
                sample(index, rejected=("user_wer: 0.97, at most 0.95", "empathy: 0.10 by the rubric, at least 0.5"))
            )
        else:
            found.append(sample(index))
    return found
