"""Words of a text, and how many of them were heard wrong."""

from __future__ import annotations

import re

import jiwer


def words_of(text: str) -> list[str]:
    """Lower-case words with their apostrophes; punctuation and case do not count."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)*", text.lower().replace("’", "'"))


def word_error_rate(said: str, heard: str) -> float:
    """(substitutions + deletions + insertions) / words said. `said` holds at least one word."""
    reference, hypothesis = " ".join(words_of(said)), " ".join(words_of(heard))
    return float(jiwer.wer(reference, hypothesis))
