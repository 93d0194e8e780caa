"""What the words are about: dialogue act, situation, valence, stance, feelings the person named, and an echo of their
words.

Valence comes first from what happened (events of the lexicon, with guards for negation, hopes, worries and
questions), then from VADER's word values (Hutto & Gilbert, ICWSM 2014) summed under the same guards: a lexicon
alone congratulates "What if I never find someone who loves me".
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cascade.reasoning import crisis
from cascade.reasoning.language import Pattern, find, sentences, stem, tokens
from cascade.reasoning.lexica import Situation, act_patterns, felt_words, leanings, sentiment, situations
from cascade.reasoning.quoting import echo_of
from cascade.reasoning.vocabulary import LAUGHS, is_foreign
from cascade.turn import Exchange, Transcript

_NEGATORS = {
    "not",
    "never",
    "no",
    "nobody",
    "none",
    "hardly",
    "barely",
    "without",
    "nothing",
    "neither",
    "cannot",
    "stopped",
}
_HOPES = {"hope", "hoping", "wish", "if", "want", "wanted", "would", "could", "should", "might", "may", "maybe", "perhaps",
          "dream", "waiting", "trying", "need", "unless", "when"}  # fmt: skip
_WORRIES = {
    "worried",
    "afraid",
    "scared",
    "nervous",
    "worry",
    "anxious",
    "fear",
    "terrified",
    "dread",
    "dreading",
    "risk",
}
_BREAKS = {"but", "because", "although", "though", "however", "and", "then", "yet"}
_ASKING = re.compile(
    r"^(?:so |and |but |well )?(?:what|who|where|when|why|how|which|did|does|do|is|are|am|was|were|can|could|will|would|should|has|have)\b"  # noqa: E501
)
_TELLING = re.compile(
    r"^(?:can you believe|guess what|you know what|do you know what|what a|how (?:lovely|awful|nice|great|sad))\b"
)
_ADVICE = re.compile(
    r"\b(?:what (?:should|can|could|would) (?:i|we|you) (?:do|say|tell)|what do (?:i|you think i should) do|should i\b|any (?:advice|ideas?|tips?|suggestions?)"  # noqa: E501
    r"|give me (?:some )?advice|need (?:some )?advice|how (?:do|can|should|could) (?:i|we)\b|what would you do|do you think i should|help me (?:with|to|decide|find))"  # noqa: E501
)
_VAGUE = {"it", "this", "that", "they", "he", "she", "them", "things"}


@dataclass(frozen=True)
class Understanding:
    """One turn's words, read."""

    text: str
    stems: tuple[str, ...]
    clear: bool  # whether the words can be trusted enough to be repeated
    empty: bool  # no words, or so unsure that they mean nothing
    act: str | None  # of acts.toml; None: a statement or question of its own
    crisis: str | None
    topic: str | None
    about: str | None  # how a reply speaks of it
    from_history: bool  # the topic is carried over from an earlier turn
    valence: str  # good, bad, mixed, neutral
    stance: str  # fact, hope, worry, question
    felt: str | None  # the feeling word the person used of themselves
    felt_emotion: str | None
    wants_advice: bool
    echo: str | None  # their own clause, turned round
    evident: bool = False  # something bad was told, not only felt in the words
    typed: bool = False  # there is no voice, and nothing can have been misheard
    foreign: bool = False  # typed, and no English as far as can be told


@dataclass(frozen=True)
class _Event:
    valence: str
    about: str
    span: tuple[int, int]
    stance: str


def understand(
    transcript: Transcript,
    history: Sequence[Exchange] = (),
    *,
    echo_confidence: float = 0.5,
    garbled_confidence: float = 0.15,
) -> Understanding:
    """Read one turn in the light of the earlier ones."""
    said = tokens(transcript.text)
    stems = tuple(stem(word) for word in said)
    typed = transcript.engine == "typed"
    empty = not said or (transcript.confidence is not None and transcript.confidence < garbled_confidence)
    plain = crisis.plain(transcript.text)
    topic = None if empty else topic_of_stems(stems)
    event = _event(situations()[topic], said, stems) if topic else None
    act = None if empty else _act(said)
    earlier = _carried(history)
    goes_on = _leans_back(said, act)
    if act in _AT_ME or (earlier and _weaker(topic, said, stems, earlier)):
        goes_on, topic, event = goes_on or act not in _AT_ME, None, None
    carried = earlier if topic is None and goes_on else None
    valence, stance = _valence(plain.split(), said, event, transcript.text)
    joy = valence == "bad" and event is None and _tears_of_joy(said, history)
    if joy or LAUGHS.match(" ".join(said)):
        valence, stance = "neutral", "fact"
    felt = _felt(said)
    topic_now = topic or carried
    return Understanding(
        text=transcript.text.strip(),
        stems=stems,
        clear=not empty and (transcript.confidence is None or transcript.confidence >= echo_confidence),
        empty=empty,
        act=None if act in _WEAK_ACTS and _ADVICE.search(" ".join(said)) else act,
        crisis=crisis.detect(transcript.text),
        topic=topic_now,
        about=(event.about if event else situations()[topic_now].noun) if topic_now else None,
        from_history=topic is None and carried is not None,
        valence=_with_feeling(valence, felt),
        stance=stance,
        felt=felt,
        felt_emotion=felt_words().get(felt) if felt else None,
        wants_advice=_ADVICE.search(" ".join(said)) is not None,
        echo=None if empty else echo_of(transcript, topic, echo_confidence),
        evident=event is not None and event.valence == "bad",
        typed=typed,
        foreign=typed and topic is None and act is None and is_foreign(said),
    )


_FOLLOWS = {"yes", "no", "dont_know", "agree", "goodbye", "thanks", "blame", "recall", "my_name"}
_AT_ME = {"blame", "maker", "can_do", "my_name", "recall"}  # about the assistant: their words name no matter
_WEAK_ACTS = {"smalltalk_you", "help", "weather_or_fact"}  # a wish for advice goes before these


def _leans_back(said: Sequence[str], act: str | None) -> bool:
    """Whether a turn without a matter of its own goes on with the last one: a pronoun, an answer, a scrap."""
    if act is not None:
        return act in _FOLLOWS
    return (
        any(word in _VAGUE for word in said)
        or len(said) <= 3
        or _goes_on(said)
        or _ADVICE.search(" ".join(said)) is not None
    )


_JOINS = {"because", "and", "but", "so", "since", "cause", "also", "although", "still"}
_PEOPLE = {"partner", "parents", "family", "friends", "kids", "love"}
_REACTS = {stem(word) for word in ("know", "tell", "say", "think", "cry", "laugh", "understand", "react", "ask", "help", "support", "believe", "hear", "hug", "hope", "expect", "want")}  # fmt: skip  # noqa: E501


def _goes_on(said: Sequence[str]) -> bool:
    return bool(said) and said[0] in _JOINS


def _weaker(topic: str | None, said: Sequence[str], stems: Sequence[str], earlier: str) -> bool:
    """Whether a turn goes on with the last matter in spite of a word that belongs to another one.

    "It gets worse every week" does not start to talk about the week, nor "because I was late twice" about traffic,
    nor "my wife does not know yet" about marriage.
    """
    if topic is None or topic == earlier:
        return False
    if topic == "small_talk" and said[0] in _VAGUE:
        return True
    if _evidence(situations()[topic], stems) >= 3:
        return False
    reacting = topic in _PEOPLE and earlier not in _PEOPLE and not _REACTS.isdisjoint(stems)
    return _goes_on(said) or reacting


def _tears_of_joy(said: Sequence[str], history: Sequence[Exchange]) -> bool:
    """ "My mum cried when I told her", after good news: tears of another say nothing bad by themselves."""
    if not history or history[-1].reply_emotion not in ("joyful", "happy", "surprised"):
        return False
    at = next((i for i, word in enumerate(said) if word in ("cried", "crying", "tears", "cry", "cries")), None)
    return at is not None and "i" not in said[max(0, at - 3) : at]


def topic_of_stems(stems: Sequence[str]) -> str | None:
    """The situation with the most evidence: an event counts 3 (4 if three words long), a word 2, a hint 1; 2 are
    needed.
    """
    scores = {name: _evidence(row, stems) for name, row in situations().items()}
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] >= 2 else _lone_hint(scores, stems)


def _lone_hint(scores: dict[str, float], stems: Sequence[str]) -> str | None:
    """A single hint is enough in a short turn that holds nothing else."""
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] >= 1 and len(stems) <= 6 else None


def _evidence(row: Situation, stems: Sequence[str]) -> float:
    events = [parts for happening in row.happenings for parts in happening.patterns if find(parts, stems)]
    strength = max((3 if len(parts) < 3 else 4 for parts in events), default=0)
    seen = set(stems) - _not_about_them(stems)
    return strength + 2 * len(seen & row.words) + len(seen & row.hints)


_FIGURES = {("mother", "natur"), ("mother", "tongu"), ("mother", "earth"), ("father", "christma"), ("father", "tim"), ("sister", "city"), ("sister", "company"), ("brother", "in"), ("family", "nam"), ("baby", "step"), ("school", "of")}  # fmt: skip  # noqa: E501
_NAMING = {"call", "nam", "nickname"}


def _not_about_them(stems: Sequence[str]) -> set[str]:
    """Stems that only belong to a figure of speech or a name: "they call me mother nature", "my mother tongue"."""
    pairs = itertools.pairwise(stems)
    figures = {word for pair in pairs if pair in _FIGURES for word in pair}
    at = next(
        (i for i in range(len(stems) - 2) if stems[i] in _NAMING and stems[i + 1] in ("me", "him", "her", "us")), None
    )
    return figures | (set(stems[at + 2 : at + 5]) if at is not None else set())


def _carried(history: Sequence[Exchange]) -> str | None:
    """The topic of the latest turns that had one."""
    for exchange in reversed(history[-3:]):
        topic = exchange.topic or topic_of_stems([stem(word) for word in tokens(exchange.said)])
        if topic in situations():
            return topic
    return None


def _act(said: Sequence[str]) -> str | None:
    text = " ".join(said)
    return next((name for name, patterns in act_patterns() if any(p.search(text) for p in patterns)), None)


def _event(row: Situation, said: Sequence[str], stems: Sequence[str]) -> _Event | None:
    """The best supported thing that happened, turned over when it is negated, hoped for or feared."""
    found = [
        (len(parts), span, happening, parts)
        for happening in row.happenings
        for parts in happening.patterns
        if (span := find(parts, stems)) is not None
    ]
    if not found:
        return None
    _, span, happening, parts = max(found, key=lambda item: (item[0], -item[1][0]))
    valence, stance = _guarded(happening.valence, said, span, parts)
    return _Event(valence, happening.about, span, stance)


def _guarded(valence: str, said: Sequence[str], span: tuple[int, int], parts: Pattern) -> tuple[str, str]:
    before = _same_clause(said, span[0])
    if valence == "worry":
        return "bad", "worry"
    told = {word for part in parts for word in part}  # "can not sleep" holds its own negation
    within = any(word in _NEGATORS and word not in told for word in said[span[0] : span[1]])
    negated = within or (any(word in _NEGATORS for word in before[-4:]) and said[span[0]] not in _NEGATORS)
    if valence in ("good", "bad") and negated and "only" not in before:
        valence = "bad" if valence == "good" else "good"
    if any(word in _WORRIES for word in said[: span[0]]) or said[: span[0]][:2] == ["what", "if"]:
        return "bad", "worry"
    if any(word in _HOPES for word in before):
        return ("neutral", "hope") if valence == "good" else (valence, "worry" if valence == "bad" else "hope")
    return valence, "fact"


def _same_clause(said: Sequence[str], end: int) -> list[str]:
    start = max((i + 1 for i in range(end) if said[i] in _BREAKS), default=0)
    return list(said[start:end])


def _valence(plain: Sequence[str], said: Sequence[str], event: _Event | None, text: str) -> tuple[str, str]:
    """Valence and stance of the whole turn; what comes after "but" weighs more (as VADER also holds)."""
    joined = " ".join(said)
    asks = not _TELLING.match(joined) and (text.strip().endswith("?") or _ASKING.match(joined) is not None)
    head, tail = _but(plain)
    overall = _lean_of(plain)
    if asks:
        worried = joined.startswith("what if") or overall == "bad" or (event is not None and event.valence == "bad")
        return ("bad", "worry") if worried else ("neutral", "question")
    if event is not None and event.stance != "fact":
        return event.valence, event.stance
    if event is not None and event.valence != "neutral":
        sides = (_side(head), _side(tail)) if tail else ("", "")
        return ("mixed" if sides == ("good", "bad") else event.valence), "fact"
    if tail and {_side(head), _side(tail)} == {"good", "bad"}:
        return ("mixed" if _side(tail) == "bad" else "good"), "fact"
    hoping = any(word in ("hope", "hoping", "wish") for word in said)
    return (
        ("neutral", "hope") if hoping and overall != "bad" else (overall, "worry" if set(said) & _WORRIES else "fact")
    )


def _side(said: Sequence[str]) -> str:
    """What one side of a "but" says: what happened there, else how its words lean."""
    stems = [stem(word) for word in said]
    topic = topic_of_stems(stems)
    event = _event(situations()[topic], said, stems) if topic else None
    return event.valence if event and event.valence != "neutral" else _lean_of(said)


def _lean_of(said: Sequence[str]) -> str:
    """How words lean; where no single word leans, an everyday phrase may."""
    lean = _lean(_score(said))
    stems = [stem(word) for word in said]
    phrases = (side for side, group in leanings().items() if any(find(parts, stems, gap=1) for parts in group))
    return lean if lean != "neutral" else next(phrases, "neutral")


def _but(said: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    at = next((i for i, word in enumerate(said) if word == "but"), None)
    return (said, ()) if at is None else (said[:at], said[at + 1 :])


def _score(said: Sequence[str]) -> float:
    """Sum of word values under the guards, squashed as VADER does (alpha 15)."""
    values = sentiment()
    total = sum(_value(values[word], _same_clause(said, i)) for i, word in enumerate(said) if word in values)
    return total / math.sqrt(total * total + 15)


def _value(value: float, before: list[str]) -> float:
    if any(word in _NEGATORS for word in before[-4:]):
        return -0.74 * value  # VADER's negation scalar
    return 0.0 if value > 0 and any(word in _HOPES for word in before) else value


def _lean(score: float) -> str:
    return "good" if score >= 0.3 else "bad" if score <= -0.25 else "neutral"


_FELT = re.compile(
    r"\bi (?:just |really |still |always |do |kind of |also )*(?:am|feel|felt|was|have been|get|got|am feeling|have been feeling)(?: (?:so|very|really|just|a bit|a little|pretty|too|quite|still|always|"  # noqa: E501
    r"feeling|such|kind of|completely|totally|all|more))* (\w+)"
)


def _felt(said: Sequence[str]) -> str | None:
    """The feeling the person named of themselves, unless they denied it."""
    names = _FELT.findall(" ".join(said))
    return next((name for name in names if name in felt_words()), None)


def _with_feeling(valence: str, felt: str | None) -> str:
    if felt is None or valence in ("bad", "mixed"):
        return valence
    good = felt_words()[felt] == "happy"
    if valence == "good":
        return valence if good or felt_words()[felt] == "surprised" else "mixed"
    return "good" if good else valence if felt_words()[felt] == "surprised" else "bad"


def last_question(history: Sequence[Exchange]) -> str | None:
    """The question the assistant asked last, if its reply ended in one."""
    spoken = sentences(history[-1].replied) if history else []
    return spoken[-1] if spoken and spoken[-1].endswith("?") else None


def is_vague(understood: Understanding) -> bool:
    """Whether the turn names its matter only by a pronoun ("it is getting worse")."""
    return understood.from_history and any(word in _VAGUE for word in tokens(understood.text))
