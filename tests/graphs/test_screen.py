"""What a person reads of a turn's scores: figures, opinions with who gave them, complaints, and what could not be measured."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from cascade.turn import Cues, EventsCue, Opinion, Scores, Transcript, Turn, VocalEvent
from graphs.screen import scores, sounded


def turn(given: Scores | None) -> Turn:
    said = Transcript(text="Hello.", engine="typed")
    return Turn(
        id="t", session_id="s", index=0, created_at=datetime.now(UTC), source="text", transcript=said, scores=given
    )


def shown(given: Scores | None) -> str:
    return " ".join(" ".join(click.unstyle(row).split()) for row in scores(turn(given)))


def test_every_score_is_shown_with_what_is_wrong_and_what_is_not_known() -> None:
    opinion = Opinion(
        scale="task_0_100", task="emotion", score=71.5, scores=(71.5,), reason="It meets it.", judge="openai m"
    )
    given = Scores(
        reply_wer=0.25,
        speech_quality=3.42,
        opinions=(opinion,),
        complaints=("poor sound",),
        unmeasured=("emotion_1_5: nobody answers",),
        engine="panel",
    )
    text = shown(given)
    assert text == (
        "judged listen-back word error 0.25 · DNSMOS 3.4 of 5 openai m: 71.5 of 100 for emotion: It meets it. "
        "complaint: poor sound not measured: emotion_1_5: nobody answers"
    )
    assert shown(None) == "judged not judged"


def test_events_are_shown_with_their_times_and_unknown_is_not_none() -> None:
    laugh = VocalEvent(kind="laugh", start_s=0.5, end_s=1.0, confidence=0.9)
    rows = {
        "laugh at 0.5 s": EventsCue(events=(laugh,), engine="f"),
        "no vocal events": EventsCue(events=(), engine="f"),
        "vocal events unknown": EventsCue(events=None, engine="f"),
    }
    for text, cue in rows.items():
        assert text in "\n".join(sounded(Cues(events=cue)))
