"""eSpeak NG, asked from here and speaking in its own process (`espeak_worker`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.process import WorkerProcess
from cascade.turn import Word

WORKER = Path(__file__).with_name("espeak_worker.py")


class EspeakProcess:
    """One worker process, shared by threads."""

    def __init__(self, timeout_s: float = 15.0) -> None:
        self.worker = WorkerProcess(WORKER, name="espeak-ng", timeout_s=timeout_s)

    def say(
        self,
        text: str,
        *,
        voice: str,
        rate_wpm: int,
        pitch: int,
        pitch_range: int,
        amplitude: int,
        cancel: CancelScope | None = None,
    ) -> tuple[Waveform, tuple[Word, ...]]:
        """Speech at 22,050 Hz and word times. Ranges as in `espeak_worker`. Raises EngineFailed, EngineTimeout, Cancelled."""
        request = {
            "text": " ".join(text.split()),
            "voice": voice,
            "rate_wpm": rate_wpm,
            "pitch": pitch,
            "pitch_range": pitch_range,
            "amplitude": amplitude,
        }
        header, pcm = self.worker.ask(request, cancel=cancel or CancelScope())
        wave = Waveform.from_pcm16(pcm, header["sample_rate"])
        return wave, _words(header["words"], wave.duration_s)

    def close(self) -> None:
        self.worker.close()


def _words(marks: list[list[Any]], duration_s: float) -> tuple[Word, ...]:
    """A word ends where the next begins: the library reports beginnings."""
    ends = [min(start, duration_s) for _, start in marks[1:]] + [duration_s]
    return tuple(
        Word(text=text, start_s=min(start, duration_s), end_s=max(end, min(start, duration_s)))
        for (text, start), end in zip(marks, ends, strict=True)
    )
