"""The sentence that the first command answers: made on the spot, the same on every machine."""

from __future__ import annotations

from cascade.audio import Waveform
from cascade.tts.world import VoiceShift
from distill.teaching.voices import Speaker, UserEmotion, say

TEXT = "I lost my job yesterday and I do not know what to do."
EMOTION: UserEmotion = "sad"
SPEAKER = Speaker("example", "espeak", "f2", "en-us", "female", "adult", 200.0, VoiceShift())
SEED = 1


def example_sentence() -> tuple[Waveform, str]:
    """A simulated person's sentence (16 kHz), and what it is, for a person to read."""
    speech = say(TEXT, SPEAKER, EMOTION, seed=SEED, augment=False)
    return speech, f"a simulated woman says, {EMOTION}ly: “{TEXT}”"
