"""From a plan to sentences: an opener, the person's own matter, and one move onward."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cascade.reasoning.language import sentences, upper_first, words
from cascade.reasoning.lexica import acts, situations, wordings
from cascade.reasoning.memory import replies_of
from cascade.reasoning.strategies import NOTICE_SURE, Hearing, Plan
from cascade.reasoning.understanding import Understanding, is_vague
from cascade.reasoning.vocabulary import LAUGHS
from cascade.turn import Exchange

_SHORT_ECHO = 6  # words; a longer clause would hold up the first sound


@dataclass
class Pen:
    """Chooses among wordings by a seeded hash, leaving out what was said before while something new is left."""

    key: str
    used: frozenset[str]
    slots: dict[str, str] = field(default_factory=dict)
    drawn: int = 0

    def fill(self, template: str) -> str:
        return template.format_map(self.slots)

    def choose(self, templates: Iterable[str]) -> str:
        ready = [self.fill(template) for template in templates if self._can(template)]
        fresh = [line for line in ready if line not in self.used] or ready
        return fresh[self._draw(len(fresh))]

    def first_fresh(self, *pools: Sequence[str]) -> str:
        """From the first pool that still has something unsaid; from the first usable one when none has."""
        usable = [pool for pool in pools if any(self._can(template) for template in pool)]
        for pool in usable:
            if any(self._can(template) and self.fill(template) not in self.used for template in pool):
                return self.choose(pool)
        return self.choose(usable[0])

    def choose_all(self, groups: Sequence[Sequence[str]]) -> list[str]:
        ready = [[self.fill(line) for line in group] for group in groups if all(self._can(line) for line in group)]
        # a group is as worn as its sentences are
        least = min(sum(line in self.used for line in group) for group in ready)
        fresh = [group for group in ready if sum(line in self.used for line in group) == least]
        return fresh[self._draw(len(fresh))]

    def _can(self, template: str) -> bool:
        return all(
            "{" + name not in template or name in self.slots
            for name in ("echo", "Echo", "about", "About", "felt", "name", "told")
        )

    def _draw(self, count: int) -> int:
        self.drawn += 1
        digest = hashlib.sha256(f"{self.key}|{self.drawn}".encode()).digest()
        return int.from_bytes(digest[:4], "big") % count


def said_before(history: Sequence[Exchange]) -> frozenset[str]:
    return frozenset(sentence for exchange in history for sentence in sentences(exchange.replied))


def slots_of(understood: Understanding, *, echo: bool = True) -> dict[str, str]:
    slots: dict[str, str] = {}
    if understood.about:
        slots |= {"about": understood.about, "About": upper_first(understood.about)}
    if understood.echo and echo:
        slots |= {"echo": understood.echo, "Echo": upper_first(understood.echo)}
    if understood.felt:
        slots["felt"] = understood.felt
    return slots


def _by_tone(kind: str, mood: str, tone: str, topic: str | None = None) -> list[str]:
    grave = topic is not None and situations()[topic].grave and mood == "bad"
    group: dict[str, list[str]] = wordings()[kind][mood]
    if grave and tone in wordings()[kind].get("grave", {}):
        group = wordings()[kind]["grave"]
    return group.get(tone) or group.get("any") or group["unknown"]


def write(understood: Understanding, heard: Hearing, plan: Plan, history: Sequence[Exchange], pen: Pen) -> list[str]:
    """One to three sentences of a turn that is neither crisis nor a mere dialogue act."""
    middle = _middle(understood, heard, plan, pen)
    first = _opener(understood, heard, plan, pen)
    back = _looking_back(understood, heard, history, pen)
    move = _move(understood, heard, plan, pen)
    if back and plan.strategy != "suggest":
        return [first, back, move]
    return [first, middle, move]


def shorter(lines: list[str]) -> list[str]:
    """The opener and the one sentence that holds their matter."""
    return lines[:2]


def _voice(heard: Hearing) -> str:
    """The tone as far as it may be spoken of: an unsure voice is felt in the choice of words but not mentioned."""
    sure = heard.tone_from != "voice" or (heard.confidence or 0.0) >= NOTICE_SURE
    return heard.tone if sure else "unknown"


def _opener(understood: Understanding, heard: Hearing, plan: Plan, pen: Pen) -> str:
    line = _event_opener(heard, plan)
    if line:
        return pen.choose(line)
    child = heard.age == "child" and plan.mood in ("good", "bad") and plan.agrees
    if child:
        return pen.choose(wordings()["child"][plan.mood])
    if plan.strategy == "suggest" and understood.wants_advice:
        return pen.choose(wordings()["advice"]["lead"])
    echo = pen.slots.get("Echo", "")
    if (
        plan.strategy == "celebrate"
        and echo
        and len(echo.split()) <= _SHORT_ECHO
        and heard.tone == "happy"
        and _draws_echo(pen)
    ):
        return f"{echo}!"
    tone = heard.tone if plan.agrees else _voice(heard)
    spare = wordings()["open"][plan.mood]
    return pen.first_fresh(_by_tone("open", plan.mood, tone, understood.topic), spare.get("unknown") or spare["any"])


def _draws_echo(pen: Pen) -> bool:
    return f"{pen.slots['Echo']}!" not in pen.used and pen._draw(2) == 0


def _event_opener(heard: Hearing, plan: Plan) -> list[str] | None:
    rows = wordings()["event"]
    for kind in heard.events or ():
        if kind == "laugh":
            return list(rows["laugh_bad" if plan.mood == "bad" else "laugh_good"])
        if kind in rows:
            return list(rows[kind])
    return None


def _middle(understood: Understanding, heard: Hearing, plan: Plan, pen: Pen) -> str:
    """What refers to their matter: their clause, else the feeling they named, else the topic."""
    if plan.strategy == "suggest":
        return pen.choose(_suggestions(understood))
    tone = heard.tone if plan.agrees else _voice(heard)
    comment = _of_topic(situations()[understood.topic].comment, understood, plan.mood) if understood.topic else None
    echo, about = (_by_tone(kind, plan.mood, tone, understood.topic) for kind in ("echo", "about"))
    felt = wordings()["felt_line"].get(plan.mood, []) if plan.agrees else []
    pools = [echo, felt, about]
    if comment and plan.agrees:
        first = plan.strategy in ("validate", "celebrate", "encourage") and heard.age != "child"
        pools = [comment, *pools] if first else [*pools, comment]
    return pen.first_fresh(*pools, wordings()["bare"][plan.mood])


def _suggestions(understood: Understanding) -> list[str]:
    return situations()[understood.topic].suggest if understood.topic else list(wordings()["advice"]["general"])


def _move(understood: Understanding, heard: Hearing, plan: Plan, pen: Pen) -> str:
    """The way onward: a check after a suggestion, courage, a question of the situation or of the tone."""
    if heard.age == "child" and "about" in pen.slots and plan.strategy != "suggest":
        lines = wordings()["child"]
        return pen.choose(
            lines["grown_up" if plan.mood == "bad" else "ask_good" if plan.mood == "good" else "ask_neutral"]
        )
    if plan.strategy == "suggest":
        return pen.choose(wordings()["advice"]["check"])
    if plan.strategy == "encourage":
        return pen.choose(wordings()["encourage"][plan.mood])
    if heard.age == "elder" and "about" in pen.slots and plan.mood in ("good", "bad") and plan.agrees:
        return pen.choose(wordings()["elder"][plan.mood])
    spare = wordings()["ask"][plan.mood]
    return pen.first_fresh(
        _questions(understood, heard, plan),
        _by_tone("ask", plan.mood, heard.tone),
        spare.get("unknown") or spare["any"],
    )


def _questions(understood: Understanding, heard: Hearing, plan: Plan) -> list[str]:
    of_tone = _by_tone("ask", plan.mood, heard.tone if plan.agrees else _voice(heard))
    if not understood.topic or not plan.agrees or plan.mood == "hope":
        return of_tone
    of_topic = situations()[understood.topic].ask
    own = (
        _of_topic(of_topic, understood, plan.mood)
        or (of_topic.get("neutral") if plan.mood == "neutral" else None)
        or []
    )
    if own and situations()[understood.topic].grave and heard.tone in ("angry", "disgusted"):
        return own
    # the situation's questions first while a tone has nothing special to ask
    return [*own, *of_tone] if heard.tone in ("angry", "fearful", "surprised", "disgusted") else own or of_tone


def _of_topic(lines: dict[str, list[str]], understood: Understanding, mood: str) -> list[str]:
    """A situation's lines for a mood; those that assert trouble only when trouble was told."""
    trouble = lines.get("trouble", []) if mood == "bad" and understood.evident else []
    return [*lines.get(mood, []), *trouble]


def _looking_back(understood: Understanding, heard: Hearing, history: Sequence[Exchange], pen: Pen) -> str | None:
    """A line that ties this turn to an earlier one, when it does."""
    if "about" not in pen.slots or understood.wants_advice:
        return None
    if is_vague(understood) or (understood.from_history and "echo" not in pen.slots):
        lines = wordings()["again"]["vague"]
    elif _came_up_before(understood, history):
        lines = wordings()["again"]["any"]
    else:
        return None
    line = pen.choose(lines)
    return None if line in pen.used else line


def _came_up_before(understood: Understanding, history: Sequence[Exchange]) -> bool:
    """The matter returns after at least one turn about something else."""
    return (
        len(history) > 1
        and history[-1].topic != understood.topic
        and any(e.topic == understood.topic for e in history[:-1])
    )


def write_act(understood: Understanding, heard: Hearing, history: Sequence[Exchange], pen: Pen) -> list[str]:
    """The reply to a greeting, a thanks, a question to the assistant and the like."""
    replies = acts()[understood.act or ""]["replies"]
    pen.slots.setdefault("about", "it")
    wish = situations()[understood.topic].wish if understood.topic else "I hope the hours ahead are good to you."
    last = (
        " ".join(sentences(history[-1].replied)[-2:])
        if history
        else "I had not said anything yet; what is on your mind?"
    )
    pen.slots |= {"wish": wish, "last": last}
    remembered = replies_of(understood, history, pen.slots)
    lines = pen.choose_all(remembered or replies.get(heard.tone) or replies["any"])
    return [piece for line in lines for piece in sentences(line)][:3]


def _unread(understood: Understanding) -> str:
    if understood.empty or understood.foreign:
        return "unread"
    return "unread_laugh" if LAUGHS.match(" ".join(words(understood.text))) else "unread_short"


def write_unheard(understood: Understanding, heard: Hearing, pen: Pen) -> list[str]:
    """Nothing, or nothing sure, was recognised: say so, and name the tone only as far as it is sure."""
    rows = wordings()["unheard"]
    if understood.typed:
        return pen.choose_all(rows[_unread(understood)])
    if heard.events and "cry" in heard.events:
        return pen.choose_all(rows["cry"])
    if understood.empty or not understood.topic:
        return pen.choose_all(rows.get(_voice(heard)) or rows["any"])
    return [piece for line in pen.choose_all(rows["partly"]) for piece in sentences(line)][:3]
