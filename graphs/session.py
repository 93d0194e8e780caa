"""A conversation: turns one after another, by teacher or student, remembered across restarts, its files in one folder.

Layout under the home folder: `sessions.sqlite` (LangGraph checkpoints), `sessions/<id>/turn-0000-user.wav`,
`turn-0000-reply.wav`, `turn-0000.json`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from cascade.audio import Waveform, read_speech
from cascade.cancel import CancelScope
from cascade.errors import InputError
from cascade.profiles import Engines
from cascade.turn import Baseline, Exchange, Turn
from graphs.begin import user_audio_path
from graphs.record import exchange_of, write_turn
from graphs.stages import StageRunner
from graphs.state import Context, Event, InputState, TurnGraph
from graphs.teacher import make_graph

SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DATABASE = "sessions.sqlite"

GraphMaker = Callable[[BaseCheckpointSaver[Any] | None], TurnGraph]


def check_session_id(session_id: str) -> str:
    """Raises InputError unless the id is safe as a folder's name."""
    if not SESSION_ID.fullmatch(session_id):
        raise InputError(
            f"session {session_id!r}: use 1 to 64 letters, digits, dots, dashes, underscores; a letter or digit first"
        )
    return session_id


def new_session_id() -> str:
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:4]


class Session:
    """Open it with `open_session`. One turn at a time."""

    def __init__(
        self, session_id: str, folder: Path, engines: Engines, graph: TurnGraph, calibration: Baseline | None
    ) -> None:
        self.id, self.folder, self.engines = session_id, folder, engines
        self._graph = graph
        self._calibration = calibration.model_dump(mode="json") if calibration else None
        self._runner = StageRunner()
        self._config: RunnableConfig = {"configurable": {"thread_id": session_id}}

    @property
    def kept(self) -> bool:
        """Whether anything was said that is kept."""
        return self.folder.is_dir() and any(self.folder.iterdir())

    async def history(self) -> list[Exchange]:
        values = (await self._graph.aget_state(self._config)).values
        return [Exchange.model_validate(exchange) for exchange in values.get("history", [])]

    async def unfinished(self) -> bool:
        """Whether the program ended in the middle of a turn; `resume` answers it."""
        state = await self._graph.aget_state(self._config)
        return bool(state.tasks) or _left_by_another(state.values) or self._unheard(state.values).exists()

    def _unheard(self, values: dict[str, Any]) -> Path:
        """The audio of the turn after the last one that reached a checkpoint.

        It is kept before anything else is done. Where it is there, the program ended in the first moments of that turn.
        """
        return user_audio_path(self.folder, values.get("index", -1) + 1)

    async def ask(
        self,
        *,
        speech: Waveform | None = None,
        text: str | None = None,
        seed: int = 0,
        cancel: CancelScope | None = None,
        listen_back: bool = True,
    ) -> AsyncIterator[Event]:
        """One turn, spoken or typed; yields events as they happen, `Done` last. Cancel the scope to stop it."""
        assert (speech is None) != (text is None), "a turn is spoken or typed"
        context = self._context(cancel, listen_back)  # the clock starts here
        context.user_speech = speech
        begin: InputState = {"text": text, "wav": None, "seed": seed}
        async for event in self._stream(begin, context):
            yield event

    async def resume(self, *, cancel: CancelScope | None = None, listen_back: bool = True) -> AsyncIterator[Event]:
        """Finish the turn in whose middle the program ended, from its last checkpoint.

        Raises InputError where nothing of it was kept.
        """
        state = await self._graph.aget_state(self._config)
        if (unheard := self._unheard(state.values)).exists():
            async for event in self.ask(speech=read_speech(unheard), cancel=cancel, listen_back=listen_back):
                yield event
            return
        context = self._context(cancel, listen_back)
        if state.tasks:  # one that is done, but not yet part of the state, is no `next`
            try:
                async for event in self._stream(None, context):
                    yield event
            except InputError as error:
                if state.next not in (("__start__",), ("begin",)):
                    raise
                raise InputError("the last turn was cut off before any of it was kept; say it again") from error
            state = await self._graph.aget_state(self._config)
        if not state.tasks and _left_by_another(state.values):
            await self._graph.aupdate_state(self._config, {"attempt": 0}, as_node="begin")
            async for event in self._stream(None, context):
                yield event

    async def stopped(self, turn: Turn, heard_text: str) -> Turn:
        """The person stopped the reply while it played: remember it as far as it was heard."""
        turn = turn.model_copy(update={"heard_text": heard_text})
        write_turn(self.folder, turn)
        values = (await self._graph.aget_state(self._config)).values
        history = [*values["history"][:-1], exchange_of(turn).model_dump(mode="json")]
        await self._graph.aupdate_state(
            self._config, {"history": history, "turn": turn.model_dump(mode="json")}, as_node="record"
        )
        return turn

    def _context(self, cancel: CancelScope | None, listen_back: bool) -> Context:
        return Context(
            engines=self.engines,
            folder=self.folder,
            cancel=cancel or CancelScope(),
            runner=self._runner,
            baseline=self._calibration,
            ears=listen_back,
        )

    async def _stream(self, begin: InputState | None, context: Context) -> AsyncIterator[Event]:
        """`begin`: None to go on from the last checkpoint."""
        # Each step is kept before the next begins ("sync"): one that is written meanwhile may hold what the next has already
        # changed, and a turn that goes on from it would not wait for its stages.
        steps = self._graph.astream(begin, self._config, context=context, stream_mode="custom", durability="sync")
        async for event in steps:
            yield cast(Event, event)


@asynccontextmanager
async def open_session(
    home: Path,
    session_id: str,
    engines: Engines,
    *,
    calibration: Baseline | None = None,
    make: GraphMaker = make_graph,
) -> AsyncIterator[Session]:
    """Open or continue a session; `make`: the graph that takes its turns.

    Raises InputError when the home folder cannot be used.
    """
    folder = home / "sessions" / check_session_id(session_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        connection = await aiosqlite.connect(home / DATABASE)
        # With LangGraph's write-ahead log this outlives the program's death without waiting for the disk at each step.
        await connection.execute("PRAGMA synchronous=NORMAL")
    except (OSError, aiosqlite.Error) as error:
        raise InputError(
            f"{home}: sessions cannot be kept there ({_why(error)}); choose another with --home"
        ) from error
    try:
        yield Session(session_id, folder, engines, make(AsyncSqliteSaver(connection)), calibration)
    finally:
        await connection.close()
        with suppress(OSError):  # where nothing was said, nothing is left
            folder.rmdir()


def _left_by_another(values: dict[str, Any]) -> bool:
    """Whether the last turn was begun and not recorded. With nothing next, another graph was at it: teacher and student share
    `begin`, and a turn can go on from there in either.
    """
    recorded: int = (values.get("turn") or {}).get("index", -1)
    begun: int = values.get("index", -1)
    return begun > recorded


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
