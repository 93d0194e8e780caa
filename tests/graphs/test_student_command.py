"""A student in the terminal: played as one, stopped while it plays, and asked for by --model."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_student import FakeSpeechLM, answer, student
from fakes import tone

import cli
from cascade.audio import read_speech, write_wav
from cascade.cancel import CancelScope
from cascade.turn import Turn
from graphs.session import open_session
from graphs.state import Answered, Event
from graphs.student import make_graph
from graphs.talk import talk

ROOT = Path(__file__).parents[2]


class Tape:
    """A player of which the test says how much was heard."""

    def __init__(self, hears_s: float | None = None) -> None:
        self.pieces: list[Any] = []
        self.hears_s = hears_s
        self.done = threading.Event()

    def play(self, wave: Any) -> None:
        self.pieces.append(wave)

    def wait(self) -> None:
        if self.hears_s is not None:
            self.done.wait(20)

    def stop(self) -> None:
        self.done.set()

    @property
    def played_s(self) -> float:
        return self.hears_s if self.pieces and self.hears_s is not None else 0.0


def played(home: Path, tape: Tape, *, stop: bool) -> Turn:
    async def run() -> Turn:
        async with open_session(home, "s", student(FakeSpeechLM(answer())), make=make_graph) as session:
            scope = CancelScope()

            def show(event: Event) -> None:
                if stop and isinstance(event, Answered):
                    scope.cancel()

            return await talk(session, session.ask(speech=tone(), cancel=scope), show, player=tape, cancel=scope)

    return asyncio.run(run())


def test_pieces_are_played_as_one_without_pauses(tmp_path: Path) -> None:
    tape = Tape()
    turn = played(tmp_path, tape, stop=False)
    assert [piece.duration_s for piece in tape.pieces] == [0.48, 0.48]
    saved = read_speech(tmp_path / "sessions" / "s" / "turn-0000-reply.wav")
    assert saved.duration_s == pytest.approx(0.96)
    assert turn.heard_text is None


def test_ctrl_c_while_it_plays_keeps_the_words_that_were_heard(tmp_path: Path) -> None:
    assert played(tmp_path, Tape(0.5), stop=True).heard_text == "That is hard."


def run(*arguments: str | Path, typed: str | None = None) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], input=typed)


def refused(result: Result, word: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert word in result.stderr
    assert result.stderr.startswith("attune: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--model", "m", "--profile", "embedded"], "--profile does not go with --student or --model"),
        (["--model", "m", "--engine", "tts=flite"], "--engine does not go with --student or --model"),
        (["--model", "m", "--speaker", "me"], "--speaker does not go with --student or --model"),
        (["--model", "m", "--judge"], "--judge does not go with --student or --model"),
        (["--model", "m", "--contribute"], "--contribute does not go with --student or --model"),
        (["--student", "--judge"], "--judge does not go with --student or --model"),
        (["--student", "--model", "m"], "--student is the one that comes with Attune, --model m another"),
        (["--think", "none"], "--think goes with --student, or --model"),
        (["--no-vector"], "--no-vector goes with --student, or --model"),
    ],
)
def test_options_that_mean_nothing_together_are_one_line(options: list[str], word: str) -> None:
    refused(run("chat", *options), word)


def test_a_folder_that_holds_no_student_is_one_line(tmp_path: Path) -> None:
    write_wav(tmp_path / "in.wav", tone())
    refused(run("chat", "--model", tmp_path / "nowhere"), "nowhere")


def test_without_torch_it_is_one_line_with_the_extra(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None\nimport cli\ncli.main()"
    command = [sys.executable, "-c", code, "chat", "--model", str(tmp_path)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    (line,) = shown.stderr.splitlines()
    assert line == "attune: a student needs torch, which is not here: pip install -e '.[student]'"


def test_chat_and_ask_by_a_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoken_sentence: Any) -> None:
    lm = FakeSpeechLM(answer(said="Two words."), answer(said="Two words."))
    monkeypatch.setattr("graphs.student_engine.load_student", lambda folder, think, vector: student(lm, think=think))
    write_wav(tmp_path / "in.wav", spoken_sentence)
    chat = run("chat", "--model", tmp_path, "--mute", "--think", "none", typed=f"{tmp_path / 'in.wav'}\n/quit\n")
    assert chat.exit_code == 0, chat.output
    for word in ("heard  “i lost my job”", "sad", "cry · ", "reply  Two words.", "first sound after", "peak memory"):
        assert word.replace(" · ", "") in chat.stdout
    assert lm.asked[0]["think"] == "none"
    asked = run("ask", tmp_path / "in.wav", "--model", tmp_path, "-o", tmp_path / "out.wav", "--json")
    assert asked.exit_code == 0, asked.output
    assert Turn.model_validate_json(asked.stdout).is_target
    assert read_speech(tmp_path / "out.wav").duration_s == pytest.approx(0.96)
