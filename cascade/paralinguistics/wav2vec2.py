"""Age and gender by a wav2vec 2.0 network with two heads (audeering; Burkhardt et al., arXiv 2306.16962).

The network gives years (0…100) and a distribution over female, male, child. From it:

    gender  P(female), P(male) as they are; P(child) is unknown, for a child's voice does not tell the gender
    age     child = P(child); the rest is parted between adult and elder by the years y:
            elder = (1 − P(child)) · σ((y − 60) / s),   adult = (1 − P(child)) · (1 − σ((y − 60) / s))

The boundary is soft because the years are not exact. s is an assumption: the error of the years is taken as logistic, whose mean
absolute value is 2 s ln 2, and as 8 years, within the 7.1 to 10.8 that the paper reports for its test sets. Elder from 60 years
on is the United Nations' usual bound. Which label of the head is which of Attune's is in label_maps.toml.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.errors import EngineFailed, EngineUnavailable
from cascade.models import Checkpoint, checkpoint, described, locate
from cascade.needs import Device, Need, device, extra, package
from cascade.paralinguistics.label_maps import label_map, plain
from cascade.paralinguistics.usable import unusable
from cascade.turn import AgeCue, Baseline, Cue, Cues, EngineInfo, GenderCue, Record

ENGINE = "wav2vec2"
FILES = ("config.json", "preprocessor_config.json", "*model*.*")
PUBLISHED_ORDER = ("female", "male", "child")  # of the gender head, as the model card prints it
ELDER_FROM_YEARS = 60.0
MEAN_ERROR_YEARS = 8.0
BOUNDARY_YEARS = MEAN_ERROR_YEARS / (2 * math.log(2))  # s
LONGEST_S = 30.0  # attention's memory grows with the square of the length

C = TypeVar("C", bound=Cue)


class Options(Record):
    """threshold: the least probability of a label that is told. 0.7, odds of more than two to one: of two labels one always has
    half, so 0.5 would always tell; within 5 years of the boundary to elder the age stays unknown.
    """

    model: Checkpoint = "age-gender-6"
    device: Device = "auto"
    threshold: float = Field(default=0.7, ge=0, le=1)


class Wav2Vec2:
    def __init__(self, options: Options) -> None:
        from transformers import Wav2Vec2FeatureExtractor

        from cascade.paralinguistics.age_gender_model import UNUSED, AgeGenderModel
        from cascade.pretrained import config_of, extractor, pretrained
        from cascade.torch_tools import Network, device_of, make_stoppable

        folder = locate(options.model, FILES)
        self._labels = head_labels(config_of(folder), folder)
        self._extractor = extractor(Wav2Vec2FeatureExtractor, folder)
        self._device = device_of(options.device)
        self._model: Any = pretrained(AgeGenderModel, folder, inert=UNUSED).to(self._device)
        make_stoppable(self._model)
        self._network = Network(ENGINE)
        self._threshold = options.threshold
        shown = described(options, options.model, self._device)
        self.info = EngineInfo(name=ENGINE, version=version("transformers"), options=shown)

    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        """Age and gender; unknown for what is too short or silent. Raises InputError, EngineFailed, OutOfMemory, Cancelled."""
        cancel.check()
        reason = unusable(speech.checked())
        if reason:
            return Cues(age=AgeCue(engine=ENGINE, reason=reason), gender=GenderCue(engine=ENGINE, reason=reason))
        years, odds = self._network.run(lambda: self._heads(speech), cancel)
        age, _ = label_map("age_from_gender_head").gathered(odds)
        gender, unknown = label_map("gender_head").gathered(odds)
        return Cues(
            age=self._told(AgeCue, age_probabilities(years, age["child"]), 0.0),
            gender=self._told(GenderCue, gender, unknown),
        )

    def _heads(self, speech: Waveform) -> tuple[float, dict[str, float]]:
        """Years, and the probability of each label of the gender head."""
        import torch

        rate = self._extractor.sampling_rate
        samples = speech.resampled(rate).samples
        heard = self._extractor(samples, sampling_rate=rate, return_tensors="np")["input_values"][0]
        pieces = np.array_split(heard, math.ceil(len(heard) / (LONGEST_S * rate)))
        age, gender = self._model([torch.tensor(piece[None], device=self._device) for piece in pieces])
        years, odds = 100 * float(age), gender.double().cpu().numpy()
        if not (math.isfinite(years) and np.isfinite(odds).all()):
            raise EngineFailed(f"{ENGINE}: the network gave no number (age {years}); get the checkpoint again")
        return years, dict(zip(self._labels, (odds / odds.sum()).tolist(), strict=True))

    def _told(self, kind: type[C], probabilities: dict[str, float], unknown: float) -> C:
        cue = kind(probabilities=probabilities, unknown=unknown, threshold=self._threshold, engine=ENGINE)
        if cue.label:
            return cue
        if unknown >= self._threshold:
            return cue.model_copy(
                update={"reason": f"sounds like a child ({unknown:.2f}), which does not tell the gender"}
            )
        why = f"not sure: {cue.best} at {cue.confidence:.2f}, {self._threshold:.2f} is needed"
        return cue.model_copy(update={"reason": why})


def age_probabilities(years: float, child: float) -> dict[str, float]:
    """The formula above: predicted years and the probability of a child → probabilities of child, adult, elder."""
    elder = 0.5 * (1 + math.tanh((years - ELDER_FROM_YEARS) / (2 * BOUNDARY_YEARS)))
    return {"child": child, "adult": (1 - child) * (1 - elder), "elder": (1 - child) * elder}


def head_labels(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """The gender head's labels in its own order: as config.json names them, else as published. Raises EngineUnavailable."""
    if config.get("model_type") != "wav2vec2":
        raise EngineUnavailable(
            f"{folder}: wrong architecture {config.get('model_type')!r}; it takes a wav2vec2 with heads for age and gender"
        )
    by_id = config.get("id2label") or {}
    names = [plain(str(by_id[key])) for key in sorted(by_id, key=lambda key: int(key) if key.isdigit() else -1)]
    names = [name for name in names if name != "age"]  # the other head
    if sorted(names) == sorted(PUBLISHED_ORDER):
        return tuple(names)
    generic = all(name.startswith("label ") for name in names)
    if len(names) == len(PUBLISHED_ORDER) and not generic:
        raise EngineUnavailable(f"{folder}: wrong labels: {', '.join(names)}; legal: {', '.join(PUBLISHED_ORDER)}")
    return PUBLISHED_ORDER


def needs(options: Options) -> list[Need]:
    return [
        *(package(name, name, extra("taggers")) for name in ("torch", "transformers", "safetensors")),
        checkpoint(options.model, FILES),
        device(options.device),
    ]


def load(options: Options) -> Wav2Vec2:
    """Raises EngineUnavailable: no checkpoint, a corrupt one, another architecture."""
    return Wav2Vec2(options)
