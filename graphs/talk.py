"""One turn with a loudspeaker and a person who may interrupt it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np

from cascade.audio import Waveform, joined
from cascade.cancel import CancelScope
from cascade.devices import Player
from cascade.engines import Speech
from cascade.turn import Turn
from graphs.respond import GAP_S
from graphs.session import Session
from graphs.state import Answered, Done, Event, Sound

WATCH_S = 0.05


async def talk(
    session: Session,
    events: AsyncIterator[Event],
    show: Callable[[Event], None],
    *,
    player: Player | None,
    cancel: CancelScope,
) -> Turn:
    """Show and play a turn's events as they come; if the person stops it, remember only what was heard."""
    sounds: list[Sound] = []
    played_before = player.played_s if player else 0.0
    turn: Turn | None = None
    playing: asyncio.Task[None] | None = None
    async for event in events:
        if isinstance(event, Done) and playing:
            await playing  # the judge listened meanwhile; its line comes when the person has heard the reply, too
        show(event)
        if isinstance(event, Sound):
            if player and not cancel.cancelled:
                player.play(_with_gap(event.speech.wave) if sounds and not event.flows else event.speech.wave)
            sounds.append(event)
        elif isinstance(event, Done):
            turn = event.turn
        elif isinstance(event, Answered) and player:
            playing = asyncio.create_task(_played(player, cancel))
    assert turn is not None, "the graph ends every turn with Done"
    if player and cancel.cancelled and sounds:
        turn = await session.stopped(turn, heard_text(_told(sounds, turn), player.played_s - played_before))
    return turn


async def _played(player: Player, cancel: CancelScope) -> None:
    waiting = asyncio.create_task(asyncio.to_thread(player.wait))
    while not waiting.done():
        await asyncio.wait([waiting], timeout=WATCH_S)
        if cancel.cancelled:
            player.stop()


def _told(sounds: list[Sound], turn: Turn) -> list[Sound]:
    """Sounds with the words in them: the pieces of a reply that flows as one, for only the whole of it has words."""
    if not sounds[0].flows:
        return sounds
    words = turn.heard_text if turn.heard_text is not None else turn.reply.text if turn.reply else ""
    return [Sound(0, words, Speech(joined([sound.speech.wave for sound in sounds])), sounds[0].at_s)]


def heard_text(sounds: list[Sound], heard_s: float) -> str:
    """The words whose end was heard within `heard_s` seconds of the reply.

    Where a synthesizer reports no word times, words are spread evenly over their sentence.
    """
    heard: list[str] = []
    for sound in sounds:
        words, duration_s = sound.text.split(), sound.speech.wave.duration_s
        if heard_s >= duration_s:
            heard += words
        else:
            heard += words[: _words_within(sound, len(words), max(0.0, heard_s))]
            break
        heard_s -= duration_s + GAP_S
    return " ".join(heard)


def _words_within(sound: Sound, count: int, heard_s: float) -> int:
    times = sound.speech.words
    timed = sum(word.end_s <= heard_s for word in times) / len(times) if times else None
    return int(count * (heard_s / sound.speech.wave.duration_s if timed is None else timed))


def _with_gap(wave: Waveform) -> Waveform:
    return Waveform(np.pad(wave.samples, (round(GAP_S * wave.sample_rate), 0)), wave.sample_rate)
