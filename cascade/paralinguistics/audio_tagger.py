"""Vocal events (laugh, cough, cry …) with times, by a network that tags sounds of AudioSet, on a sliding window.

Any audio classifier of transformers does (AST, wav2vec2, HuBERT …) whose labels are among AudioSet's names; which of them is
which kind of event is in label_maps.toml. Overlapping windows in which one kind reaches the threshold are one event; its times
are the outer bounds of its windows: the sound itself lies within them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from cascade.audio import SILENCE_DBFS, Samples, Waveform
from cascade.cancel import CancelScope
from cascade.errors import EngineFailed, EngineUnavailable, OutOfMemory
from cascade.models import Checkpoint, checkpoint, described, locate
from cascade.needs import Device, Need, device, extra, package
from cascade.paralinguistics.label_maps import label_map
from cascade.paralinguistics.usable import too_short
from cascade.turn import Baseline, Cues, EngineInfo, EventKind, EventsCue, Record, VocalEvent

ENGINE = "audio_tagger"
FILES = ("config.json", "preprocessor_config.json", "*model*.*")
AST_FRAME_S = 0.010  # AST's extractor counts its longest input in frames of this length

Heard = np.ndarray[tuple[int, int], np.dtype[np.float64]]


class Options(Record):
    """window_s, hop_s: seconds. threshold: the least probability of an event. scores: how the network's outputs become
    probabilities; auto: softmax if the checkpoint says that it tells one label, else sigmoid, for AudioSet's sounds overlap.

    A window of 2 s holds a laugh or a fit of coughing whole, and at a hop of 0.5 s every sound is within four of them. AST takes
    as long for it as for 10 s, some seconds on a CPU: there, a longer hop. AudioSet's labels are weak (somewhere in 10 s), so
    networks trained on them stay far below 1 for what is clearly there, hence 0.3.
    """

    model: Checkpoint = "ast-audioset"
    device: Device = "auto"
    window_s: float = Field(default=2.0, ge=0.1, le=30)
    hop_s: float = Field(default=0.5, ge=0.05)
    threshold: float = Field(default=0.3, gt=0, le=1)
    batch_size: int = Field(default=8, ge=1)
    scores: Literal["auto", "sigmoid", "softmax"] = "auto"

    @model_validator(mode="after")
    def _no_gaps(self) -> Self:
        if self.hop_s > self.window_s:
            raise ValueError(f"hop_s = {self.hop_s:g} leaves gaps; legal: at most window_s, {self.window_s:g}")
        return self


class AudioTagger:
    def __init__(self, options: Options) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        from cascade.pretrained import config_of, extractor, pretrained
        from cascade.torch_tools import Network, device_of, make_stoppable

        folder = locate(options.model, FILES)
        config_of(folder)
        self._extractor: Any = extractor(AutoFeatureExtractor, folder)
        self._check_window(options)
        self._device = device_of(options.device)
        self._model: Any = pretrained(AutoModelForAudioClassification, folder).to(self._device)
        make_stoppable(self._model)
        self._columns = columns(self._model.config.id2label, str(folder))
        self._network = Network(ENGINE)
        self._options = options
        shown = described(options, options.model, self._device)
        self.info = EngineInfo(name=ENGINE, version=version("transformers"), options=shown)

    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        """Events in the order of their start; () when none is heard. Raises InputError, EngineFailed, OutOfMemory, Cancelled."""
        cancel.check()
        reason = too_short(speech.checked())
        if reason:
            return Cues(events=EventsCue(engine=ENGINE, reason=reason))
        if speech.level_dbfs < SILENCE_DBFS:
            return Cues(events=EventsCue(events=(), engine=ENGINE))
        rate: int = self._extractor.sampling_rate
        samples = speech.resampled(rate).samples
        window, hop = round(self._options.window_s * rate), round(self._options.hop_s * rate)
        starts = window_starts(len(samples), window, hop)
        heard = in_batches(
            [samples[start : start + window] for start in starts],
            self._options.batch_size,
            lambda batch: self._network.run(lambda: self._probabilities(batch), cancel),
        )
        spans = [(start / rate, min((start + window) / rate, speech.duration_s)) for start in starts]
        found = events(self._by_kind(heard), spans, self._options.threshold)
        return Cues(events=EventsCue(events=found, engine=ENGINE))

    def _probabilities(self, windows: Sequence[Samples]) -> Heard:
        """Windows of one length → (windows, labels)."""
        import torch

        rate = self._extractor.sampling_rate
        inputs = self._extractor(list(windows), sampling_rate=rate, return_tensors="pt").to(self._device)
        logits = self._model(**inputs).logits.double()
        shares = torch.softmax(logits, dim=-1) if self._one_label() else torch.sigmoid(logits)
        heard: Heard = shares.cpu().numpy()
        if not np.isfinite(heard).all():
            raise EngineFailed(f"{ENGINE}: the network gave no number; get the checkpoint again")
        return heard

    def _one_label(self) -> bool:
        if self._options.scores == "auto":
            return bool(self._model.config.problem_type == "single_label_classification")
        return self._options.scores == "softmax"

    def _by_kind(self, heard: Heard) -> dict[EventKind, list[float]]:
        """The probability of each kind in each window: the highest of its labels', which may well sound together."""
        return {kind: heard[:, places].max(axis=1).tolist() for kind, places in self._columns.items()}

    def _check_window(self, options: Options) -> None:
        """AST's extractor cuts off what is longer than its input, without a word. Raises EngineUnavailable."""
        if type(self._extractor).__name__ != "ASTFeatureExtractor":
            return
        longest_s = self._extractor.max_length * AST_FRAME_S
        if options.window_s > longest_s:
            raise EngineUnavailable(
                f"window_s = {options.window_s:g} is longer than {options.model} hears; legal: at most {longest_s:g}"
            )


def columns(labels: Mapping[int, str], where: str) -> dict[EventKind, list[int]]:
    """The outputs of a network that belong to each kind of event. Raises EngineUnavailable when none does."""
    found: dict[EventKind, list[int]] = {}
    known = label_map("audioset")
    for place, label in labels.items():
        kind = known.target(label)
        if kind is not None:
            found.setdefault(kind, []).append(int(place))  # type: ignore[arg-type]  # the map's targets are kinds
    if not found:
        shown = ", ".join(list(labels.values())[:4])
        raise EngineUnavailable(f"{where}: not a tagger of vocal events (it tells {shown}); it takes AudioSet's labels")
    return found


def window_starts(length: int, window: int, hop: int) -> list[int]:
    """Where windows begin, in samples. The last one ends with the sound, so that none is padded unless there is but one."""
    if length <= window:
        return [0]
    return [*range(0, length - window, hop), length - window]


def in_batches(windows: Sequence[Samples], size: int, run: Callable[[Sequence[Samples]], Heard]) -> Heard:
    """Run all windows, a batch at a time; a batch too large for the memory is halved. Raises OutOfMemory when one is."""
    done: list[Heard] = []
    at = 0
    while at < len(windows):
        try:
            done.append(run(windows[at : at + size]))
        except OutOfMemory:
            if size == 1:
                raise
            size = math.ceil(min(size, len(windows) - at) / 2)
        else:
            at += size
    return np.concatenate(done)


def events(
    heard: Mapping[EventKind, Sequence[float]], spans: Sequence[tuple[float, float]], threshold: float
) -> tuple[VocalEvent, ...]:
    """Probability of each kind in each window, and the windows' (start, end) in seconds, ascending → events, first ones first.

    Windows of one kind that overlap or touch are one event, as sure as its surest window.
    """
    found = [
        event
        for kind, values in heard.items()
        for event in _merged(kind, [(span, p) for span, p in zip(spans, values, strict=True) if p >= threshold])
    ]
    return tuple(sorted(found, key=lambda event: (event.start_s, event.kind)))


def _merged(kind: EventKind, windows: Sequence[tuple[tuple[float, float], float]]) -> list[VocalEvent]:
    runs: list[VocalEvent] = []
    for (start_s, end_s), probability in windows:
        if runs and start_s <= runs[-1].end_s:
            sure = max(runs[-1].confidence, probability)
            runs[-1] = runs[-1].model_copy(update={"end_s": end_s, "confidence": sure})
        else:
            runs.append(VocalEvent(kind=kind, start_s=start_s, end_s=end_s, confidence=probability))
    return runs


def needs(options: Options) -> list[Need]:
    return [
        *(package(name, name, extra("taggers")) for name in ("torch", "transformers", "safetensors")),
        checkpoint(options.model, FILES),
        device(options.device),
    ]


def load(options: Options) -> AudioTagger:
    """Raises EngineUnavailable: no checkpoint, a corrupt one, not a tagger of vocal events."""
    return AudioTagger(options)
