"""The chat's side of giving turns: ask once, keep each turn in the spool at once, send it when the stream is there.

Nothing here makes a conversation wait or fail: a turn is copied on disk, the rest is done beside it, and what goes wrong is one
line after the next turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cascade.errors import AttuneError, EngineError, InputError, one_line
from cascade.turn import Turn
from distill.teaching.live import consent
from distill.teaching.live.consent import HISTORY, LOCAL, Consent
from distill.teaching.live.contribution import Letter, Spool, refusal
from distill.teaching.live.stream import TurnStream, flush
from graphs.record import exchange_of

Tell = Callable[[str], None]
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
LAST_S = 3.0  # how long the end of a chat waits for turns to be sent


def open_contributor(home: Path, stream_url: str | None, ask: Callable[[str], bool], tell: Tell) -> Contributor | None:
    """Gives this chat's turns to the stream, or without one to the spool in the home folder; None: the person said no.

    `ask` shows the question and brings the answer; it is called where no consent covers that place. A no is not kept. `tell`
    gets lines for the person. The stream need not be there. Raises ConfigError (URL), InputError (home), EngineUnavailable
    (no redis package).
    """
    stream = TurnStream(stream_url) if stream_url else None
    place = stream.place if stream else LOCAL
    agreed = consent.consent_of(home)
    if agreed is None or not agreed.covers(place):
        if not ask(consent.question(place, home)):
            return None
        agreed = consent.give(home, place)
    return Contributor(home, agreed, stream, tell)


class Contributor:
    """Open it with `open_contributor`; close it when the chat ends."""

    def __init__(self, home: Path, agreed: Consent, stream: TurnStream | None, tell: Tell) -> None:
        self._home, self._agreed, self._tell = home, agreed, tell
        self._spool, self._stream = Spool(home), stream
        self._trouble: str | None = None  # what the sender has met, to be told once
        self._told: str | None = None
        self._wake, self._closing = threading.Event(), False
        self._sender = threading.Thread(target=self._send, name="contributor", daemon=True) if stream else None
        if self._sender:
            self._wake.set()  # for what an earlier chat left
            self._sender.start()

    def turn(self, turn: Turn, session_folder: Path) -> None:
        """Call it after each finished turn, with the folder its record and sounds are in. Never raises."""
        try:
            self._give(turn, session_folder)
        except Exception as error:  # no fault of giving may end a conversation
            self._tell(f"this turn is not contributed: {_line(error)}")
        self._tell_trouble()

    def close(self) -> None:
        """Waits a moment for what is on its way; the rest goes out with a later chat. Never raises."""
        if not (self._stream and self._sender):
            return
        self._closing = True
        self._wake.set()
        self._sender.join(LAST_S)
        self._tell_trouble()
        if waiting := self._spool.waiting(self._stream.place):
            where = f"not sent yet: {waiting} (in {self._spool.folder})"
            self._tell(f"{where}; they go out when you next chat with --contribute")
        if not self._sender.is_alive():
            self._stream.close()

    def _give(self, turn: Turn, folder: Path) -> None:
        now = consent.consent_of(self._home)
        if now is None or now.contributor != self._agreed.contributor:
            self._once("consent was withdrawn: nothing more of this chat is contributed")
            return
        earlier = _earlier(turn, folder)
        if refusal(turn, [exchange_of(one) for one in earlier]) is not None:
            return
        history = tuple(exchange_of(one) for one in earlier if one.created_at >= now.given_at)
        place = self._stream.place if self._stream else LOCAL
        self._spool.put(Letter(contributor=now.contributor, place=place, turn=turn, history=history), folder)
        self._wake.set()

    def _tell_trouble(self) -> None:
        """From the chat's own thread, so that no line falls into a reply."""
        if trouble := self._trouble:
            self._once(trouble)

    def _once(self, line: str) -> None:
        if line != self._told:
            self._told = line
            self._tell(line)

    def _send(self) -> None:
        """Send what waits; while the stream is away, try again after a while."""
        assert self._stream is not None, "without a stream there is no sender"
        pause_s: float | None = None
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            last = self._closing  # what comes while sending is sent in another round
            try:
                settle_withdrawn(self._home, self._stream)
                flush(self._spool, self._stream)
                self._trouble, pause_s = None, None
            except (AttuneError, OSError) as error:
                self._trouble = f"{_line(error)}; turns are kept and sent later"
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if pause_s else FIRST_PAUSE_S
            if last:
                return


def _line(error: Exception) -> str:
    return str(error) if isinstance(error, AttuneError) else one_line(error)


def _earlier(turn: Turn, folder: Path) -> list[Turn]:
    """The turns before this one in its session, oldest first, as far back as a reasoner looks and files can be read."""
    found: list[Turn] = []
    for index in range(turn.index - 1, max(-1, turn.index - 1 - HISTORY), -1):
        try:
            found.append(Turn.model_validate_json((folder / f"turn-{index:04d}.json").read_bytes()))
        except (OSError, ValidationError):
            break
    return found[::-1]


@dataclass(frozen=True)
class Deleted:
    """What a withdrawal deleted: turns that waited. `unreached`: why places still have theirs, a line each."""

    spool: int = 0
    stream: int = 0
    unreached: tuple[str, ...] = ()


def withdraw(home: Path, stream_url: str | None = None) -> Deleted:
    """End the consent that stands, and delete what waits of it in the spool and in each stream it went to.

    A stream that is away stays on the list: the next withdrawal, or chat that contributes there, deletes it. `stream_url`: of a
    stream that asks for a password, which is not kept. Raises ConfigError (URL), InputError (home).
    """
    given = TurnStream(stream_url) if stream_url else None
    spooled = streamed = 0
    unreached: list[str] = []
    for one in consent.withdraw(home):
        spooled += _from_spool(home, one.contributor)
        for place in dict.fromkeys((*one.places, *([given.place] if given else []))):
            try:
                if place != LOCAL:
                    streamed += (given if given and place == given.place else TurnStream(place)).withdraw(
                        one.contributor
                    )
                consent.settle(home, one.contributor, place)
            except EngineError as error:
                unreached.append(str(error))
    return Deleted(spooled, streamed, tuple(unreached))


def settle_withdrawn(home: Path, stream: TurnStream) -> None:
    """What was withdrawn while this stream was away is deleted there now. Raises EngineUnavailable, EngineFailed."""
    for one in consent.unsettled(home):
        if stream.place in one.places:
            stream.withdraw(one.contributor)
            consent.settle(home, one.contributor, stream.place)


def _from_spool(home: Path, contributor: str) -> int:
    try:
        return Spool(home).withdraw(contributor)
    except OSError as error:
        place = error.filename or home
        raise InputError(f"{place}: cannot be deleted ({error.strerror}); mend that and withdraw again") from error
