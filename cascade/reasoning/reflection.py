"""Turning a person's own words round: "my boss shouted at me" becomes "your boss shouted at you".

Restating in the person's words is the oldest of the helping skills (restatement and reflection, Hill, Helping
Skills, 2009; Weizenbaum's ELIZA did it blindly, 1966). It is only done here when the clause reads as whole English:
a wrong echo is worse than none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from cascade.reasoning.lexica import verbs

_PERSON = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "we": "you", "us": "you", "our": "your",
    "ours": "yours", "ourselves": "yourselves", "i'm": "you are", "i've": "you have", "i'll": "you will", "i'd": "you'd",
    "we're": "you are", "we've": "you have", "we'll": "you will", "we'd": "you'd", "am": "are", "im": "you are",
    "ive": "you have", "gonna": "going to", "wanna": "want to", "gotta": "got to",
}  # fmt: skip
_BE_PAST = {"was": "were", "wasn't": "weren't"}
_FIRST = {"i", "we"}
_ADVERBS_TEXT = """
really just never always still also even only almost nearly already finally actually probably definitely often
sometimes usually recently totally so suddenly accidentally not honestly barely hardly simply truly kind
"""
_ADVERBS = set(_ADVERBS_TEXT.split())
_ADDRESS = {"you", "your", "you're", "yours", "yourself", "you've", "you'll", "you'd", "let's", "ain't"}
_POSSESSIVES = {"my", "our", "his", "her", "their"}
_DETERMINERS = _POSSESSIVES | {"the", "a", "an", "this", "that", "these", "those", "your"}
_PRONOUNS = {"i", "we", "he", "she", "they"}
_SUBJECTS = _PRONOUNS | _POSSESSIVES | {"it", "the", "this", "someone", "somebody", "nobody", "everyone", "everybody", "no",
                                        "there", "a", "an", "everything", "nothing", "something", "me", "it's"}  # fmt: skip
_BAD_ENDS = _DETERMINERS | {
    "to", "of", "and", "but", "or", "with", "for", "from", "is", "was", "are", "am", "be", "very", "so", "really", "because",
    "if", "not", "i", "we", "he", "they", "at", "by", "as", "than", "who", "when", "have", "has", "will", "would", "were",
    "i'm", "it's", "like",
}  # fmt: skip
_FORWARD = {"to", "of", "and", "for", "from", "with", "at", "by", "the", "a", "an", *_POSSESSIVES}
_AUX = {"am", "is", "are", "was", "were", "be", "has", "had", "did", "does", "could", "would", "will", "should", "can"}
_NOT_PAST = {
    "need",
    "bed",
    "red",
    "hundred",
    "speed",
    "feed",
    "seed",
    "kid",
    "wed",
    "indeed",
    "weed",
    "shed",
    "sacred",
    "naked",
}
_VERBAL_CONTRACTIONS = ("n't", "'m", "'ve", "'ll", "'d", "'re")
_CONTRACTED_SUBJECTS = ("i'm", "i've", "i'll", "i'd", "we're", "we've", "we'll", "we'd", "he's", "she's", "they're",
                        "they've", "they'll", "he'll", "she'll", "it's", "he'd", "she'd", "they'd", "there's")  # fmt: skip
_NAMES = {
    day: day.capitalize() for day in ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
}
_NAMES |= {name: name.capitalize() for name in ["christmas", "easter", "thanksgiving", "january", "february", "april", "june", "july", "august", "september", "october", "november", "december", "english", "french", "spanish", "german"]}  # fmt: skip  # noqa: E501


def is_verb(word: str) -> bool:
    if word in verbs() or word.endswith(_VERBAL_CONTRACTIONS) or word in _CONTRACTED_SUBJECTS:
        return True
    return word.endswith("ed") and len(word) > 4 and word not in _NOT_PAST


def reads_well(clause: Sequence[str]) -> bool:
    """Whether lower-case words look like one whole English clause. Strict: it also keeps garbled recognitions out."""
    if len(clause) < 3 or clause[-1] in _BAD_ENDS:
        return len(clause) == 2 and clause[0] in _PRONOUNS and is_verb(clause[1]) and clause[1] not in _BAD_ENDS
    if clause[0] not in _SUBJECTS and clause[0] not in _CONTRACTED_SUBJECTS:
        return False
    if not any(is_verb(word) for word in clause[:6]):
        return False
    return all(_may_follow(left, right) for left, right in itertools.pairwise(clause))


def _may_follow(left: str, right: str) -> bool:
    if left == right:
        return False
    if left in _PRONOUNS and not (is_verb(right) or right in _ADVERBS or right in {"and", "both", "all", "too"}):
        return False
    if left in (_DETERMINERS - {"that", "this", "her", "those", "these"}) and (
        right in _AUX or right in _DETERMINERS | _PRONOUNS
    ):
        return False
    return not (
        left in _FORWARD - {"and", "her"} and (right in _AUX - {"be", "can", "will"} or right in {"i", "we", "they"})
    )


def turn_round(clause: Sequence[str]) -> str | None:
    """The clause said to the person, without capital or full stop; None when it does not turn cleanly."""
    lowered = [word.lower() for word in clause]
    if any(word in _ADDRESS for word in lowered) or not reads_well(lowered):
        return None
    subject_first = lowered[0] in _FIRST or lowered[0] in ("i'm", "i've", "i'll", "i'd", "we're", "we've")
    said = [_turned(clause, lowered, i, subject_first) for i in range(len(clause))]
    return _me_and(" ".join(said))


def _turned(clause: Sequence[str], lowered: list[str], i: int, subject_first: bool) -> str:
    word = lowered[i]
    if word in _BE_PAST and _is_my_verb(lowered, i, subject_first):
        return _BE_PAST[word]
    if word in _PERSON:
        return _PERSON[word]
    if word in _NAMES:
        return _NAMES[word]
    return clause[i] if i else word if word in _SUBJECTS | set(_CONTRACTED_SUBJECTS) else clause[i]


def _is_my_verb(lowered: list[str], i: int, subject_first: bool) -> bool:
    """Whether the verb at `i` belongs to "I" (or "we"): straight after it, past adverbs, or joined on with "and"."""
    before = i - 1
    while before >= 0 and lowered[before] in _ADVERBS:
        before -= 1
    return before >= 0 and (lowered[before] == "i" or (lowered[before] == "and" and subject_first))


def _me_and(text: str) -> str | None:
    """ "you and your mom" stays; "your mom and you" as a subject is put the other way round, so that "are" agrees."""
    if text.startswith("you and "):
        return text.replace(" am ", " are ")
    head, joint, rest = text.partition(" and you ")
    if joint and len(head.split()) <= 3 and head.startswith("your "):
        return f"you and {head} {rest}"
    return text
