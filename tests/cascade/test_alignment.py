"""Forced alignment against eSpeak NG's own word times, which are exact."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from cascade.asr.alignment import Aligner, aligner
from cascade.audio import Waveform
from cascade.tts.espeak_process import EspeakProcess

TEXT = "I am sorry that the doctor could not tell you more."


@pytest.fixture(scope="module")
def espeak() -> Iterator[EspeakProcess]:
    process = EspeakProcess()
    yield process
    process.close()


def test_words_are_where_the_synthesizer_says_they_are(espeak: EspeakProcess) -> None:
    wave, marks = espeak.say(TEXT, voice="en-us+f5", rate_wpm=150, pitch=50, pitch_range=50, amplitude=100)
    found = aligner().words(wave, TEXT)
    assert [word.text for word in found] == [word.lower().strip(".") for word in TEXT.split()]
    starts = {mark.text.lower(): mark.start_s for mark in marks}
    off = [abs(word.start_s - starts[word.text]) for word in found if word.text in starts]
    assert len(off) >= 9
    assert float(np.median(off)) < 0.05
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in pairwise(found))
    assert found[-1].end_s <= wave.duration_s
    assert aligner().words(wave, TEXT) == found, "what was heard before changes nothing"


def test_what_cannot_be_aligned_has_no_times(espeak: EspeakProcess) -> None:
    wave, _ = espeak.say(TEXT, voice="en-us", rate_wpm=150, pitch=50, pitch_range=50, amplitude=100)
    alone = Aligner()
    assert alone.words(wave, "I am sorry that the zzxqv could not tell you more.") == ()
    assert alone.words(wave, "…") == ()
    assert alone.words(Waveform(wave.samples[:800], wave.sample_rate), TEXT) == ()
