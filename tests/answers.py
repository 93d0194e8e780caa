"""Answers of untrained students: what they chose step by step, and thinkers that write what a test wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from students import noise
from torch import Tensor, nn

from e2e_model import at_work
from e2e_model.generate import sampled as choose
from e2e_model.model import SpeechLM
from e2e_model.prompts import HEARING
from e2e_model.respond import Audio, Event, Text
from e2e_model.think import CLOSE

SPEECH = noise(1.2)
RATE = 16_000
LIVELY: dict[str, Any] = {"temperature": 1.0, "speech_temperature": 1.0}


def lively(lm: SpeechLM) -> SpeechLM:
    """Its talker asks for words, and ends, more often than an untrained one does; its thinker goes on to its limits."""
    says, more = lm.talker.logits, torch.zeros(lm.talker.codebook_size + 2)
    more[lm.talker.read] = more[lm.talker.end] = 2.0
    writes, less = lm.token_logits, torch.zeros(lm.thinker.config.vocab_size)
    less[[lm.speller.stop, *lm.speller.ids(CLOSE)]] = -50.0
    lm.talker.logits = lambda hidden: says(hidden) + more  # type: ignore[method-assign]
    lm.token_logits = lambda states: writes(states) + less  # type: ignore[method-assign]
    return lm


@dataclass
class Choices:
    """Every choice that an answer made: its logits and what was taken."""

    thinker: list[tuple[Tensor, int]] = field(default_factory=list)
    talker: list[tuple[Tensor, int]] = field(default_factory=list)
    depth: list[tuple[Tensor, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.thinker) + len(self.talker) + len(self.depth)


def watched(monkeypatch: pytest.MonkeyPatch, lm: SpeechLM) -> Choices:
    choices, real = Choices(), choose
    chosen, code = at_work.Speaking.chosen, at_work.Speaking.code

    def sampled(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
        taken = real(logits, temperature, generator)
        if len(logits) == lm.thinker.config.vocab_size:
            choices.thinker.append((logits.clone(), taken))
        return taken

    def of_a_book(speaking: at_work.Speaking, logits: Tensor) -> int:
        taken = code(speaking, logits)
        choices.depth.append((logits.clone(), taken))
        return taken

    def said(speaking: at_work.Speaking, logits: Tensor) -> int:
        before = len(choices.depth)
        taken = chosen(speaking, logits)
        del choices.depth[before:]  # it is a code of the first book
        choices.talker.append((logits.clone(), taken))
        return taken

    monkeypatch.setattr(at_work, "sampled", sampled)
    monkeypatch.setattr(at_work.Speaking, "code", of_a_book)
    monkeypatch.setattr(at_work.Speaking, "chosen", said)
    return choices


def scripted(monkeypatch: pytest.MonkeyPatch, lm: SpeechLM, *texts: str, ends: bool = True) -> None:
    """The thinker writes these texts, its stop, and then on and on."""
    script = [token for text in texts for token in lm.speller.ids(text)] + ([lm.speller.stop] if ends else [])
    on = lm.speller.ids(" and")[0]

    def logits(states: Tensor) -> Tensor:
        token = script.pop(0) if script else on
        return nn.functional.one_hot(torch.tensor([token]), lm.thinker.config.vocab_size).float() * 100.0

    monkeypatch.setattr(lm, "token_logits", logits)


def answered(lm: SpeechLM, **how: Any) -> list[Event]:
    heard = how.get("task", "speech→speech") in HEARING
    text = None if heard else "I lost my job."
    return list(lm.respond(SPEECH if heard else None, RATE, text=text, **{"speech_temperature": 1.0, **how}))


def joined(events: list[Event]) -> np.ndarray[Any, Any]:
    return np.concatenate([event.samples for event in events if isinstance(event, Audio)] or [np.zeros(0, np.float32)])


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def limited(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
    monkeypatch.setattr(lm, "config", lm.config.with_(limits={"think_tokens": 99, **limits}))


def only(lm: SpeechLM, code: int) -> Tensor:
    return nn.functional.one_hot(torch.tensor([code]), lm.talker.codebook_size + 2).float() * 100.0
