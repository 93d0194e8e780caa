"""The nodes after the reply: listen back to it, and write the turn down."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from langgraph.runtime import Runtime

from cascade.audio import read_speech
from cascade.cancel import CancelScope
from cascade.engines import Ears
from cascade.paralinguistics.baseline import grown
from cascade.turn import (
    AudioRef,
    Baseline,
    Cues,
    Exchange,
    Failure,
    Reply,
    Scores,
    Thought,
    Timings,
    Transcript,
    Turn,
)
from graphs.begin import context_of, ended
from graphs.perception import PERCEPTION
from graphs.state import Again, Context, Done, Listening, State, stage_record


async def listen_back(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    """Score the reply as it sounds. Only as a gate (teaching) does it send a reply back, with the reasons."""
    context = context_of(state, runtime)
    turn = turn_of(state, context)
    if not context.ears or turn.reply is None or turn.reply_audio is None:
        return {"judging": None, "complaints": []}
    judge, speech = context.engines["judging"], read_speech(context.folder / turn.reply_audio.path)
    thinker = getattr(context.engines["reasoning"], "language_model", None)
    ears = Ears(context.engines["asr"] if context.known.listened else None, context.engines["emotion"], thinker)
    history = [Exchange.model_validate(exchange) for exchange in state.get("history", [])]

    def work(scope: CancelScope) -> Scores:
        scores: Scores = judge.judge(turn, speech, ears=ears, history=history, cancel=scope)
        return scores

    deadline_s = context.engines.deadline_s("judging")
    outcome = await context.runner.run("judging", work, deadline_s=deadline_s, cancel=context.cancel)
    complaints = list(outcome.value.complaints) if outcome.value and context.gate else []
    if complaints:
        runtime.stream_writer(Again(tuple(complaints)))
    return {"judging": stage_record(outcome), "complaints": complaints, "attempt": state["attempt"] + bool(complaints)}


async def record(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    """Write the turn as JSON, remember the exchange, let the session's baseline grow."""
    context = context_of(state, runtime)
    turn = turn_of(state, context)
    write_turn(context.folder, turn)
    runtime.stream_writer(Done(turn))
    ended(state)
    kept = state.get("baseline")
    baseline = grown(Baseline.model_validate(kept) if kept else None, turn.cues)
    return {
        "turn": turn.model_dump(mode="json"),
        "history": [*state.get("history", []), exchange_of(turn).model_dump(mode="json")],
        "baseline": baseline.model_dump(mode="json") if baseline else None,
    }


def turn_of(state: State, context: Context) -> Turn:
    """The record of what the state holds."""
    response, judging = state["respond"], state.get("judging")
    scores = judging["value"] if judging else None
    return Turn(
        id=state["turn_id"],
        session_id=state["session_id"],
        index=state["index"],
        created_at=datetime.fromisoformat(state["created_at"]),
        source="speech" if state["text"] is None else "text",
        user_audio=AudioRef.model_validate(state["audio"]) if state["audio"] else None,
        transcript=Transcript.model_validate(t) if (t := state["transcript"]) else None,
        cues=Cues.model_validate(state["cues"]),
        thought=Thought.model_validate(response["thought"]) if response["thought"] else None,
        reply=Reply.model_validate(response["reply"]) if response["reply"] else None,
        reply_audio=AudioRef.model_validate(response["audio"]) if response["audio"] else None,
        heard_text=None if response["reply"] else " ".join(response["spoken"]),
        timings=_timings(state),
        engines=context.engines.infos,
        seed=state["seed"],
        failures=tuple(_failures(state)),
        scores=Scores.model_validate(scores) if scores else None,
    )


def _timings(state: State) -> Timings:
    response, judging = state["respond"], state.get("judging")
    stages = {stage: state[stage]["seconds"] for stage in _heard_stages(state)}
    stages |= response["stages_s"] | ({"judging": judging["seconds"]} if judging else {})
    return Timings(stages_s=stages, first_sound_s=response["first_sound_s"], total_s=response["total_s"])


def _failures(state: State) -> list[Failure]:
    heard = [state[stage]["failure"] for stage in _heard_stages(state)]
    judging = state.get("judging")
    found = [*heard, *state["respond"]["failures"], judging["failure"] if judging else None]
    failures = [Failure.model_validate(failure) for failure in found if failure]
    if state["complaints"]:
        why = "; ".join(state["complaints"])
        failures.append(Failure(stage="judging", kind="rejected", message=f"still not good after revision: {why}"))
    return failures


def _heard_stages(state: State) -> tuple[Listening, ...]:
    return tuple(stage for stage in PERCEPTION if state.get(stage))


def exchange_of(turn: Turn) -> Exchange:
    """What later turns remember: the reply as far as it was heard."""
    thought = turn.thought
    replied = turn.heard_text if turn.heard_text is not None else turn.reply.text if turn.reply else ""
    return Exchange(
        said=turn.transcript.text if turn.transcript else "",
        emotion=thought.emotion if thought else None,
        strategy=thought.strategy if thought else None,
        replied=replied,
        reply_emotion=thought.reply_emotion if thought else None,
        topic=thought.topic if thought else None,
    )


def write_turn(folder: Path, turn: Turn) -> None:
    """Whole or not at all: a crash leaves the earlier version or none."""
    path = folder / f"turn-{turn.index:04d}.json"
    part = path.with_suffix(".json.part")
    part.write_text(turn.model_dump_json(indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
