"""Scenarios written by a language model: the plan says what is asked for, every line is checked, and none is there twice.

A line that cannot be used is asked for again; a request that gets none is given up and counted. No other sentence takes its
place, so the plan may end up shorter than it was asked for.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from string import Template

from rapidfuzz import fuzz, process

from cascade.cancel import CancelScope
from cascade.engines import LanguageModel, Message
from cascade.errors import EngineFailed
from cascade.reasoning.crisis import detect
from cascade.reasoning.language import words
from cascade.reasoning.lexica import felt_words
from cascade.turn import Age, Exchange, Gender
from distill.teaching.records import Scenario
from distill.teaching.scenarios.grammar import MAX_WORDS, MIN_WORDS, Drawing
from distill.teaching.scenarios.plan import (
    PlanOptions,
    Request,
    drawn,
    fingerprint,
    history_of,
    normal,
    requests,
    scenarios,
    seed_of,
)
from distill.teaching.voices import UserEmotion

PROMPTS = Path(__file__).with_name("prompts")
TRIES = 3  # of one request
FAILURES = 5  # requests in a row that the model failed on, not its lines: then it is not worth going on
MAX_TOKENS = 200
TEMPERATURE = 1.0
ALIKE = 90.0  # token set ratio (0..100) from which two lines of a domain are near the same
REMEMBERED = 2000  # lines of a domain that a new one is held against
ENGLISH_SHARE = (
    0.3  # of a line's words that are among the commonest (english.txt), which make up about half of what is said
)

_MARKUP = re.compile(r"[^A-Za-zÀ-ÿ',.?! \-]")
_OF_MORE = frozenset(("down", "empty", "hurt", "lost", "low", "mad", "numb"))  # they name a feeling, and much else
_WHO: dict[tuple[Age, Gender], str] = {
    ("child", "female"): "a girl of about nine",
    ("child", "male"): "a boy of about nine",
    ("adult", "female"): "a woman",
    ("adult", "male"): "a man",
    ("elder", "female"): "an old woman",
    ("elder", "male"): "an old man",
}
_TONE: dict[UserEmotion, str] = {
    "angry": "in anger",
    "disgusted": "with disgust",
    "fearful": "in fear or worry",
    "happy": "full of joy",
    "neutral": "calmly, as a plain fact",
    "sad": "in sadness",
    "surprised": "in great surprise",
}


class Unfit(Exception):
    """A line that cannot be used. kind: for counting; str(): for the model to read."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def written(
    options: PlanOptions, model: LanguageModel, *, cancel: CancelScope, refused: Counter[str] | None = None
) -> Iterator[Scenario]:
    """Scenarios with indices from 0 on, without gaps. `refused` counts the turns given up, by reason.

    Raises EngineFailed when the model fails again and again, EngineUnavailable, Cancelled.
    """
    refused = Counter() if refused is None else refused
    author, index, failures = _Author(model, options.seed, cancel), 0, 0
    for number, request in enumerate(requests(options)):
        cancel.check()
        try:
            text, history = author.line(request, number)
        except Unfit as unfit:
            refused[unfit.kind] += request.turns
            continue
        except EngineFailed:
            failures += 1
            refused["the model failed"] += request.turns
            if failures >= FAILURES:
                raise
            continue
        failures = 0
        for scenario in scenarios(request, text, index, seed=options.seed, history=history):
            yield scenario
            index += 1


@dataclass
class _Author:
    """Asks for lines, and remembers those it got."""

    model: LanguageModel
    seed: int
    cancel: CancelScope
    seen: set[int] = field(default_factory=set)
    of_domain: dict[str, deque[str]] = field(default_factory=dict)

    def line(self, request: Request, number: int) -> tuple[str, tuple[Exchange, ...]]:
        """A line for a request, and what came before it. Raises Unfit (the last try's), EngineFailed, Cancelled."""
        drawing = Drawing(Random(seed_of(f"{self.seed}:example:{number}")), request.age)
        example = drawn(drawing, request, request.family)
        history = history_of(drawing, request, request.family)
        messages = [Message("user", asked(request, example, history))]
        attempt = 0
        while True:
            answer = self._answer(messages, seed_of(f"{self.seed}:write:{number}:{attempt}"))
            try:
                return self._kept(parsed(answer), request), history
            except Unfit as unfit:
                attempt += 1
                if attempt == TRIES:
                    raise
                again = Message("user", _filled("again", reason=str(unfit)))
                messages = [messages[0], Message("assistant", answer), again]

    def _answer(self, messages: list[Message], seed: int) -> str:
        stream = self.model.stream(
            messages, max_tokens=MAX_TOKENS, temperature=TEMPERATURE, seed=seed, top_logprobs=0, cancel=self.cancel
        )
        return "".join(token.text for token in stream)

    def _kept(self, text: str, request: Request) -> str:
        """The line, remembered. Raises Unfit."""
        check(text)
        earlier = self.of_domain.setdefault(request.family.domain, deque(maxlen=REMEMBERED))
        mark, bare = fingerprint(text), normal(text)
        near = process.extractOne(bare, earlier, scorer=fuzz.token_set_ratio, score_cutoff=ALIKE)
        if mark in self.seen or near:
            raise Unfit("near the same", f"it is nearly the same as {(near[0] if near else bare)!r}")
        self.seen.add(mark)
        earlier.append(bare)
        return text


def parsed(answer: str) -> str:
    """The line of one JSON object, and nothing around it but a thought. Raises Unfit."""
    bare = re.sub(r"^\s*<think>.*?</think>", "", answer, flags=re.S).strip()
    try:
        found = json.loads(bare)
    except (json.JSONDecodeError, RecursionError):
        raise Unfit("not JSON", f"{bare[:60]!r} is not one JSON object") from None
    if not isinstance(found, dict) or set(found) != {"text"} or not isinstance(found["text"], str):
        raise Unfit("not JSON", f"{bare[:60]!r} has not the key text alone, with a string")
    return " ".join(found["text"].replace("’", "'").split())


def check(text: str) -> None:
    """Raises Unfit: why a line is not what was asked for."""
    said = words(text)
    if not MIN_WORDS <= len(said) <= MAX_WORDS:
        raise Unfit("length", f"it has {len(said)} words, not {MIN_WORDS} to {MAX_WORDS}")
    if odd := _MARKUP.search(text):
        raise Unfit("markup", f"it holds {odd[0]!r}; letters and simple punctuation are legal")
    if re.search(r"\b(?:[A-Z]{2,}|[A-Za-z]\.[A-Za-z]\.)", text):
        raise Unfit("markup", "it holds an abbreviation or capitals")
    if sum(word in _english() for word in said) < ENGLISH_SHARE * len(said):
        raise Unfit("language", "it is not everyday English")
    if named := next((word for word in said if word in felt_words() and word not in _OF_MORE), None):
        raise Unfit("names a feeling", f"it names a feeling: {named!r}")
    if detect(text):
        raise Unfit("crisis", "it may speak of a crisis")


def asked(request: Request, example: str, history: tuple[Exchange, ...]) -> str:
    """The request in words."""
    rules = _filled("rules", least=str(MIN_WORDS), most=str(MAX_WORDS))
    if request.speaker is None:
        return _filled("talk", example=example, rules=rules)
    earlier = "\n".join(f'Before, they said: "{one.said}" The assistant: "{one.replied}"' for one in history)
    return _filled(
        "contrast" if request.kind == "contrast" else "turn",
        who=_WHO[request.age, request.speaker.gender],
        domain=request.family.domain.replace("_", " "),
        example=example,
        tones="; ".join(_TONE[tone] for tone in request.tones),
        history=f"{earlier}\n" if earlier else "",
        rules=rules,
    )


@cache
def _english() -> frozenset[str]:
    lines = Path(__file__).with_name("english.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


@cache
def _template(name: str) -> Template:
    return Template((PROMPTS / f"{name}.txt").read_text(encoding="utf-8").strip())


def _filled(name: str, **fields: str) -> str:
    return _template(name).substitute(fields)
