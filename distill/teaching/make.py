"""From one scenario to one sample: the user's speech, the teacher's turn through the graph that chats, and the gates.

A maker keeps its engines and makes one sample at a time. What it makes depends on the scenario, the settings and the engines
alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from cascade.audio import Waveform, read_speech
from cascade.cancel import CancelScope
from cascade.engines import Prompt, Speech, Synthesizer
from cascade.errors import AttuneError, InputError
from cascade.paralinguistics.acoustic import ENGINE as ACOUSTIC
from cascade.paralinguistics.baseline import calibrated
from cascade.profiles import Engines
from cascade.reasoning.critic import complaints, empathy
from cascade.turn import (
    AgeCue,
    Baseline,
    Cues,
    EmotionCue,
    EngineInfo,
    EventsCue,
    Failure,
    GenderCue,
    Reply,
    ReplyEmotion,
    Scores,
    Stage,
    Thought,
    Transcript,
    Turn,
    VocalEvent,
    Word,
)
from distill.teaching.best_of import BestOf
from distill.teaching.gates import user_agreement, user_word_error, verdict
from distill.teaching.records import Labels, Sample, Scenario
from distill.teaching.settings import LISTENED, Settings
from distill.teaching.stores import Store
from distill.teaching.user_speech import SIMULATED, Cloned, Simulated, UserVoices, user_speech
from graphs.respond import GAP_S
from graphs.state import Context, Done, Event, Heard, InputState, Known, Sound, TurnGraph
from graphs.teacher import make_graph

SCENARIO = "scenario"  # the engine named by what was asked for, not heard
CALM = (
    "The book is on the table by the window.",
    "We usually have dinner at home at seven.",
    "The train to the city leaves in the morning.",
)


class SeedByWords:
    """A Synthesizer whose seed comes from what is said and how, not from the turn.

    The same sentence in the same mood then sounds the same in every row, so that repeated work is found in the cache.
    """

    def __init__(self, synthesizer: Synthesizer) -> None:
        self.info, self._synthesizer = synthesizer.info, synthesizer

    def speak(
        self, text: str, *, emotion: ReplyEmotion, intensity: float, rate: float, seed: int, cancel: CancelScope
    ) -> Speech:
        words = json.dumps([text, emotion, intensity, rate])
        drawn = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") % 2**31
        return self._synthesizer.speak(text, emotion=emotion, intensity=intensity, rate=rate, seed=drawn, cancel=cancel)


@dataclass
class _Watched:
    """What a turn's events told beside its record."""

    turn: Turn | None = None
    transcript: Transcript | None = None
    cues: Cues = field(default_factory=Cues)
    words: list[Word] = field(default_factory=list)
    spoken_s: float = 0.0

    def see(self, event: Event) -> None:
        match event:
            case Heard():
                self.transcript = event.transcript or self.transcript
                self.cues = self.cues.merged(event.cues) if event.cues else self.cues
            case Sound():
                if event.index == 0:  # also where a reply was sent back and begins anew
                    self.words, self.spoken_s = [], 0.0
                at = self.spoken_s
                shifted = ({"start_s": word.start_s + at, "end_s": word.end_s + at} for word in event.speech.words)
                self.words += [w.model_copy(update=to) for w, to in zip(event.speech.words, shifted, strict=True)]
                self.spoken_s += event.speech.wave.duration_s + GAP_S
            case Done():
                self.turn = event.turn


class Maker:
    """`engines` are the caller's to close. A stage that fails is asked once more before its turn is rejected."""

    def __init__(self, engines: Engines, settings: Settings, store: Store | None = None) -> None:
        self._plain, self.settings, self._store = engines, settings, store
        chosen = settings.user_voices
        self._voices: UserVoices = Simulated() if chosen == SIMULATED else Cloned(engines["tts"], Path(chosen))
        self._thinker = BestOf(engines["reasoning"], settings.candidates)
        self._speaker = SeedByWords(engines["tts"])
        self._engines = replace(engines, loaded={**engines.loaded, "reasoning": self._thinker, "tts": self._speaker})
        self._graph: TurnGraph = make_graph()
        self._calm = lru_cache(maxsize=None)(self._calibration)  # as many as there are simulated voices

    def make(self, scenario: Scenario, cancel: CancelScope | None = None) -> Sample:
        """Raises Cancelled. What an engine cannot do becomes a rejection."""
        scope = cancel or CancelScope()
        sample = self._tried(scenario, scope)
        if any(reason.startswith("failed") for reason in sample.rejected):
            sample = self._tried(scenario, scope)  # a late or flaky engine; what fails for a reason fails again
        return sample

    def _tried(self, scenario: Scenario, cancel: CancelScope) -> Sample:
        try:
            match scenario.task:
                case "speak":
                    return self._spoken(scenario, cancel)
                case "listen":
                    return self._unanswered(scenario, cancel)
                case "write":
                    return self._written(scenario, cancel)
                case "dialogue":
                    return self._answered(scenario, cancel)
        except AttuneError as error:
            return Sample(scenario, rejected=(f"failed: {error}",), engines=_by_name(self._plain.infos))

    # --- the talker's rows

    def _spoken(self, scenario: Scenario, cancel: CancelScope) -> Sample:
        voice, emotion, text = self._speaker, scenario.reply_emotion or "neutral", scenario.text or ""
        speech = voice.speak(
            text, emotion=emotion, intensity=scenario.intensity, rate=1.0, seed=scenario.seed, cancel=cancel
        )
        sample = Sample(
            scenario,
            reply_speech=speech.wave,
            reply_words=speech.words,
            engines={"tts": voice.info},
            **self._of_reply(speech.wave, cancel),
        )
        return replace(sample, rejected=verdict(sample, self.settings.gates))

    # --- the ears' rows

    def _unanswered(self, scenario: Scenario, cancel: CancelScope) -> Sample:
        """Known words and labels alone: no engine of the cascade listens, so these rows are cheap and may be many."""
        speech = user_speech(scenario, self._voices, cancel=cancel)
        engines = {} if scenario.recording else {"user_speech": self._voices.info}
        sample = Sample(scenario, user_speech=speech.wave, user_words=speech.words, engines=engines)
        return replace(sample, rejected=verdict(sample, self.settings.gates))

    # --- on paper

    def _written(self, scenario: Scenario, cancel: CancelScope) -> Sample:
        """The reasoner alone, told words and tone: what the thinker learns to answer, without the cost of sound."""
        words = Transcript(text=scenario.text or "", confidence=float(scenario.followed), engine=SCENARIO)
        prompt = Prompt(words, known_cues(scenario.labels, 0.0), scenario.history, seed=scenario.seed)
        items = list(self._thinker.respond(prompt, cancel=cancel))
        thought = next(item for item in items if isinstance(item, Thought))
        reply = next(item for item in items if isinstance(item, Reply))
        scores = Scores(
            empathy=empathy(prompt, reply),
            complaints=complaints(prompt, reply),
            unmeasured=("reply_wer: nothing was spoken",),
            engine="critic",
        )
        sample = Sample(
            scenario,
            thought=thought,
            reply=reply,
            scores=scores,
            worst=self._thinker.worst,
            engines={"reasoning": self._thinker.info},
        )
        return replace(sample, rejected=verdict(sample, self.settings.gates))

    # --- dialogue

    def _answered(self, scenario: Scenario, cancel: CancelScope) -> Sample:
        speech = user_speech(scenario, self._voices, cancel=cancel)
        watched = asyncio.run(self._turn(scenario, speech.wave, cancel))
        cancel.check()
        turn = watched.turn
        assert turn is not None, "the graph ends every turn with Done"
        return self._judged(scenario, speech, watched, turn, cancel)

    async def _turn(self, scenario: Scenario, speech: Waveform, cancel: CancelScope) -> _Watched:
        watched = _Watched()
        with tempfile.TemporaryDirectory(prefix="attune-turn-") as folder:
            context = Context(
                engines=self._engines,
                folder=Path(folder),
                cancel=cancel,
                gate=True,
                baseline=self._baseline(scenario),
                user_speech=speech,
                known=self._known(scenario, speech),
            )
            begin: InputState = {
                "text": None,
                "wav": None,
                "seed": scenario.seed,
                "history": [exchange.model_dump(mode="json") for exchange in scenario.history],
            }
            stream = cast("AsyncIterator[Event]", self._graph.astream(begin, context=context, stream_mode="custom"))
            async for event in stream:
                watched.see(event)
            if watched.turn and watched.turn.reply_audio:
                self._reply_speech = read_speech(Path(folder) / watched.turn.reply_audio.path)
        return watched

    def _known(self, scenario: Scenario, speech: Waveform) -> Known:
        sure = 1.0 if scenario.followed else 0.0
        transcript = Transcript(text=scenario.text, confidence=sure, engine=SCENARIO) if scenario.text else None
        asked = self.settings.teacher_sees == "asked"
        cues = known_cues(scenario.labels, speech.duration_s) if asked else Cues()
        return Known(transcript, cues, listened=transcript is None or self._listens(scenario))

    def _listens(self, scenario: Scenario) -> bool:
        asked = self.settings.sampling.listen_share
        share = LISTENED.get(self._plain["asr"].info.name, 1.0) if asked is None else asked
        drawn = hashlib.sha256(f"listen {self.settings.seed} {scenario.index}".encode()).digest()
        return int.from_bytes(drawn[:4], "big") < share * 2**32

    def _baseline(self, scenario: Scenario) -> dict[str, Any] | None:
        heard_by = self._plain["emotion"].info.name
        if not self.settings.calibrate or scenario.voice is None or heard_by != ACOUSTIC or scenario.recording:
            return None
        baseline: Baseline | None = self._calm(scenario.voice)
        return baseline.model_dump(mode="json") if baseline else None

    def _calibration(self, voice: str) -> Baseline | None:
        """How a voice sounds when calm; made once for all workers, where they share a store."""
        key = hashlib.sha256(f"calm {version('attune')} {self.settings.seed} {voice}".encode()).hexdigest()
        known = self._store.get(key) if self._store else None
        if known is None:
            known = self._calmed(voice, int(key[:8], 16)).encode()
            if self._store:
                self._store.put(key, known)
        return Baseline.model_validate_json(known) if known else None

    def _calmed(self, voice: str, seed: int) -> str:
        """A Baseline as JSON; nothing for a voice in which calm cannot be measured, and which is read cold."""
        try:
            clips = self._voices.calm(voice, CALM, seed)
            return calibrated(clips).model_dump_json() if clips else ""
        except InputError:
            return ""

    def _judged(self, scenario: Scenario, speech: Speech, watched: _Watched, turn: Turn, cancel: CancelScope) -> Sample:
        reply_speech = self._reply_speech if turn.reply_audio and turn.reply else None
        sample = Sample(
            scenario,
            user_speech=speech.wave,
            user_words=speech.words,
            transcript=watched.transcript,
            cues=watched.cues,
            thought=turn.thought,
            reply=turn.reply,
            reply_speech=reply_speech,
            reply_words=tuple(watched.words) if reply_speech else (),
            scores=turn.scores,
            user_wer=user_word_error(scenario.text, watched.transcript),
            user_emotion_agreement=user_agreement(scenario.labels.emotion, watched.cues),
            worst=self._thinker.worst,
            engines=self._engines_of(scenario, turn),
            **(self._of_reply(reply_speech, cancel) if reply_speech else {}),
        )
        return replace(sample, rejected=verdict(sample, self.settings.gates, _failed(turn)))

    def _engines_of(self, scenario: Scenario, turn: Turn) -> dict[str, EngineInfo]:
        found = _by_name(turn.engines)
        return found if scenario.recording else found | {"user_speech": self._voices.info}

    def _of_reply(self, speech: Waveform, cancel: CancelScope) -> dict[str, Any]:
        """Prosody and vector of the reply's voice: the emotion encoder's vector, else the features its analyzer rests on."""
        prosody = self._plain["prosody"].analyze(speech, baseline=None, cancel=cancel).prosody
        engine = self._plain["emotion"]
        vector: tuple[float, ...] | None = None
        if hasattr(engine, "embed"):
            vector = tuple(float(x) for x in engine.embed(speech, cancel=cancel).utterance)
        elif voice := engine.analyze(speech, baseline=None, cancel=cancel).voice:
            vector = tuple(voice.features[name] for name in sorted(voice.features))
        space = f"{engine.info.name} {engine.info.version}" if vector else None
        return {"reply_prosody": prosody, "reply_vector": vector, "vector_space": space}


def _by_name(engines: Mapping[Stage, EngineInfo]) -> dict[str, EngineInfo]:
    return {str(stage): info for stage, info in engines.items()}


def _failed(turn: Turn) -> tuple[Failure, ...]:
    """Stages that did not do their work; a reply that the judge still objects to is the gates' matter, by its scores."""
    return tuple(failure for failure in turn.failures if (failure.stage, failure.kind) != ("judging", "rejected"))


def known_cues(labels: Labels, duration_s: float) -> Cues:
    """Labels as cues that are sure; what is not known stays out, so that what is heard counts."""
    parts: dict[str, Any] = {}
    if labels.emotion:
        parts["emotion"] = EmotionCue(probabilities={labels.emotion: 1.0}, engine=SCENARIO)
    if labels.age:
        parts["age"] = AgeCue(probabilities={labels.age: 1.0}, engine=SCENARIO)
    if labels.gender:
        parts["gender"] = GenderCue(probabilities={labels.gender: 1.0}, engine=SCENARIO)
    if labels.events is not None:
        events = tuple(VocalEvent(kind=kind, start_s=0, end_s=duration_s, confidence=1.0) for kind in labels.events)
        parts["events"] = EventsCue(events=events, engine=SCENARIO)
    return Cues(**parts)
