"""Choosing which clause of a turn may be said back, and saying it in the second person."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cascade.reasoning.language import find, stem
from cascade.reasoning.lexica import felt_words, sentiment, situations
from cascade.reasoning.reflection import turn_round
from cascade.turn import Transcript

_RAW = re.compile(r"[A-Za-z0-9]+(?:['’][A-Za-z]+)*|[.,;!?]")
_LEADS = ("guess what", "you know what", "you know", "i mean", "i have to tell you", "i can't believe", "i cannot believe",
          "can you believe", "it turns out", "turns out", "i just found out", "i found out", "the thing is", "i have to say",
          "i just wanted to say", "i'm happy that", "i'm so happy that", "i'm sad that", "i'm glad that", "i'm sad because",
          "i'm happy because", "that", "i'm so glad")  # fmt: skip
_FILLERS_TEXT = """
well so um uh oh okay ok yeah yes and but because honestly actually basically just look listen hey hi hello
anyway then also plus man god wow like hm
"""
_FILLERS = set(_FILLERS_TEXT.split())
_TAILS_TEXT = """
though anyway honestly you-know i-guess and but so because please right okay
"""
_TAILS = set(_TAILS_TEXT.split())
_JOINTS = {"and", "but", "because", "so", "since", "although", "while", "then", "or"}
_STARTS = {"i", "we", "he", "she", "they", "it", "my", "our", "the", "i'm", "i've", "he's", "she's", "it's", "they're", "his", "her",  # noqa: E501
           "now", "we're", "nobody", "everyone", "everybody", "someone", "there"}  # fmt: skip
# Said of oneself, these are never repeated back as if they were so.
_SELF_BLAME_TEXT = """
stupid worthless useless ugly failure loser pathetic dumb idiot burden hate fat weak crazy disgusting lazy
fuck fucking shit bitch damn hell ass crap
"""
_SELF_BLAME = set(_SELF_BLAME_TEXT.split())
_LONGEST_TYPED, _LONGEST_HEARD = 12, 8


def echo_of(transcript: Transcript, topic: str | None, trust: float) -> str | None:
    """The clause most worth saying back, turned round; None when none is safe to repeat."""
    # Typed, or known: no ears could have got it wrong.
    heard = bool(transcript.words) or (transcript.confidence is not None and transcript.confidence < 1)
    if transcript.confidence is not None and transcript.confidence < trust:
        return None
    clauses = [clause for clause in _clauses(transcript.text) if _may_be_said(clause, transcript, topic, heard)]
    turned = [(said, _weight(clause, topic)) for clause in clauses if (said := turn_round(clause))]
    return max(turned, key=lambda pair: pair[1])[0] if turned else None


def _clauses(text: str) -> list[list[str]]:
    """Clauses by punctuation and joining words, without what only leads in."""
    out: list[list[str]] = [[]]
    pieces = _RAW.findall(text.replace("’", "'"))
    for i, piece in enumerate(pieces):
        following = pieces[i + 1].lower() if i + 1 < len(pieces) else ""
        if piece == "?":
            out[-1] = []  # a question is answered, not repeated
        elif not piece[0].isalnum() or (piece.lower() in _JOINTS and following in _STARTS and len(out[-1]) >= 3):
            out.append([])
        else:
            out[-1].append(piece)
    return [_trimmed(clause) for clause in out if clause]


def _trimmed(clause: list[str]) -> list[str]:
    while clause:
        lowered = " ".join(clause).lower()
        lead = next((lead for lead in _LEADS if lowered.startswith(lead + " ")), None)
        if lead:
            clause = clause[len(lead.split()) :]
        elif (clause[0].lower() == "no" and len(clause) > 1 and clause[1].lower() in _STARTS) or clause[
            0
        ].lower() in _FILLERS:
            clause = clause[1:]
        else:
            break
    while clause and clause[-1].lower() in _TAILS:
        clause = clause[:-1]
    return clause


def _may_be_said(clause: Sequence[str], transcript: Transcript, topic: str | None, heard: bool) -> bool:
    lowered = [word.lower() for word in clause]
    if not clause or len(clause) > (_LONGEST_HEARD if heard else _LONGEST_TYPED) or set(lowered) & _SELF_BLAME:
        return False
    if _only_a_feeling(lowered) or _of_no_worth(lowered) or lowered[0] in ("it", "it's", "this"):
        return False
    if not heard:
        return True
    return _trusted(lowered, transcript) and (topic is None or _weight(clause, topic) > 0)


def _only_a_feeling(lowered: Sequence[str]) -> bool:
    return (
        len(lowered) <= 6
        and any(word in felt_words() for word in lowered[-2:])
        and lowered[0] in ("i", "i'm", "i've", "we're")
    )


def _of_no_worth(lowered: Sequence[str]) -> bool:
    """ "Nobody likes me" hurts when a voice says it back as a fact; "I think", "I hope", "I wish" alone say nothing."""
    none = lowered[0] in ("nobody", "everyone", "everybody") or list(lowered[:2]) == ["no", "one"]
    return (none and lowered[-1] in ("me", "us")) or (
        len(lowered) > 1 and lowered[1] in ("know", "mean", "guess", "swear")
    )


def _trusted(lowered: Sequence[str], transcript: Transcript) -> bool:
    """Posteriors of small recognizers run high for what they got wrong, so the weakest word decides."""
    known = {word.text.lower(): word.probability for word in transcript.words}
    values = [known[word] for word in lowered if word in known]
    return not values or (min(values) >= 0.2 and sum(values) / len(values) >= 0.5)


def _weight(clause: Sequence[str], topic: str | None) -> float:
    """How much of the matter a clause holds: what happened first, then the topic's words, then strong words."""
    stems = [stem(word.lower()) for word in clause]
    strong = sum(abs(sentiment().get(word.lower(), 0.0)) for word in clause) / 4
    if topic is None:
        return strong
    row = situations()[topic]
    event = any(find(parts, stems) for happening in row.happenings for parts in happening.patterns)
    return 3 * event + len(set(stems) & (row.words | row.hints)) + strong / 4
