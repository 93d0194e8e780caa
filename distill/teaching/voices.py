"""The simulated user: who speaks, in what emotion, in what room.

A speaker is a voice of a synthesizer, moved to a pitch and a vocal tract of its own. An emotion is a distribution over
`VoiceShift`, drawn anew for each clip and much wider than one actor would play it: a classifier that learns from
these clips shall rest on what most people do, not on one recipe. Directions and rough sizes come from published
profiles of vocal emotion:

- Juslin & Laukka 2003, "Communication of emotions in vocal expression and music performance" (pace, level,
  energy at high frequencies, pitch level, variability and contour, microstructure)
- Banse & Scherer 1996, "Acoustic profiles in vocal emotion expression"; Scherer 2003, "Vocal communication of emotion"
- Burkhardt & Sendlmeier 2000, "Verification of acoustical correlates of emotional speech using formant synthesis"
  (tense voice and level accents for anger, moved pitch and spread lips for joy, breathy or falsetto sadness)
- Murray & Arnott 1993, "Toward the simulation of emotion in synthetic speech"
- Traunmüller & Eriksson 2000, "Acoustic effects of variation in vocal effort": pitch, first formant, pace and spectral
  balance rise together with effort; hence the common `strength` below
- voices of women and men: Peterson & Barney 1952; Fitch & Giedd 1999 (vocal tract about 15 % shorter); Titze 1989

The numbers are this project's own.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from cascade.audio import SAMPLE_RATE, Samples, Waveform, read_speech
from cascade.engines import Speech
from cascade.errors import EngineFailed, EngineUnavailable
from cascade.tts import flite
from cascade.tts.espeak_process import EspeakProcess
from cascade.tts.world import Analysis, VoiceShift, analyzed, synthesized
from cascade.turn import Age, Gender, Word
from distill.teaching.rooms import Channel, draw_channel, heard, silence_s

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Split = Literal["train", "unseen"]
UserEmotion = Literal["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
USER_EMOTIONS: tuple[UserEmotion, ...] = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
FESTIVAL_TIMEOUT_S = 30.0

# --- emotions: parameter → (mean, standard deviation) at strength 1; what is not named is (0, WIDTH)
# Logs for factors, so that 0 means no change everywhere.

WIDTH: dict[str, float] = {
    "pitch_st": 1.0, "log_range": 0.15, "slope_st": 1.0, "final_st": 1.0, "swing_st": 0.2, "tremor_st": 0.05,
    "jitter_st": 0.06, "log_rate": 0.07, "gain_db": 1.2, "log_dynamics": 0.08, "shimmer_db": 0.3, "tilt_db": 0.5,
    "press_db": 1.0, "presence_db": 1.0, "breath": 0.04, "log_formant": 0.01, "log_opening": 0.02, "pauses": 0.3,
}  # fmt: skip
PROFILES: dict[UserEmotion, dict[str, tuple[float, float]]] = {
    "neutral": {},
    "angry": {
        "pitch_st": (8.0, 4.0), "log_range": (0.40, 0.35), "slope_st": (0.0, 2.0), "final_st": (0.5, 2.0),
        "swing_st": (1.0, 0.7), "jitter_st": (0.22, 0.20), "log_rate": (0.02, 0.13), "gain_db": (7.0, 3.0),
        "log_dynamics": (0.20, 0.15), "shimmer_db": (0.9, 0.6), "tilt_db": (2.8, 1.0), "press_db": (4.5, 2.0),
        "presence_db": (3.0, 2.0), "breath": (0.06, 0.06), "log_formant": (0.0, 0.02), "log_opening": (0.12, 0.06),
    },
    "disgusted": {
        "pitch_st": (-0.5, 2.0), "log_range": (0.10, 0.25), "slope_st": (-1.0, 1.5), "final_st": (-2.0, 1.5),
        "swing_st": (0.3, 0.4),
        "jitter_st": (0.20, 0.15), "log_rate": (-0.15, 0.10), "gain_db": (0.0, 2.5), "shimmer_db": (0.8, 0.5),
        "tilt_db": (0.4, 0.8),
        "press_db": (3.0, 2.0), "log_formant": (-0.02, 0.02), "log_opening": (0.0, 0.04), "pauses": (0.4, 0.6),
    },
    "fearful": {
        "pitch_st": (7.0, 3.0), "log_range": (-0.10, 0.30), "slope_st": (0.5, 2.0), "final_st": (1.0, 1.5),
        "swing_st": (0.3, 0.4),
        "tremor_st": (0.45, 0.25), "jitter_st": (0.20, 0.12), "log_rate": (0.16, 0.10), "gain_db": (0.0, 3.5),
        "tilt_db": (0.9, 1.0),
        "press_db": (1.5, 2.0), "breath": (0.14, 0.10), "log_opening": (0.03, 0.05), "pauses": (0.3, 0.6),
    },
    "happy": {
        "pitch_st": (8.0, 3.5), "log_range": (0.45, 0.30), "slope_st": (0.5, 2.0), "final_st": (0.5, 2.5),
        "swing_st": (1.2, 0.6),
        "jitter_st": (0.05, 0.06), "log_rate": (0.05, 0.10), "gain_db": (4.0, 2.5), "log_dynamics": (0.10, 0.12),
        "tilt_db": (1.7, 0.9),
        "press_db": (0.3, 1.5), "presence_db": (1.5, 1.5), "breath": (0.02, 0.04), "log_formant": (0.03, 0.02),
        "log_opening": (0.08, 0.05),
    },
    "sad": {
        "pitch_st": (-0.8, 2.2), "log_range": (-0.50, 0.25), "slope_st": (-0.5, 1.2), "final_st": (0.3, 1.2),
        "swing_st": (0.0, 0.1),
        "tremor_st": (0.08, 0.12), "jitter_st": (0.10, 0.08), "log_rate": (-0.33, 0.14), "gain_db": (-6.0, 3.0),
        "log_dynamics": (-0.10, 0.12), "tilt_db": (-1.7, 0.7), "press_db": (-1.2, 1.5), "breath": (0.14, 0.10),
        "log_formant": (-0.005, 0.015), "log_opening": (-0.05, 0.04), "pauses": (1.0, 0.9),
    },
    "surprised": {
        "pitch_st": (8.0, 3.5), "log_range": (0.55, 0.25), "slope_st": (2.5, 2.5), "final_st": (4.5, 2.5),
        "swing_st": (0.8, 0.5),
        "log_rate": (0.03, 0.13), "gain_db": (3.0, 2.5), "tilt_db": (1.0, 0.8), "press_db": (-0.3, 1.5),
        "breath": (0.12, 0.08),
        "log_opening": (0.07, 0.05),
    },
}  # fmt: skip
STRENGTH = (0.75, 1.55)  # × the means of the tables
SPREAD = 0.8  # × the standard deviations of the tables
NOT_NEGATIVE = ("swing_st", "tremor_st", "jitter_st", "shimmer_db", "breath", "pauses")


@dataclass(frozen=True)
class Manner:
    """One drawn way to say something: the shift, and how many hesitations are put in."""

    shift: VoiceShift
    pauses: int


def manner(emotion: UserEmotion, rng: np.random.Generator, intensity: float | None = None) -> Manner:
    """Draw one way of being in an emotion; a common strength makes its marks weak (intensity 0) or strong (1) together."""
    strength = rng.uniform(*STRENGTH)
    if intensity is not None:
        strength = STRENGTH[0] + intensity * (STRENGTH[1] - STRENGTH[0])
    profile, drawn = PROFILES[emotion], {}
    for name, width in WIDTH.items():
        mean, sd = profile.get(name, (0.0, width))
        value = rng.normal(mean * strength, SPREAD * sd)
        drawn[name] = max(0.0, value) if name in NOT_NEGATIVE else value
    for factor in ("range", "rate", "dynamics", "formant", "opening"):
        drawn[factor if factor != "range" else "range_factor"] = float(np.exp(drawn.pop(f"log_{factor}")))
    pauses = int(rng.poisson(drawn.pop("pauses")))
    drawn["breath"] = min(0.6, drawn["breath"])
    return Manner(VoiceShift(tremor_hz=rng.uniform(5, 9), **drawn), pauses)


# --- speakers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speaker:
    """A voice of an engine moved to a place of its own.

    `shift` holds how this person always speaks; pitch_hz is the median.
    """

    name: str
    engine: Literal["espeak", "flite", "festival"]
    voice: str
    language: str
    gender: Gender
    age: Age
    pitch_hz: float
    shift: VoiceShift


_MALE = {
    "train": ("m1", "m2", "m3", "m4", "m5", "m6", "Andy", "Gene", "Michael", "Reed", "benjamin", "boris", "david", "ed",
              "gustave",
              "ian", "iven", "john", "klatt", "klatt3", "michel", "paul", "quincy", "robert", "travis", "zac"),
    "unseen": ("m7", "m8", "Denis", "Jacky", "adam", "max", "edward", "klatt2", "rob", "victor"),
}  # fmt: skip
_FEMALE = {
    "train": ("f1", "f2", "f3", "Alicia", "Andrea", "aunty", "linda", "anika", "steph2"),
    "unseen": ("f4", "f5", "Annie", "belinda", "steph"),
}
_OTHERS: dict[str, tuple[tuple[Literal["flite", "festival"], str, Gender], ...]] = {
    "train": (("flite", "awb", "male"), ("flite", "slt", "female"), ("flite", "kal16", "male")),
    "unseen": (("flite", "rms", "male"), ("festival", "kal_diphone", "male")),
}
LANGUAGES = ("en-us", "de", "en", "es", "it", "nl", "sv", "fr")
MALE_HZ, FEMALE_HZ, CHILD_HZ = 116.0, 205.0, 270.0
SPREAD_ST = 2.4


def speakers(split: Split) -> list[Speaker]:
    """All speakers of a split, women and men in turn; no voice of an engine is in both splits."""
    rng = np.random.default_rng({"train": 11, "unseen": 12}[split])
    copies = {"train": 5, "unseen": 4}[split]
    voices: list[tuple[str, str, Gender]] = [("espeak", v, "male") for v in _MALE[split]]
    voices += [("espeak", v, "female") for v in _FEMALE[split] for _ in range(2)]
    voices += [other for other in _OTHERS[split] for _ in range(3)]
    found = []
    for copy in range(copies):
        for number, (engine, voice, own) in enumerate(voices):
            gender: Gender = "female" if (number + copy) % 2 else "male"
            language = LANGUAGES[int(rng.integers(len(LANGUAGES)))] if engine == "espeak" and copy % 5 else "en-us"
            found.append(_speaker(f"{split}-{copy}-{number}", engine, voice, language, own, gender, rng))
    return found


# The cast of a dataset: eSpeak NG alone, which every machine has. Another language's sounds would leave no English word clear.
CastSplit = Literal["train", "validation", "test"]
_HELD_BACK = {"male": ("m6", "Reed", "gustave", "paul", "quincy"), "female": ("f3", "Andrea")}
_CAST_AGES: tuple[Age, ...] = ("adult", "child", "adult", "elder", "adult")
_CAST_COPIES: dict[CastSplit, int] = {"train": 25, "validation": 6, "test": 4}


def cast_of(split: CastSplit) -> list[Speaker]:
    """Who speaks the user's turns of a dataset's split: women and men in turn, three in five adults, no base voice in two splits.

    Train and validation share out the voices of the classifier's training; test has those it never heard.
    """
    rng = np.random.default_rng({"train": 21, "validation": 22, "test": 23}[split])
    voices = [(voice, own) for own, names in _cast_voices(split).items() for voice in names]
    found = []
    for copy in range(_CAST_COPIES[split]):
        for number, (voice, own) in enumerate(voices):
            gender: Gender = "female" if (number + copy) % 2 else "male"
            age = _CAST_AGES[(number // 2 + copy) % len(_CAST_AGES)]
            name = f"{split}-{voice}-{copy}-{number}"
            found.append(_speaker(name, "espeak", voice, "en-us", own, gender, rng, age))
    return found


def _cast_voices(split: CastSplit) -> dict[Gender, tuple[str, ...]]:
    """Base voices by the gender they were made for; the few women's are taken twice."""
    if split == "test":
        return {"male": _MALE["unseen"], "female": _FEMALE["unseen"] * 2}
    kept = split == "validation"
    male = tuple(voice for voice in _MALE["train"] if (voice in _HELD_BACK["male"]) == kept)
    return {"male": male, "female": tuple(v for v in _FEMALE["train"] if (v in _HELD_BACK["female"]) == kept) * 2}


def _speaker(
    name: str,
    engine: str,
    voice: str,
    language: str,
    own: Gender,
    gender: Gender,
    rng: np.random.Generator,
    age: Age | None = None,
) -> Speaker:
    if age is None:
        age = rng.choice(["adult", "elder", "child"], p=[0.78, 0.14, 0.08])
    tract = {("male", "female"): 0.15, ("female", "male"): -0.14}.get((own, gender), 0.0) + rng.normal(0, 0.035)
    middle = MALE_HZ if gender == "male" else FEMALE_HZ
    old = age == "elder"
    if age == "child":
        tract, middle = (0.24 if own == "male" else 0.10) + rng.normal(0, 0.04), CHILD_HZ
    shift = VoiceShift(
        range_factor=float(np.exp(rng.normal(0.15, 0.25))),  # synthesizers are flatter than people
        jitter_st=abs(rng.normal(0.05, 0.06)) + 0.12 * old,
        tremor_st=abs(rng.normal(0, 0.15)) * old,
        rate=float(np.exp(rng.normal(0.0, 0.09) - 0.10 * old)),
        shimmer_db=abs(rng.normal(0.3, 0.3)),
        swing_st=abs(rng.normal(0.6, 0.3)),
        final_st=rng.normal(-1.0, 0.9),
        tilt_db=rng.normal(-0.6, 0.9),
        press_db=rng.normal(-0.5, 1.4),
        presence_db=rng.normal(0, 1.5),
        breath=float(np.clip(rng.normal(0.06, 0.06) + 0.05 * old, 0, 0.4)),
        formant=float(np.exp(tract)),
    )
    pitch_hz = float(middle * 2 ** (rng.normal(0, SPREAD_ST) / 12))
    return Speaker(name, engine, voice, language, gender, age, pitch_hz, shift)  # type: ignore[arg-type]


def combined(person: VoiceShift, mood: VoiceShift) -> VoiceShift:
    """A person in a mood: what is in semitones or dB adds, factors multiply."""
    factors = {"range_factor", "rate", "dynamics", "formant", "opening"}
    changes = {}
    for name in VoiceShift.__dataclass_fields__:
        a, b = getattr(person, name), getattr(mood, name)
        changes[name] = a * b if name in factors else b if name == "tremor_hz" else a + b
    return replace(
        VoiceShift(**changes),
        rate=float(np.clip(changes["rate"], 0.45, 2.2)),
        breath=float(np.clip(changes["breath"], 0, 0.7)),
        opening=float(np.clip(changes["opening"], 0.8, 1.35)),
    )


# --- engines ------------------------------------------------------------------------------------------------


def missing_engines() -> dict[str, str]:
    """Engines of this module that cannot be used here, and why."""
    problems = {"flite": flite.needs()[0].fix}
    problems["festival"] = None if shutil.which("text2wave") else "the program text2wave of Festival is not installed"
    return {name: why for name, why in problems.items() if why}


def plain(text: str, speaker: Speaker) -> Speech:
    """As the engine itself says it; eSpeak NG alone tells when each word is heard. Raises EngineUnavailable, EngineFailed."""
    if speaker.engine == "flite":
        return Speech(flite.flite_say(text, speaker.voice))
    if speaker.engine == "festival":
        return Speech(_festival_say(text, speaker.voice))
    voice = f"{speaker.language}+{speaker.voice}"
    return Speech(*_espeak().say(text, voice=voice, rate_wpm=165, pitch=50, pitch_range=60, amplitude=90))


@cache
def _espeak() -> EspeakProcess:
    process = EspeakProcess()
    atexit.register(process.close)
    return process


def _festival_say(text: str, voice: str) -> Waveform:
    if "festival" in missing_engines():
        raise EngineUnavailable(missing_engines()["festival"])
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.txt", Path(folder) / "out.wav"
        source.write_text(text)
        command = ["text2wave", "-eval", f"(voice_{voice})", "-o", str(target), str(source)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=FESTIVAL_TIMEOUT_S)
        except (subprocess.SubprocessError, OSError) as error:
            raise EngineFailed(f"festival could not say {text[:40]!r}: {type(error).__name__}") from error
        return read_speech(target)


@lru_cache(maxsize=8)  # one sentence is often said in several emotions, one after another
def _parts(text: str, speaker: Speaker) -> tuple[Analysis, tuple[Word, ...]]:
    speech = plain(text, speaker)
    return analyzed(speech.wave.resampled(SAMPLE_RATE)), speech.words


def say(
    text: str,
    speaker: Speaker,
    emotion: UserEmotion,
    *,
    seed: int,
    intensity: float | None = None,
    augment: bool = True,
    channel: Channel | None = None,
) -> Waveform:
    """The sound of `said`."""
    return said(text, speaker, emotion, seed=seed, intensity=intensity, augment=augment, channel=channel).wave


def said(
    text: str,
    speaker: Speaker,
    emotion: UserEmotion,
    *,
    seed: int,
    intensity: float | None = None,
    augment: bool = True,
    channel: Channel | None = None,
) -> Speech:
    """One clip at 16 kHz, and when each of its words is heard, where the engine tells. Same arguments, same samples.

    `intensity` (0..1) and `channel` (the room and microphone) are drawn from the seed if not given.
    """
    rng = np.random.default_rng([seed, USER_EMOTIONS.index(emotion), _number(speaker.name)])
    parts, words = _parts(text, speaker)
    voiced = parts.pitch_hz[parts.pitch_hz > 0]
    own = float(np.median(voiced)) if len(voiced) else speaker.pitch_hz
    drawn = manner(emotion, rng, intensity)
    person = replace(speaker.shift, pitch_st=12 * float(np.log2(speaker.pitch_hz / own)))
    shift = combined(person, drawn.shift)
    wave = synthesized(parts, shift, seed=int(rng.integers(2**31)))
    pauses = _pauses(wave.samples, drawn.pauses, rng)
    wave = Waveform(_with_pauses(wave.samples, pauses), wave.sample_rate)
    starts = 0.0
    if augment:
        room, noise = channel or draw_channel(rng), int(rng.integers(2**31))
        wave, starts = heard(wave, room, gain_db=drawn.shift.gain_db, seed=noise), silence_s(noise)
    return Speech(wave, _timed(words, 1 / shift.rate, pauses, starts))


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


@dataclass(frozen=True)
class _Pause:
    """Silence of `samples` that is put in before the sample `at`."""

    at: int
    samples: int


def _pauses(x: Samples, count: int, rng: np.random.Generator) -> list[_Pause]:
    """At quiet moments, 30 dB or more under the peak, away from the ends; in their order."""
    hop = 160
    frames = len(x) // hop
    if count == 0 or frames < 60:
        return []
    level = np.array([np.mean(np.square(x[i * hop : (i + 1) * hop])) for i in range(frames)])
    quiet = np.flatnonzero(level < level.max() * 1e-3)
    quiet = quiet[(quiet > 25) & (quiet < frames - 25)]
    if not len(quiet):
        return []
    cuts = sorted({int(i) * hop for i in rng.choice(quiet, count)})
    lengths = [int(rng.uniform(0.2, 0.7) * SAMPLE_RATE) for _ in [*cuts, len(x)]]
    return [_Pause(at, samples) for at, samples in zip(cuts, lengths, strict=False)]


def _with_pauses(x: Samples, pauses: list[_Pause]) -> Samples:
    bounds = [0, *(pause.at for pause in pauses), len(x)]
    pieces: list[Samples] = [x[: bounds[1]]]
    for pause, begin, end in zip(pauses, bounds[1:], bounds[2:], strict=False):
        pieces += [np.zeros(pause.samples, np.float32), x[begin:end]]
    return np.concatenate(pieces)


def _timed(words: tuple[Word, ...], factor: float, pauses: list[_Pause], starts_s: float) -> tuple[Word, ...]:
    """Word times (seconds) in speech that lasts `factor` times as long, has pauses put in and begins `starts_s` later."""

    def moved(time_s: float) -> float:
        scaled = time_s * factor
        return starts_s + scaled + sum(one.samples for one in pauses if one.at < scaled * SAMPLE_RATE) / SAMPLE_RATE

    return tuple(word.model_copy(update={"start_s": moved(word.start_s), "end_s": moved(word.end_s)}) for word in words)
