"""The node that answers: reasoning and speech in one, so that a sentence is heard while the next is still being thought.

An edge cannot do that: a node's output reaches the next node only when it is whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from langgraph.runtime import Runtime

from cascade.audio import Waveform, joined, reference, write_wav
from cascade.cancel import CancelScope
from cascade.engines import Prompt, Speech
from cascade.errors import AttuneError, Cancelled
from cascade.turn import AudioRef, Baseline, Cues, Exchange, Failure, Reply, Thought, Transcript
from graphs.begin import context_of
from graphs.stages import Outcome, failure_of
from graphs.state import Answered, Context, Event, Response, Sentence, Sound, State, Thinking

GAP_S = 0.22  # between two sentences of one reply
END = object()


@dataclass
class Progress:
    """What there is of a reply so far. text_stands: its words count even where their speech fails."""

    thought: Thought | None = None
    reply: Reply | None = None
    sounds: list[tuple[str, Speech]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    stages_s: dict[str, float] = field(default_factory=lambda: {"reasoning": 0.0, "tts": 0.0})
    first_sound_s: float | None = None
    sentences: int = 0
    stopped: bool = False
    text_stands: bool = False


async def respond(state: State, runtime: Runtime[Context]) -> dict[str, object]:
    """Think, write and speak, a sentence at a time; stream each as it comes; save the whole."""
    return await replied(state, context_of(state, runtime), runtime.stream_writer, Progress())


async def replied(
    state: State, context: Context, write: Callable[[Event], None], progress: Progress
) -> dict[str, object]:
    """The node's work, by the context's reasoner and synthesizer."""
    items: asyncio.Queue[object] = asyncio.Queue()
    thinker = asyncio.create_task(_think(prompt_of(state), context, items, progress))
    try:
        await _speak(items, context, progress, write, state["seed"])
    finally:
        thinker.cancel()
        await asyncio.gather(thinker, return_exceptions=True)
    return finished(progress, state, context, write)


def finished(progress: Progress, state: State, context: Context, write: Callable[[Event], None]) -> dict[str, object]:
    """Save the reply's sound, tell that it is over; what the node gives to the state."""
    progress.stopped = progress.stopped or context.cancel.cancelled
    audio = _save(progress, context, f"turn-{state['index']:04d}-reply.wav")
    if progress.stopped or (progress.failures and not progress.text_stands):
        progress.reply = None
    write(Answered(audio, tuple(progress.failures)))
    return {"respond": _response(progress, audio, context.elapsed_s)}


def prompt_of(state: State) -> Prompt:
    transcript = state.get("transcript")
    nothing = Transcript(text="", confidence=0.0, engine="none")
    return Prompt(
        transcript=Transcript.model_validate(transcript) if transcript else nothing,
        cues=Cues.model_validate(state["cues"]),
        history=[Exchange.model_validate(exchange) for exchange in state.get("history", [])],
        attempt=state.get("attempt", 0),
        complaints=state.get("complaints", []),
        seed=state["seed"],
    )


async def _think(prompt: Prompt, context: Context, items: asyncio.Queue[object], progress: Progress) -> None:
    """Put what the reasoner yields into the queue, then END, or the failure that ended it."""
    reasoner, began = context.engines["reasoning"], time.perf_counter()

    def note_time() -> None:
        progress.stages_s["reasoning"] = time.perf_counter() - began

    try:
        deadline_s = context.engines.deadline_s("reasoning")
        stream = context.runner.iterate(
            "reasoning",
            lambda scope: reasoner.respond(prompt, cancel=scope),
            deadline_s=deadline_s,
            cancel=context.cancel,
        )
        async for item in stream:
            note_time()
            items.put_nowait(item)
        items.put_nowait(END)
    except Cancelled:
        items.put_nowait(END)
    except AttuneError as error:
        items.put_nowait(failure_of("reasoning", error))
    note_time()


async def _speak(
    items: asyncio.Queue[object], context: Context, progress: Progress, write: Callable[[Event], None], seed: int
) -> None:
    """Take items until END or a failure; each sentence becomes sound as soon as it is there."""
    while (item := await items.get()) is not END and not context.cancel.cancelled:
        if isinstance(item, Failure):
            progress.failures.append(item)
            return
        if isinstance(item, Thought):
            progress.thought = item
            write(Thinking(item))
        elif isinstance(item, Reply):
            progress.reply = item
        elif isinstance(item, str) and not await _voiced(item, context, progress, write, seed):
            return


async def _voiced(
    sentence: str, context: Context, progress: Progress, write: Callable[[Event], None], seed: int
) -> bool:
    """One sentence as text and as sound; whether the reply goes on."""
    index = progress.sentences
    progress.sentences += 1
    write(Sentence(index, sentence, context.elapsed_s))
    if progress.failures:
        return True  # the text stands, and its voice has failed before
    speech = await _say(sentence, index, context, progress, seed)
    if speech is None:
        return progress.text_stands
    at_s = context.elapsed_s
    progress.sounds.append((sentence, speech))
    progress.first_sound_s = at_s if progress.first_sound_s is None else progress.first_sound_s
    write(Sound(index, sentence, speech, at_s))
    return True


async def _say(sentence: str, index: int, context: Context, progress: Progress, seed: int) -> Speech | None:
    """One sentence as speech; None if that failed (noted) or was stopped."""
    synthesizer, thought = context.engines["tts"], progress.thought
    emotion = thought.reply_emotion if thought else "neutral"
    intensity = thought.intensity if thought else 0.5
    rate = thought.rate if thought else 1.0

    def work(scope: CancelScope) -> Speech:
        speech: Speech = synthesizer.speak(
            sentence, emotion=emotion, intensity=intensity, rate=rate, seed=seed + index, cancel=scope
        )
        return speech

    deadline_s = context.engines.deadline_s("tts")
    outcome: Outcome[Speech] = await context.runner.run("tts", work, deadline_s=deadline_s, cancel=context.cancel)
    progress.stages_s["tts"] += outcome.seconds
    if outcome.failure:
        progress.failures.append(outcome.failure)
    return outcome.value


def _save(progress: Progress, context: Context, name: str) -> AudioRef | None:
    if not progress.sounds:
        return None
    wave: Waveform = joined([speech.wave for _, speech in progress.sounds], GAP_S)
    write_wav(context.folder / name, wave)
    return reference(context.folder / name, wave, context.folder)


def _response(progress: Progress, audio: AudioRef | None, total_s: float) -> Response:
    return {
        "thought": progress.thought.model_dump(mode="json") if progress.thought else None,
        "reply": progress.reply.model_dump(mode="json") if progress.reply else None,
        "audio": audio.model_dump(mode="json") if audio else None,
        "spoken": [sentence for sentence, _ in progress.sounds],
        "stopped": progress.stopped,
        "failures": [failure.model_dump(mode="json") for failure in progress.failures],
        "stages_s": progress.stages_s,
        "first_sound_s": progress.first_sound_s,
        "total_s": total_s,
    }


def baseline_of(state: State, context: Context) -> Baseline | None:
    """What this speaker is read against: a calibration before the session's own."""
    kept = context.baseline or state.get("baseline")
    return Baseline.model_validate(kept) if kept else None
