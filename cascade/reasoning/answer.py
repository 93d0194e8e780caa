"""The form of a language model's answer: dual think (OSUM-EChat, arXiv 2508.09600), then the words to be spoken.

    <think>                      both: a paragraph, then the tag line      tag: the tag line alone
    …                            language: a paragraph, then <strategy>…<reply>…
    </think>
    The reply, in sentences.

Reading is strict: every tag once and in order, every value legal or "unknown". What does not fit is refused with a reason
that the model can be told.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Literal

from cascade.turn import AGES, EMOTIONS, EVENT_KINDS, GENDERS, REPLY_EMOTIONS, STRATEGIES, Thought

Form = Literal["tag", "language", "both"]
OPEN, CLOSE = "<think>", "</think>"
UNKNOWN, NONE = "unknown", "none"
LEGAL: dict[str, tuple[str, ...]] = {
    "age": AGES,
    "gender": GENDERS,
    "emotion": EMOTIONS,
    "event": EVENT_KINDS,
    "strategy": STRATEGIES,
    "reply": REPLY_EMOTIONS,
}
TAGS = ("heard", *LEGAL)
DECIDES = ("strategy", "reply")  # the tags that the language form has, too; they are never unknown

_VALUES = "".join(f"<{name}>([^<>]*)" for name in LEGAL)
_LINE = re.compile(rf"<heard>([^<>]*){_VALUES}")
_SHORT = re.compile("".join(f"<{name}>([^<>]*)" for name in DECIDES))
_TAG = re.compile(rf"</?(?:think|call|{'|'.join(TAGS)})>")


class Unfit(Exception):
    """An answer that cannot be used; its message says why, in words for the model."""


def render(thought: Thought, form: Form) -> str:
    """What stands between <think> and </think>."""
    if form == "tag":
        return thought.tag()
    if form == "both":
        return f"{thought.language()}\n{thought.tag()}"
    return f"{thought.language()}\n<strategy>{thought.strategy}<reply>{thought.reply_emotion}"


def parse(text: str, form: Form, heard: str) -> Thought:
    """The thought that `text` writes down. `heard`: what was really said; the model's own copy of it is not used.

    Topic, intensity and rate are no part of the form and stay at their defaults; so do the cues in the language form.
    Raises Unfit.
    """
    start = "<strategy>" if form == "language" else "<heard>"
    reasoning, line = _parted(text.strip(), start, heard)
    if form == "tag" and reasoning:
        raise Unfit(f"the thought holds more than the tag line: {_shown(reasoning)}")
    if form != "tag" and not reasoning:
        raise Unfit("the paragraph before the tags is missing")
    if _TAG.search(reasoning):
        raise Unfit("there are tags inside the paragraph, or a tag stands twice")
    names = DECIDES if form == "language" else tuple(LEGAL)
    found = (_SHORT if form == "language" else _LINE).fullmatch(line)
    if found is None:
        order = "".join(f"<{name}>…" for name in (TAGS if form != "language" else DECIDES))
        raise Unfit(f"the tags are not each there once, in this order, on one line: {order}")
    values = dict(zip(names, found.groups()[-len(names) :], strict=True))
    return Thought(heard=heard, reasoning=reasoning, **_fields(values))


def _parted(text: str, start: str, heard: str) -> tuple[str, str]:
    """Paragraph and tag line. What was really said may itself hold tags, so it is taken out of the line first."""
    copied = f"<heard>{heard}<age>"
    at = text.rfind(copied) if start == "<heard>" else -1
    if at >= 0:
        return text[:at].strip(), f"<heard><age>{text[at + len(copied) :]}"
    at = text.find(start)
    if at < 0:
        raise Unfit(f"the tag {start} is missing")
    return text[:at].strip(), text[at:]


def _fields(values: dict[str, str]) -> dict[str, Any]:
    """Tag values as fields of a Thought. Raises Unfit."""
    events = values.get("event")
    kinds = () if events in (None, NONE, UNKNOWN) else tuple(str(events).split("+"))
    for name, value in values.items():
        legal = LEGAL[name]
        parts = kinds if name == "event" else () if value == UNKNOWN and name not in DECIDES else (value,)
        for part in parts:
            if part not in legal:
                more = "" if name in DECIDES else f", {UNKNOWN}"
                raise Unfit(f"<{name}>{_shown(part)} is not legal; legal: {', '.join(legal)}{more}")
    told: dict[str, Any] = {
        name: values[name] for name in ("age", "gender", "emotion") if values.get(name) != UNKNOWN and name in values
    }
    if events is not None:
        told["events"] = None if events == UNKNOWN else kinds
    return {**told, "strategy": values["strategy"], "reply_emotion": values["reply"]}


def holds_tags(text: str) -> bool:
    return _TAG.search(text) is not None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


_ABBREVIATED = """
dr mr mrs ms st prof sr jr vs etc e.g i.e approx dept est gen sen rev hon capt lt col sgt mt ave fig vol inc ltd co
"""
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_END = re.compile(r"[.!?…]+[\"'”’»)\]*_]*(\s+)")
_DONE = re.compile(r"[.!?…][\"'”’»)\]*_]*\s*$")
_MARKUP = str.maketrans("", "", "*_#`~|\u200d\ufe0e\ufe0f")
_BULLET = re.compile(r"^\s*(?:[-•–+]|\d+[.)])\s+")


class SentenceSplitter:
    """Cuts a text that comes in pieces into sentences, each as soon as it is surely whole: when the next one begins.

    A dot inside "3.5", after "Dr." or a bare initial, and any mark that a small letter follows, end nothing; a line's end does.
    """

    def __init__(self) -> None:
        self._rest = ""
        self.taken = 0  # characters of the text that the sentences given out so far cover

    def add(self, piece: str) -> list[tuple[str, int]]:
        """The sentences that became whole, each with where it ends in the text, in characters."""
        self._rest += piece
        whole = []
        while (cut := self._cut()) is not None:
            sentence, self._rest = self._rest[:cut], self._rest[cut:]
            self.taken += cut
            if sentence.strip():
                whole.append((sentence.strip(), self.taken))
        return whole

    def end(self) -> tuple[str, bool]:
        """What is left when the text has ended, and whether it is a whole sentence."""
        return self._rest.strip(), _DONE.search(self._rest) is not None

    def _cut(self) -> int | None:
        for mark in _END.finditer(self._rest):
            if mark.end() == len(self._rest):
                break  # what follows is not known yet
            if self._ends(mark):
                return mark.end()
        line = self._rest.find("\n", len(self._rest) - len(self._rest.lstrip()))
        return line + 1 if line >= 0 else None

    def _ends(self, mark: re.Match[str]) -> bool:
        if "\n" in mark.group(1):
            return True
        before, after = self._rest[: mark.start()], self._rest[mark.end()]
        if after.islower():
            return False
        if not mark.group().startswith(".") or mark.group().startswith(".."):
            return True
        words = before.split()
        last = words[-1].strip("\"'“‘([").lower() if words else ""
        initial = len(last) == 1 and last.isalpha() and last != "i"
        return not (last in _ABBREVIATIONS or initial or (last.isdigit() and len(words) == 1))


def spoken(sentence: str) -> str:
    """A sentence as a voice can say it: no markup, no list marks, no emoji; '' if no word is left."""
    plain = _BULLET.sub("", sentence).translate(_MARKUP)
    plain = "".join(
        c for c in plain if unicodedata.category(c) not in ("So", "Sk", "Cs", "Co", "Cn", "Cc") or c.isspace()
    )
    plain = " ".join(plain.split())
    return plain if any(c.isalnum() for c in plain) else ""
