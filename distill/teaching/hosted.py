"""Engines in Ray actors of their own, and what stands in for them in the workers that make rows.

One engine on a GPU then serves many workers. Calls travel as pickles of Attune's records and float32 arrays; what an engine
raises is raised again by its stand-in. An engine whose process dies is loaded anew and asked again, unseen by the turn.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from uuid import uuid4

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import EmotionFeatures, Message, Prompt, Speech, load_engine
from cascade.errors import (
    AttuneError,
    EngineFailed,
    EngineUnavailable,
    one_line,
)
from cascade.needs import extra
from cascade.profiles import load_profile
from cascade.tts.voice_bank import Bank
from cascade.turn import Baseline, Cues, EngineInfo, Reply, ReplyEmotion, Stage, Thought, Token, Transcript
from distill.teaching.pool import DEATHS
from distill.teaching.settings import Share
from distill.teaching.worker import Equipment
from graphs.stages import as_attune_error

POLL_S = 0.05  # how often a waiting call looks whether its turn was stopped
START_S = 900.0  # for finding a place on the cluster and loading a model: a large one comes slowly from a shared disk
WAITING = 64  # calls that one actor holds while they wait for their turn; more wait in Ray
ASIDE = "aside"  # the actor's threads for what must not wait behind calls


def library() -> Any:
    """Ray with Ray Data. Untyped, for its types know less than it can do. Raises EngineUnavailable."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EngineUnavailable(f"--ray needs the package {error.name}: {extra('ray')}") from error
    return ray


def gotten(answers: Any, timeout_s: float, late: str) -> Any:
    """What was asked of the cluster, or EngineUnavailable with the line `late`."""
    ray = library()
    try:
        return ray.get(answers, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise EngineUnavailable(late) from None


# --- in the actor of an engine


@dataclass(frozen=True)
class Asked:
    """A call: `method` of the engine, or of its language model; `bank`: the voices it shall speak after, not its own."""

    method: str
    arguments: dict[str, Any]
    bank: Bank | None = None


@dataclass(frozen=True)
class About:
    """What a stand-in must know of its engine. `language_model`: of a reasoner, if it has one."""

    info: EngineInfo
    language_model: EngineInfo | None
    embeds: bool
    speaks_after_banks: bool


class Host:
    """An engine in an actor. At most `at_once` calls work at a time; the others wait, and a stopped one leaves the queue."""

    def __init__(self, equipment: Equipment, stage: Stage, at_once: int) -> None:
        self._equipment, self._stage = equipment, stage
        self._turns = threading.Semaphore(at_once)
        self._loading = threading.Lock()
        self._engine: Any = None
        self._speaking: dict[str, Any] = {}  # engines that speak after another bank, by its folder
        self._scopes: dict[str, CancelScope] = {}

    def about(self) -> About | AttuneError:
        """Loads the engine. An error is given back: raised, Ray would wrap it in a traceback."""
        try:
            engine = self._loaded()
        except AttuneError as error:
            return error
        model = getattr(engine, "language_model", None)
        return About(engine.info, model.info if model else None, hasattr(engine, "embed"), hasattr(engine, "with_bank"))

    def answer(self, ticket: str, request: bytes) -> Iterator[bytes]:
        """("item", value) for each, or for the one; then ("end", None), or ("error", error)."""
        scope = self._scopes.setdefault(ticket, CancelScope())
        try:
            for item in self._work(pickle.loads(request), scope):
                yield pickle.dumps(("item", item))
            yield pickle.dumps(("end", None))
        except Exception as error:
            yield pickle.dumps(("error", as_attune_error(error)))
        finally:
            self._scopes.pop(ticket, None)

    def cancel(self, ticket: str) -> None:
        self._scopes.setdefault(ticket, CancelScope()).cancel()

    def _work(self, asked: Asked, scope: CancelScope) -> Iterator[Any]:
        while not self._turns.acquire(timeout=POLL_S):
            scope.check()
        try:
            scope.check()
            found = getattr(self._target(asked), asked.method)
            found = found(**asked.arguments, cancel=scope) if callable(found) else found
            yield from found if isinstance(found, Iterator) else [found]
        finally:
            self._turns.release()

    def _target(self, asked: Asked) -> Any:
        engine = self._loaded()
        if asked.method == "stream":
            return engine.language_model
        if asked.bank is None:
            return engine
        place = str(asked.bank.folder)
        if place not in self._speaking:
            self._speaking[place] = engine.with_bank(asked.bank)
        return self._speaking[place]

    def _loaded(self) -> Any:
        with self._loading:
            if self._engine is None:
                config = load_profile(self._equipment.profile, self._equipment.swaps).stages[self._stage]
                self._engine = load_engine(self._stage, config.engine, config.options)
            return self._engine


# --- on the driver


@dataclass(frozen=True)
class Hosted:
    """The actors that serve a stage; handed to every worker."""

    stage: Stage
    about: About
    actors: tuple[Any, ...]


def start(equipment: Equipment, shares: Mapping[Stage, Share]) -> dict[Stage, Hosted]:
    """Actors for every stage with a share, all of them loaded. `engines` of the shares are numbers here.

    One of each stage is begun before the second of any, so that a set comes to lie on one GPU where it fits.
    Raises EngineUnavailable, ConfigError: of an engine, or no place found in time.
    """
    actors: dict[Stage, list[Any]] = {stage: [] for stage in shares}
    for number in range(max((share.engines or 1 for share in shares.values()), default=0)):
        for stage, share in shares.items():
            if number < (share.engines or 1):
                actors[stage].append(_actor(equipment, stage, share, number))
    until = time.monotonic() + START_S
    return {stage: Hosted(stage, _about(stage, found, until), tuple(found)) for stage, found in actors.items()}


def _actor(equipment: Equipment, stage: Stage, share: Share, number: int) -> Any:
    remote = library().remote(
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        max_restarts=-1,
        max_task_retries=DEATHS,
        max_concurrency=WAITING,
        concurrency_groups={ASIDE: 2},
    )
    return remote(Host).options(name=f"attune-{stage}-{number}").remote(equipment, stage, share.at_once)


def _about(stage: Stage, actors: Sequence[Any], until: float) -> About:
    late = (
        f"the engines of {stage} are not ready: other work holds the cluster, or their models load too slowly; give the stage a "
        "smaller share, or fewer engines"
    )
    found = gotten([actor.about.remote() for actor in actors], max(0.0, until - time.monotonic()), late)
    for about in found:
        if isinstance(about, AttuneError):
            raise about
    first: About = found[0]
    return first


# --- in a worker that makes rows


class Line:
    """To the actors of a stage, in turn. `lost`: why a call found no engine any more, though it was tried anew."""

    def __init__(self, hosted: Hosted) -> None:
        place = os.getpid() % len(hosted.actors)  # not every worker begins with the same
        self._actors = cycle([*hosted.actors[place:], *hosted.actors[:place]])
        self._stage = hosted.stage
        self.lost: str | None = None

    def ask(self, asked: Asked, cancel: CancelScope) -> Any:
        """The one answer."""
        [answer] = self.items(asked, cancel)
        return answer

    def items(self, asked: Asked, cancel: CancelScope) -> Iterator[Any]:
        """What the engine yields, as it comes. Raises what it raises; EngineFailed where it was lost; Cancelled."""
        ray = library()
        cancel.check()
        actor, ticket, done = next(self._actors), uuid4().hex, False
        try:
            answers = actor.answer.options(num_returns="streaming").remote(ticket, pickle.dumps(asked))
            while True:
                kind, value = pickle.loads(_next(answers, cancel))
                done = kind != "item"
                if kind == "end":
                    return
                if kind == "error":
                    raise value
                yield value
        except ray.exceptions.RayError as error:
            done = True
            self.lost = f"an engine of {self._stage} was lost ({one_line(error)})"
            raise EngineFailed(self.lost) from error
        finally:
            if not done:
                actor.cancel.options(concurrency_group=ASIDE).remote(ticket)


def _next(answers: Any, cancel: CancelScope) -> bytes:
    ray = library()
    while not ray.wait([answers], timeout=POLL_S)[0]:
        cancel.check()
    found: bytes = ray.get(next(answers))
    return found


@dataclass(eq=False)
class Remote:
    """Stands in for an engine."""

    line: Line
    info: EngineInfo

    def _ask(self, method: str, cancel: CancelScope, **arguments: Any) -> Any:
        return self.line.ask(Asked(method, arguments), cancel)


class RemoteRecognizer(Remote):
    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        heard: Transcript = self._ask("transcribe", cancel, speech=speech)
        return heard


class RemoteAnalyzer(Remote):
    def analyze(self, speech: Waveform, *, baseline: Baseline | None, cancel: CancelScope) -> Cues:
        cues: Cues = self._ask("analyze", cancel, speech=speech, baseline=baseline)
        return cues


class RemoteEmotionEncoder(RemoteAnalyzer):
    def embed(self, speech: Waveform, *, cancel: CancelScope) -> EmotionFeatures:
        features: EmotionFeatures = self._ask("embed", cancel, speech=speech)
        return features


class RemoteLanguageModel(Remote):
    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        top_logprobs: int,
        cancel: CancelScope,
    ) -> Iterator[Token]:
        limits = {"max_tokens": max_tokens, "top_logprobs": top_logprobs}
        arguments = {"messages": list(messages), "temperature": temperature, "seed": seed, **limits}
        return self.line.items(Asked("stream", arguments), cancel)


@dataclass(eq=False)
class RemoteReasoner(Remote):
    language_model: RemoteLanguageModel | None = None

    def respond(self, prompt: Prompt, *, cancel: CancelScope) -> Iterator[Thought | str | Reply]:
        return self.line.items(Asked("respond", {"prompt": prompt}), cancel)


@dataclass(eq=False)
class RemoteSynthesizer(Remote):
    bank: Bank | None = field(default=None, kw_only=True)

    def speak(
        self, text: str, *, emotion: ReplyEmotion, intensity: float, rate: float, seed: int, cancel: CancelScope
    ) -> Speech:
        how = {"emotion": emotion, "intensity": intensity, "rate": rate, "seed": seed}
        speech: Speech = self.line.ask(Asked("speak", {"text": text, **how}, self.bank), cancel)
        return speech


class RemoteBankSynthesizer(RemoteSynthesizer):
    def with_bank(self, bank: Bank) -> RemoteSynthesizer:
        """The same engine after another bank, whose clips lie under the same path where the engine is."""
        info: EngineInfo = self.line.ask(Asked("info", {}, bank), CancelScope())
        return RemoteBankSynthesizer(self.line, info, bank=bank)


def stand_in(hosted: Hosted) -> Remote:
    """For the engine of a stage, able to do what the engine can."""
    about, line = hosted.about, Line(hosted)
    match hosted.stage:
        case "asr":
            return RemoteRecognizer(line, about.info)
        case "reasoning":
            model = RemoteLanguageModel(line, about.language_model) if about.language_model else None
            return RemoteReasoner(line, about.info, model)
        case "tts":
            speaker = RemoteBankSynthesizer if about.speaks_after_banks else RemoteSynthesizer
            return speaker(line, about.info)
        case _:
            analyzer = RemoteEmotionEncoder if about.embeds else RemoteAnalyzer
            return analyzer(line, about.info)
