"""How a person sounds when calm: from a calibration, or grown from the calm turns of a session."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade.audio import Waveform
from cascade.errors import InputError
from cascade.paralinguistics.acoustic import ENGINE
from cascade.paralinguistics.features import measured
from cascade.turn import Baseline, Cues

MIN_CALM = 0.35  # probability of neutral from which a turn counts as calm
MEMORY_CLIPS = 10  # older turns fade from then on: rooms and voices change
MAX_PITCH_APART_ST = 7.0  # calm clips of one person lie closer


def calibrated(clips: Sequence[Waveform]) -> Baseline:
    """The mean of calm clips; three of two seconds or more are enough. Raises InputError, in one line."""
    if not clips:
        raise InputError("no clip to calibrate with; say three sentences calmly")
    found = [measured(clip) for clip in clips]
    for number, one in enumerate(found, start=1):
        if not one.values:
            raise InputError(
                f"calibration clip {number} of {len(clips)} cannot be used ({one.reason}); say it again, calmly"
            )
    pitches = [one.values["pitch_st"] for one in found]
    apart = max(pitches) - min(pitches)
    if apart > MAX_PITCH_APART_ST:
        raise InputError(
            f"the calibration clips lie {apart:.0f} semitones apart, one calm voice stays within"
            f" {MAX_PITCH_APART_ST:.0f}; use calm clips of one person"
        )
    features = {name: float(np.mean([one.values[name] for one in found])) for name in found[0].values}
    return Baseline(engine=ENGINE, source="calibration", features=features, clips=len(found))


def grown(baseline: Baseline | None, cues: Cues) -> Baseline | None:
    """The baseline after one more turn. A calibration stays as it is; only turns that sound calm are learnt from.

    Trusting every turn would make an angry person's anger the measure of calm; trusting only sure ones would learn
    nothing from a cold start. So a turn counts when neutral is plausible and no other emotion was sure enough to be
    named.
    """
    if baseline is not None and baseline.source == "calibration":
        return baseline
    voice, emotion = cues.voice, cues.emotion
    if voice is None or emotion is None or voice.engine != ENGINE:
        return baseline
    calm = emotion.label in (None, "neutral") and emotion.probabilities.get("neutral", 0.0) >= MIN_CALM
    if not calm:
        return baseline
    if baseline is None or set(baseline.features) != set(voice.features):
        return voice
    share = 1 / min(baseline.clips + 1, MEMORY_CLIPS)
    features = {name: (1 - share) * old + share * voice.features[name] for name, old in baseline.features.items()}
    return Baseline(engine=ENGINE, source="session", features=features, clips=baseline.clips + 1)
