"""How words are pronounced: the CMU Pronouncing Dictionary, as it comes with PocketSphinx (US English, 134,000 words)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from e2e_model.errors import ConfigProblem
from e2e_model.lexicon import NUMBERS, Lexicon, Pronunciation
from e2e_model.think import spoken_words

DICTIONARY = "en-us/cmudict-en-us.dict"
LONGEST_NUMBER = 9  # digits; a longer one is no number that people say
LEAST_KNOWN = 0.9  # of a dataset's words; below, it is another language's


@cache
def dictionary() -> dict[str, tuple[Pronunciation, ...]]:
    """Raises ConfigProblem: PocketSphinx's model is not here."""
    try:
        from pocketsphinx import get_model_path

        text = Path(get_model_path(DICTIONARY)).read_text(encoding="utf-8")
    except (ImportError, OSError) as error:
        raise ConfigProblem(
            f"phones need the dictionary that comes with pocketsphinx ({error}); pip install pocketsphinx"
        ) from error
    entries: dict[str, tuple[Pronunciation, ...]] = {}
    for line in text.splitlines():
        word, *phones = line.split()
        word = word.split("(")[0]  # the second and later pronunciations are numbered so
        entries[word] = (*entries.get(word, ()), tuple(NUMBERS[phone] for phone in phones))
    return entries


@cache
def pronounced(word: str) -> tuple[Pronunciation, ...]:
    """All its pronunciations; none if nobody knows. A plural's apostrophe is silent; a number is said in its words."""
    if word.isdigit() and len(word) <= LONGEST_NUMBER:
        from num2words import num2words

        return (tuple(phone for part in spoken_words(num2words(int(word))).split() for phone in dictionary()[part][0]),)
    return dictionary().get(word) or dictionary().get(word.removesuffix("'"), ())


def phones_of(text: str) -> list[int] | None:
    """As its words are usually said; None where one of them is not known."""
    known = [pronounced(word) for word in spoken_words(text).split()]
    return [phone for several in known for phone in several[0]] if all(known) else None


def lexicon_of(texts: Iterable[str]) -> Lexicon:
    """Of all words that are known. Raises ConfigProblem: they are not English."""
    words = dict.fromkeys(word for text in texts for word in spoken_words(text).split())
    entries = {word: several for word in words if (several := pronounced(word))}
    if len(entries) < LEAST_KNOWN * len(words):
        missing = next(word for word in words if word not in entries)
        raise ConfigProblem(
            f"{len(words) - len(entries)} of {len(words)} words, like {missing!r}, are in no dictionary of US English, "
            'so their phones are not known; take a flavour with ctc = "characters"'
        )
    return Lexicon(entries)
