"""People cloned from voice banks: who they are, what they can act, and how a plan is cast with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints.f5 import make_bank, make_f5
from fakes import INFO, tone

from cascade.cancel import CancelScope
from cascade.engines import Speech, load_engine
from cascade.errors import ConfigError, InputError
from cascade.tts.espeak import Espeak
from distill.teaching.records import Labels, Scenario
from distill.teaching.user_speech import Cloned, people, recast, user_speech

TEXT = "I will be there at nine, and we can talk."
ABOUT = 'gender = "female"\nage = "elder"\nsplit = "{}"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, voice: Espeak) -> Path:
    def said(emotion: Any) -> Any:
        speech = voice.speak(TEXT, emotion=emotion, intensity=1.0, rate=1.2, seed=0, cancel=CancelScope())
        return speech.wave, TEXT

    place = tmp_path_factory.mktemp("people")
    neutral, angry = said("neutral"), said("angry")
    for name, split, clips in (
        ("ann", "train", {"neutral": neutral, "angry": angry}),
        ("eve", "train", {"neutral": neutral}),
        ("kim", "test", {"neutral": neutral}),
    ):
        make_bank(place / name, clips)
        (place / name / "speaker.toml").write_text(ABOUT.format(split))
    return place


def scenario(emotion: Any = "angry", **parts: Any) -> Scenario:
    given = {"index": 0, "split": "train", "domain": "work", "template": "t", "text": "The train is late.", "seed": 3,
             "labels": Labels(emotion=emotion, age="child", gender="male", events=()), "voice": "train-m1-0-0"}  # fmt: skip
    return Scenario(**given | parts)


def test_who_is_there(folder: Path) -> None:
    ann, eve, kim = people(folder)
    assert (ann.name, ann.gender, ann.age, ann.split, ann.emotions) == (
        "ann",
        "female",
        "elder",
        "train",
        ("angry", "neutral"),
    )
    assert eve.emotions == ("neutral",)
    assert kim.split == "test"


def test_a_plan_is_cast_with_people_of_its_split_who_can_act_it(folder: Path) -> None:
    plan = [scenario(seed=seed) for seed in range(20)] + [scenario("neutral", seed=seed) for seed in range(20)]
    cast = list(recast(plan, people(folder)))
    assert {one.voice for one in cast[:20]} == {"ann"}, "only she sounds angry"
    assert {one.voice for one in cast[20:]} == {"ann", "eve"}
    assert {(one.labels.age, one.labels.gender) for one in cast} == {("elder", "female")}
    assert {one.voice for one in recast([scenario(split="test", seed=seed) for seed in range(9)], people(folder))} == {
        "kim"
    }
    sets = [
        scenario(tone, contrast=f"c{k}", seed=9 * k + n)
        for k in range(8)
        for n, tone in enumerate(("angry", "neutral"))
    ]
    done = list(recast(sets, people(folder)))
    assert all(one.voice == other.voice for one, other in zip(done[::2], done[1::2], strict=True)), (
        "a set is one person's"
    )
    assert {one.voice for one in done} == {"ann", "eve"}
    unvoiced = scenario(voice=None, task="speak")
    assert list(recast([unvoiced], people(folder))) == [unvoiced]


class Voice:
    info = INFO

    def with_bank(self, bank: Any) -> Voice:
        self.bank = bank
        return self

    def speak(self, text: str, **asked: Any) -> Speech:
        self.asked = asked
        return Speech(tone(2.0))


def test_people_speak_in_rooms_and_refuse_what_they_cannot_act(folder: Path) -> None:
    engine = Voice()
    cloned = Cloned(engine, folder)
    wave = user_speech(scenario(voice="ann"), cloned, cancel=CancelScope()).wave
    assert wave.sample_rate == 16_000
    assert engine.asked["emotion"] == "angry"
    assert engine.bank.folder == folder / "ann"
    assert cloned.info.options["people"] == ["ann", "eve", "kim"]
    with pytest.raises(InputError, match="eve has no clip that sounds angry; legal: neutral"):
        user_speech(scenario(voice="eve"), cloned, cancel=CancelScope())
    with pytest.raises(InputError, match="nobody is called 'bob'; legal: ann, eve, kim"):
        user_speech(scenario(voice="bob"), cloned, cancel=CancelScope())


def test_f5_speaks_after_another_bank_with_the_same_network(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("f5_tts")
    made = make_f5(tmp_path / "model")
    options = {"model": str(made), "vocoder": str(made / "vocos"), "voices": str(folder / "eve"), "nfe_steps": 2}
    engine = load_engine("tts", "f5", options)
    cloned = Cloned(engine, folder)
    wave = user_speech(scenario(voice="ann"), cloned, cancel=CancelScope()).wave
    assert wave.duration_s > 0.5
    other = engine.with_bank(people(folder)[0].bank)
    assert other._model is engine._model
    assert other.info.options["clips"] != engine.info.options["clips"]
    said: dict[str, Any] = {"emotion": "angry", "intensity": 0.7, "rate": 1.0, "seed": 1, "cancel": CancelScope()}
    alone, after = engine.speak("Hello there.", **said), other.speak("Hello there.", **said)
    assert alone.wave.sha256 != after.wave.sha256
    assert engine.speak("Hello there.", **said).wave.sha256 == alone.wave.sha256, "the first one stays as it was"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('gender = "female"', "age"),
        ('gender = "x"\nage = "adult"', "gender"),
        ("gender =", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_person_who_cannot_be_used_is_one_line(
    folder: Path, tmp_path: Path, content: str | None, problem: str
) -> None:
    place = tmp_path / "people" / "max"
    place.parent.mkdir()
    place.mkdir()
    for file in (folder / "eve").iterdir():
        if file.name != "speaker.toml":
            (place / file.name).write_bytes(file.read_bytes())
    if content is not None:
        (place / "speaker.toml").write_text(content)
    with pytest.raises(InputError, match=problem) as caught:
        people(place.parent)
    assert str(place / "speaker.toml") in str(caught.value)


def test_nobody_there_and_an_engine_without_banks(folder: Path, tmp_path: Path, voice: Espeak) -> None:
    with pytest.raises(InputError, match="holds no voice bank"):
        people(tmp_path)
    with pytest.raises(ConfigError, match="speaks after no bank"):
        Cloned(voice, folder)
