"""A domain language model: an n-gram built from text, for a recognizer that should expect certain sentences."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pocketsphinx
from pocketsphinx.lm import ArpaBoLM

from cascade.asr.words import words_of
from cascade.errors import ConfigError

DICTIONARY = "cmudict-en-us.dict"


@cache
def known_words() -> frozenset[str]:
    """Words the recognizer can pronounce: the keys of its pronouncing dictionary."""
    path = Path(pocketsphinx.get_model_path()) / "en-us" / DICTIONARY
    with path.open(encoding="utf-8") as lines:
        return frozenset(line.split(None, 1)[0].split("(")[0] for line in lines)


def arpa_from_text(text: str, path: Path) -> Path:
    """Write a back-off trigram of `text`, one sentence a line, to `path` in ARPA form.

    A sentence with a word that the dictionary lacks is left out: it could never be recognised.
    Raises ConfigError when nothing is left.
    """
    sentences = [words for line in text.splitlines() if (words := words_of(line))]
    usable = [words for words in sentences if set(words) <= known_words()]
    if not usable:
        lacking = sorted({word for words in sentences for word in words} - known_words())
        rare = ", ".join(lacking[:5]) or "no words at all"
        raise ConfigError(f"language model: no usable sentence in the text; not in the dictionary: {rare}")
    model = ArpaBoLM(text="\n".join(" ".join(words) for words in usable), add_start=True)
    model.compute()
    with path.open("w", encoding="utf-8") as file:
        model.write(file)
    return path
