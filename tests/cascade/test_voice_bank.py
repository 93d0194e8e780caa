"""Voice banks: what is kept, what is refused, what stands in for what, and what is said about a clip."""

from __future__ import annotations

import os
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cascade.audio import Waveform, read_speech, write_wav
from cascade.cancel import CancelScope
from cascade.engines import ENGINES, parse_options
from cascade.errors import Cancelled, ConfigError, EngineFailed, InputError
from cascade.home import default_home, using_home, usual_home
from cascade.tts import f5
from cascade.tts.clip_check import check_clip
from cascade.tts.espeak import Espeak
from cascade.tts.silence import pauses_s, trimmed
from cascade.tts.voice_bank import (
    NEAREST,
    Bank,
    Clip,
    add_clip,
    add_line,
    bank_folder,
    examined,
    legal_emotion,
    listing,
    load_bank,
    read_bank,
    remove_clip,
)
from cascade.turn import REPLY_EMOTIONS, EngineInfo, ReplyEmotion, Transcript

TEXT = "I will be there at nine, and we can talk."


class Listener:
    """A recognizer that hears what it is told to, or fails."""

    info = EngineInfo(name="listener", version="1")

    def __init__(self, hears: str | None) -> None:
        self.hears = hears

    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        cancel.check()
        if self.hears is None:
            raise EngineFailed("the recognizer died")
        return Transcript(text=self.hears, engine="listener")


@pytest.fixture(scope="module")
def speech(voice: Espeak) -> Waveform:
    said = voice.speak(TEXT, emotion="neutral", intensity=0.7, rate=1.0, seed=0, cancel=CancelScope()).wave
    return trimmed(said, 0.1)


@pytest.fixture
def wav(tmp_path: Path, speech: Waveform) -> Path:
    write_wav(tmp_path / "clip.wav", speech)
    return tmp_path / "clip.wav"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "voices" / "ann"


def quiet(seconds: float, rate: int) -> Waveform:
    return Waveform(np.zeros(round(seconds * rate), np.float32), rate)


def noise(seconds: float) -> Waveform:
    samples = np.random.default_rng(0).standard_normal(round(seconds * 24_000))
    return Waveform((0.05 * samples).astype(np.float32), 24_000)


def music() -> Waveform:
    """Three bars of plucked chords, 4.5 s."""
    at = np.arange(24_000 * 3 // 2) / 24_000
    bars = []
    for chord in ((262, 330, 392), (294, 349, 440), (247, 294, 392)):
        tones = sum(np.sin(2 * np.pi * hz * k * at) / k for hz in chord for k in range(1, 6))
        bars.append(Waveform((0.05 * tones * np.exp(-2 * at)).astype(np.float32), 24_000))
    return whole(*bars)


def whole(*parts: Waveform) -> Waveform:
    return Waveform(np.concatenate([part.samples for part in parts]), parts[0].sample_rate)


def test_an_added_clip_is_kept_as_mono_at_24_khz(folder: Path, wav: Path, speech: Waveform) -> None:
    stereo = np.stack([speech.samples, speech.samples], axis=1)
    soundfile.write(wav, stereo, speech.sample_rate)
    add_clip(folder, "neutral", wav, f'  He said: "{TEXT}"\nNo \\ more, café. ', 1.1)
    wav.unlink()
    clip = load_bank(folder).clips["neutral"]
    assert (clip.text, clip.speed) == (f'He said: "{TEXT}" No \\ more, café.', 1.1)
    info = soundfile.info(clip.wav)
    assert (info.samplerate, info.channels, clip.wav.parent) == (24_000, 1, folder)
    assert clip.wave().level_dbfs == pytest.approx(speech.level_dbfs, abs=0.1)
    assert tomllib.loads((folder / "bank.toml").read_text())["neutral"]["wav"] == clip.wav.name


def test_a_new_clip_takes_the_place_of_the_old_and_leaves_the_others(folder: Path, wav: Path, speech: Waveform) -> None:
    add_clip(folder, "neutral", wav, TEXT)
    first = add_clip(folder, "sad", wav, TEXT)
    write_wav(wav, speech.at_level(-30.0))
    second = add_clip(folder, "sad", wav, "Another text it is, for the other clip.")
    bank = load_bank(folder)
    assert list(bank.clips) == ["sad", "neutral"]
    assert bank.clips["sad"] == second
    assert not first.wav.exists()
    assert sorted(path.suffix for path in folder.iterdir()) == [".toml", ".wav", ".wav"]
    add_clip(folder, "sad", wav, TEXT)  # the same sound again, under another text
    assert load_bank(folder).clips["sad"].wav.is_file()


@pytest.mark.parametrize("suffix", [".wav", ".toml"])
def test_nothing_is_lost_when_the_bank_cannot_be_written(
    folder: Path, wav: Path, speech: Waveform, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    add_clip(folder, "neutral", wav, TEXT)
    before = load_bank(folder)
    write_wav(wav, speech.at_level(-30.0))

    replace = os.replace

    def full(source: str, target: str | Path) -> None:
        if Path(target).suffix == suffix:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="No space left"):
        add_clip(folder, "neutral", wav, "Other words these are.")
    after = load_bank(folder)
    assert after == before
    assert after.clips["neutral"].wave().duration_s > 1
    assert sorted(path.suffix for path in folder.iterdir()) == [".toml", ".wav"]


@pytest.mark.parametrize(
    ("emotion", "text", "speed", "problem"),
    [
        ("cheerful", TEXT, 1.0, "'cheerful' is no reply emotion; legal: joyful, sorry"),
        ("neutral", "  …", 1.0, "holds no word"),
        ("neutral", "be\x7fll", 1.0, "cannot be written"),
        ("neutral", "caf\udce9", 1.0, "cannot be written"),
        ("neutral", TEXT, 3.0, "speed 3.0 is not legal; give 0.5 to 2"),
        ("neutral", TEXT, float("nan"), "speed nan is not legal"),
    ],
)
def test_what_is_not_legal_is_refused_and_nothing_made(
    folder: Path, wav: Path, emotion: str, text: str, speed: float, problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as raised:
        add_clip(folder, emotion, wav, text, speed)
    assert "\n" not in str(raised.value)
    assert not folder.exists()


def test_a_clip_that_cannot_be_used_is_refused(folder: Path, tmp_path: Path, speech: Waveform) -> None:
    path = tmp_path / "x.wav"
    for wave, problem in (
        (whole(*[speech] * 6), "give a clip of 2 to 12 s"),
        (Waveform(speech.samples[:12_000], speech.sample_rate), "0.5 s long"),
        (quiet(3.0, 24_000), "silence"),
        (speech.at_level(-64.0), "level -64 dBFS is too soft; record it at -35 to -12"),
        (noise(3.0), "a voice in 0.0 of 3.0 s; give a clip in which someone speaks"),
        (music(), "s; give a clip in which someone speaks"),
    ):
        write_wav(path, wave)
        with pytest.raises(InputError, match=problem):
            add_clip(folder, "neutral", path, TEXT)
    path.write_text("no audio")
    with pytest.raises(InputError, match="not audio"):
        add_clip(folder, "neutral", path, TEXT)
    with pytest.raises(InputError, match="no such file"):
        add_clip(folder, "neutral", tmp_path / "none.wav", TEXT)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        (
            "[neutral\n",
            r"bank.toml: is not TOML \(.*\); mend this file, or rename or delete it and add the clips again",
        ),
        ("[cheerful]\nwav='a.wav'\ntext='a'\n", r"bank.toml: \[cheerful\]: 'cheerful' is no .*; legal: joyful"),
        ('["so\\nsad"]\n', r"\[so\\nsad\]: .* is no reply emotion"),
        ("neutral = 1\n", "must be a table"),
        ("[neutral]\nwav='a.wav'\ntext='a'\npitch=1\n", "no key 'pitch'; legal: wav, text, speed"),
        ("[neutral]\ntext='a'\n", "needs wav"),
        ("[neutral]\nwav='a.wav'\n", "needs text"),
        ("[neutral]\nwav='a.wav'\ntext=' '\n", r"bank.toml: \[neutral\]: text .* holds no word"),
        ("[neutral]\nwav='a.wav'\ntext='a'\nspeed='fast'\n", r"bank.toml: \[neutral\]: speed 'fast'"),
        ("[neutral]\nwav='a.wav'\ntext='a'\n", "a.wav: the bank names it and it is not there"),
        ("[sad]\nwav='a.wav'\ntext='a'\n", "no clip for neutral; do: attune voices add neutral"),
    ],
)
def test_a_bank_that_is_wrong_is_one_line(folder: Path, toml: str, problem: str) -> None:
    folder.mkdir(parents=True)
    (folder / "bank.toml").write_text(toml)
    with pytest.raises(InputError, match=problem) as raised:
        load_bank(folder)
    assert "\n" not in str(raised.value)


def test_a_broken_bank_is_renamed_and_made_anew_and_nothing_lost(folder: Path, wav: Path) -> None:
    first = add_clip(folder, "neutral", wav, TEXT)
    written = (folder / "bank.toml").read_bytes()
    (folder / "bank.toml").write_bytes(written + b"[sad\xff")
    for attempt in (lambda: add_clip(folder, "sad", wav, TEXT), lambda: remove_clip(folder, "neutral")):
        with pytest.raises(InputError, match="rename or delete it"):
            attempt()
    assert (folder / "bank.toml").read_bytes() == written + b"[sad\xff"
    (folder / "bank.toml").rename(folder / "bank.old")
    add_clip(folder, "sad", wav, TEXT)
    add_clip(folder, "neutral", wav, TEXT)
    assert load_bank(folder).clips["neutral"] == first
    assert (folder / "bank.old").exists()


def test_a_bank_that_is_no_file_is_one_line(folder: Path) -> None:
    (folder / "bank.toml").mkdir(parents=True)
    with pytest.raises(InputError, match=r"bank.toml: cannot be read \(Is a directory\); mend"):
        read_bank(folder)
    (folder / "file").touch()
    assert read_bank(folder / "file").clips == {}


def test_a_removed_clip_takes_its_file_along(folder: Path, wav: Path, speech: Waveform) -> None:
    kept = add_clip(folder, "neutral", wav, TEXT)
    write_wav(wav, speech.at_level(-30.0))
    gone = add_clip(folder, "sad", wav, TEXT)
    assert remove_clip(folder, "sad") == gone
    assert load_bank(folder).clips == {"neutral": kept}
    assert sorted(path.name for path in folder.iterdir()) == ["bank.toml", kept.wav.name]
    with pytest.raises(InputError, match="the bank has no clip for sad; it has: neutral"):
        remove_clip(folder, "sad")
    with pytest.raises(InputError, match="legal: joyful"):
        remove_clip(folder, "sadness")
    remove_clip(folder, "neutral")
    assert [path.name for path in folder.iterdir()] == ["bank.toml"]
    with pytest.raises(InputError, match="it has: none"):
        remove_clip(folder, "neutral")
    assert add_clip(folder, "neutral", wav, TEXT) == load_bank(folder).clips["neutral"]


def test_a_file_that_is_not_the_banks_or_is_anothers_stays(folder: Path, wav: Path) -> None:
    folder.mkdir(parents=True)
    write_wav(folder / "own.wav", read_speech(wav))
    files = {"neutral": "own.wav", "sad": "own.wav", "happy": str(wav), "angry": "gone.wav", "afraid": "."}
    (folder / "bank.toml").write_text("".join(f"[{e}]\nwav='{file}'\ntext='a'\n" for e, file in files.items()))
    for emotion in ("sad", "happy", "angry", "afraid"):
        remove_clip(folder, emotion)
    assert wav.is_file()
    assert load_bank(folder).clips["neutral"].wav.is_file()


def test_a_clip_stays_when_the_bank_cannot_be_written(folder: Path, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_clip(folder, "neutral", wav, TEXT)
    before = load_bank(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="No space left"):
        remove_clip(folder, "neutral")
    assert load_bank(folder) == before
    assert before.clips["neutral"].wave().duration_s > 1


def test_every_emotion_has_a_clip_or_a_stand_in() -> None:
    assert set(NEAREST) == set(REPLY_EMOTIONS)
    clip = Clip(Path("/a.wav"), "a")
    only = Bank(Path("/b"), {"neutral": clip})
    assert only.stand_ins == {emotion: "neutral" for emotion in REPLY_EMOTIONS if emotion != "neutral"}
    served: dict[str, ReplyEmotion] = dict(Bank(Path("/b"), {"neutral": clip, "happy": clip, "sad": clip}).stand_ins)
    assert served["joyful"] == "happy"
    assert served["tearful"] == served["sorry"] == "sad"
    assert served["angry"] == served["surprised"] == "neutral"
    assert not {"happy", "sad", "neutral"} & set(served)


def test_names_and_paths_of_banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_HOME", str(tmp_path))
    assert bank_folder("ann") == tmp_path / "voices" / "ann"
    assert bank_folder(str(tmp_path / "x")) == tmp_path / "x"
    for bad in ("a/b", "", "-x", "a" * 65):
        with pytest.raises(InputError, match="give a path that begins with"):
            bank_folder(bad)
    with pytest.raises(InputError, match="legal: joyful"):
        legal_emotion("glad")


def test_a_chosen_home_holds_until_it_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_HOME", str(tmp_path / "usual"))
    with suppress(RuntimeError), using_home(tmp_path / "chosen"):
        assert bank_folder("ann") == default_home() / "voices" / "ann" == tmp_path / "chosen" / "voices" / "ann"
        with using_home(tmp_path / "inner"):
            assert default_home() == tmp_path / "inner"
        assert default_home() == tmp_path / "chosen"
        assert usual_home() == tmp_path / "usual"
        raise RuntimeError
    assert default_home() == tmp_path / "usual"


def test_the_line_that_adds_a_clip_adds_it_to_this_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is run later, without --home, and maybe from another folder."""
    monkeypatch.chdir(tmp_path)
    with using_home(Path("my voices")):
        line = add_line("sad", bank_folder("default"))
    assert line == f"attune voices add sad CLIP.wav --text 'its words' --bank '{tmp_path}/my voices/voices/default'"
    assert "--bank" not in add_line("sad", bank_folder("default"))


def test_the_option_takes_a_path_from_the_profiles_folder(tmp_path: Path) -> None:
    assert parse_options("tts", "f5", {"voices": "./ann"}, tmp_path).model_dump()["voices"] == str(tmp_path / "ann")
    assert parse_options("tts", "f5", {"voices": "ann"}, tmp_path).model_dump()["voices"] == "ann"
    with pytest.raises(ConfigError, match="give a path that begins with"):
        parse_options("tts", "f5", {"voices": "a/b"}, tmp_path)


def test_a_good_clip_has_no_findings(speech: Waveform) -> None:
    assert check_clip(speech, TEXT, recognizer=Listener(TEXT.lower())) == []


def findings(wave: Waveform, text: str = TEXT, **more: Any) -> list[str]:
    return [finding.what for finding in check_clip(wave, text, **more)]


def test_each_fault_of_a_clip_is_found_alone(speech: Waveform) -> None:
    rate = speech.sample_rate
    half = len(speech.samples) // 2
    first, last = Waveform(speech.samples[:half], rate), Waveform(speech.samples[half:], rate)
    cases = {
        "before the first word": whole(quiet(0.8, rate), speech),
        "after the last word": whole(speech, quiet(0.8, rate)),
        "a pause of 1": whole(first, quiet(1.5, rate), last),
        "level -40 dBFS": speech.at_level(-40.0),
    }
    for problem, wave in cases.items():
        (found,) = findings(wave)
        assert problem in found
    cut = Waveform(np.clip(speech.samples * 12, -1, 1).astype(np.float32), rate)
    assert any("clipped" in found for found in findings(cut))


@pytest.mark.parametrize("emotion", ["happy", "afraid", "tearful"])
def test_synthetic_voices_are_voices_in_every_mood(voice: Espeak, emotion: ReplyEmotion) -> None:
    said = voice.speak(TEXT, emotion=emotion, intensity=1.0, rate=1.0, seed=0, cancel=CancelScope()).wave
    assert check_clip(trimmed(said, 0.1), TEXT) == []


def test_checking_a_clip_can_be_stopped(speech: Waveform) -> None:
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        check_clip(speech, TEXT, cancel=scope)


def test_text_that_cannot_be_the_clips_is_found(speech: Waveform) -> None:
    assert "too short for the clip" in findings(speech, "Yes.")[0]
    assert "too long for the clip" in findings(speech, TEXT * 3)[0]
    assert check_clip(speech, "")[0].unusable


def test_listening_back_compares_words(speech: Waveform) -> None:
    (found,) = findings(speech, recognizer=Listener("I will be there at five, or not."))
    assert "word error 0.50, at most 0.3" in found
    assert findings(speech, recognizer=Listener("I will be there at five, or not."), max_wer=0.6) == []


def test_listing_shows_clips_and_whose_they_use(folder: Path, wav: Path) -> None:
    add_clip(folder, "sad", wav, TEXT)
    lines = listing(read_bank(folder))
    assert any(line.split() == ["neutral", "none"] for line in lines)
    assert lines[-1] == f"The bank needs neutral: attune voices add neutral CLIP.wav --text 'its words' --bank {folder}"
    add_clip(folder, "neutral", wav, TEXT, 0.9)
    lines = listing(read_bank(folder))
    assert len(lines) == 2 + len(REPLY_EMOTIONS)
    shown = {line.split()[0]: line for line in lines[2:]}
    assert shown["tearful"].endswith("uses sad")
    assert shown["joyful"].endswith("uses neutral")
    assert shown["neutral"].endswith(f"0.90  {TEXT}")
    assert f"{read_speech(wav).duration_s:.1f}" in shown["neutral"].split()


def test_examined_tells_every_clip_and_whether_all_is_well(folder: Path, wav: Path) -> None:
    assert examined(read_bank(folder)) == (
        [
            f"neutral: no clip, and it must have one; do: attune voices add neutral CLIP.wav --text 'its words' --bank {folder}"
        ],
        False,
    )
    add_clip(folder, "neutral", wav, TEXT)
    assert examined(read_bank(folder), Listener(TEXT)) == (["neutral: ok"], True)
    lines, well = examined(read_bank(folder), Listener("something else"))
    assert not well
    assert "heard as 'something else'" in lines[0]
    assert examined(read_bank(folder), Listener(None)) == (["neutral: the recognizer died"], False)
    load_bank(folder).clips["neutral"].wav.write_bytes(b"RIFF")
    lines, well = examined(read_bank(folder))
    assert not well
    assert "not audio" in lines[0]


def test_edges_are_cut_where_speech_begins() -> None:
    rate = 24_000
    tone = Waveform((0.1 * np.sin(np.arange(rate) / 10)).astype(np.float32), rate)
    noise = np.random.default_rng(0).standard_normal(rate).astype(np.float32) * np.float32(3e-4)
    wave = Waveform(np.concatenate([noise, tone.samples, noise, tone.samples, noise[: rate // 2]]), rate)
    assert pauses_s(wave) == pytest.approx((1.0, 1.0, 0.5), abs=0.011)
    assert trimmed(wave, 0.05).duration_s == pytest.approx(3.1, abs=0.011)
    assert len(trimmed(quiet(1.0, rate), 0.05).samples) == 0
    assert pauses_s(quiet(1.0, rate)) == (1.0, 0.0, 0.0)


def test_the_table_of_engines_names_the_licence() -> None:
    assert "CC-BY-NC" in ENGINES["tts"]["f5"].licence


def test_a_missing_bank_is_one_line_with_the_command() -> None:
    need = f5.needs(f5.Options())[-1]
    assert (need.kind, need.name) == ("file", "voices default")
    assert need.fix == "attune voices add neutral CLIP.wav --text 'its words'"
