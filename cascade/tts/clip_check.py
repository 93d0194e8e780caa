"""What is wrong with a reference clip and its text: length, level, voice, silence, the words.

Engines copy how a clip sounds, its faults too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade.asr.voice_activity import speech_spans
from cascade.asr.words import word_error_rate, words_of
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Recognizer
from cascade.tts.silence import pauses_s

SHORTEST_S, MIN_S, MAX_S = 1.0, 2.0, 12.0  # unusable below, poor below, unusable above: F5-TTS reads 12 s at most
LEVEL_DBFS = (-35.0, -12.0)
TOO_SOFT_DBFS = -50.0  # brought up to speech's level, such a clip is the room and the microphone
# Share of a clip, between its first and last sound, in which the voice activity hears someone. Speech has 0.7 and more, acted
# emotions and whispers too; generated music and noise stay under 0.12.
MIN_VOICED = 0.3
CLIPPED, CLIPPED_RUN = 0.99, 3  # so many samples in a row at full scale are no peak of speech
END_S, INNER_S = 0.5, 1.0  # silence beyond this is copied into the speech
# UTF-8 bytes a second, as F5-TTS counts: English is 12 to 18, Chinese with its three bytes a sign about the same.
BYTES_PER_S = (6.0, 28.0)
MAX_WER = 0.3


@dataclass(frozen=True)
class Finding:
    """Something to know about a clip. unusable: no speech should be made after it."""

    what: str
    unusable: bool = False


def check_clip(
    wave: Waveform,
    text: str,
    *,
    recognizer: Recognizer | None = None,
    max_wer: float = MAX_WER,
    cancel: CancelScope | None = None,
) -> list[Finding]:
    """What is wrong with a clip and its text; empty when all is well. With a recognizer, the text is also listened for.

    Raises Cancelled, and EngineFailed from the recognizer.
    """
    scope = cancel or CancelScope()
    found = [*_length(wave), *_level(wave), *_voice(wave, scope), *_silence(wave), *_plausible(wave, text)]
    if recognizer is not None and words_of(text):
        heard = recognizer.transcribe(wave, cancel=scope).text
        wer = word_error_rate(text, heard)
        if wer > max_wer:
            found.append(
                Finding(
                    f"heard as {heard!r}: word error {wer:.2f}, at most {max_wer:g}; compare the text with the clip"
                )
            )
    return found


def _length(wave: Waveform) -> list[Finding]:
    length_s = wave.duration_s
    if length_s > MAX_S or length_s < SHORTEST_S:
        return [Finding(f"{length_s:.1f} s long; give a clip of {MIN_S:g} to {MAX_S:g} s", unusable=True)]
    return [Finding(f"only {length_s:.1f} s long; {MIN_S:g} s and more are better")] if length_s < MIN_S else []


def _level(wave: Waveform) -> list[Finding]:
    low, high = LEVEL_DBFS
    if wave.level_dbfs < TOO_SOFT_DBFS:
        return [
            Finding(f"level {wave.level_dbfs:.0f} dBFS is too soft; record it at {low:g} to {high:g}", unusable=True)
        ]
    found = []
    if not low <= wave.level_dbfs <= high:
        found.append(Finding(f"level {wave.level_dbfs:.0f} dBFS; record it at {low:g} to {high:g}"))
    full = np.abs(wave.samples) >= CLIPPED
    if np.convolve(full, np.ones(CLIPPED_RUN)).max() >= CLIPPED_RUN:
        found.append(Finding("clipped: the loudest moments are cut off; record it softer"))
    return found


def _voice(wave: Waveform, cancel: CancelScope) -> list[Finding]:
    before, _, after = pauses_s(wave)
    sound_s = wave.duration_s - before - after
    voiced_s = sum(end - start for start, end in speech_spans(wave, cancel))
    if voiced_s >= MIN_VOICED * sound_s:
        return []
    what = f"a voice in {voiced_s:.1f} of {sound_s:.1f} s; give a clip in which someone speaks"
    return [Finding(what, unusable=True)]


def _silence(wave: Waveform) -> list[Finding]:
    before, inner, after = pauses_s(wave)
    found = [
        Finding(f"{seconds:.1f} s of silence {where}; cut it to {END_S:g} s or less")
        for where, seconds in (("before the first word", before), ("after the last word", after))
        if seconds > END_S
    ]
    return found + ([Finding(f"a pause of {inner:.1f} s; the speech will pause like that")] if inner > INNER_S else [])


def _plausible(wave: Waveform, text: str) -> list[Finding]:
    if not any(char.isalnum() for char in text):
        return [Finding("no text; give the words that are said in the clip", unusable=True)]
    before, _, after = pauses_s(wave)
    rate = len(text.encode()) / max(wave.duration_s - before - after, 0.1)
    low, high = BYTES_PER_S
    if low <= rate <= high:
        return []
    problem = "the text is too long for the clip" if rate > high else "the text is too short for the clip"
    return [
        Finding(f"{problem}: {rate:.0f} letters a second, speech has {low:g} to {high:g}; give all its words alone")
    ]
