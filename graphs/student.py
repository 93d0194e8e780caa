"""The student: one end-to-end model as a graph, behind the same state and the same events as the teacher.

START → begin → answer → record → END
                  └ care ┘
Words of crisis are never the student's to answer: `answer` lets go of them, and `care` speaks the counsellor's fixed words in
the student's voice, or shows them where it has none for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from cascade.audio import Waveform, joined
from cascade.cancel import CancelScope
from cascade.engines import Speech
from cascade.errors import AttuneError, Cancelled
from cascade.profiles import Engines
from cascade.reasoning import careful, counsellor, critic
from cascade.reasoning.answer import SentenceSplitter
from cascade.reasoning.understanding import understand
from cascade.turn import Cues, Exchange, Failure, Reply, Transcript
from e2e_model.respond import Said
from graphs.begin import begin, context_of
from graphs.perception import unheard, user_speech
from graphs.record import record
from graphs.respond import Progress, finished, replied
from graphs.stages import failure_of
from graphs.state import (
    Context,
    Event,
    Heard,
    InputState,
    Perceived,
    Sentence,
    Sound,
    State,
    Thinking,
    TurnGraph,
)
from graphs.student_engine import Ended, Impression, Piece, Student

HISTORY_TURNS = 8  # the latest exchanges that the student is told of
CHARACTERS_PER_S = 15.0  # of English as it is read aloud, about: which words of an unfinished reply became sound


def make_graph(checkpointer: BaseCheckpointSaver[Any] | None = None) -> TurnGraph:
    """Compile the student's graph. The student comes with each call as `Context`, under its stages' names."""
    builder = StateGraph(State, context_schema=Context, input_schema=InputState)
    builder.add_node("begin", begin)
    builder.add_node("answer", answer)
    builder.add_node("care", care)
    builder.add_node("record", record)

    builder.add_edge(START, "begin")
    builder.add_edge("begin", "answer")
    builder.add_conditional_edges("answer", care_or_record, ["care", "record"])
    builder.add_edge("care", "record")
    builder.add_edge("record", END)
    return builder.compile(checkpointer=checkpointer, name="student")


def care_or_record(state: State) -> str:
    return "record" if state["respond"] else "care"


async def answer(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    """Hear, think, write and speak in one pass, streamed as it comes. What is grave is left unanswered."""
    context = context_of(state, runtime)
    history = [Exchange.model_validate(exchange) for exchange in state.get("history", [])]
    answering = Answering(context, runtime.stream_writer, history, typed=state["text"] is not None)
    said = state["text"] if state["text"] is not None else user_speech(state, context)
    if isinstance(said, str):
        typed = Transcript(text=said, confidence=1.0, engine="typed")
        answering.perceived(typed, unheard("typed, not spoken"))
    if not answering.grave:
        await answering.follow(said, state["seed"])
    transcript = answering.transcript
    known = {
        "transcript": transcript.model_dump(mode="json") if transcript else None,
        "cues": answering.cues.model_dump(mode="json"),
    }
    return known if answering.grave else known | finished(answering.progress, state, context, runtime.stream_writer)


async def care(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    """The counsellor answers words of crisis; they count where the student's voice fails, too."""
    context = context_of(state, runtime)
    fixed: dict[Any, Any] = {"reasoning": counsellor.load(counsellor.Options()), "tts": context.engines["tts"]}
    careful_context = replace(context, engines=Engines(context.engines.profile, fixed))
    return await replied(state, careful_context, runtime.stream_writer, Progress(text_stands=True))


def told(history: Sequence[Exchange]) -> list[Said]:
    """What the student is told of earlier turns: none of words of crisis, none that was not understood or not answered."""
    shown = [one for one in history if one.said and one.replied and not careful.told_in_crisis(one)]
    return [Said(one.said, one.replied) for one in shown[-HISTORY_TURNS:]]


@dataclass
class Answering:
    """Takes what the student gives piece by piece, tells whoever watches, and keeps what there is of the reply."""

    context: Context
    write: Callable[[Event], None]
    history: Sequence[Exchange]
    typed: bool
    transcript: Transcript | None = None
    cues: Cues = field(default_factory=lambda: unheard("the student failed"))
    grave: bool = False  # words of crisis: not the student's to answer
    progress: Progress = field(default_factory=lambda: Progress(stages_s={"think": 0.0, "write": 0.0, "speak": 0.0}))

    def __post_init__(self) -> None:
        self._text = ""
        self._splitter = SentenceSplitter()
        self._waves: list[Waveform] = []

    async def follow(self, said: str | Waveform, seed: int) -> None:
        """Until the reply has ended, failed, was stopped, or is not to be given."""
        context, scope = self.context, CancelScope(self.context.cancel)
        student: Student = context.engines["reasoning"]
        stream = context.runner.iterate(
            "reasoning",
            lambda inner: student.respond(said, history=told(self.history), seed=seed, cancel=inner),
            deadline_s=context.engines.deadline_s("reasoning"),
            cancel=scope,
        )
        since = time.perf_counter()
        try:
            async for piece in stream:
                now = time.perf_counter()
                self.progress.stages_s[_work(piece)] += now - since
                self._take(piece, now - since)
                since = now
                if self.grave or self.progress.failures:
                    break
        except Cancelled:
            self.progress.stopped = True
        except AttuneError as error:
            self.progress.failures.append(failure_of("reasoning", error))
        finally:
            scope.cancel()  # a student whose reply is not wanted stops at its next step
        self._keep_sound()

    def perceived(self, transcript: Transcript, cues: Cues) -> None:
        self.transcript, self.cues = transcript, cues
        self.write(Perceived(transcript, cues))
        self.grave = careful.path(understand(transcript, self.history), self.history) is not None

    def _take(self, piece: Piece, seconds: float) -> None:
        match piece:
            case Impression():
                self._impressed(piece, seconds)
            case str():
                self._written(piece)
            case Waveform():
                self._spoken(piece)
            case Ended():
                self._ended(piece)

    def _impressed(self, made: Impression, seconds: float) -> None:
        if not self.typed:
            cues = made.cues.merged(unheard("the student does not tell"))
            self.write(Heard("asr", seconds, transcript=made.transcript, cues=cues))
            self.perceived(made.transcript, cues)
        if made.thought and not self.grave:
            self.progress.thought = made.thought
            self.write(Thinking(made.thought))

    def _written(self, text: str) -> None:
        self._text += text
        if complaint := critic.harmful(self._text):
            self._fail("rejected", f"the reply is not fit to be heard ({complaint})")
            return
        for sentence, _ in self._splitter.add(text):
            self._sentence(sentence)

    def _sentence(self, text: str) -> None:
        self.write(Sentence(self.progress.sentences, text, self.context.elapsed_s))
        self.progress.sentences += 1

    def _spoken(self, wave: Waveform) -> None:
        at_s = self.context.elapsed_s
        if self.progress.first_sound_s is None:
            self.progress.first_sound_s = at_s
        self.write(Sound(len(self._waves), "", Speech(wave), at_s, flows=True))
        self._waves.append(wave)

    def _ended(self, end: Ended) -> None:
        rest, _ = self._splitter.end()
        if rest:
            self._sentence(rest)
        if not end.whole:
            self._fail("failed", "the reply did not end by itself and was cut off")
        elif not any(char.isalnum() for char in end.text):
            self._fail("failed", "the student wrote no reply")
        elif not self._waves:
            self.progress.failures.append(Failure(stage="tts", kind="failed", message="the reply was not spoken"))
        else:
            thought = self.progress.thought
            self.progress.reply = Reply(text=end.text, emotion=thought.reply_emotion if thought else "neutral")

    def _fail(self, kind: Any, message: str) -> None:
        self.progress.failures.append(Failure(stage="reasoning", kind=kind, message=message))

    def _keep_sound(self) -> None:
        """The pieces as one sound; of an unfinished reply, with the words that it lasted for, as far as can be told."""
        if not self._waves:
            return
        wave, words = joined(self._waves), self._text.split()
        if self.progress.reply is None:
            room = wave.duration_s * CHARACTERS_PER_S
            words = [word for at, word in enumerate(words) if len(" ".join(words[: at + 1])) <= room]
        self.progress.sounds = [(" ".join(words), Speech(wave))]


def _work(piece: Piece) -> str:
    """What was being done while this piece was waited for."""
    return "think" if isinstance(piece, Impression) else "write" if isinstance(piece, str) else "speak"
