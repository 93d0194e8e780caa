"""CMU PocketSphinx 5 with the US English model that ships inside its package (BSD)."""

from __future__ import annotations

import contextlib
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cascade.asr.language_model import arpa_from_text
from cascade.asr.voice_activity import speech_spans
from cascade.audio import SAMPLE_RATE, Samples, Waveform
from cascade.cancel import CancelScope
from cascade.engines import ExistingFile
from cascade.errors import ConfigError
from cascade.needs import Need, package
from cascade.process import WorkerProcess
from cascade.turn import EngineInfo, Record, Transcript, Word

WORKER = Path(__file__).with_name("pocketsphinx_worker.py")
LEVEL_DBFS = -20.0  # every utterance is brought to this level before noise is judged or added
DITHER_DBFS = -54.0
CLEAN_FLOOR_DB = -45.0
FLOOR_PERCENTILE = 5
SURE = 0.8  # mean word posterior above which the word error was about .05


class Options(Record):
    """`dither`: noise under speech that is too clean. `language_model`: a .txt (one sentence a line), .arpa or .bin file."""

    dither: Literal["auto", "on", "off"] = "auto"
    language_model: ExistingFile | None = None
    timeout_s: float = Field(default=150.0, gt=0)  # of one decoding


class PocketSphinx:
    def __init__(self, options: Options) -> None:
        self.info = EngineInfo(
            name="pocketsphinx",
            version=version("pocketsphinx"),
            options=options.model_dump(mode="json", exclude_defaults=True),
        )
        self._dither = options.dither
        settings: dict[str, Any] = {}
        self._cleanup = contextlib.ExitStack()
        if options.language_model:
            settings["lm"] = str(_language_model(options.language_model, self._cleanup))
        self._worker = WorkerProcess(WORKER, [json.dumps(settings)], name="pocketsphinx", timeout_s=options.timeout_s)
        self._worker.start()

    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        wave = speech.checked().resampled(SAMPLE_RATE)
        spans = speech_spans(wave, cancel)
        if not spans:
            return Transcript(text="", language="en", confidence=0.0, engine=self.info.name)
        # Silence around the speech spoils the cepstral mean of the whole utterance.
        start_s, end_s = spans[0][0], spans[-1][1]
        samples = wave.samples[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]
        header = self._recognized(_levelled(samples), cancel)
        words = tuple(
            Word(text=text, start_s=start_s + start, end_s=start_s + end, probability=probability)
            for text, start, end, probability in header["words"]
        )
        return Transcript(
            text=header["text"], language="en", words=words, confidence=header["confidence"], engine=self.info.name
        )

    def _recognized(self, samples: Samples, cancel: CancelScope) -> dict[str, Any]:
        """As it is, or with noise, or both ways, whichever the recognizer is surer of.

        The cepstral features of near-silence, as formant synthesis has it, are far from anything the model was trained on:
        noise under it brings them back. Speech that was recorded has its own noise, and more of it only hurts.
        """
        if self._dither == "on":
            return self._listened(_with_noise(samples), cancel)
        plain = self._listened(samples, cancel)
        confidence = plain["confidence"] or 0.0
        if self._dither == "off" or confidence >= SURE or floor_db(samples) > CLEAN_FLOOR_DB:
            return plain
        noisy = self._listened(_with_noise(samples), cancel)
        return noisy if (noisy["confidence"] or 0.0) > confidence else plain

    def _listened(self, samples: Samples, cancel: CancelScope) -> dict[str, Any]:
        header, _ = self._worker.ask({}, Waveform(samples, SAMPLE_RATE).pcm16(), cancel=cancel)
        return header

    def close(self) -> None:
        self._worker.close()
        self._cleanup.close()


def floor_db(samples: Samples) -> float:
    """How far the quietest moments lie under the mean level, in dB."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160]
    energy = np.square(frames, dtype=np.float64).mean(axis=1) + 1e-12
    return float(10 * np.log10(np.percentile(energy, FLOOR_PERCENTILE) / energy.mean()))


def _levelled(samples: Samples) -> Samples:
    return Waveform(samples, SAMPLE_RATE).at_level(LEVEL_DBFS).samples


def _with_noise(samples: Samples) -> Samples:
    noise = np.random.default_rng(0).standard_normal(len(samples), dtype=np.float32)
    return (samples + noise * np.float32(10 ** (DITHER_DBFS / 20))).astype(np.float32)


def _language_model(path: Path, cleanup: contextlib.ExitStack) -> Path:
    if path.suffix == ".txt":
        with contextlib.ExitStack() as until_written:
            folder = Path(until_written.enter_context(tempfile.TemporaryDirectory(prefix="attune-lm-")))
            arpa = arpa_from_text(path.read_text(encoding="utf-8"), folder / "domain.arpa")
            cleanup.push(until_written.pop_all())
            return arpa
    if path.suffix in (".arpa", ".bin"):
        return path
    raise ConfigError(f"[asr] language_model = {str(path)!r}: give a .txt, .arpa or .bin file")


def needs(options: Options) -> list[Need]:
    return [package("pocketsphinx", "pocketsphinx", "pip install pocketsphinx")]


def load(options: Options) -> PocketSphinx:
    return PocketSphinx(options)
