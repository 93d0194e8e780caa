"""The teacher: the cascade as a graph.

START → begin → asr ┐
              → emotion ┤
              → speaker ┤ side by side, each with its deadline
              → events  ┤
              → prosody ┘→ perceive → respond → listen_back → record → END
                                         ↑ revise (teaching, at most twice) ┘
A typed turn goes straight to `perceive`.
"""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph

from graphs.begin import begin
from graphs.perception import ANALYZERS, PERCEPTION, analyzer, asr, perceive
from graphs.record import listen_back, record
from graphs.respond import respond
from graphs.state import Context, InputState, State, TurnGraph

MAX_REVISIONS = 2


def make_graph(checkpointer: BaseCheckpointSaver[Any] | None = None) -> TurnGraph:
    """Compile the teacher. Engines, folder and the stop flag come with each call as `Context` (on a server: see `begin`)."""
    builder = StateGraph(State, context_schema=Context, input_schema=InputState)
    builder.add_node("begin", begin)
    builder.add_node("asr", asr)
    for stage in ANALYZERS:
        builder.add_node(stage, analyzer(stage))
    builder.add_node("perceive", perceive)
    builder.add_node("respond", respond)
    builder.add_node("listen_back", listen_back)
    builder.add_node("record", record)

    builder.add_edge(START, "begin")
    builder.add_conditional_edges("begin", what_to_perceive, [*PERCEPTION, "perceive"])
    builder.add_edge(list(PERCEPTION), "perceive")
    builder.add_edge("perceive", "respond")
    builder.add_edge("respond", "listen_back")
    builder.add_conditional_edges("listen_back", revise_or_record, ["respond", "record"])
    builder.add_edge("record", END)
    return builder.compile(checkpointer=checkpointer, name="teacher")


def what_to_perceive(state: State) -> list[str]:
    return list(PERCEPTION) if state["audio"] else ["perceive"]


def revise_or_record(state: State) -> str:
    """`complaints` are only ever set by the gate, so a chat goes straight on."""
    return "respond" if state["complaints"] and state["attempt"] <= MAX_REVISIONS else "record"


def graph() -> TurnGraph:
    """For langgraph.json; the server brings its own checkpointer."""
    return make_graph()
