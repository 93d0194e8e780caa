"""`attune voices`, and the option that says where voices are kept, as a person uses them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from checkpoints.everything import Checkpoints
from click.testing import CliRunner, Result
from fakes import tone

import cli
from cascade.audio import Waveform, write_wav
from cascade.home import default_home
from cascade.tts.voice_bank import load_bank

ROOT = Path(__file__).parents[1]
TEXT = "I lost my job yesterday, and I do not know what to do."


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def wav(tmp_path: Path, spoken_sentence: Waveform) -> Path:
    write_wav(tmp_path / "clip.wav", spoken_sentence)
    return tmp_path / "clip.wav"


def add(emotion: str, wav: Path, *more: str | Path) -> Result:
    return run("voices", "add", emotion, wav, "--text", TEXT, *more)


def test_home_holds_for_the_whole_command_and_no_longer(tmp_path: Path, wav: Path, checkpoints: Checkpoints) -> None:
    home, usual = tmp_path / "other", default_home()
    folder = home / "voices" / "default"
    assert add("neutral", wav, "--home", home).stdout == f"Kept {load_bank(folder).clips['neutral'].wav}\n"
    assert TEXT in run("voices", "list", "--home", home).stdout
    assert TEXT not in run("voices", "list").stdout
    profile = tmp_path / "mine.toml"
    embedded = (ROOT / "cascade" / "profiles" / "embedded.toml").read_text()
    f5 = f'engine = "f5"\nmodel = "{checkpoints.f5}"\nvocoder = "{checkpoints.f5}/vocos"'
    assert embedded.count('engine = "espeak"') == 1
    profile.write_text(embedded.replace('engine = "espeak"', f5))
    whole = run("doctor", "--load", "--profile", profile, "--home", home)
    assert whole.exit_code == 0, whole.output
    assert "✓ file        voices default\n" in whole.stdout
    lacking = run("doctor", "--load", "--profile", profile)
    assert lacking.exit_code == 1
    assert "Not whole: tts=f5" in lacking.stdout
    assert default_home() == usual == Path(os.environ["ATTUNE_HOME"])


def test_the_line_that_doctor_gives_fills_the_bank_in_that_home(tmp_path: Path, wav: Path) -> None:
    shown = run("doctor", "--profile", "embedded", "--engine", "tts=f5", "--home", tmp_path / "other").stdout
    folder = tmp_path / "other" / "voices" / "default"
    assert f"attune voices add neutral CLIP.wav --text 'its words' --bank {folder}" in shown
    assert add("neutral", wav, "--bank", folder).exit_code == 0
    assert load_bank(folder).clips


def test_removing_is_one_line_and_says_when_the_bank_is_of_no_use(wav: Path) -> None:
    add("neutral", wav)
    add("sad", wav)
    clips = load_bank(default_home() / "voices" / "default").clips
    removed = run("voices", "remove", "sad")
    assert (removed.exit_code, removed.stdout) == (0, f"Removed sad: {clips['sad'].wav}\n")
    assert removed.stderr == ""
    assert not clips["sad"].wav.exists()
    again = run("voices", "remove", "sad")
    assert again.exit_code == 2
    assert again.stderr.startswith("attune: ")
    assert again.stderr.endswith("the bank has no clip for sad; it has: neutral\n")
    last = run("voices", "remove", "neutral")
    assert last.exit_code == 0
    line = "attune voices add neutral CLIP.wav --text 'its words'"
    assert last.stderr == f"attune: without neutral the bank cannot be used; do: {line}\n"


def test_removing_from_a_named_bank_leaves_a_file_that_lies_elsewhere(tmp_path: Path, wav: Path) -> None:
    folder = tmp_path / "ann"
    folder.mkdir()
    (folder / "bank.toml").write_text(f"[sad]\nwav = '{wav}'\ntext = '{TEXT}'\n")
    removed = run("voices", "remove", "sad", "--bank", folder)
    assert removed.stdout == f"Removed sad: {wav} (the file stays)\n"
    assert wav.exists()


def test_a_clip_nobody_can_use_is_refused_and_a_poor_one_kept_with_a_warning(
    tmp_path: Path, wav: Path, spoken_sentence: Waveform
) -> None:
    folder = default_home() / "voices" / "default"
    for wave, problem in (
        (spoken_sentence.at_level(-64.0), "is too soft"),
        (tone(3.0), "give a clip in which someone speaks"),
    ):
        write_wav(tmp_path / "bad.wav", wave)
        refused = add("neutral", tmp_path / "bad.wav")
        assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert problem in refused.stderr
        assert not folder.exists()
    write_wav(wav, spoken_sentence.at_level(-40.0))
    kept = add("neutral", wav)
    assert kept.exit_code == 0
    assert "level -40 dBFS; record it" in kept.stderr
    assert load_bank(folder).clips["neutral"].text == TEXT


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "-0.1", "many"])
def test_word_errors_that_no_clip_can_have_are_refused(number: str) -> None:
    result = run("voices", "check", "--no-listen", f"--max-wer={number}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Invalid value for '--max-wer'" in result.stderr


def test_a_word_error_of_zero_is_legal_and_used(wav: Path) -> None:
    run("voices", "add", "neutral", wav, "--text", "Something else is said in here, not this at all.")
    strict = run("voices", "check", "--max-wer", "0", "--profile", "embedded")
    assert (strict.exit_code, "at most 0;" in strict.stdout) == (1, True), strict.output
    assert run("voices", "check", "--max-wer", "9", "--profile", "embedded").stdout == "neutral: ok\n"


@pytest.mark.parametrize("speed", ["nan", "inf", "0", "3"])
def test_speeds_that_cannot_be_spoken_are_one_line(wav: Path, speed: str) -> None:
    refused = add("neutral", wav, "--speed", speed)
    assert refused.exit_code == 2
    assert refused.stderr == f"attune: speed {float(speed)} is not legal; give 0.5 to 2, 1 = as fast as the clip\n"
    assert not (default_home() / "voices").exists()


@pytest.mark.parametrize("command", ["add", "remove", "list", "check"])
def test_every_command_of_voices_has_help_and_the_home(command: str) -> None:
    shown = " ".join(run("voices", command, "--help").output.split())
    assert "--bank" in shown
    assert "Where sessions, speakers and voices are kept" in shown
