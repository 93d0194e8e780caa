"""CMU PocketSphinx 5 with the US English model that ships inside its package (BSD)."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cascade.asr.language_model import arpa_from_text
from cascade.asr.voice_activity import speech_spans
from cascade.audio import SAMPLE_RATE, Waveform
from cascade.cancel import CancelScope
from cascade.errors import ConfigError
from cascade.process import WorkerProcess
from cascade.turn import EngineInfo, Record, Transcript, Word

WORKER = Path(__file__).with_name("pocketsphinx_worker.py")
LEVEL_DBFS = -20.0  # every utterance is brought to this level before noise is judged or added
CLEAN_FLOOR_DB = -55.0
DITHER_DBFS = -57.0
FLOOR_PERCENTILE = 5


class Options(Record):
    """`dither`: noise under speech that is too clean. `language_model`: a .txt (one sentence a line), .arpa or .bin file."""

    dither: Literal["auto", "on", "off"] = "auto"
    language_model: str | None = None
    timeout_s: float = 120.0


class PocketSphinx:
    def __init__(self, options: Options) -> None:
        self.info = EngineInfo(
            name="pocketsphinx", version=version("pocketsphinx"), options=options.model_dump(exclude_defaults=True)
        )
        self._dither = options.dither
        settings: dict[str, Any] = {}
        self._cleanup = contextlib.ExitStack()
        if options.language_model:
            settings["lm"] = str(_language_model(Path(options.language_model), self._cleanup))
        self._worker = WorkerProcess(WORKER, [json.dumps(settings)], name="pocketsphinx", timeout_s=options.timeout_s)
        self._worker.start()

    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        wave = speech.resampled(SAMPLE_RATE)
        spans = speech_spans(wave, cancel)
        if not spans:
            return Transcript(text="", language="en", confidence=0.0, engine=self.info.name)
        # Silence around the speech spoils the cepstral mean of the whole utterance.
        start_s, end_s = spans[0][0], spans[-1][1]
        samples = wave.samples[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]
        header, _ = self._worker.ask({}, self._conditioned(samples).pcm16(), cancel=cancel)
        words = tuple(
            Word(text=text, start_s=start_s + start, end_s=start_s + end, probability=probability)
            for text, start, end, probability in header["words"]
        )
        return Transcript(
            text=header["text"], language="en", words=words, confidence=header["confidence"], engine=self.info.name
        )

    def _conditioned(self, samples: np.ndarray) -> Waveform:
        rms = float(np.sqrt(np.mean(samples**2)))
        levelled = samples * (10 ** (LEVEL_DBFS / 20) / rms) if rms > 0 else samples
        if self._dither == "on" or (self._dither == "auto" and is_too_clean(levelled)):
            noise = np.random.default_rng(0).standard_normal(len(levelled))
            levelled = levelled + noise * 10 ** (DITHER_DBFS / 20)
        return Waveform(levelled.astype(np.float32), SAMPLE_RATE)

    def close(self) -> None:
        self._worker.close()
        self._cleanup.close()


def is_too_clean(samples: np.ndarray) -> bool:
    """Whether the quietest moments lie more than 55 dB under the mean, as only formant synthesis does.

    The recognizer's cepstral features of such near-silence are far from anything it was trained on; a little noise brings
    them back. Speech that was recorded, or joined from recordings, has its own noise, and more of it only hurts.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160]
    energy = np.square(frames, dtype=np.float64).mean(axis=1) + 1e-12
    floor_db = 10 * np.log10(np.percentile(energy, FLOOR_PERCENTILE) / energy.mean())
    return bool(floor_db < CLEAN_FLOOR_DB)


def _language_model(path: Path, cleanup: contextlib.ExitStack) -> Path:
    if not path.is_file():
        raise ConfigError(f"[asr] language_model = {str(path)!r}: no such file; give a .txt, .arpa or .bin file")
    if path.suffix == ".txt":
        with contextlib.ExitStack() as until_written:
            folder = Path(until_written.enter_context(tempfile.TemporaryDirectory(prefix="attune-lm-")))
            arpa = arpa_from_text(path.read_text(encoding="utf-8"), folder / "domain.arpa")
            cleanup.push(until_written.pop_all())
            return arpa
    if path.suffix in (".arpa", ".bin"):
        return path
    raise ConfigError(f"[asr] language_model = {str(path)!r}: give a .txt, .arpa or .bin file")


def missing() -> str | None:
    return None if importlib.util.find_spec("pocketsphinx") else "pip install pocketsphinx"


def load(options: Options) -> PocketSphinx:
    return PocketSphinx(options)
