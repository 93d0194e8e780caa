"""The embedded reasoner: a counsellor of empathic strategies, by rules and a lexicon; no language model, nothing
downloaded.

understanding (words) + hearing (cues) → plan (strategy, reply emotion) → wording → critic → thought and reply. Same
prompt and seed, same reply. It says of itself, when asked, that it is a program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from cascade.cancel import CancelScope
from cascade.engines import Prompt
from cascade.errors import EngineFailed
from cascade.needs import Need, package
from cascade.reasoning import careful, critic
from cascade.reasoning.language import words
from cascade.reasoning.strategies import Hearing, Plan, hear, leant, plan, rate
from cascade.reasoning.thinking import reason
from cascade.reasoning.understanding import Understanding, understand
from cascade.reasoning.vocabulary import LAUGHS
from cascade.reasoning.wording import Pen, said_before, shorter, slots_of, write, write_act, write_unheard
from cascade.turn import EngineInfo, Exchange, Record, Reply, ReplyEmotion, Thought

_TRIES = 12  # wordings tried against the critic before the first one without a grave fault is taken


class Options(Record):
    region: Literal["us", "uk", "eu", "any"] = "any"  # whose help lines are named
    echo_confidence: float = Field(default=0.5, ge=0, le=1)  # below it, the person's words are not repeated
    garbled_confidence: float = Field(default=0.15, ge=0, le=1)  # below it, the words are not believed at all


class Counsellor:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.info = EngineInfo(name="counsellor", version="1", options=options.model_dump())

    def respond(self, prompt: Prompt, *, cancel: CancelScope) -> Iterator[Thought | str | Reply]:
        cancel.check()
        understood = self._understand(prompt)
        heard = hear(prompt.cues, understood)
        chosen, lines = self._compose(prompt, understood, heard, cancel)
        yield _thought(understood, heard, chosen, prompt.history)
        for line in lines:
            cancel.check()
            yield line
        yield Reply(text=" ".join(lines), emotion=chosen.emotion, intensity=chosen.intensity, rate=chosen.rate)

    def _understand(self, prompt: Prompt) -> Understanding:
        understood = understand(
            prompt.transcript,
            prompt.history,
            echo_confidence=self.options.echo_confidence,
            garbled_confidence=self.options.garbled_confidence,
        )
        kind = careful.path(understood, prompt.history)
        return replace(understood, crisis=kind) if kind else understood

    def _compose(
        self, prompt: Prompt, understood: Understanding, heard: Hearing, cancel: CancelScope
    ) -> tuple[Plan, list[str]]:
        """The reply of this attempt; earlier attempts are made again first, so that none of their wording returns."""
        used = said_before(prompt.history)
        for attempt in range(prompt.attempt + 1):
            wishes = prompt.complaints if attempt == prompt.attempt else ()
            chosen, lines = self._draft(prompt, understood, heard, attempt, wishes, used, cancel)
            used |= set(lines)
        return chosen, lines

    def _draft(
        self,
        prompt: Prompt,
        understood: Understanding,
        heard: Hearing,
        attempt: int,
        wishes: Sequence[str],
        used: frozenset[str],
        cancel: CancelScope,
    ) -> tuple[Plan, list[str]]:
        chosen = _plan(understood, heard, prompt.history, attempt)
        fallback: list[str] | None = None
        for retry in range(_TRIES):
            cancel.check()
            plain = retry >= _TRIES // 2 or _has(
                wishes, "clear", "intelligib", "word error", "wer", "listen", "off topic"
            )
            pen = Pen(f"{prompt.seed}|{len(prompt.history)}|{understood.text}|{heard.tone}|{attempt}|{retry}", used)
            pen.slots = slots_of(understood, echo=not plain or _has(wishes, "off topic"))
            lines = self._lines(understood, heard, chosen, prompt.history, pen)
            if _has(wishes, "long", "clear", "intelligib", "word error", "wer", "listen") and chosen.strategy != "care":
                lines = shorter(lines)
            faults = critic.complaints(prompt, Reply(text=" ".join(lines), emotion=chosen.emotion))
            if not faults:
                return chosen, lines
            if fallback is None and not any(fault.startswith("unsafe") for fault in faults):
                fallback = lines
        if fallback is None:
            raise EngineFailed("counsellor: every wording tried was unsafe; the lexicon needs mending")
        return chosen, fallback

    def _lines(
        self, understood: Understanding, heard: Hearing, chosen: Plan, history: Sequence[Exchange], pen: Pen
    ) -> list[str]:
        if understood.crisis:
            return careful.write(understood, heard, history, self.options.region, pen)
        if chosen.strategy == "clarify" and not understood.act:
            return write_unheard(understood, heard, pen)
        if understood.act:
            return write_act(understood, heard, history, pen)
        return write(understood, heard, chosen, history, pen)


def _has(wishes: Sequence[str], *signs: str) -> bool:
    return any(sign in wish.lower() for wish in wishes for sign in signs)


def _plan(understood: Understanding, heard: Hearing, history: Sequence[Exchange], attempt: int) -> Plan:
    chosen = plan(understood, heard, history, attempt)
    if understood.crisis in careful.STOOD_DOWN:
        return replace(chosen, strategy="validate", emotion="comforting", intensity=0.6)
    if understood.crisis:
        return replace(chosen, strategy="care", emotion="comforting", intensity=0.8, rate=min(0.92, rate(heard)))
    nothing_said = understood.foreign or (
        (understood.topic is None or understood.from_history)
        and understood.felt is None
        and understood.valence == "neutral"
    )
    if (
        understood.empty
        or (not understood.clear and not understood.act)
        or (nothing_said and (understood.foreign or _is_scrap(understood)))
    ):
        soft = heard.tone in ("sad", "fearful") or (heard.events is not None and "cry" in heard.events)
        usual: ReplyEmotion = "comforting" if soft else "happy" if heard.tone == "happy" else "neutral"
        return replace(chosen, strategy="clarify", emotion=leant(usual, heard))
    return chosen


def _is_scrap(understood: Understanding) -> bool:
    """One or two words that mean nothing on their own."""
    if understood.act or understood.echo:
        return False
    laughs = LAUGHS.match(" ".join(words(understood.text))) is not None
    return len(understood.stems) <= 2 or laughs


def _thought(understood: Understanding, heard: Hearing, chosen: Plan, history: Sequence[Exchange]) -> Thought:
    return Thought(
        heard=understood.text,
        emotion=heard.emotion,
        age=heard.age,
        gender=heard.gender,
        events=heard.events,
        topic="crisis" if understood.crisis else understood.topic,
        strategy=chosen.strategy,
        reply_emotion=chosen.emotion,
        intensity=chosen.intensity,
        rate=chosen.rate,
        reasoning=reason(understood, heard, chosen, history),
    )


def needs(options: Options) -> list[Need]:
    return [package("vaderSentiment", "vaderSentiment", "pip install vaderSentiment")]


def load(options: Options) -> Counsellor:
    return Counsellor(options)
