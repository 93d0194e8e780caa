"""Emotion and gender from the sound of the voice alone, by a small classifier that ships with Attune.

It was trained on simulated speakers only (distill/training/analyzer.py; scores and limits in acoustic.json beside
it). With a speaker's baseline it reads how the voice differs from that person's calm voice, which is far surer than
reading it cold. Age is never told: what the simulation makes of age does not carry from one synthesizer to another,
let alone to people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import ExistingFile
from cascade.errors import EngineFailed, EngineUnavailable
from cascade.needs import Need
from cascade.paralinguistics.features import measured
from cascade.turn import AgeCue, Baseline, Cues, EmotionCue, EngineInfo, GenderCue, Record

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

ENGINE = "acoustic"
VERSION = "1"
WEIGHTS = Path(__file__).with_name("acoustic.npz")
HEADS = ("emotion_cold", "emotion_relative", "gender_cold", "gender_calm")
LIMIT = 4.0  # standard deviations beyond which a feature counts no further
AGE_REASON = "age does not carry from simulated to real voices; not told"


class Options(Record):
    weights: ExistingFile | None = None  # an acoustic.npz of one's own training; none: the one that ships


@dataclass(frozen=True)
class Head:
    """Multinomial logistic regression.

    mean, scale (F,); weights (L, F); bias (L,); `names` are the F features it reads.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    mean: Array
    scale: Array
    weights: Array
    bias: Array
    threshold: float

    def probabilities(self, values: dict[str, float]) -> dict[str, float]:
        """Label → probability. Raises KeyError when a feature is not there."""
        x = np.array([values[name] for name in self.names])
        scores = self.weights @ np.clip((x - self.mean) / self.scale, -LIMIT, LIMIT) + self.bias
        odds = np.exp(scores - scores.max())
        return {label: float(p) for label, p in zip(self.labels, odds / odds.sum(), strict=True)}


@lru_cache(maxsize=4)
def heads(path: Path = WEIGHTS) -> dict[str, Head]:
    """The shipped classifier. Raises EngineUnavailable."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: _head(file, name) for name in HEADS}
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineUnavailable(
            f"{path}: the classifier's weights cannot be read ({why}); install Attune again"
        ) from error


def _head(file: np.lib.npyio.NpzFile, name: str) -> Head:
    arrays = {
        key: file[f"{name}.{key}"] for key in ("names", "labels", "mean", "scale", "weights", "bias", "threshold")
    }
    return Head(
        names=tuple(str(n) for n in arrays["names"]),
        labels=tuple(str(n) for n in arrays["labels"]),
        threshold=float(arrays["threshold"]),
        **{key: arrays[key].astype(np.float64) for key in ("mean", "scale", "weights", "bias")},
    )


class Acoustic:
    def __init__(self, options: Options) -> None:
        shown = options.model_dump(mode="json", exclude_defaults=True)
        self.info = EngineInfo(name=ENGINE, version=VERSION, options=shown)
        self._heads = heads(options.weights or WEIGHTS)

    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        """Emotion, age, gender, and this clip's own features as `voice`. Raises EngineFailed, Cancelled."""
        found = measured(speech.checked(), cancel)
        cancel.check()
        age = AgeCue(engine=ENGINE, reason=AGE_REASON)
        if not found.values:
            blank = {"engine": ENGINE, "reason": found.reason}
            return Cues(emotion=EmotionCue(**blank), age=age, gender=GenderCue(**blank))
        usable = baseline if baseline is not None and baseline.engine == ENGINE else None
        return Cues(
            emotion=self._emotion(found.values, usable),
            age=age,
            gender=self._gender(found.values, usable),
            voice=Baseline(engine=ENGINE, source="session", features=found.values, clips=1),
        )

    def _emotion(self, values: dict[str, float], baseline: Baseline | None) -> EmotionCue:
        cold = self._heads["emotion_cold"]
        if baseline is None:
            return _emotion_cue(cold.probabilities(values), cold.threshold)
        head = self._heads["emotion_relative"]
        relative = head.probabilities(difference(values, baseline))
        trust = trust_in(baseline)
        mixed = _mixed(relative, cold.probabilities(values), trust)
        return _emotion_cue(mixed, trust * head.threshold + (1 - trust) * cold.threshold)

    def _gender(self, values: dict[str, float], baseline: Baseline | None) -> GenderCue:
        """With a baseline from the calm voice, for emotion raises a man's pitch to a woman's."""
        cold, calm = self._heads["gender_cold"], self._heads["gender_calm"]
        odds = cold.probabilities(values)
        threshold = cold.threshold
        if baseline is not None:
            odds = _mixed(calm.probabilities(baseline.features), odds, trust_in(baseline))
            threshold = calm.threshold
        cue = GenderCue(probabilities=odds, threshold=threshold, engine=ENGINE)
        return cue if cue.label else cue.model_copy(update={"reason": "between the usual voices of women and men"})


def difference(values: dict[str, float], baseline: Baseline) -> dict[str, float]:
    """Each feature against the calm voice. Raises EngineFailed."""
    gone = sorted(set(values) - set(baseline.features))
    if gone:
        raise EngineFailed(f"the baseline lacks {gone[0]!r}: another version made it; calibrate again")
    return {name: value - baseline.features[name] for name, value in values.items()}


def trust_in(baseline: Baseline) -> float:
    """0..1: a calibration is believed; a session's own baseline the more, the more turns it rests on."""
    return 1.0 if baseline.source == "calibration" else baseline.clips / (baseline.clips + 1.0)


def _mixed(a: dict[str, float], b: dict[str, float], share: float) -> dict[str, float]:
    return {label: share * p + (1 - share) * b[label] for label, p in a.items()}


def _emotion_cue(probabilities: dict[str, float], threshold: float) -> EmotionCue:
    cue = EmotionCue(probabilities=probabilities, threshold=threshold, engine=ENGINE)
    if cue.label:
        return cue
    return cue.model_copy(update={"reason": f"not sure: {cue.best} at {cue.confidence:.2f}, {threshold:.2f} is needed"})


def needs(options: Options) -> list[Need]:
    fix = f"{WEIGHTS.name} is not there: run attune analyzer train, or install Attune again"
    return [Need("file", WEIGHTS.name, None if WEIGHTS.is_file() else fix)]


def load(options: Options) -> Acoustic:
    return Acoustic(options)
