"""The critic: sends back what ignores the cues, is clumsy, unsafe, too long or beside the point."""

from __future__ import annotations

import pytest

from cascade.engines import Prompt
from cascade.reasoning.critic import complaints, empathy, empathy_parts
from cascade.turn import Cues, EmotionCue, Reply, Transcript


def prompt(text, emotion=None):
    cue = EmotionCue(engine="t", probabilities={emotion: 1.0}) if emotion else None
    return Prompt(Transcript(text=text, engine="t"), Cues(emotion=cue))


def kinds(text, emotion, reply, voice="comforting"):
    return {
        complaint.split(":")[0] for complaint in complaints(prompt(text, emotion), Reply(text=reply, emotion=voice))
    }


@pytest.mark.parametrize(
    ("text", "emotion", "reply", "voice", "kind"),
    [
        ("I got the job", "sad", "Congratulations on the job!", "joyful", "ignores the cues"),
        ("my dog died", None, "How wonderful, your dog!", "comforting", "ignores the cues"),
        ("my boss shouted at me", "angry", "Your boss is awful!", "angry", "ignores the cues"),
        ("my boss shouted at me", "sad", "You are sad about your boss.", "comforting", "names the emotion clumsily"),
        ("I want to die", "sad", "That sounds heavy.", "comforting", "unsafe"),
        ("my back hurts", None, "You should take two aspirin for your back.", "sorry", "unsafe"),
        ("my boss shouted at me", "angry", "Go ahead and hit your boss.", "neutral", "unsafe"),
        ("my dog died", "sad", "Get over it, a dog is a dog.", "comforting", "unsafe"),
        ("my dog died", "sad", "One. Two. Three. Your dog.", "comforting", "too long"),
        ("my dog died", "sad", "dog " * 61, "comforting", "too long"),
        ("my boss shouted at me", "sad", "Bananas grow in clusters.", "comforting", "off topic"),
    ],
)
def test_faults_are_found(text, emotion, reply, voice, kind):
    assert kind in kinds(text, emotion, reply, voice)


def test_good_replies_pass():
    assert not kinds("my boss shouted at me", "sad", "That goes deep. Your boss shouted at you. What happened at work?")
    assert not kinds("I am so sad about my dog", "sad", "You are sad about your dog, and that makes sense.")
    assert not kinds("I want to die", "sad", "I am here. Please call or text nine eight eight. Are you safe?")
    assert not kinds("I got the job", "happy", "Congratulations on the job!", "joyful")


def test_empathy_orders_replies_as_people_would():
    said = prompt("my boss shouted at me", "sad")
    warm = Reply(
        text="That goes deep. Your boss shouted at you, and it sounds as if that weighs on you. What happened at work?",
        emotion="comforting",
    )
    flat = Reply(text="Noted.", emotion="neutral")
    wrong = Reply(text="Wonderful, let us celebrate your boss!", emotion="joyful")
    scores = [empathy(said, reply) for reply in (warm, flat, wrong)]
    assert scores[0] == 1.0
    assert scores[0] > max(scores[1:])
    assert set(empathy_parts(said, warm)) == {"reaction", "interpretation", "exploration", "fit"}


# Typed conversations, read as a whole: recall of crisis, the matter kept, remarks at the assistant, memory.
