"""The careful path: how long it goes on after words of crisis, when it deepens, what ends it, and what is said on it.

It goes on until the person says that they are safe or were joking (answered once, with the help line), tells good
news, or turns to another matter for two turns; one such turn may be a way of not answering.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cascade.reasoning import crisis
from cascade.reasoning.language import sentences, stem, tokens
from cascade.reasoning.lexica import crisis_data
from cascade.reasoning.strategies import Hearing
from cascade.reasoning.understanding import Understanding, last_question, topic_of_stems
from cascade.reasoning.wording import Pen
from cascade.turn import Exchange

STOOD_DOWN = ("retracted", "safe")
_BACK = 8  # turns in which words of crisis are still remembered
_LONG = 6  # careful turns without a new word of crisis, after which one turn about another matter is enough
_WANDERS = ("harm_others", "other_at_risk", "bereaved", "medical")  # not one's own life: one other matter ends it
_NEAR = {"loneliness", "self_worth", "stress", "sleep", "loss", "breakup", "health", "hospital", "ageing"}
_PEOPLE = {"family", "friends", "parents", "partner", "kids", "neighbours"}  # may be who could come and stay
_NOT_REALLY = re.compile(r"^(?:well )?(?:no|not (?:really|sure|at all)|i am not$|i do not (?:know|think so)|nope)\b")
_ALONE = re.compile(r"\b(?:alone|by myself|on my own|nobody|no one|no body|not anyone)\b")


def path(understood: Understanding, history: Sequence[Exchange]) -> str | None:
    """The kind of crisis this turn is answered by; one of STOOD_DOWN for a single last careful word; or None."""
    careful = [exchange for exchange in history[-_BACK:] if exchange.strategy == "care"]
    if not careful:
        return understood.crisis
    deeper = crisis.deepened(understood.text)
    if understood.crisis or deeper:
        return deeper if deeper and understood.crisis not in ("medical", "abuse") else understood.crisis
    answered = [exchange for exchange in history if exchange.strategy != "clarify"]
    if answered[-1].strategy != "care":
        return None
    if down := crisis.stands_down(understood.text):
        return down
    if _asked_about_safety(history) and _NOT_REALLY.match(" ".join(tokens(understood.text))):
        return "unsafe"
    kind = _earlier_kind(history)
    return None if _moved_on(understood, kind, careful) else kind


def told_in_crisis(exchange: Exchange) -> bool:
    """Whether an earlier exchange belongs to the careful path: its words are shown to no language model."""
    return exchange.strategy == "care" or crisis.detect(exchange.said) is not None


def _asked_about_safety(history: Sequence[Exchange]) -> bool:
    asked = last_question(history)
    return asked is not None and re.search(r"\bare you (?:really )?safe\b", asked.lower()) is not None


def _earlier_kind(history: Sequence[Exchange]) -> str:
    for ago, exchange in enumerate(reversed(history[-_BACK:])):
        if exchange.strategy != "care":
            continue
        if ago < 3 and ago < len(history) - 1 and crisis.deepened(exchange.said):
            return "urgent"
        if kind := crisis.detect(exchange.said):
            return "suicide" if kind in ("urgent", "unsafe") and ago >= 3 else kind
    return "unsure"


def _moved_on(understood: Understanding, kind: str, careful: Sequence[Exchange]) -> bool:
    if understood.valence == "good" and not understood.act:
        own = understood.topic is not None and not understood.from_history
        if (own and understood.topic not in _PEOPLE | _NEAR) or understood.felt_emotion == "happy":
            return True
    if not _elsewhere(understood.text):
        return False
    quiet = len(careful) >= _LONG and not any(crisis.detect(exchange.said) for exchange in careful[-_LONG:])
    return kind in _WANDERS or quiet or _elsewhere(careful[-1].said)


def _elsewhere(text: str) -> bool:
    """Whether a turn is clearly about another matter, not an answer and not a matter that may lie behind the crisis."""
    said = tokens(text)
    topic = topic_of_stems([stem(word) for word in said])
    answer = bool(said) and said[0] in (
        "yes",
        "no",
        "yeah",
        "okay",
        "not",
        "maybe",
        "because",
        "but",
        "he",
        "she",
        "they",
        "it",
    )
    near = crisis.detect(text) is not None or _ALONE.search(" ".join(said)) is not None
    return topic is not None and topic not in _NEAR and len(said) >= 4 and not answer and not near


def write(understood: Understanding, heard: Hearing, history: Sequence[Exchange], region: str, pen: Pen) -> list[str]:
    """Two or three sentences, a help line always among them."""
    data = crisis_data()
    kind = understood.crisis or "unsure"
    pen.slots |= {
        "line": data["lines"][region],
        "line_short": data["short"][region],
        "emergency": data["emergency"][region],
        "abuse_line": data["abuse_lines"][region],
        "abuse_short": data["short"][region],
    }
    lines = [piece for line in pen.choose_all(_groups(understood, kind, history)) for piece in sentences(line)]
    if understood.act in ("identity", "maker") and kind not in ("medical", "urgent", "unsafe"):
        helping = next(line for line in lines if crisis.names_help(line))
        lines = ["I am a program, not a person, and I still mean to help.", helping, *lines[-1:]]
        lines = list(dict.fromkeys(lines))
    if heard.age == "child" and kind not in ("medical", *STOOD_DOWN):
        helping = next(line for line in lines if crisis.names_help(line))
        lines = [lines[0], helping, pen.choose(data["child"]["ask"])]
        lines = list(dict.fromkeys(lines))
    assert crisis.names_help(" ".join(lines))
    return lines[:3]


def _groups(understood: Understanding, kind: str, history: Sequence[Exchange]) -> list[list[str]]:
    rows: dict[str, list[list[str]]] = crisis_data()[kind]
    followed = any(exchange.strategy == "care" for exchange in history[-2:])
    if kind in ("urgent", "unsafe") and history:
        before = history[-1].said
        followed = crisis.deepened(before) is not None or crisis.detect(before) in ("urgent", "unsafe")
    if followed and understood.act != "stop" and "alone" in rows and _ALONE.search(understood.text.lower()):
        return rows["alone"]
    return rows["more"] if followed and "more" in rows else rows["replies"]
