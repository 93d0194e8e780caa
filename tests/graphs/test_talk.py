from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from fakes import fake_engines, tone

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Speech
from cascade.turn import Turn, Word
from graphs.conversation import looks_like_audio
from graphs.respond import GAP_S
from graphs.session import open_session
from graphs.state import Answered, Event, Sound
from graphs.talk import heard_text, talk


class TapeRecorder:
    """A player that plays nothing by itself: the test says how much was heard."""

    def __init__(self, hears_s: float | None = None) -> None:
        self.pieces: list[Waveform] = []
        self.stopped = threading.Event()
        self._hears_s = hears_s

    def play(self, wave: Waveform) -> None:
        self.pieces.append(wave)

    def wait(self) -> None:
        if self._hears_s is not None:
            self.stopped.wait(20)

    def stop(self) -> None:
        self.stopped.set()

    @property
    def played_s(self) -> float:
        if not self.pieces:
            return 0.0
        return sum(piece.duration_s for piece in self.pieces) if self._hears_s is None else self._hears_s


def taken(home: Path, player: TapeRecorder, *, stop_when_answered: bool) -> Turn:
    async def run() -> Turn:
        async with open_session(home, "s", fake_engines()) as session:
            scope = CancelScope()

            def show(event: Event) -> None:
                if stop_when_answered and isinstance(event, Answered):
                    scope.cancel()

            return await talk(session, session.ask(text="hi", cancel=scope), show, player=player, cancel=scope)

    return asyncio.run(run())


def test_sentences_are_played_with_a_breath_between(tmp_path: Path) -> None:
    player = TapeRecorder()
    turn = taken(tmp_path, player, stop_when_answered=False)
    assert [round(piece.duration_s, 3) for piece in player.pieces] == [0.3, round(0.3 + GAP_S, 3)]
    assert turn.reply_audio is not None
    assert sum(piece.duration_s for piece in player.pieces) == pytest.approx(turn.reply_audio.duration_s)
    assert turn.heard_text is None


def test_ctrl_c_while_it_plays_keeps_what_was_heard(tmp_path: Path) -> None:
    player = TapeRecorder(hears_s=0.21)
    turn = taken(tmp_path, player, stop_when_answered=True)
    assert player.stopped.is_set()
    assert turn.heard_text == "That is"

    async def remembered() -> str:
        async with open_session(tmp_path, "s", fake_engines()) as session:
            return (await session.history())[0].replied

    assert asyncio.run(remembered()) == "That is"


def sound(index: int, text: str, *, timed: bool) -> Sound:
    words = text.split()
    times = tuple(Word(text=w, start_s=i * 0.5, end_s=(i + 1) * 0.5) for i, w in enumerate(words)) if timed else ()
    return Sound(index, text, Speech(tone(0.5 * len(words)), times), 0.0)


def test_heard_words_by_time() -> None:
    sounds = [sound(0, "That is hard.", timed=True), sound(1, "What happened then?", timed=False)]
    assert heard_text(sounds, 0.0) == ""
    assert heard_text(sounds, 0.6) == "That"
    assert heard_text(sounds, 1.5) == "That is hard."
    assert heard_text(sounds, 1.5 + GAP_S + 0.6) == "That is hard. What"
    assert heard_text(sounds, 99) == "That is hard. What happened then?"


def test_what_is_a_recording_and_what_are_words(tmp_path: Path) -> None:
    assert looks_like_audio("/nowhere/missing.WAV")
    assert looks_like_audio("hello.flac")
    (tmp_path / "odd").write_text("")
    assert looks_like_audio(str(tmp_path / "odd"))
    assert not looks_like_audio("I love him and/or her")
    assert not looks_like_audio("hello there")
