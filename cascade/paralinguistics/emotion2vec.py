"""Emotion by emotion2vec+ (Ma et al., arXiv 2312.15185) as FunASR carries it: nine classes, and the features they rest on.

The class <unk> is the cue's `unknown`; `other` is an emotion, but none of the seven. The network reads 16 kHz and gives
50 feature vectors a second. Its attention takes memory by the square of the length (30 s: half a gigabyte at twelve heads), so
longer speech is read in equal parts of at most 30 s: their frames are joined (each part ends a frame early), their
probabilities averaged.
"""

from __future__ import annotations

import math
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from pydantic import Field

from cascade.audio import SAMPLE_RATE, Samples, Waveform
from cascade.cancel import CancelScope
from cascade.engines import EmotionFeatures
from cascade.errors import EngineFailed, EngineUnavailable, one_line
from cascade.models import Checkpoint, checkpoint, described, locate
from cascade.needs import Device, Need, device, extra, package
from cascade.paralinguistics.emotion2vec_checkpoint import (
    ARCHITECTURE,
    FILES,
    UNUSED,
    Source,
    check_loaded,
    read_checkpoint,
)
from cascade.paralinguistics.label_maps import label_map
from cascade.paralinguistics.usable import unusable
from cascade.turn import Baseline, Cues, EmotionCue, EngineInfo, Record

ENGINE = "emotion2vec"
LONGEST_S = 30.0

Frames = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class Options(Record):
    """threshold: the least probability of an emotion that is told. 0.5: it outweighs all others and the unknown together."""

    model: Checkpoint = "emotion2vec-plus-base"
    device: Device = "auto"
    threshold: float = Field(default=0.5, ge=0, le=1)


class Emotion2vec:
    """Safe to call from several threads: FunASR keeps state of its own, so one at a time is served and the others wait."""

    def __init__(self, options: Options) -> None:
        from cascade.torch_tools import Network, check_pickle, device_of, make_stoppable

        folder = locate(options.model, FILES)
        chosen = device_of(options.device)
        self._source = read_checkpoint(folder)
        self._labels = tuple(label for label in self._source.labels if not label.startswith(UNUSED))
        check_pickle(folder / "model.pt")
        self._auto = _auto_model(self._source, str(chosen))
        check_loaded(self._auto.model, self._source)
        make_stoppable(self._auto.model)
        self._network = Network(ENGINE)
        self._threshold = options.threshold
        shown = described(options, options.model, chosen)
        self.info = EngineInfo(name=ENGINE, version=version("funasr"), options=shown)

    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        """The emotion; unknown for what is too short or silent. Raises InputError, EngineFailed, OutOfMemory, Cancelled."""
        cancel.check()
        reason = unusable(speech.checked())
        if reason:
            return Cues(emotion=EmotionCue(engine=ENGINE, threshold=self._threshold, reason=reason))
        shares, _ = self._listen(speech, cancel)
        return Cues(emotion=self._cue(dict(zip(self._labels, shares.tolist(), strict=True))))

    def embed(self, speech: Waveform, *, cancel: CancelScope) -> EmotionFeatures:
        """utterance (D,): the mean of frames (T, D); D = 768 for the base model.

        Raises InputError, EngineFailed (too short or silent, too), OutOfMemory, Cancelled.
        """
        cancel.check()
        reason = unusable(speech.checked())
        if reason:
            raise EngineFailed(f"{ENGINE}: no features of this sound ({reason})")
        _, frames = self._listen(speech, cancel)
        return EmotionFeatures(frames.mean(axis=0), frames, self._source.frame_rate_hz)

    def _cue(self, by_label: dict[str, float]) -> EmotionCue:
        emotions, unknown = label_map("emotion2vec").gathered(by_label)
        cue = EmotionCue(probabilities=emotions, unknown=unknown, threshold=self._threshold, engine=ENGINE)
        if cue.label:
            return cue
        if unknown >= self._threshold:
            return cue.model_copy(update={"reason": f"the model cannot tell ({unknown:.2f})"})
        why = f"not sure: {cue.best} at {cue.confidence:.2f}, {self._threshold:.2f} is needed"
        return cue.model_copy(update={"reason": why})

    def _listen(self, speech: Waveform, cancel: CancelScope) -> tuple[np.ndarray[Any, Any], Frames]:
        """Probabilities in the order of the labels, and frames (T, D)."""
        samples = speech.resampled(SAMPLE_RATE).samples
        parts = np.array_split(samples, math.ceil(len(samples) / (LONGEST_S * SAMPLE_RATE)))
        heard = [self._network.run(partial(self._part, part), cancel) for part in parts]
        shares = np.mean([shares for shares, _ in heard], axis=0)
        return shares / shares.sum(), np.concatenate([frames for _, frames in heard])

    def _part(self, samples: Samples) -> tuple[np.ndarray[Any, Any], Frames]:
        # With a key of ours: FunASR would draw one from the process's random numbers.
        (found,) = self._auto.generate(
            samples, fs=SAMPLE_RATE, key="speech", granularity="frame", extract_embedding=True
        )
        if tuple(found["labels"]) != self._labels:
            raise EngineFailed(f"{ENGINE}: the network told the labels {found['labels']}, not those of the checkpoint")
        shares, frames = np.array(found["scores"], np.float64), np.asarray(found["feats"], np.float32)
        if not (np.isfinite(shares).all() and np.isfinite(frames).all()):
            raise EngineFailed(f"{ENGINE}: the network gave no number; get the checkpoint again")
        return shares, frames


def _auto_model(source: Source, chosen: str) -> Any:
    """FunASR's model, from the checked layout: with `model_conf` given it reads no config.yaml and asks no hub."""
    import torch

    from cascade.torch_tools import quietly

    try:
        with quietly():
            from funasr import AutoModel

            return AutoModel(
                model=ARCHITECTURE,
                model_conf=source.model_conf,
                tokenizer="CharTokenizer",
                tokenizer_conf={"token_list": list(source.labels), "unk_symbol": source.labels[-1]},
                init_param=str(source.folder / "model.pt"),
                scope_map=[word or "none" for scope in source.scopes for word in scope],
                device=chosen,
                ncpu=torch.get_num_threads(),
                disable_update=True,
                disable_pbar=True,
                disable_log=True,
            )
    except ImportError:
        raise
    except Exception as error:  # whatever a library makes of a layout or of weights that do not fit
        raise EngineUnavailable(
            f"{source.folder}: no {ARCHITECTURE} can be made of it ({one_line(error)}); get it again"
        ) from error


def needs(options: Options) -> list[Need]:
    return [
        *(package(name, name, extra("emotion2vec")) for name in ("torch", "funasr")),
        checkpoint(options.model, FILES),
        device(options.device),
    ]


def load(options: Options) -> Emotion2vec:
    """Raises EngineUnavailable: no checkpoint, a corrupt one, another architecture, a label without a meaning."""
    return Emotion2vec(options)
