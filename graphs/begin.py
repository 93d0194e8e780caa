"""The node that begins a turn: gives it a number, keeps its audio, and finds the context it runs in."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, get_args

from langgraph.runtime import Runtime

from cascade.asr.voice_activity import read_turn
from cascade.audio import reference, write_wav
from cascade.errors import InputError
from cascade.profiles import DEFAULT, Engines, load_profile
from graphs.state import Context, Listening, State

_served: dict[str, Context] = {}  # turns that a server runs, by turn id, until they are recorded


async def begin(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    """Raises InputError unless the turn has exactly one of speech (in the context, or as a `wav` path) and `text`."""
    turn_id = uuid.uuid4().hex
    text, wav = state.get("text"), state.get("wav")
    given = runtime.context.user_speech if runtime.context else None
    speech = read_turn(Path(wav)) if wav is not None else given
    if (speech is None) == (text is None):
        raise InputError("a turn is spoken or typed: give `wav`, the path of a recording, or `text`")
    context = runtime.context or _served_context(turn_id)
    context.user_speech = speech
    index = state.get("index", -1) + 1
    audio = None
    if speech is not None:
        path = user_audio_path(context.folder, index)
        write_wav(path, speech)
        audio = reference(path, speech, context.folder).model_dump(mode="json")
    return {
        "turn_id": turn_id,
        "session_id": context.folder.name,
        "index": index,
        "created_at": datetime.now(UTC).isoformat(),
        "seed": state.get("seed", 0),
        "audio": audio,
        "text": text,
        "wav": None,
        # What an earlier turn left must not be taken for this one's.
        "attempt": 0,
        "complaints": [],
        **dict.fromkeys(get_args(Listening)),
        "respond": None,
        "judging": None,
    }


def user_audio_path(folder: Path, index: int) -> Path:
    return folder / f"turn-{index:04d}-user.wav"


def context_of(state: State, runtime: Runtime[Context]) -> Context:
    """The caller's context; on a server, which cannot pass one, the turn's own."""
    return runtime.context or _served_context(state["turn_id"])


def ended(state: State) -> None:
    _served.pop(state["turn_id"], None)


def _served_context(turn_id: str) -> Context:
    """For a server: the profile of $ATTUNE_PROFILE, files under $ATTUNE_SERVED (`served` in the working folder)."""
    if turn_id not in _served:
        folder = Path(os.environ.get("ATTUNE_SERVED", "served")) / turn_id
        folder.mkdir(parents=True, exist_ok=True)
        _served[turn_id] = Context(_served_engines(os.environ.get("ATTUNE_PROFILE", DEFAULT)), folder)
    return _served[turn_id]


@cache
def _served_engines(profile: str) -> Engines:
    return Engines.load(load_profile(profile))
