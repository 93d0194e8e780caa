"""How a reply emotion sounds, for any voice: changes from the voice's calm reading.

Directions after the reviews of Murray & Arnott 1993 (JASA 93), Juslin & Laukka 2003 (Psychol. Bull. 129) and Schröder 2001
(Eurospeech): high arousal is higher, wider, louder, brighter; sadness lower, narrower, slower, softer, duller; tears and
fear tremble. The sizes are Attune's own, for a companion's voice rather than an actor's: milder than a user's emotion.
"""

from __future__ import annotations

from dataclasses import fields, replace

from cascade.tts.world import VoiceShift
from cascade.turn import ReplyEmotion

NEUTRAL_DBFS = -23.0  # level of a calm reply: leaves room for louder emotions
USUAL_INTENSITY = 0.7  # the table below is written for this intensity

REPLY_SHIFTS: dict[ReplyEmotion, VoiceShift] = {
    "neutral": VoiceShift(),
    "joyful": VoiceShift(
        pitch_st=3.5, range_factor=1.6, rate=1.10, gain_db=2.5, tilt_db=1.2, swing_st=0.4, dynamics=1.1
    ),
    "happy": VoiceShift(pitch_st=2.2, range_factor=1.35, rate=1.05, gain_db=1.5, tilt_db=0.7, swing_st=0.2),
    "comforting": VoiceShift(pitch_st=-1.0, range_factor=0.8, rate=0.88, gain_db=-2.0, tilt_db=-1.0, breath=0.05),
    "sorry": VoiceShift(
        pitch_st=-1.5, range_factor=0.65, rate=0.86, gain_db=-3.0, tilt_db=-1.3, breath=0.05, final_st=-1.0
    ),
    "sad": VoiceShift(
        pitch_st=-2.2, range_factor=0.5, rate=0.80, gain_db=-4.0, tilt_db=-1.8, breath=0.08, final_st=-1.0
    ),
    "tearful": VoiceShift(
        pitch_st=0.8,
        range_factor=0.6,
        rate=0.84,
        gain_db=-3.0,
        tilt_db=-1.0,
        breath=0.10,
        tremor_st=0.5,
        jitter_st=0.12,
    ),
    "afraid": VoiceShift(pitch_st=4.0, range_factor=0.75, rate=1.14, gain_db=-1.0, breath=0.08, tremor_st=0.4),
    "angry": VoiceShift(
        pitch_st=1.5, range_factor=1.3, rate=1.08, gain_db=4.0, tilt_db=1.8, press_db=3.0, dynamics=1.15, final_st=-1.5
    ),
    "disgusted": VoiceShift(
        pitch_st=-1.2, range_factor=1.1, rate=0.86, gain_db=-0.5, press_db=2.5, slope_st=-2.0, final_st=-1.5
    ),
    "surprised": VoiceShift(pitch_st=4.5, range_factor=1.8, rate=1.04, gain_db=1.5, tilt_db=0.6, final_st=3.0),
}

_FACTORS = {"range_factor", "rate", "dynamics", "formant"}  # 1 means no change; all others: 0
_FIXED = {"tremor_hz"}


def reply_shift(emotion: ReplyEmotion, intensity: float, rate: float) -> VoiceShift:
    """The emotion at an intensity 0..1, in a voice that speaks at `rate` × its usual speed."""
    full, strength = REPLY_SHIFTS[emotion], intensity / USUAL_INTENSITY
    scaled = {
        f.name: _scaled(f.name, getattr(full, f.name), strength) for f in fields(VoiceShift) if f.name not in _FIXED
    }
    return replace(full, **{**scaled, "rate": scaled["rate"] * rate})


def _scaled(name: str, value: float, strength: float) -> float:
    return float(value**strength) if name in _FACTORS else value * strength
