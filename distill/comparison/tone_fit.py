"""Does a reply fit the tone it was answered to? A score for any tone, from the emotion of its voice and what its words do.

What each tone asks of a reply, with sources, and by which words it is known: data/moves.toml. A reply is only ever compared with
itself under another tone, so that its style and skill cancel out: of the same reply to both of two tones, one fits as much better
as the other fits worse, and a system that hears no tone has one half by construction. Rules see common English; they miss irony.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from cascade.reasoning.language import content_stems, stem, tokens
from cascade.turn import Emotion, Reply

EXCLAIMS, PLAIN = "exclaims", "plain"
GLAD = ("celebrates", "warms")  # moves that a negation before them takes back
NEGATED = re.compile(r"\b(?:not|no|never|nothing|hardly|without)(?: \w+){0,2} $")
WORDS_SHARE = 0.5  # of the score; the rest is the voice's


@dataclass(frozen=True)
class ToneFit:
    """0..1 each. moves: what the words do, by the names of data/moves.toml."""

    score: float
    voice: float
    words: float
    moves: tuple[str, ...]


@dataclass(frozen=True)
class _Rules:
    fit: Mapping[str, Mapping[str, float]]  # move → tone
    voice: Mapping[str, Mapping[str, float]]  # tone → reply emotion
    say: Mapping[str, tuple[re.Pattern[str], ...]]


def tone_fit(reply: Reply, said: str, tone: Emotion) -> ToneFit:
    """How well the reply meets `said` in that tone. "other" is met as neutral is: nobody knows better."""
    rules, tone = _rules(), "neutral" if tone == "other" else tone
    found = moves(reply.text, said)
    words = sum(rules.fit[move][tone] for move in found) / len(found)
    voice = rules.voice[tone].get(reply.emotion, 0.0)
    return ToneFit(round(WORDS_SHARE * words + (1 - WORDS_SHARE) * voice, 6), voice, words, found)


def moves(text: str, said: str) -> tuple[str, ...]:
    """What the words do; at least one. What the person said is taken out: repeating it meets every tone alike."""
    own = content_stems(said)
    line = " ".join("_" if stem(word) in own else word for word in tokens(text))
    found = [name for name, patterns in _rules().say.items() if any(_does(name, one, line) for one in patterns)]
    if "!" in text:
        found.append(EXCLAIMS)
    return tuple(found) or (PLAIN,)


def _does(move: str, pattern: re.Pattern[str], line: str) -> bool:
    return any(move not in GLAD or not NEGATED.search(line[: match.start()]) for match in pattern.finditer(line))


@cache
def _rules() -> _Rules:
    source = files("distill.comparison") / "data" / "moves.toml"
    table: dict[str, Any] = tomllib.loads(source.read_text(encoding="utf-8"))
    say = {name: tuple(re.compile(pattern) for pattern in patterns) for name, patterns in table["say"].items()}
    return _Rules(table["fit"], table["voice"], say)
