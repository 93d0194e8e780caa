"""What every engine of the table owes, whichever it is: the same errors, quick stops, the same answer twice, no traces."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.everything import Checkpoints
from checkpoints.server import serving

from cascade.audio import Waveform, joined
from cascade.cancel import CancelScope
from cascade.engines import ENGINES, Ears, Prompt, load_engine, parse_options
from cascade.errors import AttuneError, Cancelled, EngineUnavailable, InputError
from cascade.turn import Cues, EmotionCue, Reply, Stage, Thought, Transcript, Turn

ROWS = [(stage, name) for stage, rows in ENGINES.items() for name in rows]
LISTENERS = [(stage, name) for stage, name in ROWS if stage in ("asr", "emotion", "speaker", "events", "prosody")]
SPEAKERS = [(stage, name) for stage, name in ROWS if stage == "tts"]
THINKERS = [(stage, name) for stage, name in ROWS if stage == "reasoning"]
PARTS = {"emotion": {"emotion"}, "speaker": {"age", "gender"}, "events": {"events"}, "prosody": {"prosody"}}
PROMPT = Prompt(
    Transcript(text="I lost my job yesterday.", confidence=0.9, engine="t"),
    Cues(emotion=EmotionCue(probabilities={"sad": 0.8, "neutral": 0.2}, engine="t")),
    seed=7,
)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server that speaks the OpenAI protocol."""
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def loaded(checkpoints: Checkpoints, endpoint: str) -> Iterator[Callable[[str, str], Any]]:
    """Each engine loaded once for the module; skipped only where a program of the system is missing."""
    kept: dict[tuple[str, str], Any] = {}

    def load(stage: Any, name: str) -> Any:
        if (stage, name) not in kept:
            options = checkpoints.options(stage, name) | served(name, endpoint)
            try:
                kept[stage, name] = load_engine(stage, name, options)
            except EngineUnavailable as error:
                if name != "flite":
                    raise
                pytest.skip(str(error))
        return kept[stage, name]

    yield load
    for engine in kept.values():
        if hasattr(engine, "close"):
            engine.close()


def served(name: str, endpoint: str) -> dict[str, str]:
    return {"base_url": endpoint, "model": "m"} if name == "openai" else {}


def listen(engine: Any, stage: str, speech: Waveform, cancel: CancelScope | None = None) -> Any:
    scope = cancel or CancelScope()
    if stage == "asr":
        return engine.transcribe(speech, cancel=scope)
    return engine.analyze(speech, baseline=None, cancel=scope)


def say(engine: Any, text: str, seed: int = 1, cancel: CancelScope | None = None) -> Any:
    scope = cancel or CancelScope()
    return engine.speak(text, emotion="comforting", intensity=0.7, rate=1.0, seed=seed, cancel=scope)


def think(engine: Any, cancel: CancelScope | None = None) -> list[Any]:
    return list(engine.respond(PROMPT, cancel=cancel or CancelScope()))


def run(engine: Any, stage: str, speech: Waveform, cancel: CancelScope | None = None) -> Any:
    if stage == "tts":
        return say(engine, "That is a lot to carry, and it makes sense that it hurts.", cancel=cancel)
    if stage == "reasoning":
        return think(engine, cancel)
    return listen(engine, stage, speech, cancel)


def comparable(stage: str, value: Any) -> Any:
    if stage == "tts":
        return value.wave.samples.tobytes(), value.words
    return value


def test_nothing_in_the_table_is_left_out(checkpoints: Checkpoints) -> None:
    assert {stage for stage, _ in ROWS} == set(ENGINES)
    for stage, name in ROWS:
        parse_options(stage, name, checkpoints.options(stage, name))


@pytest.mark.parametrize(("stage", "name"), ROWS)
def test_an_engine_says_who_it_is(stage: Stage, name: str, loaded: Callable[[str, str], Any]) -> None:
    info = loaded(stage, name).info
    assert info.name == name
    assert info.version
    json.dumps(info.options)


@pytest.mark.parametrize(("stage", "name"), LISTENERS)
@pytest.mark.parametrize("bad", ["nothing", "nan", "infinite"])
def test_sound_that_cannot_be_read_is_the_same_error_everywhere(
    stage: str, name: str, bad: str, loaded: Callable[[str, str], Any]
) -> None:
    samples = np.zeros(0 if bad == "nothing" else 16_000, np.float32)
    if bad != "nothing":
        samples[100] = np.nan if bad == "nan" else np.inf
    with pytest.raises(InputError, match="no samples" if bad == "nothing" else "NaN or infinite"):
        listen(loaded(stage, name), stage, Waveform(samples, 16_000))


@pytest.mark.parametrize(("stage", "name"), LISTENERS)
@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_silence_and_scraps_are_unknown_or_an_error_but_never_a_crash(
    stage: str, name: str, rate: int, loaded: Callable[[str, str], Any]
) -> None:
    engine = loaded(stage, name)
    for samples in (np.zeros(rate, np.float32), np.full(5, 0.1, np.float32)):
        problem = ""
        try:
            found = listen(engine, stage, Waveform(samples, rate))
            assert found.text == "" if stage == "asr" else isinstance(found, Cues)
        except AttuneError as error:
            problem = str(error)
        assert "\n" not in problem


@pytest.mark.parametrize(("stage", "name"), SPEAKERS)
@pytest.mark.parametrize("text", ["", "  \n", "…", "?!"])
def test_nothing_to_say_is_the_same_error_everywhere(
    stage: str, name: str, text: str, loaded: Callable[[str, str], Any]
) -> None:
    with pytest.raises(InputError, match="nothing to say"):
        say(loaded(stage, name), text)


@pytest.mark.parametrize(("stage", "name"), LISTENERS)
def test_a_listener_tells_its_own_parts_and_names_itself(
    stage: str, name: str, loaded: Callable[[str, str], Any], spoken_sentence: Waveform
) -> None:
    found = listen(loaded(stage, name), stage, spoken_sentence)
    if stage == "asr":
        assert found.engine == name
        return
    for part in PARTS[stage]:
        cue = getattr(found, part)
        assert cue is not None, f"{name} serves {stage} and says nothing of {part}, not even that it is unknown"
        assert cue.engine == name
        assert getattr(cue, "label", "known") is not None or cue.reason, "an unknown says why"


@pytest.mark.parametrize(("stage", "name"), THINKERS)
def test_a_reasoner_yields_thought_sentences_reply(stage: str, name: str, loaded: Callable[[str, str], Any]) -> None:
    thought, *sentences, reply = think(loaded(stage, name))
    assert isinstance(thought, Thought)
    assert thought.heard == PROMPT.transcript.text
    assert isinstance(reply, Reply)
    assert reply.text == " ".join(sentences)
    assert reply.emotion == thought.reply_emotion


@pytest.mark.parametrize(("stage", "name"), [row for row in ROWS if row[0] != "judging"])
def test_the_same_twice_is_the_same(
    stage: str, name: str, loaded: Callable[[str, str], Any], spoken_sentence: Waveform
) -> None:
    engine = loaded(stage, name)
    first = comparable(stage, run(engine, stage, spoken_sentence))
    torch.rand(3)
    np.random.rand(3)
    assert comparable(stage, run(engine, stage, spoken_sentence)) == first


@pytest.mark.parametrize(("stage", "name"), [row for row in ROWS if row[0] != "judging"])
def test_a_cancelled_scope_is_seen_at_once(
    stage: str, name: str, loaded: Callable[[str, str], Any], spoken_sentence: Waveform
) -> None:
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        run(loaded(stage, name), stage, spoken_sentence, scope)


@pytest.mark.parametrize(("stage", "name"), [row for row in ROWS if row[0] != "judging" and row[1] != "flite"])
def test_work_stops_within_100_ms_of_being_cancelled(
    stage: str, name: str, loaded: Callable[[str, str], Any], spoken_sentence: Waveform
) -> None:
    """The best of a few tries counts: a busy machine may be late once, an engine that does not look is late always."""
    engine, speech = loaded(stage, name), joined([spoken_sentence] * 8, 0.3)
    took = [
        stopping_time(lambda scope: run(engine, stage, speech, scope), after_s) for after_s in (0.02, 0.05, 0.1, 0.2)
    ]
    assert min(took) < 0.1, took
    run(engine, stage, spoken_sentence)  # and it still works


def stopping_time(work: Callable[[CancelScope], Any], after_s: float) -> float:
    """Seconds from the cancel until the engine gave up, 0 if it had finished before."""
    scope, outcome = CancelScope(), []

    def body() -> None:
        try:
            work(scope)
        except Cancelled:
            outcome.append("stopped")
        outcome.append(time.perf_counter())

    thread = threading.Thread(target=body)
    thread.start()
    time.sleep(after_s)
    finished = not thread.is_alive()
    began = time.perf_counter()
    scope.cancel()
    thread.join(20)
    assert not thread.is_alive(), "it never stopped"
    return 0.0 if finished else outcome[-1] - began


def traces() -> dict[str, Any]:
    return {
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "level": logging.root.level,
        "handlers": list(logging.root.handlers),
        "disabled": logging.root.manager.disable,
        "filters": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


@pytest.mark.parametrize(("stage", "name"), [row for row in ROWS if row[1] != "flite"])
def test_loading_and_working_leaves_no_traces(
    stage: Stage,
    name: str,
    checkpoints: Checkpoints,
    endpoint: str,
    spoken_sentence: Waveform,
    capfd: pytest.CaptureFixture[str],
) -> None:
    options = checkpoints.options(stage, name) | served(name, endpoint)
    before = traces()
    engine = load_engine(stage, name, options)
    if stage != "judging":
        run(engine, stage, spoken_sentence)
    after = traces()
    if hasattr(engine, "close"):
        engine.close()
    assert {key for key in before if before[key] != after[key]} == set()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("stage", "name"), [row for row in ROWS if row[0] == "judging"])
def test_a_judge_scores_a_reply_and_stops(
    stage: str, name: str, loaded: Callable[[str, str], Any], spoken_sentence: Waveform
) -> None:
    from datetime import UTC, datetime

    turn = Turn(
        id="t",
        session_id="s",
        index=0,
        created_at=datetime.now(UTC),
        source="text",
        transcript=PROMPT.transcript,
        cues=PROMPT.cues,
        reply=Reply(text="That is a hard thing to hear. What happened?", emotion="comforting"),
    )
    ears = Ears(loaded("asr", "pocketsphinx"), loaded("emotion", "acoustic"))
    judge = loaded(stage, name)
    first = judge.judge(turn, spoken_sentence, ears=ears, history=(), cancel=CancelScope())
    assert first == judge.judge(turn, spoken_sentence, ears=ears, history=(), cancel=CancelScope())
    assert first.engine == name
    assert first.reply_wer is not None
    scope = CancelScope()
    scope.cancel()
    with pytest.raises(Cancelled):
        judge.judge(turn, spoken_sentence, ears=ears, history=(), cancel=scope)
