"""Requests whose fulfilment shows in the words of the reply, and the rules that tell: verifiable instructions, after IFEval
(arXiv 2311.07911), spoken.

What is checked is the text that was to be spoken. A wording and its value come from data/instructions.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import get_args

from cascade.asr.words import words_of
from cascade.reasoning.language import sentences
from distill.comparison.records import Check

CHECK_KINDS: tuple[str, ...] = get_args(Check.model_fields["kind"].annotation)


@dataclass(frozen=True)
class Instruction:
    """A request as it is spoken. group: its wording, whatever the value."""

    text: str
    check: Check
    group: str


@cache
def instructions() -> tuple[Instruction, ...]:
    """All that can be asked, kind by kind, each wording with each of its values."""
    source = files("distill.comparison") / "data" / "instructions.toml"
    tables = tomllib.loads(source.read_text(encoding="utf-8"))
    found = []
    for kind in CHECK_KINDS:
        given = tables[kind].get("values", [""])
        values: dict[str, str] = given if isinstance(given, dict) else {value: value for value in given}
        for number, wording in enumerate(tables[kind]["say"], start=1):
            for spoken, value in values.items():
                check = Check.model_validate({"kind": kind, "value": value})
                found.append(Instruction(wording.format(value=spoken), check, f"instruction/{kind}/{number}"))
    return tuple(found)


def follows(check: Check, reply_text: str) -> bool:
    """Whether a reply does what was asked. A reply without a word follows nothing."""
    return bool(words_of(reply_text)) and _RULES[check.kind](reply_text, check.value)


def _question(reply: str, _: str) -> bool:
    """The last sentence asks: a reply that only passes through a question does not answer with one."""
    return reply.rstrip(" \"'”’)").endswith("?")


def _at_most_words(reply: str, count: str) -> bool:
    return len(words_of(reply)) <= int(count)


def _begins_with(reply: str, value: str) -> bool:
    wanted = words_of(value)
    return words_of(reply)[: len(wanted)] == wanted


def _contains(reply: str, value: str) -> bool:
    """The words in a row, whatever stands around them."""
    said, wanted = words_of(reply), words_of(value)
    return any(said[at : at + len(wanted)] == wanted for at in range(len(said) - len(wanted) + 1))


_RULES: dict[str, Callable[[str, str], bool]] = {
    "question": _question,
    "no_question": lambda reply, _: "?" not in reply,
    "at_most_words": _at_most_words,
    "one_sentence": lambda reply, _: len(sentences(reply)) == 1,
    "begins_with": _begins_with,
    "contains": _contains,
    "repeats": _contains,
}
