"""Whether a voice is worth hearing for a network: of a scrap or of silence it would only make something up."""

from __future__ import annotations

from cascade.audio import MIN_INPUT_S, SILENCE_DBFS, Waveform


def too_short(speech: Waveform) -> str:
    """Why this is too short for a network to hear; '' when it is not."""
    if speech.duration_s >= MIN_INPUT_S:
        return ""
    return f"too short: {speech.duration_s * 1000:.0f} ms, {MIN_INPUT_S * 1000:.0f} ms are needed"


def unusable(speech: Waveform) -> str:
    """Why a network would only make something up about this voice; '' when it is worth hearing."""
    if speech.level_dbfs < SILENCE_DBFS and not too_short(speech):
        return f"silence: {speech.level_dbfs:.0f} dBFS, speech is above {SILENCE_DBFS:.0f}"
    return too_short(speech)
