"""The language form of the thought: what was heard, how it sounded, whether the two agree, and so what to do."""

from __future__ import annotations

from collections.abc import Sequence

from cascade.reasoning.language import sentences
from cascade.reasoning.strategies import Hearing, Plan
from cascade.reasoning.understanding import Understanding, is_vague
from cascade.turn import Exchange

_READS = {
    "good": "reads as good news",
    "bad": "reads as something hard",
    "mixed": "holds good and hard together",
    "neutral": "is plain in its words",
    "hope": "speaks of something hoped for",
}
_DOES = {
    "reflect": "I say back what I understood and leave room",
    "validate": "I let them know that their reaction makes sense",
    "ask": "I ask an open question about it",
    "encourage": "I give some courage without making it small",
    "suggest": "I offer one small step and ask whether it fits",
    "celebrate": "I share the joy and ask for more of it",
    "clarify": "I am plain about what I can and cannot do or hear",
    "care": "I take it seriously, stay, and name people who can help now",
}


def reason(understood: Understanding, heard: Hearing, plan: Plan, history: Sequence[Exchange]) -> str:
    """One short paragraph; a cue that is unknown is not guessed at."""
    parts = [
        _what(understood, plan),
        _how(heard, understood),
        _cues(heard),
        _agreement(understood, heard, plan),
        _past(understood, history),
    ]
    return " ".join(
        part for part in [*parts, f"{_lead(understood)} {_DOES[plan.strategy]}, in a {plan.emotion} voice."] if part
    )


def _lead(understood: Understanding) -> str:
    return "Therefore" if understood.text.lower().startswith("so ") else "So"


def _what(understood: Understanding, plan: Plan) -> str:
    if understood.empty:
        return "I could not make out the words."
    quoted = understood.text if len(understood.text) <= 120 else understood.text[:117].rsplit(" ", 1)[0] + " ..."
    doubt = "" if understood.clear else " I am not sure of every word."
    if understood.crisis:
        return f'They said "{quoted}", which may mean danger ({understood.crisis.replace("_", " ")}).{doubt}'
    if understood.act:
        return f'They said "{quoted}", which is {_act_name(understood.act)}.{doubt}'
    matter = f" is about {understood.about} and" if understood.about else ""
    worry = ", as a worry rather than a fact" if understood.stance == "worry" else ""
    asks = " They ask for advice." if understood.wants_advice else ""
    return f'They said "{quoted}", which{matter} {_READS[plan.mood]}{worry}.{doubt}{asks}'


def _act_name(act: str) -> str:
    names = {"greeting": "a greeting", "goodbye": "a goodbye", "thanks": "a thanks", "yes": "an answer to my question",
             "no": "an answer to my question", "dont_know": "an answer to my question", "insult": "rough words at me",
             "blame": "a remark at my mistake",
             "maker": "a question about who made me", "can_do": "a question about what I can do",
             "my_name": "a question about their name", "recall": "a question about what was said before",
             "identity": "a question about what I am", "weather_or_fact": "a question I cannot look up",
             "stop": "a wish to leave it there", "repeat": "a wish to hear it again"}  # fmt: skip
    return names.get(act, "said to me rather than about themselves")


def _how(heard: Hearing, understood: Understanding) -> str:
    if understood.typed and heard.tone_from not in ("voice", "event"):
        named = f" They call themselves {understood.felt}." if understood.felt else ""
        return f"It was typed, so there is no voice to go by.{named}"
    if heard.tone_from == "voice":
        sure = heard.confidence or 0.0
        grade = "clearly" if sure >= 0.8 else "probably" if sure >= 0.6 else "perhaps"
        return f"The voice {grade} sounds {heard.tone} (confidence {sure:.2f})."
    if heard.tone_from == "words":
        return f"The voice does not tell the feeling, but their own word does: {understood.felt or heard.tone}."
    if heard.tone_from == "event":
        return "The voice's label is unknown, but there is crying in it."
    if heard.leaning:
        side = "the unpleasant" if heard.leaning == "uneasy" else "the pleasant"
        return f"The voice leans to {side} side, but not clearly enough to say more."
    return "How it sounded cannot be told, so I go by the words alone."


def _cues(heard: Hearing) -> str:
    bits = []
    if heard.age in ("child", "elder"):
        bits.append("It sounds like a child." if heard.age == "child" else "It sounds like an older person.")
    if heard.events:
        bits.append(f"There is {' and '.join(kind.replace('_', ' ') for kind in heard.events)} to be heard.")
    return " ".join(bits)


def _agreement(understood: Understanding, heard: Hearing, plan: Plan) -> str:
    if heard.tone_from not in ("voice", "event") or understood.empty or understood.act:
        return ""
    return (
        "Words and voice agree."
        if plan.agrees
        else "Words and voice do not say the same, so I go gently and do not assume."
    )


def _past(understood: Understanding, history: Sequence[Exchange]) -> str:
    if is_vague(understood) and history:
        earlier = sentences(history[-1].said)
        return f'It goes on from "{earlier[0].rstrip(".!?")}".' if earlier else ""
    return ""
