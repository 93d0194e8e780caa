"""Small tools for English words as they are spoken: tokens, stems, phrases with gaps, sentences.

Speech recognizers write no commas or capitals and get words wrong, so a phrase is matched by its stems with a small gap
allowed between them, never as an exact string.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)*")
_SENTENCE = re.compile(r"[^.!?]+[.!?]+(?=\s|$)|[^.!?]+$")

_CONTRACTIONS = {
    "can't": "can not", "cannot": "can not", "won't": "will not", "shan't": "shall not", "ain't": "is not", "let's": "let us",
    "gonna": "going to", "wanna": "want to", "gotta": "got to", "dunno": "do not know", "im": "i am", "ive": "i have",
    "dont": "do not", "didnt": "did not", "doesnt": "does not", "isnt": "is not", "wasnt": "was not", "cant": "can not",
    "wont": "will not", "y'all": "you all",
}  # fmt: skip
_ENDINGS = (("n't", " not"), ("'m", " am"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"), ("'d", " would"))
# 's is "is" only after these; after a noun it is mostly a possessive, and dropping it keeps the noun's stem.
_IS_AFTER = {"it", "he", "she", "that", "what", "who", "there", "here", "where", "how", "everything", "nothing"}

_IRREGULAR = {
    form: base
    for base, forms in {
        "lose": "lost losing loses", "get": "got gotten gets getting", "pass": "passed passing", "die": "died dies dying",
        "break": "broke broken breaks breaking", "leave": "left leaves leaving", "fall": "fell fallen falls falling",
        "fight": "fought fights fighting", "win": "won winning wins", "steal": "stole stolen steals stealing",
        "hurt": "hurts hurting", "hit": "hits hitting", "cut": "cuts cutting", "shout": "shouted shouting shouts",
        "sleep": "slept sleeps sleeping", "feel": "felt feels feeling", "find": "found finds finding",
        "buy": "bought buys buying", "eat": "ate eaten eats eating", "fly": "flew flown flies flying flight flights",
        "drive": "drove driven drives driving", "run": "ran runs running", "swim": "swam swum swims swimming",
        "sing": "sang sung sings singing", "write": "wrote written writes writing", "forget": "forgot forgotten forgets",
        "go": "went gone goes going", "come": "came comes coming", "take": "took taken takes taking",
        "tell": "told tells telling", "say": "said says saying", "have": "has had having", "do": "did does done doing",
        "be": "am is are was were been being", "cheat": "cheated cheats cheating", "child": "children childs",
        "wife": "wives", "marry": "married marries marrying marriage", "freeze": "froze frozen freezing",
        "make": "made makes making", "give": "gave given gives giving", "throw": "threw thrown throws throwing",
        "grow": "grew grown grows growing", "teach": "taught teaches teaching", "meet": "met meets meeting",
        "pay": "paid pays paying", "baby": "babies", "party": "parties", "study": "studied studies studying",
        "worry": "worried worries worrying", "cry": "cried cries crying", "try": "tried tries trying",
        "miss": "missed misses missing", "quit": "quitting quits", "sell": "sold sells selling", "tooth": "teeth",
        "spend": "spent spends spending", "crash": "crashed crashes crashing", "burn": "burnt burned burning",
        "bully": "bullied bullies bullying", "bury": "buried burying", "worse": "worst", "argue": "arguing argued argument",
        "fire": "fired firing", "bite": "bit bitten bites biting", "understand": "understood understands",
        "hear": "heard hears hearing", "see": "saw seen sees seeing", "know": "knew known knows", "kill": "killed kills killing", "lay": "laid lays laying", "lie": "lied lies lying",  # noqa: E501
    }.items()
    for form in (base, *forms.split())
}  # fmt: skip


def words(text: str) -> list[str]:
    """Lower-case words as written, contractions kept."""
    return _WORD.findall(text.lower().replace("’", "'"))


def tokens(text: str) -> list[str]:
    """Lower-case words with contractions opened: "didn't" gives "did", "not"."""
    return [part for word in words(text) for part in _opened(word).split()]


def _opened(word: str) -> str:
    if word in _CONTRACTIONS:
        return _CONTRACTIONS[word]
    for ending, full in _ENDINGS:
        if word.endswith(ending):
            return word[: -len(ending)] + full
    if word.endswith("'s"):
        return word[:-2] + " is" if word[:-2] in _IS_AFTER else word[:-2]
    return word.replace("'", "")


def stem(word: str) -> str:
    """A rough stem, the same for the inflections of everyday words."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, least in (("ing", 6), ("ed", 5), ("es", 5), ("s", 4)):
        if word.endswith(ending) and len(word) >= least and not word.endswith("ss"):
            cut = word[: -len(ending)]
            if ending in ("ing", "ed") and len(cut) > 2 and cut[-1] == cut[-2] and cut[-1] not in "sl":
                cut = cut[:-1]
            return cut.rstrip("e") or cut
    return word.rstrip("e") if len(word) > 3 else word


Pattern = tuple[frozenset[str], ...]


def pattern(phrase: str) -> Pattern:
    """A phrase of the lexicon as stems; `a|b` means either word."""
    return tuple(frozenset(stem(option) for option in part.split("|")) for part in phrase.lower().split())


def find(parts: Pattern, stems: Sequence[str], *, gap: int = 2, start: int = 0) -> tuple[int, int] | None:
    """The first span (start, end) that holds the pattern in order, with at most `gap` other words between neighbours."""
    for first in range(start, len(stems)):
        if stems[first] in parts[0]:
            end = _follow(parts, stems, first, gap)
            if end is not None:
                return first, end
    return None


def _follow(parts: Pattern, stems: Sequence[str], first: int, gap: int) -> int | None:
    at = first
    for part in parts[1:]:
        window = range(at + 1, min(at + 2 + gap, len(stems)))
        found = next((i for i in window if stems[i] in part), None)
        if found is None:
            return None
        at = found
    return at + 1


def sentences(text: str) -> list[str]:
    """Split at ends of sentences; the marks stay."""
    return [piece.strip() for piece in _SENTENCE.findall(text) if piece.strip()]


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


STOPWORDS_TEXT = """
a an the i you he she it we they me him her us them my your his its our their mine yours am is are was were be
been being do does did done have has had having will would shall should can could may might must not no nor
and or but if then so because as of at by for with about to from in on off up down out over under again very
really just only too also that this these those there here what which who whom how when where why all any both
each more most other some such own same than now like get got go going went want know think say said tell told
thing things something anything way lot much many one well yes yeah oh okay ok um uh right good let make made
come came take today still even ever never back sounds feel feels feeling sound hear heard voice
"""
STOPWORDS = frozenset(STOPWORDS_TEXT.split())


def content_stems(text: str) -> frozenset[str]:
    """The stems of the words that carry the matter."""
    return frozenset(stem(word) for word in tokens(text) if word not in STOPWORDS and len(word) > 2)
