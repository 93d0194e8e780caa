"""The messages that ask a language model for an answer: persona and form first, the conversation, the evidence, the rules last.

The wording lies in prompts/*.txt; label sets are filled in from the contracts, so that they are written down once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Template

from cascade.engines import Message, Prompt
from cascade.reasoning import critic
from cascade.reasoning.answer import CLOSE, DECIDES, LEGAL, NONE, OPEN, TAGS, UNKNOWN, Form
from cascade.reasoning.evidence import evidence
from cascade.turn import Exchange

PROMPTS = Path(__file__).with_name("prompts")
KEPT_BACK = ("care",)  # the strategy of the careful path: no language model's choice


def messages(prompt: Prompt, *, form: Form, tool_steps: int, history_turns: int) -> list[Message]:
    """The whole request for one turn; `history_turns`: how many of the latest exchanges it shows."""
    system = [_filled("persona"), _filled(f"think_{form}", **_labels())]
    if tool_steps:
        system.append(_filled("tools", steps=str(tool_steps)))
    now = [_filled("cues", **evidence(prompt))]
    if prompt.attempt:
        complaints = "\n".join(f"- {complaint}" for complaint in prompt.complaints) or "- no reason was given"
        now.append(_filled("revise", complaints=complaints))
    now.append(rules())
    earlier = prompt.history[len(prompt.history) - min(history_turns, len(prompt.history)) :]
    past = [message for exchange in earlier for message in _past(exchange)]
    return [Message("system", "\n\n".join(system)), *past, Message("user", "\n\n".join(now))]


def _past(exchange: Exchange) -> Iterator[Message]:
    cue = f" [sounded {exchange.emotion}]" if exchange.emotion else ""
    yield Message("user", f"{exchange.said or '[no words]'}{cue}")
    yield Message("assistant", exchange.replied or "[stopped before a word was heard]")


def rules() -> str:
    return _filled("rules", sentences=str(critic.MAX_SENTENCES), words=str(critic.MAX_WORDS))


def repair(reason: str) -> Message:
    """Asks again after an answer that could not be used."""
    return Message("user", _filled("repair", reason=reason))


def result(text: str, left: int) -> Message:
    """A tool's result, and how many calls are left."""
    steps = "You may call once more." if left == 1 else f"{left} calls are left."
    return Message("user", _filled("result", result=text, left=steps if left else "No call is left: answer now."))


def _labels() -> dict[str, str]:
    offered = {name: [label for label in labels if label not in KEPT_BACK] for name, labels in LEGAL.items()}
    extra = {"event": f"{NONE}, {UNKNOWN}; several are joined by +"}
    legal = "\n".join(
        f"<{name}> {', '.join(labels)}" + ("" if name in DECIDES else f", {extra.get(name, UNKNOWN)}")
        for name, labels in offered.items()
    )
    decides = "\n".join(f"<{name}> {', '.join(offered[name])}" for name in DECIDES)
    return {
        "open": OPEN,
        "close": CLOSE,
        "line": "".join(f"<{name}>…" for name in TAGS),
        "short": "".join(f"<{name}>…" for name in DECIDES),
        "legal": legal,
        "decides": decides,
    }


@cache
def _template(name: str) -> Template:
    return Template((PROMPTS / f"{name}.txt").read_text(encoding="utf-8").strip())


def _filled(name: str, **fields: str) -> str:
    return _template(name).substitute(fields)
