"""A turn in which every stage is an engine of the gpu profile: real libraries, small checkpoints, garbage words, real path."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from checkpoints.everything import Checkpoints
from click.testing import CliRunner

from cascade.audio import Waveform, read_speech, write_wav
from cascade.profiles import Engines, load_profile
from cascade.turn import Turn
from cli import main
from graphs.session import open_session
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
    names = {stage: info.name for stage, info in turn.engines.items()}
    assert names == {
        "asr": "faster_whisper",
        "emotion": "emotion2vec",
        "speaker": "wav2vec2",
        "events": "audio_tagger",
        "prosody": "prosody",
        "reasoning": "transformers",
        "tts": "f5",
        "judging": "panel",
    }
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
