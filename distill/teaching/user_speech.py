"""Who speaks the user's turns: simulated voices, people cloned from voice banks, or a recording.

A folder of banks has one sub-folder a person: a voice bank of F5-TTS (`bank.toml` and clips) and a `speaker.toml`:

    gender = "female"     # female, male
    age = "adult"         # child, adult, elder
    split = "train"       # optional; else drawn from the name, so that it stays the same

What a person has no clip for is not asked of them.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from cascade.audio import SAMPLE_RATE, Waveform, read_speech
from cascade.cancel import CancelScope
from cascade.engines import Speech, Synthesizer
from cascade.errors import ConfigError, InputError
from cascade.tts.voice_bank import Bank, load_bank
from cascade.turn import Age, Emotion, EngineInfo, Gender, Record, ReplyEmotion
from cascade.values import complaint
from distill.teaching.records import SPLITS, Scenario, Split
from distill.teaching.rooms import draw_channel, heard, silence_s
from distill.teaching.voices import USER_EMOTIONS, Speaker, cast_of, said, say

SIMULATED = "simulated"
TEST_SHARE = VALIDATION_SHARE = 0.1
ACTED: dict[Emotion, ReplyEmotion] = {
    "angry": "angry",
    "disgusted": "disgusted",
    "fearful": "afraid",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "surprised": "surprised",
}


class UserVoices(Protocol):
    info: EngineInfo

    def say(self, scenario: Scenario, *, cancel: CancelScope) -> Speech:
        """The user's turn at 16 kHz, in a room, and when its words are heard, where that is known.

        Raises InputError: no such voice, nothing that it can sound like; EngineError.
        """
        ...

    def calm(self, voice: str, texts: Iterable[str], seed: int) -> list[Waveform]:
        """Sentences said calmly, for a baseline; empty where this kind of voice needs none."""
        ...


def user_speech(scenario: Scenario, voices: UserVoices, *, cancel: CancelScope) -> Speech:
    """Raises as `UserVoices.say`, and InputError for a recording that is not what the scenario names."""
    if scenario.recording is None:
        if scenario.labels.events:
            raise InputError(f"no voice here can make {'+'.join(scenario.labels.events)}; give a recording of it")
        return voices.say(scenario, cancel=cancel)
    return Speech(read_speech(scenario.recording))


class Simulated:
    """The voices of `distill.teaching.voices`."""

    info = EngineInfo(
        name="espeak", version=version("espeakng-loader"), options={"rooms": "simulated", "emotion": "WORLD"}
    )

    def say(self, scenario: Scenario, *, cancel: CancelScope) -> Speech:
        emotion = scenario.labels.emotion or "neutral"
        if emotion not in USER_EMOTIONS:
            raise InputError(f"no simulated voice can sound {emotion!r}; legal: {', '.join(USER_EMOTIONS)}")
        speaker = simulated(scenario.voice)
        return said(scenario.text or "", speaker, emotion, seed=scenario.seed, intensity=scenario.intensity)

    def calm(self, voice: str, texts: Iterable[str], seed: int) -> list[Waveform]:
        return [say(text, simulated(voice), "neutral", seed=seed + k) for k, text in enumerate(texts)]


def simulated(voice: str | None) -> Speaker:
    try:
        return _cast()[voice or ""]
    except KeyError:
        raise InputError(f"no simulated voice is called {voice!r}; leave the voice out to have one drawn") from None


@cache
def _cast() -> dict[str, Speaker]:
    return {speaker.name: speaker for split in SPLITS for speaker in cast_of(split)}


class _Speaker(Record):
    gender: Gender
    age: Age
    split: Split | None = None


@dataclass(frozen=True)
class Person:
    """Somebody of a folder of banks. emotions: those with a clip of their own."""

    name: str
    gender: Gender
    age: Age
    split: Split
    bank: Bank

    @property
    def emotions(self) -> tuple[Emotion, ...]:
        return tuple(emotion for emotion, clip in ACTED.items() if clip in self.bank.clips)


def people(folder: Path) -> list[Person]:
    """Everybody in a folder of banks, by name. Raises InputError: no folder, nobody there, a bank or speaker.toml that cannot be
    used.
    """
    if not folder.is_dir():
        raise InputError(f'user_voices = "{folder}": no such folder; legal: {SIMULATED}, or a folder of voice banks')
    found = [_person(path) for path in sorted(folder.iterdir()) if (path / "bank.toml").is_file()]
    if not found:
        raise InputError(
            f"{folder}: holds no voice bank; give a folder with one sub-folder (bank.toml, speaker.toml) a person"
        )
    return found


def _person(folder: Path) -> Person:
    path = folder / "speaker.toml"
    try:
        about = _Speaker.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); it names gender, age and if wished split") from None
    except ValidationError as error:
        raise InputError(f"{path}: {complaint(_Speaker, error)}") from None
    return Person(folder.name, about.gender, about.age, about.split or _drawn_split(folder.name), load_bank(folder))


def _drawn_split(name: str) -> Split:
    share = int.from_bytes(hashlib.sha256(f"split {name}".encode()).digest()[:4], "big") / 2**32
    return "test" if share < TEST_SHARE else "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


class Cloned:
    """People's voices by a synthesizer that speaks after a bank (F5-TTS), through the same rooms as the simulated ones."""

    def __init__(self, synthesizer: Any, folder: Path) -> None:
        if not hasattr(synthesizer, "with_bank"):
            raise ConfigError(
                f"user_voices = {str(folder)!r}: tts={synthesizer.info.name} speaks after no bank; use tts=f5"
            )
        self._people = {person.name: person for person in people(folder)}
        self._speaking: dict[str, Synthesizer] = {}
        self._synthesizer = synthesizer
        self.info = synthesizer.info.model_copy(
            update={"options": {**synthesizer.info.options, "people": sorted(self._people)}}
        )

    def say(self, scenario: Scenario, *, cancel: CancelScope) -> Speech:
        person, emotion = self._people.get(scenario.voice or ""), scenario.labels.emotion or "neutral"
        if person is None:
            raise InputError(f"nobody is called {scenario.voice!r}; legal: {', '.join(self._people)}")
        if emotion not in person.emotions:
            raise InputError(f"{person.name} has no clip that sounds {emotion}; legal: {', '.join(person.emotions)}")
        if person.name not in self._speaking:
            self._speaking[person.name] = self._synthesizer.with_bank(person.bank)
        speech = self._speaking[person.name].speak(
            scenario.text or "",
            emotion=ACTED[emotion],
            intensity=scenario.intensity,
            rate=1.0,
            seed=scenario.seed,
            cancel=cancel,
        )
        rng = np.random.default_rng([scenario.seed, 1])
        wave = speech.wave.resampled(SAMPLE_RATE)
        channel, noise = draw_channel(rng), int(rng.integers(2**31))
        starts_s = silence_s(noise)
        words = tuple(
            word.model_copy(update={"start_s": word.start_s + starts_s, "end_s": word.end_s + starts_s})
            for word in speech.words
        )
        return Speech(heard(wave, channel, gain_db=0.0, seed=noise), words)

    def calm(self, voice: str, texts: Iterable[str], seed: int) -> list[Waveform]:
        return []


def recast(plan: Iterable[Scenario], everybody: list[Person]) -> Iterator[Scenario]:
    """The plan with people of the same split in place of the simulated voices; their age and gender hold.

    A contrast set is one person's. A turn in an emotion that its person cannot act is rejected, and says so, when it is made.
    """
    for scenario in plan:
        cast = [person for person in everybody if person.split == scenario.split]
        if scenario.voice is None or scenario.recording or not cast:
            yield scenario
            continue
        able = [person for person in cast if scenario.labels.emotion in (None, *person.emotions)]
        among = cast if scenario.contrast or not able else able
        drawn = hashlib.sha256(f"person {scenario.contrast or scenario.seed}".encode()).digest()
        person = among[int.from_bytes(drawn[:4], "big") % len(among)]
        labels = scenario.labels.model_copy(update={"age": person.age, "gender": person.gender})
        yield scenario.model_copy(update={"voice": person.name, "labels": labels})
