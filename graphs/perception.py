"""The nodes that listen: one a stage, side by side, and the node that fuses them.

A stage that fails or is late leaves its cues unknown; the turn goes on.
"""

from __future__ import annotations

from typing import Any, Protocol

from langgraph.runtime import Runtime

from cascade.audio import Waveform, read_speech
from cascade.cancel import CancelScope
from cascade.turn import AgeCue, Cues, EmotionCue, EventsCue, GenderCue, Transcript
from graphs.begin import context_of
from graphs.respond import baseline_of
from graphs.stages import Outcome
from graphs.state import Context, Heard, Listening, Perceived, State, stage_record

ANALYZERS: tuple[Listening, ...] = ("emotion", "speaker", "events", "prosody")
PERCEPTION: tuple[Listening, ...] = ("asr", *ANALYZERS)
# Which parts of Cues a stage is asked for: one engine may serve several.
PARTS: dict[Listening, tuple[str, ...]] = {
    "emotion": ("emotion", "voice"),
    "speaker": ("age", "gender"),
    "events": ("events",),
    "prosody": ("prosody",),
}


class Node(Protocol):
    async def __call__(self, state: State, runtime: Runtime[Context]) -> dict[str, Any]: ...


def user_speech(state: State, context: Context) -> Waveform:
    """This turn's audio; read from its file when a turn is taken up again after a crash."""
    if context.user_speech is None:
        audio = state["audio"]
        assert audio is not None
        context.user_speech = read_speech(context.folder / audio["path"])
    return context.user_speech


async def asr(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    context = context_of(state, runtime)
    if context.known.transcript and not context.known.listened:
        return {"asr": stage_record(Outcome(None))}
    recognizer, speech = context.engines["asr"], user_speech(state, context)

    def work(scope: CancelScope) -> Transcript:
        transcript: Transcript = recognizer.transcribe(speech, cancel=scope)
        return transcript

    deadline_s = context.engines.deadline_s("asr")
    outcome = await context.runner.run("asr", work, deadline_s=deadline_s, cancel=context.cancel)
    runtime.stream_writer(Heard("asr", outcome.seconds, transcript=outcome.value, failure=outcome.failure))
    return {"asr": stage_record(outcome)}


def analyzer(stage: Listening) -> Node:
    """The node of one analyzer stage."""

    async def analyze(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
        context = context_of(state, runtime)
        engine, speech, baseline = context.engines[stage], user_speech(state, context), baseline_of(state, context)

        def work(scope: CancelScope) -> Cues:
            cues: Cues = engine.analyze(speech, baseline=baseline, cancel=scope)
            return Cues(**{part: getattr(cues, part) for part in PARTS[stage]})

        deadline_s = context.engines.deadline_s(stage)
        outcome = await context.runner.run(stage, work, deadline_s=deadline_s, cancel=context.cancel)
        runtime.stream_writer(Heard(stage, outcome.seconds, cues=outcome.value, failure=outcome.failure))
        return {stage: stage_record(outcome)}

    return analyze


async def perceive(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    """Fuse what the stages heard; what a stage did not tell is unknown, with the reason. What was known goes before."""
    transcript: Transcript | None
    known = context_of(state, runtime).known
    if state["text"] is not None:
        typed = Transcript(text=state["text"], confidence=1.0, engine="typed")
        transcript, cues = typed, unheard("typed, not spoken")
    else:
        transcript, cues = known.transcript or _transcript(state), known.cues.merged(_fused(state))
    if not context_of(state, runtime).cancel.cancelled:
        runtime.stream_writer(Perceived(transcript, cues))
    return {
        "transcript": transcript.model_dump(mode="json") if transcript else None,
        "cues": cues.model_dump(mode="json"),
    }


def _transcript(state: State) -> Transcript | None:
    value = state["asr"]["value"]
    return Transcript.model_validate(value) if value else None


def _fused(state: State) -> Cues:
    cues = Cues()
    for stage in ANALYZERS:
        record = state[stage]
        if record["value"]:
            cues = cues.merged(Cues.model_validate(record["value"]))
    return cues.merged(unheard("its stage failed"))


def unheard(reason: str) -> Cues:
    """Every label unknown."""
    unknown: dict[str, Any] = {"engine": "none", "reason": reason}
    return Cues(
        emotion=EmotionCue(**unknown), age=AgeCue(**unknown), gender=GenderCue(**unknown), events=EventsCue(**unknown)
    )
