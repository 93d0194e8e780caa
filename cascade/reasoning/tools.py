"""What a language model may look up while it thinks: earlier words of the conversation, and a span of this turn.

A call is a line of its own: `<call>recall: words</call>` or `<call>listen_again: 1.2-2.0</call>`. Everything answered lies in the
prompt already; nothing is heard anew, and nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cascade.engines import Prompt
from cascade.reasoning.evidence import events_in_words, prosody_in_words
from cascade.reasoning.language import content_stems
from cascade.reasoning.memory import name_in
from cascade.turn import Exchange, Word

RECALLED = 3  # exchanges at most
_CALL = re.compile(r"<call>\s*(.*?)\s*</call>", re.S)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(?:s\s*)?(?:-|–|to)\s*(\d+(?:\.\d+)?)\s*s?")


@dataclass(frozen=True)
class Call:
    tool: str
    argument: str
    end: int  # where it ends in the text it was found in


def call_in(text: str) -> Call | None:
    """The first whole call of a text."""
    found = _CALL.search(text)
    if found is None:
        return None
    tool, _, argument = found.group(1).partition(":")
    return Call(tool.strip(), argument.strip(), found.end())


def run(call: Call, prompt: Prompt) -> str:
    """What a call comes to, in words for the model; a call that is not legal is answered with what is."""
    if call.tool == "recall":
        return recall(call.argument, prompt.history)
    if call.tool == "listen_again":
        return listen_again(call.argument, prompt)
    return f"There is no tool {call.tool[:40]!r}. Legal: recall: words, listen_again: from-to in seconds."


def recall(words: str, history: Sequence[Exchange]) -> str:
    """The exchanges that share most with these words, the latest first among equals."""
    asked = content_stems(words)
    name = name_in([exchange.said for exchange in history])
    lines = [f"Their name is {name}."] if name and "name" in words.lower() else []
    shares = [(len(asked & content_stems(exchange.said)), at) for at, exchange in enumerate(history)]
    best = [at for share, at in sorted(shares, reverse=True) if share][:RECALLED]
    lines += [_told(history[at], len(history) - at) for at in sorted(best)]
    return "\n".join(lines) or "They said nothing about that before, in this conversation."


def _told(exchange: Exchange, ago: int) -> str:
    tone = f" (sounded {exchange.emotion})" if exchange.emotion else ""
    turns = "1 turn ago" if ago == 1 else f"{ago} turns ago"
    return f'{turns} they said: "{exchange.said}"{tone}; you answered: "{exchange.replied}"'


def listen_again(span: str, prompt: Prompt) -> str:
    """The words of a span with times and probabilities, the sounds in it, and the turn's prosody."""
    found = _SPAN.fullmatch(span)
    if found is None or float(found[1]) >= float(found[2]):
        return f"{span[:40]!r} is no span; write it in seconds, for example 1.2-2.0."
    start, end = float(found[1]), float(found[2])
    words = [word for word in prompt.transcript.words if word.start_s < end and word.end_s > start]
    events = prompt.cues.events
    inside = [e for e in (events.events or ()) if e.start_s < end and e.end_s > start] if events else []
    known = events is not None and events.events is not None
    return "\n".join(
        [
            f"Words from {start:g} to {end:g} s: {', '.join(map(_timed, words)) or 'none with a time'}.",
            f"Sounds there: {events_in_words(inside) if known else 'you cannot tell'}.",
            f"Voice in the whole turn: {prosody_in_words(prompt.cues.prosody)}.",
        ]
    )


def _timed(word: Word) -> str:
    return f'"{word.text}" at {word.start_s:.2f}-{word.end_s:.2f} s ({word.probability:.2f} sure)'
