"""A turn in which every stage is an engine of the gpu profile: real libraries, small checkpoints, garbage words, real path."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
from checkpoints.everything import GPU_STAGES, Checkpoints
from checkpoints.server import serving
from click.testing import CliRunner
from fakes import fake_engines

from cascade.audio import Waveform, read_speech, write_wav
from cascade.engines import load_engine
from cascade.profiles import Engines, load_profile
from cascade.turn import Turn
from cli import main
from graphs.session import Session, open_session
from graphs.state import Done, Event, Sound, Thinking


@pytest.fixture(scope="module")
def profile(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "small-gpu.toml"
    return checkpoints.profile(path, reasoning={"top_logprobs": 3})


def test_a_whole_turn(profile: Path, spoken_sentence: Waveform, tmp_path: Path) -> None:
    engines = Engines.load(load_profile(str(profile)))

    async def run() -> tuple[list[Event], Turn]:
        async with open_session(tmp_path, "s", engines) as session:
            events = [event async for event in session.ask(speech=spoken_sentence, seed=3)]
        return events, next(event.turn for event in events if isinstance(event, Done))

    events, turn = asyncio.run(run())
    assert turn.failures == ()
    assert turn.is_target
    assert {stage: info.name for stage, info in turn.engines.items()} == GPU_STAGES
    assert {stage: config.engine for stage, config in load_profile("gpu").stages.items()} == GPU_STAGES
    assert turn.transcript is not None
    assert turn.cues.emotion is not None
    assert sum(turn.cues.emotion.probabilities.values()) + turn.cues.emotion.unknown == pytest.approx(1, abs=1e-3)
    assert turn.cues.age is not None
    assert turn.cues.age.probabilities
    assert turn.cues.gender is not None
    assert turn.cues.gender.probabilities
    assert turn.cues.events is not None
    assert turn.cues.events.events is not None, "the tagger listened"
    assert turn.thought is not None
    assert turn.thought.reasoning
    assert turn.reply is not None
    assert len(turn.reply.tokens) > 3
    assert all(len(token.top) == 3 for token in turn.reply.tokens)
    assert sum(isinstance(event, Thinking) for event in events) == 1
    sounds = [event for event in events if isinstance(event, Sound)]
    assert " ".join(sound.text for sound in sounds) == turn.reply.text
    assert turn.reply_audio is not None
    speech = read_speech(tmp_path / "sessions" / "s" / turn.reply_audio.path)
    assert speech.sample_rate == 24_000
    assert speech.duration_s > 0.5
    assert turn.scores is not None
    assert turn.scores.speech_quality is not None
    assert turn.scores.reply_wer is not None
    assert turn.scores.emotion_agreement is not None


def test_the_same_from_the_command_line(profile: Path, spoken_sentence: Waveform, tmp_path: Path) -> None:
    wav, out = tmp_path / "in.wav", tmp_path / "out.wav"
    write_wav(wav, spoken_sentence)
    result = CliRunner().invoke(main, ["ask", str(wav), "-o", str(out), "--profile", str(profile), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["reply"]["text"]
    assert read_speech(out).sample_rate == 24_000
    looked = CliRunner().invoke(main, ["doctor", "--profile", str(profile), "--load"])
    assert looked.exit_code == 0, looked.output
    assert looked.output.count("loaded in") == 8


def test_the_chat_goes_on_when_the_endpoint_goes_down_and_comes_back(tmp_path: Path) -> None:
    async def turns() -> list[Turn]:
        with contextlib.ExitStack() as up:
            url = up.enter_context(serving())
            reasoner = load_engine("reasoning", "openai", {"base_url": url, "model": "m"})
            async with open_session(tmp_path, "s", fake_engines(3, reasoning=reasoner)) as session:
                first = await said(session, "I lost my job yesterday.")
                up.close()
                second = await said(session, "Are you still there?")
                with serving(port=int(url.split(":")[2].split("/")[0])):
                    return [first, second, await said(session, "My job is what I think of all day.")]

    first, second, third = asyncio.run(turns())
    assert first.reply is not None
    assert second.reply is None
    assert not second.is_target
    [failure] = second.failures
    assert (failure.stage, failure.kind) == ("reasoning", "unavailable")
    assert "\n" not in failure.message
    assert third.reply is not None
    assert third.failures == ()


async def said(session: Session, text: str) -> Turn:
    [turn] = [event.turn async for event in session.ask(text=text) if isinstance(event, Done)]
    return turn
