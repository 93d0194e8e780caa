from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import heard, sad, thinking, tone
from pydantic import ValidationError

from cascade.audio import reference, write_wav
from cascade.turn import (
    EMOTIONS,
    AudioRef,
    Cues,
    EmotionCue,
    EventsCue,
    Failure,
    GenderCue,
    Prosody,
    Reply,
    Turn,
    VocalEvent,
)

AUDIO = AudioRef(path="a.wav", sha256="0" * 64, sample_rate=16_000, duration_s=1.0)


def whole_turn(**changes: Any) -> Turn:
    base: dict[str, Any] = {
        "id": "t1",
        "session_id": "s",
        "index": 0,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "source": "speech",
        "user_audio": AUDIO,
        "transcript": heard("i lost my job"),
        "cues": sad(),
        "thought": thinking(),
        "reply": Reply(text="That is hard.", emotion="comforting"),
        "reply_audio": AUDIO,
    }
    return Turn(**{**base, **changes})


def test_json_round_trip() -> None:
    events = EventsCue(events=(VocalEvent(kind="sigh", start_s=0.1, end_s=0.5, confidence=0.9),), engine="fake")
    turn = whole_turn(
        cues=sad().merged(Cues(events=events, prosody=Prosody(pitch_hz=180, engine="fake"))),
        failures=(Failure(stage="speaker", kind="timeout", message="late"),),
    )
    assert Turn.model_validate_json(turn.model_dump_json()) == turn


def test_an_unsure_cue_is_unknown_but_keeps_its_distribution() -> None:
    cue = EmotionCue(probabilities={"sad": 0.4, "angry": 0.35, "neutral": 0.25}, threshold=0.5, engine="fake")
    assert cue.label is None
    assert cue.best == "sad"
    assert cue.confidence == 0.4
    assert EmotionCue(engine="fake", reason="no voice").label is None


@pytest.mark.parametrize(
    "probabilities", [{"furious": 1.0}, {"sad": 0.7, "angry": 0.7}, {"sad": 1.5, "angry": -0.5}, {"sad": 0.5}]
)
def test_an_illegal_distribution_is_refused(probabilities: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        EmotionCue(probabilities=probabilities, engine="fake")


def test_merging_keeps_the_first_and_fills_the_rest() -> None:
    first, second = sad(0.9), sad(0.6).merged(Cues(gender=GenderCue(probabilities={"female": 1.0}, engine="fake")))
    both = first.merged(second)
    assert both.emotion == first.emotion
    assert both.gender is not None
    assert both.gender.label == "female"


def test_the_tag_says_unknown_and_does_not_guess() -> None:
    tag = thinking(heard="i lost my job", emotion="sad").tag()
    assert (
        tag
        == "<heard>i lost my job<age>unknown<gender>unknown<emotion>sad<event>unknown<strategy>reflect<reply>comforting"
    )
    assert "<event>none" in thinking(events=()).tag()
    assert "<event>sigh+cry" in thinking(events=("sigh", "cry")).tag()


def test_only_a_whole_turn_is_a_target() -> None:
    assert whole_turn().is_target
    failed = Failure(stage="events", kind="failed", message="x")
    for flaw in (
        {"failures": (failed,)},
        {"heard_text": "That"},
        {"reply": None},
        {"reply_audio": None},
        {"transcript": None},
    ):
        assert not whole_turn(**flaw).is_target, flaw


def test_other_schema_versions_and_unknown_keys_are_refused() -> None:
    data = whole_turn().model_dump(mode="json")
    with pytest.raises(ValidationError, match="schema version 99"):
        Turn.model_validate({**data, "schema_version": 99})
    with pytest.raises(ValidationError, match="surprise"):
        Turn.model_validate({**data, "surprise": 1})
    with pytest.raises(ValidationError, match="needs user_audio"):
        Turn.model_validate({**data, "user_audio": None})


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError):
        whole_turn().seed = 3  # type: ignore[misc]


def test_the_dear_check_reads_the_audio(tmp_path: Path) -> None:
    write_wav(tmp_path / "u.wav", tone())
    good = reference(tmp_path / "u.wav", tone(), tmp_path)
    assert whole_turn(user_audio=good, reply_audio=good).problems_of_audio(tmp_path) == []
    problems = whole_turn(user_audio=good).problems_of_audio(tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith("reply_audio:")


def test_the_eight_emotions() -> None:
    assert set(EMOTIONS) == {"angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised", "other"}
