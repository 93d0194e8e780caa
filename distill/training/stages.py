"""The stages, as one table: what is learnt from which tasks, which parts train, and which objectives pull how hard.

Understanding comes first (OSUM-EChat, arXiv 2508.09600), speaking second (LLaMA-Omni2, arXiv 2505.02625: without it, reply
words go wrong), empathy on top of both, and refinement last, anchored (as CORD reports).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from distill.training.data import Voice
from distill.training.job import Schedule

StageName = Literal["codec", "understand", "speak", "empathise", "refine"]
STAGES: tuple[StageName, ...] = get_args(StageName)

# Which rows of the thinker an item of the dataset becomes; several of them hear the same speech, read once.
Source = Literal["understanding", "listening", "dialogue", "writing", "speaking"]
HEARS: Mapping[Source, Voice] = {"understanding": "user", "listening": "reply", "dialogue": "user"}  # whose speech


@dataclass(frozen=True)
class Stage:
    """`sources`: how often an epoch holds each item. `from_zero`, `pretrained`: the parts that train when the thinker starts
    from zero, or from a language model's weights (then its adapters only). `objectives`: weights, by objective."""

    name: StageName
    about: str
    sources: Mapping[Source, float]
    from_zero: tuple[str, ...]
    pretrained: tuple[str, ...]
    objectives: Mapping[str, float]
    schedule: Schedule

    def parts(self, *, pretrained: bool, freeze: Iterable[str] = ()) -> tuple[str, ...]:
        """Those that train. freeze: parts that stay as they are."""
        held = set(freeze)
        return tuple(part for part in (self.pretrained if pretrained else self.from_zero) if part not in held)


HEARING: Mapping[str, float] = {
    "ctc": 1.0,
    "aligned": 1.0,
    "emotion": 1.0,
    "age": 1.0,
    "gender": 1.0,
    "events": 0.1,
    "emotion_kl": 0.25,
    "age_kl": 0.25,
    "gender_kl": 0.25,
}
FEELING: Mapping[str, float] = {"vector_mse": 0.6, "vector_cosine": 0.4}  # Emotion Omni's weights
SPEAKING: Mapping[str, float] = {"codes": 1.0, "depth": 1.0}
WRITING: Mapping[str, float] = {"reply": 1.0, "think": 0.5, "transcript": 0.5, "labels": 0.5, "reply_kl": 0.5}

TABLE: Mapping[StageName, Stage] = {
    "codec": Stage(
        "codec",
        "speech to tokens and back (nano; the other flavours bring Mimi)",
        {},
        (),
        (),
        {},
        Schedule(
            learning_rate=1.5e-3,
            steps=1000,
            packs_per_step=1,
            optimizer="muon",
            warmup_steps=50,
            evaluate_every=200,
            save_every=200,
        ),
    ),
    "understand": Stage(
        "understand",
        "what is said and how: words and labels, with CTC and cue heads on the encoder; words of the replies' clear voice, too",
        {"understanding": 1.0, "listening": 0.5},
        ("encoder", "heads"),  # a thinker from zero recites what is usually said, whatever it hears; it learns later
        ("encoder", "heads", "adapter"),
        {**HEARING, **WRITING},
        Schedule(
            learning_rate=1e-3,
            epochs=30,
            packs_per_step=4,
            optimizer="muon",
            warmup_steps=60,
            evaluate_every=100,
            save_every=100,
            samples_every=100,
        ),
    ),
    "speak": Stage(
        "speak",
        "texts spoken in an emotion; texts answered in writing, so that the language is kept",
        {"speaking": 1.0, "writing": 0.5},
        ("thinker", "vector", "talker"),
        ("vector", "talker"),
        {**WRITING, **FEELING, **SPEAKING},
        Schedule(
            learning_rate=1e-3,
            epochs=20,
            packs_per_step=2,
            optimizer="muon",
            warmup_steps=60,
            evaluate_every=100,
            save_every=100,
            samples_every=100,
        ),
    ),
    "empathise": Stage(
        "empathise",
        "hear, think, answer, speak: everything at once",
        {"dialogue": 1.0, "speaking": 0.5, "writing": 0.25},
        ("adapter", "thinker", "vector", "talker"),  # ears have learnt from far more voices than dialogues have
        ("heads", "adapter", "thinker", "vector", "talker"),
        {**HEARING, **WRITING, **FEELING, **SPEAKING},
        Schedule(
            learning_rate=7e-4,
            epochs=11,
            packs_per_step=2,
            optimizer="muon",
            warmup_steps=60,
            evaluate_every=100,
            save_every=100,
            samples_every=100,
        ),
    ),
    "refine": Stage(
        "refine",
        "the student's own replies, scored by the teacher that knows words and labels; better replies before worse ones",
        {"dialogue": 1.0},
        ("adapter", "thinker", "vector"),
        ("adapter", "thinker", "vector"),
        {"reverse_kl": 0.5, "preference": 0.2, "anchor": 0.2, **FEELING},
        Schedule(
            learning_rate=1e-4,
            epochs=2,
            packs_per_step=2,
            warmup_steps=10,
            evaluate_every=50,
            save_every=50,
            samples_every=50,
        ),
    ),
}


def scaled(stage: Stage, *, pretrained: bool, dtype: Literal["float32", "bfloat16"]) -> Stage:
    """For pretrained parts, gentler: a tenth of the rate, by AdamW, which they were made with."""
    schedule = replace(stage.schedule, dtype=dtype)
    if pretrained and stage.name != "codec":
        schedule = replace(schedule, learning_rate=0.1 * schedule.learning_rate, optimizer="adamw")
    return replace(stage, schedule=schedule)


def voices_heard(names: Iterable[StageName]) -> list[Voice]:
    """Whose speech the stages hear; the users' always, for samples."""
    return sorted(
        {"user", *(HEARS[source] for name in names for source in TABLE[name].sources if source in HEARS)}, reverse=True
    )
