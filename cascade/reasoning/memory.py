"""What the person said earlier in this conversation: their name, and what they told about a matter.

It remembers nothing beyond the history it is handed, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cascade.reasoning import crisis
from cascade.reasoning.language import content_stems, upper_first
from cascade.reasoning.lexica import acts, situations
from cascade.reasoning.quoting import echo_of
from cascade.reasoning.understanding import Understanding
from cascade.turn import Exchange, Transcript

_NAME = re.compile(
    r"(?:\b(?:my name(?: is|'s|s)|i(?: am|'m) called|(?:you can|please|everyone can|just) call me)|^call me)\s+([a-z][\w'-]*)",
    re.IGNORECASE,
)
_NO_NAMES = {"a", "an", "the", "not", "on", "in", "back", "later", "when", "if", "at", "to", "what", "so", "by", "your"}
_ASKING = content_stems(
    "remember recall forget remind talking speaking told mentioned earlier before discuss last said"
)


def name_in(said: Sequence[str]) -> str | None:
    """The name the person gave, the latest first."""
    for text in reversed(said):
        found = [name for name in _NAME.findall(text.replace("’", "'")) if name.lower() not in _NO_NAMES]
        if found:
            return upper_first(found[-1])
    return None


def told(question: str, history: Sequence[Exchange]) -> tuple[str | None, str | None]:
    """What was told, turned round, and how it is called: of the matter the question names, else the latest one."""
    asked = content_stems(question) - _ASKING
    earlier = [e for e in history if not _is_question(e.said) and crisis.detect(e.said) is None]
    fitting = [e for e in earlier if asked & content_stems(e.said)] if asked else list(earlier)
    for exchange in reversed(fitting):
        topic = exchange.topic if exchange.topic in situations() else None
        echo = echo_of(Transcript(text=exchange.said, engine="typed"), topic, 0.5)
        if echo or topic:
            return echo, situations()[topic].noun if topic else None
    return None, None


def _is_question(text: str) -> bool:
    return text.strip().endswith("?") or re.match(r"(?i)(?:what|do you|can you|who|where|my name)\b", text) is not None


def replies_of(understood: Understanding, history: Sequence[Exchange], slots: dict[str, str]) -> list[list[str]] | None:
    """The wordings of an act that asks for what was said before; fills the slots they need."""
    row = acts()[understood.act or ""]
    if name := name_in([*(exchange.said for exchange in history), understood.text]):
        slots["name"] = name
    if understood.act == "my_name":
        return list(row["replies"]["any"] if name else row["unknown"])
    if understood.act != "recall":
        return None
    echo, noun = told(understood.text, history)
    if echo:
        slots["told"] = echo
        return list(row["replies"]["any"])
    if noun:
        slots["about"] = noun
        return list(row["matter"])
    return list(row["unknown"])
