"""One small checkpoint of each kind, made when first asked for, and the options that make an engine use it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from checkpoints.age_gender import make_age_gender
from checkpoints.audio_tagger import make_audio_tagger
from checkpoints.emotion2vec import make_emotion2vec
from checkpoints.f5 import make_bank, make_f5
from checkpoints.llm import make_llm
from checkpoints.whisper import make_whisper

from cascade.audio import Waveform

GPU_STAGES = {
    "asr": "faster_whisper",
    "emotion": "emotion2vec",
    "speaker": "wav2vec2",
    "events": "audio_tagger",
    "prosody": "prosody",
    "reasoning": "transformers",
    "tts": "f5",
    "judging": "panel",
}


class Checkpoints:
    def __init__(self, folder: Path, clips: dict[str, tuple[Waveform, str]]) -> None:
        self._folder, self._clips = folder, clips

    @cached_property
    def whisper(self) -> Path:
        return make_whisper(self._folder / "whisper")

    @cached_property
    def emotion2vec(self) -> Path:
        return make_emotion2vec(self._folder / "emotion2vec")

    @cached_property
    def age_gender(self) -> Path:
        return make_age_gender(self._folder / "age_gender")

    @cached_property
    def audio_tagger(self) -> Path:
        return make_audio_tagger(self._folder / "audio_tagger")

    @cached_property
    def llm(self) -> Path:
        return make_llm(self._folder / "llm")

    @cached_property
    def f5(self) -> Path:
        return make_f5(self._folder / "f5")

    @cached_property
    def bank(self) -> Path:
        return make_bank(self._folder / "bank", self._clips)

    def options(self, stage: str, name: str) -> dict[str, Any]:
        """Options of an engine of the table; CUDA where there is one. Engines without a checkpoint take their defaults."""
        made = {
            "faster_whisper": lambda: {"model": str(self.whisper)},
            "emotion2vec": lambda: {"model": str(self.emotion2vec)},
            "wav2vec2": lambda: {"model": str(self.age_gender)},
            "audio_tagger": lambda: {"model": str(self.audio_tagger)},
            "transformers": lambda: {"model": str(self.llm), "temperature": 0.0},
            "f5": lambda: {
                "model": str(self.f5),
                "vocoder": str(self.f5 / "vocos"),
                "voices": str(self.bank),
                "nfe_steps": 4,
            },
        }
        return made[name]() if name in made else {}

    def profile(self, path: Path, **more: dict[str, Any]) -> Path:
        """A profile of the gpu engines on these checkpoints; `more`: further options of a stage."""
        lines = []
        for stage, name in GPU_STAGES.items():
            options = self.options(stage, name) | more.get(stage, {})
            lines += [f"[{stage}]", f'engine = "{name}"']
            lines += [
                f"{key} = {value if isinstance(value, int | float) else repr(value)}" for key, value in options.items()
            ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path
