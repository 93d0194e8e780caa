"""A reasoner over any language model: it asks in words, reads the answer as it is written, and checks it before it is heard.

Before anything is given out, an answer may be asked for again: once for its form, once for its first sentence, and after each
tool call. Then each sentence is checked alone; one that is not fit to be heard, or one too many, ends the reply before it.
Words that are recognized as words of crisis are not shown to the model, in their own turn or later: those turns are the
counsellor's, with its help lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import Field

from cascade.cancel import CancelScope
from cascade.engines import LanguageModel, Message, Prompt
from cascade.errors import EngineFailed
from cascade.reasoning import careful, counsellor, critic, prompting, tools
from cascade.reasoning.answer import Form, Unfit, holds_tags, parse
from cascade.reasoning.draft import Called, Draft
from cascade.reasoning.language import words
from cascade.reasoning.strategies import Hearing, hear, intensity, rate
from cascade.reasoning.understanding import Understanding, understand
from cascade.turn import Cue, Cues, EngineInfo, Record, Reply, Thought

FORM_TRIES, CRITIC_TRIES = 1, 1  # how often an answer is asked for again for its form, and for its first sentence
CHECKED = (
    "unsafe",
    "names the emotion",
    "ignores the cues",
)  # the critic's complaints that keep a sentence from being heard
WITHHELD = ("[They spoke of something grave.]", "[They were given help lines and were listened to.]")
HEARD_SHARE = 0.2  # a label the model names must have had this probability, else it is a guess and becomes unknown


class DialogueOptions(Record):
    """think: the form of the thought. temperature 0: always the most probable token. max_tokens: of thought and reply together.

    top_logprobs: alternatives kept with each token of the reply, for distillation. max_tool_steps: look-ups in one answer.
    region: whose help lines the counsellor names in a crisis. history_turns: how many of the latest exchanges the model sees.
    """

    think: Form = "both"
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int = Field(default=400, ge=16)
    top_logprobs: int = Field(default=0, ge=0, le=20)
    max_tool_steps: int = Field(default=2, ge=0, le=8)
    region: Literal["us", "uk", "eu", "any"] = "any"
    history_turns: int = Field(default=8, ge=0)


class PromptTooLong(EngineFailed):
    """The request does not fit the model's context: worth another, with less of the conversation."""


@dataclass
class _Tries:
    """What is left of each budget of one answer, and what was said to the model since."""

    history_turns: int
    tool_steps: int
    form: int = FORM_TRIES
    critic: int = CRITIC_TRIES
    asked: int = 0
    since: list[Message] = field(default_factory=list)


@dataclass
class _Opening:
    """An answer that may be given out: its thought and its first sentence are checked."""

    thought: Thought
    lines: list[str]
    draft: Draft


class _Objected(Exception):
    """The critic's complaint about a first sentence."""


class LanguageModelReasoner:
    """A Reasoner; `language_model` is the model itself, for a judge to ask."""

    def __init__(self, info: EngineInfo, language_model: LanguageModel, options: DialogueOptions) -> None:
        self.info, self.language_model, self.options = info, language_model, options
        self._counsellor = counsellor.load(counsellor.Options(region=options.region))

    def respond(self, prompt: Prompt, *, cancel: CancelScope) -> Iterator[Thought | str | Reply]:
        """Raises EngineFailed (no answer of the right form), EngineUnavailable, EngineTimeout, Cancelled."""
        cancel.check()
        understood = understand(prompt.transcript, prompt.history)
        if careful.path(understood, prompt.history):
            yield from self._counsellor.respond(prompt, cancel=cancel)
            return
        opening = self._opening(prompt, understood, cancel)
        try:
            yield from self._spoken(opening, prompt, cancel)
        finally:
            opening.draft.close()

    def _spoken(self, opening: _Opening, prompt: Prompt, cancel: CancelScope) -> Iterator[Thought | str | Reply]:
        thought, lines, draft = opening.thought, opening.lines, opening.draft
        yield thought
        yield lines[0]
        while len(lines) < critic.MAX_SENTENCES and (line := draft.next_sentence()) is not None:
            cancel.check()
            whole = [*lines, line]
            if len(words(" ".join(whole))) > critic.MAX_WORDS or _objection(prompt, thought, whole):
                draft.refuse_last()
                break
            lines.append(line)
            yield line
        yield Reply(
            text=" ".join(lines),
            emotion=thought.reply_emotion,
            intensity=thought.intensity,
            rate=thought.rate,
            tokens=draft.reply_tokens() if self.options.top_logprobs else (),
        )

    def _opening(self, prompt: Prompt, understood: Understanding, cancel: CancelScope) -> _Opening:
        """Ask, and ask again within the budgets, until a thought and a first sentence are fit. Raises EngineFailed."""
        tries = _Tries(min(self.options.history_turns, len(prompt.history)), self.options.max_tool_steps)
        while True:
            draft = self._asked(prompt, tries, cancel)
            try:
                return self._begun(draft, prompt, understood)
            except Called as called:
                draft.close()
                self._look_up(called, prompt, draft, tries)
            except Unfit as unfit:
                draft.close()
                tries.form = _spent(tries.form, f"did not keep to the form of an answer ({unfit}); try another model")
                self._ask_again(str(unfit), draft, tries)
            except _Objected as objected:
                draft.close()
                tries.critic = _spent(
                    tries.critic, f"wrote what is not fit to be heard ({objected}); try another model"
                )
                self._ask_again(str(objected), draft, tries)
            except PromptTooLong:
                draft.close()
                if not tries.history_turns:
                    raise
                tries.history_turns //= 2
            except BaseException:
                draft.close()
                raise

    def _asked(self, prompt: Prompt, tries: _Tries, cancel: CancelScope) -> Draft:
        options = self.options
        request = prompting.messages(
            _withheld(prompt), form=options.think, tool_steps=options.max_tool_steps, history_turns=tries.history_turns
        )
        seed = (prompt.seed + 7_919 * tries.asked + 104_729 * prompt.attempt) % 2**31
        tries.asked += 1
        stream = self.language_model.stream(
            [*request, *tries.since],
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            seed=seed,
            top_logprobs=options.top_logprobs,
            cancel=cancel,
        )
        return Draft(iter(stream))

    def _begun(self, draft: Draft, prompt: Prompt, understood: Understanding) -> _Opening:
        """Raises Called, Unfit, _Objected."""
        written = parse(draft.think(), self.options.think, understood.text)
        heard = hear(prompt.cues, understood)
        thought = _grounded(written, prompt.cues, heard, self.options.think).model_copy(
            update={"topic": understood.topic, "intensity": intensity(heard), "rate": rate(heard)}
        )
        line = draft.next_sentence()
        if line is None:
            raise Unfit("there is no whole sentence to speak after the thought")
        if holds_tags(line):
            raise Unfit("there are tags among the words to speak")
        if complaint := _objection(prompt, thought, [line]):
            raise _Objected(complaint)
        return _Opening(thought, [line], draft)

    def _look_up(self, called: Called, prompt: Prompt, draft: Draft, tries: _Tries) -> None:
        if not tries.tool_steps:
            reason = f"it calls a tool more than {self.options.max_tool_steps} times"
            tries.form = _spent(tries.form, f"did not keep to the form of an answer ({reason}); try another model")
            return self._ask_again(reason, draft, tries)
        tries.tool_steps -= 1
        found = tools.run(called.call, _withheld(prompt))
        tries.since += [Message("assistant", draft.raw), prompting.result(found, tries.tool_steps)]

    def _ask_again(self, reason: str, draft: Draft, tries: _Tries) -> None:
        tries.since += [Message("assistant", draft.raw.strip() or "[nothing]"), prompting.repair(reason)]


def _withheld(prompt: Prompt) -> Prompt:
    """The prompt without the words of earlier turns of crisis; that there were such turns is told."""
    kept = [
        exchange.model_copy(update={"said": WITHHELD[0], "replied": WITHHELD[1], "emotion": None})
        if careful.told_in_crisis(exchange)
        else exchange
        for exchange in prompt.history
    ]
    return replace(prompt, history=kept)


def _spent(left: int, problem: str) -> int:
    if not left:
        raise EngineFailed(f"the language model {problem}")
    return left - 1


def _objection(prompt: Prompt, thought: Thought, lines: list[str]) -> str | None:
    """Why the reply may not go on to its last line; None when it may."""
    if holds_tags(lines[-1]):
        return "there are tags among the words to speak"
    found = critic.complaints(prompt, Reply(text=" ".join(lines), emotion=thought.reply_emotion))
    return next((complaint for complaint in found if complaint.startswith(CHECKED)), None)


def _grounded(thought: Thought, cues: Cues, heard: Hearing, form: Form) -> Thought:
    """Labels only as far as they were heard. The language form has none of its own, so it takes the sure ones."""
    if form == "language":
        sure = {"emotion": heard.emotion, "age": heard.age, "gender": heard.gender, "events": heard.events}
        return thought.model_copy(update=sure)
    events = cues.events.events if cues.events else None
    kinds = {event.kind for event in events or ()}
    told = None if events is None or thought.events is None else tuple(k for k in thought.events if k in kinds)
    parts = {"emotion": cues.emotion, "age": cues.age, "gender": cues.gender}
    named = {name: _if_heard(getattr(thought, name), cue) for name, cue in parts.items()}
    return thought.model_copy(update={**named, "events": told})


def _if_heard(label: str | None, cue: Cue | None) -> str | None:
    share = cue.probabilities.get(label, 0.0) if cue and label else 0.0
    return label if share >= HEARD_SHARE else None
