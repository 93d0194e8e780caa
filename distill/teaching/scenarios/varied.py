"""Sentences about anything: sampled from the general English trigram model that comes with PocketSphinx.

They make little sense, and need none: they hold thousands of words that no grammar of everyday turns has, in the order in which
English puts them, so that ears and talker learn to spell and to pronounce what they will meet outside of it.
"""

from __future__ import annotations

from bisect import bisect
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random

import pocketsphinx

from cascade.asr.language_model import known_words
from cascade.reasoning.lexica import sentiment

COMMONEST = 12_000  # words; rarer ones are mostly names
CANDIDATES = 200  # words that are weighed for each place
FEWEST, MOST = 4, 14  # words of a sentence
HARSH = -2.5  # words that VADER's raters found worse, of -4 to 4, are left out: somebody will listen to this
OF_ONE_LETTER = ("a", "i")
SHORT_FORMS = ("dr", "etc", "jr", "mr", "mrs", "ms", "sr", "vs")  # written so, spoken otherwise
BEGIN, END = "<s>", "</s>"


class Varied:
    """Sentences, one after another; the same dice, the same sentences."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice

    def sentence(self) -> str:
        while True:
            words = self._words()
            if len(words) >= FEWEST:
                text = " ".join("I" + word[1:] if word == "i" or word.startswith("i'") else word for word in words)
                return f"{text[0].upper()}{text[1:]}."

    def _words(self) -> list[str]:
        history, words = [BEGIN], list[str]()
        while len(words) < MOST and (word := self._next(history, words)) != END:
            words.append(word)
            history = [word, *history[:1]]
        return words

    def _next(self, history: list[str], words: list[str]) -> str:
        """Sampling, importance, resampling: candidates by how common they are, one of them by how well it goes on."""
        model, names, shares = _model()
        drawn = [names[bisect(shares, self._dice.random() * shares[-1])] for _ in range(CANDIDATES)]
        if len(words) >= FEWEST:
            drawn.append(END)
        if words:
            drawn = [word for word in drawn if word != words[-1]]
        weights = list(accumulate(_odds(model, word, history) for word in drawn))
        return drawn[bisect(weights, self._dice.random() * weights[-1], hi=len(drawn) - 1)]


def _odds(model: pocketsphinx.NGramModel, word: str, history: list[str]) -> float:
    """p(word | history) / p(word); for the end, which is no candidate by chance, times the number of candidates."""
    after = float(LOG_BASE ** model.prob([word, *history]))
    return after * CANDIDATES if word == END else after / float(LOG_BASE ** model.prob([word]))


LOG_BASE = 1.0001  # of PocketSphinx's log-probabilities


@cache
def _model() -> tuple[pocketsphinx.NGramModel, list[str], list[float]]:
    """The trigrams, the commonest words in the order of the alphabet, and their shares, summed up."""
    path = Path(pocketsphinx.get_model_path()) / "en-us" / "en-us.lm.bin"
    model = pocketsphinx.NGramModel(pocketsphinx.Config(), pocketsphinx.LogMath(LOG_BASE), str(path))
    logs = {word: model.prob([word]) for word in sorted(known_words()) if _is_plain(word)}
    names = sorted(sorted(logs, key=lambda word: (-logs[word], word))[:COMMONEST])
    return model, names, list(accumulate(LOG_BASE ** logs[word] for word in names))


def _is_plain(word: str) -> bool:
    letters = word.replace("'", "")
    if not (letters.isascii() and letters.isalpha() and word[0] != "'") or word in SHORT_FORMS:
        return False
    return (len(word) > 1 or word in OF_ONE_LETTER) and sentiment().get(word, 0.0) > HARSH
