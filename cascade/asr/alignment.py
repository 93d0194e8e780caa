"""When each word of known speech is heard: PocketSphinx's forced alignment (Viterbi over the words' own phones).

It takes about a hundredth of the speech's length, so it runs here and not in a process of its own.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from cascade.asr.words import words_of
from cascade.audio import SAMPLE_RATE, Waveform
from cascade.turn import Word

FRAME_S = 0.01


class Aligner:
    """Shared by threads, one request at a time."""

    def __init__(self) -> None:
        from pocketsphinx import Config, Decoder

        self._decoder: Any = Decoder(Config(loglevel="FATAL", lm=None))
        self._lock = threading.Lock()

    def words(self, speech: Waveform, text: str) -> tuple[Word, ...]:
        """The text's words with their times in speech of any rate, a silence counted to the word before it.

        Empty where a word is not in the recognizer's dictionary, or where the text cannot be what is said.
        """
        said = words_of(text)
        if not said:
            return ()
        with self._lock:
            segments = self._aligned(speech, " ".join(said))
        if len(segments) != len(said):
            return ()
        ends = [start for start, _ in segments[1:]] + [segments[-1][1]]
        return tuple(
            Word(text=word, start_s=start, end_s=min(end, speech.duration_s))
            for word, (start, _), end in zip(said, segments, ends, strict=True)
        )

    def _aligned(self, speech: Waveform, text: str) -> list[tuple[float, float]]:
        """Start and end of each word in seconds; [] where there is no alignment."""
        decoder = self._decoder
        try:
            decoder.set_align_text(text)
        except RuntimeError:  # a word that it does not know
            return []
        decoder.reinit_feat()  # its running mean would carry one utterance into the next
        decoder.start_utt()
        decoder.process_raw(speech.resampled(SAMPLE_RATE).pcm16(), no_search=False, full_utt=True)
        decoder.end_utt()
        found = decoder.seg() if decoder.hyp() is not None else []
        words = [one for one in found if not one.word.startswith(("<", "[", "+"))]
        return [(one.start_frame * FRAME_S, (one.end_frame + 1) * FRAME_S) for one in words]


@cache
def aligner() -> Aligner:
    """The process's own: its model is loaded once."""
    return Aligner()
