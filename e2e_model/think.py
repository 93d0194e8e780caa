"""The think as text: a tag line, a paragraph, or nothing.

The tag line is the teacher's (`<heard>… <age>… <gender>… <emotion>… <event>… <strategy>… <reply>…`), its words as a
recognizer gives them: in small letters, without punctuation. A label that is not known leaves a hole: it is written
nowhere, takes part in neither loss nor attention, and only the places after it are counted on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from e2e_model.config import Labels
from e2e_model.respond import Think

FORMS = ("tag", "language", "none")
OPEN, CLOSE = "<think>", "</think>"
MARKS = ("<heard>", "<age>", "<gender>", "<emotion>", "<event>", "<strategy>", "<reply>")
HOLE = "unknown"  # what a hole takes the room of
NO_EVENTS = "none"
ASK_AGAIN = "clarify"  # the strategy of whoever did not follow


@dataclass(frozen=True)
class Piece:
    """A stretch of the think. known: False for a hole; given: the encoder's heads can tell it, so it need not be written."""

    text: str
    known: bool = True
    given: bool = False


def spoken_words(text: str) -> str:
    """Words as a recognizer gives them: small letters, digits and apostrophes."""
    text = text.lower().replace("’", "'")
    return " ".join(re.sub(r"[^a-z0-9' ]+", " ", text).split())


def tag_pieces(
    heard: str | None,
    cues: Mapping[str, str | Sequence[str] | None],
    strategy: str | None = None,
    reply_emotion: str | None = None,
) -> list[Piece]:
    """The tag think in pieces; without a strategy it ends where the thinker goes on."""
    events = cues.get("events")
    told = "+".join(events) or NO_EVENTS if events is not None else None
    values = [("<heard>", " " + heard if heard is not None else None)]
    values += [("<age>", cues.get("age")), ("<gender>", cues.get("gender")), ("<emotion>", cues.get("emotion"))]  # type: ignore[list-item]
    values += [("<event>", told)]
    pieces = []
    for mark, value in values:
        pieces += [Piece(mark, given=True), Piece(value if value is not None else HOLE, value is not None, True)]
    pieces.append(Piece("<strategy>", given=strategy is None))
    if strategy is not None:
        pieces += [Piece(strategy), Piece("<reply>"), Piece(reply_emotion or HOLE, reply_emotion is not None)]
    return pieces


def language_pieces(paragraph: str, strategy: str | None, reply_emotion: str | None) -> list[Piece]:
    """The language think: a paragraph, and what came of it."""
    return [Piece(paragraph), Piece("<strategy>"), Piece(strategy or HOLE, strategy is not None), Piece("<reply>"),
            Piece(reply_emotion or HOLE, reply_emotion is not None)]  # fmt: skip


def read_tag(text: str, labels: Labels) -> Think:
    """A tag line, written by a thinker: what it tells that is legal; all else is not known."""
    parts = dict(re.findall(r"<(heard|age|gender|emotion|event|strategy|reply)>([^<]*)", text))
    events = tuple(parts["event"].strip().split("+")) if "event" in parts else None

    def legal(name: str, names: Sequence[str]) -> str | None:
        value = parts.get(name, "").strip()
        return value if value in names else None

    return Think(
        text=text,
        heard=parts["heard"].strip() if "heard" in parts else None,
        emotion=legal("emotion", labels.emotion),
        age=legal("age", labels.age),
        gender=legal("gender", labels.gender),
        events=() if events == (NO_EVENTS,) else events if events and set(events) <= set(labels.events) else None,
        strategy=legal("strategy", labels.strategy),
        reply_emotion=legal("reply", labels.reply_emotion),
    )


def given_pieces(think: Think, form: str, by_heads: bool, *, believed: bool = True) -> list[Piece] | None:
    """What the thinker is told of its think, before it writes the rest of it. Where the words are not believed: to ask again, and
    nothing of an emotion, for speech whose words are strange to the ears sounds strange to them, too.
    """
    if form == "none":
        return None
    if form == "language" or not by_heads:
        return []
    heard = spoken_words(think.heard) if think.heard is not None else None
    cues = {name: getattr(think, name) for name in ("age", "gender", "emotion", "events")}
    pieces = tag_pieces(heard, cues if believed else {**cues, "emotion": None})
    return pieces if believed else [*pieces, Piece(ASK_AGAIN)]


def told(labels: Labels, heard: Think, form: str, text: str, given: bool) -> Think:
    """What the think came to. given: what the heads told stays theirs; what the thinker wrote is its own."""
    read = read_tag(text, labels)
    if form == "language":
        text = text.partition("<strategy>")[0].strip()
    if given or form == "language":
        return Think(**{**vars(heard), "text": text, "strategy": read.strategy, "reply_emotion": read.reply_emotion})
    return Think(**{**vars(read), "probabilities": heard.probabilities, "sure": heard.sure})
