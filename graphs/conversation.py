"""The chat in a terminal: read a line, take a turn, until the person leaves."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from cascade.asr.voice_activity import read_turn, require_speech
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.devices import Player, record_turn
from cascade.errors import AttuneError, InputError
from cascade.turn import Turn
from graphs.screen import Screen, bar, stopped
from graphs.session import Session
from graphs.state import Event
from graphs.talk import talk

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif")
LEAVE = ("/quit", "/exit", "/q", "quit", "exit")
COMMAND = re.compile(r"/[a-z]+")  # a path holds more than one slash, or a dot
HELP = "Type words; or give a recording's path; or press Enter and speak. Ctrl-C stops a reply, /quit ends."
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # of no text; a terminal's arrow keys send some
RECALLED = 3  # exchanges shown when a session is continued


class Conversation:
    """Turns run in `runner`, so that Ctrl-C during one stops that turn alone. `after` is called with each finished turn."""

    def __init__(
        self,
        runner: asyncio.Runner,
        session: Session,
        screen: Screen,
        player: Player | None,
        *,
        seed: int,
        listen_back: bool,
        after: Callable[[Turn], None] | None = None,
    ) -> None:
        self.runner, self.session, self.screen, self.player = runner, session, screen, player
        self.seed, self.listen_back, self.after = seed, listen_back, after

    def run(self) -> None:
        """Until /quit, end of input, or Ctrl-C at the prompt. Raises InputError: a file is piped in that is no text."""
        click.echo(f"Session {self.session.id}. {HELP}")
        for exchange in self.runner.run(self.session.history())[-RECALLED:]:
            click.echo(click.style(f"  you: {exchange.said or '(not understood)'}", dim=True))
            click.echo(click.style(f"  it:  {exchange.replied or '(no reply)'}", dim=True))
        if self.runner.run(self.session.unfinished()):
            click.echo("The last turn was cut off before its answer; answering it now.")
            try:
                self.turn(resume=True)
            except AttuneError as error:
                click.echo(f"attune: {error}", err=True)
        while (typed := _typed()) is not None:
            if not sys.stdin.isatty() and CONTROL.search(typed):  # its thousand lines would all be answered
                raise InputError(
                    "the input is no text, but a recording's bytes; give its path as a line, or use: attune ask FILE"
                )
            self.said(typed)
        if self.session.kept:
            click.echo(f"Kept. To go on: attune chat --session {self.session.id}")

    def said(self, typed: str) -> None:
        """A line of the person's: nothing (speak), a path, or text. A problem is one line, and the chat goes on."""
        path = typed.strip("'\"").replace("\\ ", " ")
        try:
            if not typed:
                self.turn(speech=record())
            elif COMMAND.fullmatch(typed):
                click.echo(HELP)
            elif looks_like_audio(path):
                self.turn(speech=read_turn(Path(path).expanduser()))
            else:
                self.turn(text=typed)
        except AttuneError as error:
            click.echo(f"attune: {error}", err=True)

    def turn(self, **said: Any) -> Turn:
        answered = one_turn(
            self.session, self.screen, player=self.player, seed=self.seed, listen_back=self.listen_back, **said
        )
        turn = self.runner.run(answered)
        stopped(turn)
        if self.after:
            self.after(turn)
        return turn


def _typed() -> str | None:
    """The next line, or None when the person leaves."""
    asked = sys.stdin is not None and sys.stdin.isatty()
    try:
        typed = input("\n> " if asked else "").strip()
    except (EOFError, KeyboardInterrupt, RuntimeError):  # RuntimeError: there is no standard input
        click.echo()
        return None
    readable = typed.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # bytes that are not UTF-8
    if not asked:
        click.echo(f"\n> {readable}")  # what is piped in is read with its answers
    return None if readable.lower() in LEAVE else readable


def looks_like_audio(typed: str) -> bool:
    """Whether a line is meant as a recording's path rather than as words."""
    return typed.lower().endswith(AUDIO_SUFFIXES) or ("/" in typed and Path(typed).expanduser().exists())


async def one_turn(
    session: Session,
    show: Callable[[Event], None],
    *,
    player: Player | None = None,
    resume: bool = False,
    seed: int = 0,
    listen_back: bool = True,
    **said: Any,
) -> Turn:
    """One turn that Ctrl-C stops, and only it."""
    cancel = CancelScope()
    if resume:
        events = session.resume(cancel=cancel, listen_back=listen_back)
    else:
        events = session.ask(cancel=cancel, seed=seed, listen_back=listen_back, **said)
    with _stopped_by_ctrl_c(cancel, player):
        return await talk(session, events, show, player=player, cancel=cancel)


@contextmanager
def _stopped_by_ctrl_c(cancel: CancelScope, player: Player | None) -> Iterator[None]:
    def stop(*_: object) -> None:
        cancel.cancel()
        if player:
            player.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def record() -> Waveform:
    """One turn from the microphone. Raises EngineUnavailable, InputError."""
    wave: Waveform | None = None
    try:
        for heard in record_turn():
            if isinstance(heard, Waveform):
                wave = heard
                break
            level = max(0.0, min(1.0, 1 + heard / 60))
            click.echo(f"\rlistening {bar(level)} (pause to send)", nl=False, err=True)
    finally:
        click.echo(err=True)
    assert wave is not None, "a recording ends with its sound"
    return require_speech(wave, "microphone")
