"""The command line as a person uses it: whole programs, real engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from fakes import tone
from flaws import BAD_INPUTS, bad_inputs

import cli
from cascade.audio import joined, read_speech, write_wav
from cascade.cancel import CancelScope
from cascade.tts.espeak import Espeak
from cascade.turn import Turn

ROOT = Path(__file__).parents[1]


def run(*arguments: str | Path, typed: str | None = None) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], input=typed)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory, voice: Espeak) -> Path:
    speech = voice.speak(
        "I lost my job yesterday.", emotion="sad", intensity=0.7, rate=1.0, seed=0, cancel=CancelScope()
    )
    path = tmp_path_factory.mktemp("spoken") / "job.wav"
    write_wav(path, speech.wave)
    return path


def test_ask_answers_with_sound_and_a_readable_screen(spoken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    result = run("ask", spoken, "-o", out)
    assert result.exit_code == 0, result.output
    for label in (
        "heard",
        "sounded",
        "thought",
        "reply",
        "latency",
        "first sound",
        "real-time factor",
        "judged",
        "saved",
    ):
        assert label in result.output
    assert read_speech(out).duration_s > 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.wav"]


def test_ask_json_is_the_whole_turn_and_nothing_else(spoken: Path, tmp_path: Path) -> None:
    result = run("ask", spoken, "-o", tmp_path / "out.wav", "--json")
    assert result.exit_code == 0, result.stderr
    turn = Turn.model_validate_json(result.stdout)
    assert turn.is_target
    assert turn.problems_of_audio(Path()) == []
    assert turn.user_audio is not None
    assert turn.user_audio.path == str(spoken)


def test_no_think_hides_the_thought(spoken: Path, tmp_path: Path) -> None:
    result = run("ask", spoken, "-o", tmp_path / "out.wav", "--no-think")
    assert result.exit_code == 0
    assert "thought" not in result.output


def test_8_khz_stereo_is_answered(spoken: Path, tmp_path: Path) -> None:
    low = read_speech(spoken).resampled(8000).samples
    soundfile.write(tmp_path / "stereo.wav", np.stack([low, low], axis=1), 8000)
    result = run("ask", tmp_path / "stereo.wav", "-o", tmp_path / "out.wav")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_audio_is_one_line_exit_2_and_nothing_written(tmp_path: Path, name: str) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    path, word = bad_inputs(inputs)[name]
    refused(run("ask", path, "-o", tmp_path / "out.wav"), word)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def refused(result: Result, word: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert word in result.stderr
    assert result.stderr.startswith("attune: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_bad_settings_are_one_line_and_exit_2(spoken: Path, tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    embedded = (ROOT / "cascade" / "profiles" / "embedded.toml").read_text()
    profile.write_text(embedded.replace('engine = "pocketsphinx"', 'engine = "pocketsphinx"\nvolume = 3'))
    out = tmp_path / "out.wav"
    refused(run("ask", spoken, "-o", out, "--profile", profile), "legal: engine, deadline_s, dither, language_model")
    refused(run("ask", spoken, "-o", out, "--engine", "tts=robot"), "legal: espeak, flite, f5")
    refused(run("ask", spoken, "-o", out, "--engine", "nose=robot"), "stage=name")
    refused(run("ask", spoken, "-o", out, "--profile", "luxury"), "legal: auto, embedded, gpu")
    refused(run("ask", spoken, "-o", out, "--speaker", "nobody"), "known: none yet")
    refused(run("ask", spoken, "-o", tmp_path / "no" / "where.wav"), "cannot be written")
    refused(run("ask", spoken, "-o", tmp_path), "is a directory")
    refused(run("ask", spoken, "-o", tmp_path / "out.mp3"), "ends in .wav")
    refused(run("ask", spoken, "-o", spoken), "is the recording itself")
    refused(run("analyzer", "train", "-o", "/proc/attune"), "cannot be written")
    refused(run("chat", "--session", "../evil"), "letters, digits")
    assert not out.exists()


def test_noise_without_speech_is_refused(tmp_path: Path) -> None:
    noise = (0.05 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    refused(run("ask", tmp_path / "noise.wav", "-o", tmp_path / "out.wav"), "no speech found")


def test_chat_takes_words_and_recordings_and_remembers(spoken: Path, tmp_path: Path) -> None:
    first = run("chat", "--mute", "--session", "mine", typed=f"hello\n{spoken}\n/nowhere/missing.wav\n/quit\n")
    assert first.exit_code == 0, first.output
    assert "no such file" in first.stderr
    assert "attune chat --session mine" in first.output
    folder = Path(os.environ["ATTUNE_HOME"]) / "sessions" / "mine"
    turns = [Turn.model_validate_json(path.read_text()) for path in sorted(folder.glob("turn-*.json"))]
    assert [turn.source for turn in turns] == ["text", "speech"]
    assert all(turn.reply for turn in turns)
    assert all(turn.problems_of_audio(folder) == [] for turn in turns)
    second = run("chat", "--mute", "--session", "mine", typed="")
    assert "you: hello" in second.output
    assert second.exit_code == 0


def chat_with(stdin: bytes | None, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "cli", "chat", "--mute", *arguments]
    if stdin is None:
        return subprocess.run(
            ["sh", "-c", '"$@" <&-', "sh", *command], cwd=ROOT, capture_output=True, timeout=60, check=False
        )
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, timeout=60, check=False)


def test_chat_takes_bytes_that_are_no_text_and_a_closed_input() -> None:
    odd = chat_with(b"\xff\xfe my cat\nhello\n", "--session", "odd")
    assert odd.returncode == 0, odd.stderr
    assert b"Traceback" not in odd.stderr + odd.stdout
    assert odd.stdout.index(b"\n> hello\n") < odd.stdout.index(b"reply", odd.stdout.index(b"hello")), (
        "lines with answers"
    )
    assert b"Kept" in odd.stdout
    assert chat_with(b"", "--session", "odd").stdout.count(b"you:") == 2


def test_a_chat_in_which_nothing_was_said_leaves_nothing(tmp_path: Path) -> None:
    for stdin in (None, b""):
        closed = chat_with(stdin, "--home", str(tmp_path), "--session", "silent")
        assert closed.returncode == 0, closed.stderr
        assert b"Traceback" not in closed.stderr
        assert b"Kept" not in closed.stdout
        assert not list((tmp_path / "sessions").iterdir())


def test_a_recording_piped_into_chat_is_refused_and_not_answered_line_by_line(spoken: Path) -> None:
    piped = chat_with(b"hello\n" + spoken.read_bytes(), "--session", "piped")
    assert piped.returncode == 2
    refusals = [line for line in piped.stderr.decode().splitlines() if line.startswith("attune: ")]
    assert len(refusals) == 1, piped.stderr
    assert "the input is no text" in refusals[0]
    assert "attune ask FILE" in refusals[0]
    assert b"Traceback" not in piped.stderr
    kept = Path(os.environ["ATTUNE_HOME"]) / "sessions" / "piped"
    assert len(list(kept.glob("turn-*.json"))) == 1, "what was said before it stays"


def test_a_stream_without_consent_is_refused_and_doctor_tells_of_the_student() -> None:
    refused(run("chat", "--stream", "redis://localhost:1"), "add it, or leave --stream out")
    assert "attune chat --student" in run("doctor").output


def test_a_terminal_that_cannot_show_a_sign_gets_another(spoken: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "ask", str(spoken), "-o", str(tmp_path / "out.wav"), "--no-judge"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False)
    assert shown.returncode == 0, shown.stderr
    assert b"reply" in shown.stdout


def test_ctrl_c_while_it_listens_is_calm(spoken: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.wav"
    write_wav(long, joined([read_speech(spoken)] * 10))
    command = [sys.executable, "-m", "cli", "ask", str(long), "-o", str(tmp_path / "out.wav")]
    (aside := tmp_path / "aside").mkdir()
    environment = {**os.environ, "TMPDIR": str(aside)}
    program = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(aside.rglob("turn-0000-user.wav")):
        assert time.monotonic() < deadline, "the turn never began"
        time.sleep(0.02)
    time.sleep(0.3)
    program.send_signal(signal.SIGINT)
    shown, complaint = program.communicate(timeout=30)
    assert program.returncode == 130
    assert complaint.decode().splitlines()[-1] == "attune: no reply: stopped"
    assert b"failed" not in shown
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("command", [["doctor"], ["consent", "show"]])
def test_ctrl_c_is_130_whatever_the_command(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def wrapping(*_: object, **__: object) -> None:
        try:
            interrupted()
        except KeyboardInterrupt as error:
            raise RuntimeError("a library's own") from error

    monkeypatch.setattr("cascade.doctor.examine", wrapping)
    monkeypatch.setattr("distill.teaching.live.consent.consent_of", interrupted)
    result = run(*command, "--home", "/nowhere")
    assert result.exit_code == 130, result.output
    assert result.stderr == "\nattune: stopped\n"


def test_leaving_and_asking_for_help() -> None:
    result = run("chat", "--mute", typed="/help\nexit\nhello\n")
    assert result.exit_code == 0
    assert result.output.count("give a recording's path") == 2
    assert "latency" not in result.output


def test_kill_9_in_the_middle_of_a_turn_and_chat_again(spoken: Path, tmp_path: Path) -> None:
    """The sentence is long, so that the recognizer is still at work when the program dies."""
    long = tmp_path / "long.wav"
    write_wav(long, joined([read_speech(spoken)] * 10))
    command = [sys.executable, "-m", "cli", "chat", "--mute", "--session", "crash"]
    program = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdin is not None
    program.stdin.write(f"my cat is ill\n{long}\n")
    program.stdin.flush()
    folder = Path(os.environ["ATTUNE_HOME"]) / "sessions" / "crash"
    deadline = time.monotonic() + 60
    while not (folder / "turn-0001-user.wav").exists():
        assert time.monotonic() < deadline, "the second turn never began"
        time.sleep(0.02)
    time.sleep(0.3)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    assert not (folder / "turn-0001.json").exists(), "it was to be killed in the middle"
    again = run("chat", "--mute", "--session", "crash", typed="")
    assert again.exit_code == 0, again.output
    assert "you: my cat is ill" in again.output
    assert "cut off" in again.output
    assert Turn.model_validate_json((folder / "turn-0001.json").read_text()).reply is not None


def test_the_example_is_made_answered_and_says_how_to_go_on() -> None:
    result = run("chat", "--example", "--mute")
    assert result.exit_code == 0, result.output
    for word in ("An example", "heard", "sounded", "reply", "saved", "attune chat", "attune ask"):
        assert word in result.output


def test_calibrate_keeps_a_speaker_that_chat_uses(spoken: Path, voice: Espeak, tmp_path: Path) -> None:
    clips = []
    for number, text in enumerate(
        ("The table stands by the window.", "It is ten past four.", "I put the keys on the shelf.")
    ):
        wave = voice.speak(text, emotion="neutral", intensity=0.7, rate=1.0, seed=0, cancel=CancelScope()).wave
        clips.append(tmp_path / f"calm{number}.wav")
        write_wav(clips[-1], wave)
    result = run("calibrate", *clips, "--speaker", "ann")
    assert result.exit_code == 0, result.output
    asked = run("ask", spoken, "-o", tmp_path / "out.wav", "--speaker", "ann", "--json")
    assert asked.exit_code == 0, asked.output
    cold = run("ask", spoken, "-o", tmp_path / "out.wav", "--json")
    assert json.loads(asked.stdout)["cues"]["emotion"] != json.loads(cold.stdout)["cues"]["emotion"]
    refused(run("calibrate", *[clips[0]] * 3), "1 different recordings given")
    write_wav(tmp_path / "tone.wav", tone())
    refused(run("calibrate", tmp_path / "tone.wav"), "no speech")


def test_a_bug_is_one_line_and_its_traceback_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("cascade.profiles.load_profile", broken)
    result = run("doctor")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    path = Path(result.stderr.strip().rsplit(" ", 1)[1])
    assert "boom" in path.read_text()
    path.unlink()


def test_doctor_shows_every_engine_and_its_licence() -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.output
    for word in ("pocketsphinx", "BSD", "espeak", "GPL", "acoustic", "counsellor", "flite", "loudspeaker", "whole"):
        assert word in result.output


def test_doctor_says_what_the_gpu_profile_lacks_and_the_line_that_mends_it() -> None:
    result = run("doctor", "--profile", "gpu")
    assert result.exit_code == 1
    assert "Not whole: asr=faster_whisper" in result.output
    assert "✓ package     faster-whisper 1." in result.output
    assert "hf download Systran/faster-whisper-large-v3 --revision edaa852" in result.output
    assert "attune voices add neutral" in result.output


def test_doctor_loads_each_engine_and_times_it() -> None:
    result = run("doctor", "--profile", "embedded", "--load")
    assert result.exit_code == 0, result.output
    assert result.output.count("loaded in") == 8


def test_doctor_lists_the_models() -> None:
    from cascade.models import MODELS

    result = run("doctor", "--models")
    assert result.exit_code == 0, result.output
    for model in MODELS.values():
        assert f"{model.repo}@{model.revision[:7]}" in result.output
        assert model.licence in result.output


def test_without_a_gpu_the_profile_is_embedded_and_the_screen_says_why(spoken: Path, tmp_path: Path) -> None:
    result = run("ask", spoken, "-o", tmp_path / "out.wav", "--no-judge")
    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("Profile ")]
    assert len(said) == 1
    assert "embedded" in said[0]
    assert "attune doctor --profile gpu" in said[0]


def test_an_engine_that_cannot_work_is_said_and_gives_exit_1(spoken: Path, tmp_path: Path) -> None:
    profile = tmp_path / "broken.toml"
    embedded = (ROOT / "cascade" / "profiles" / "embedded.toml").read_text()
    profile.write_text(embedded.replace('engine = "espeak"', 'engine = "espeak"\nvoice = "martian"'))
    result = run("ask", spoken, "-o", tmp_path / "out.wav", "--profile", profile)
    assert result.exit_code == 1
    assert "no voice 'martian'" in result.stderr
    assert not (tmp_path / "out.wav").exists()


def test_every_command_has_help() -> None:
    for command in (
        [],
        ["ask"],
        ["chat"],
        ["calibrate"],
        ["doctor"],
        ["analyzer"],
        ["analyzer", "train"],
        ["analyzer", "score"],
    ):
        result = run(*command, "--help")
        assert result.exit_code == 0
        assert "Usage" in result.output
