"""The reasoner over a language model that says what it is told: form, repair, critic, tools, crisis, history, streaming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fakes import INFO, heard, sad

from cascade.cancel import CancelScope
from cascade.engines import Message, Prompt
from cascade.errors import Cancelled, EngineFailed
from cascade.reasoning import counsellor, crisis, critic, prompting
from cascade.reasoning.answer import LEGAL, render
from cascade.reasoning.dialogue import DialogueOptions, LanguageModelReasoner, PromptTooLong
from cascade.turn import (
    AgeCue,
    Cues,
    EmotionCue,
    EventsCue,
    Exchange,
    Prosody,
    Reply,
    Thought,
    Token,
    Transcript,
    VocalEvent,
    Word,
)

THOUGHT = Thought(
    heard="",
    emotion="sad",
    strategy="reflect",
    reply_emotion="comforting",
    reasoning="They lost a job. So I stay with it.",
)
BLOCK = f"<think>\n{render(THOUGHT, 'both')}\n</think>\n\n"
REPLY = "That is a lot to carry. What happened with the job?"
GOOD = BLOCK + REPLY
RECALL = "<think>\n<call>recall: the dog</call>"


class ScriptedModel:
    """Writes its answers one after another, letter by letter or in given pieces; exceptions are raised."""

    info = INFO

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[list[Message]] = []
        self.settings: list[dict[str, Any]] = []
        self.written = ""
        self.closed = 0

    def stream(self, messages: Sequence[Message], *, cancel: CancelScope, **settings: Any) -> Iterator[Token]:
        self.asked.append(list(messages))
        self.settings.append(settings)
        if not self.answers:
            raise AssertionError("asked more often than it has answers")
        return self._write(self.answers.pop(0), cancel)

    def _write(self, answer: Any, cancel: CancelScope) -> Iterator[Token]:
        self.written = ""
        try:
            for piece in [answer] if isinstance(answer, BaseException) else answer:
                cancel.check()
                if isinstance(piece, BaseException):
                    raise piece
                self.written += piece
                yield Token(text=piece, id=len(self.written))
        finally:
            self.closed += 1


def reasoner(*answers: Any, **options: Any) -> LanguageModelReasoner:
    return LanguageModelReasoner(INFO, ScriptedModel(*answers), DialogueOptions(**options))


def model_of(engine: LanguageModelReasoner) -> ScriptedModel:
    assert isinstance(engine.language_model, ScriptedModel)
    return engine.language_model


def ask(engine: LanguageModelReasoner, text: str = "i lost my job", **more: Any) -> list[Any]:
    prompt = Prompt(heard(text), **{"cues": sad(), **more})
    items = list(engine.respond(prompt, cancel=CancelScope()))
    thought, lines, reply = items[0], items[1:-1], items[-1]
    assert isinstance(thought, Thought)
    assert isinstance(reply, Reply)
    assert lines
    assert reply.text == " ".join(lines)
    assert reply.emotion == thought.reply_emotion
    return items


def test_thought_sentences_reply() -> None:
    thought, *lines, _ = ask(reasoner(GOOD))
    assert lines == ["That is a lot to carry.", "What happened with the job?"]
    assert thought.heard == "i lost my job"
    assert (thought.emotion, thought.strategy, thought.topic) == ("sad", "reflect", "job_loss")
    assert thought.reasoning == THOUGHT.reasoning
    assert thought.intensity == pytest.approx(0.81)
    assert thought.rate < 1


@pytest.mark.parametrize("form", ["tag", "language", "both"])
def test_every_form(form: Any) -> None:
    block = render(THOUGHT.model_copy(update={"reasoning": "" if form == "tag" else "Because."}), form)
    engine = reasoner(f"<think>{block}</think>{REPLY}", think=form)
    thought = ask(engine)[0]
    assert thought.reasoning == ("" if form == "tag" else "Because.")
    assert thought.emotion == "sad", "the language form takes it from the cues"
    assert ("<heard>" in model_of(engine).asked[0][0].content) == (form != "language")


def test_an_empty_thought_before_the_thought_is_passed_over() -> None:
    assert ask(reasoner("<think>\n\n</think>\n\n" + GOOD))[1] == "That is a lot to carry."


def test_labels_that_were_not_heard_become_unknown() -> None:
    claimed = THOUGHT.model_copy(
        update={"age": "child", "gender": "female", "emotion": "angry", "events": ("cough", "cry")}
    )
    answer = f"<think>{render(claimed, 'both')}</think>{REPLY}"
    assert (
        ask(reasoner(answer))[0]
        .tag()
        .endswith("<age>unknown<gender>unknown<emotion>unknown<event>unknown<strategy>reflect<reply>comforting")
    )
    cues = Cues(
        emotion=EmotionCue(probabilities={"angry": 0.45, "sad": 0.55}, engine="x"),
        age=AgeCue(probabilities={"child": 0.4, "adult": 0.6}, engine="x"),
        events=EventsCue(events=(VocalEvent(kind="cry", start_s=0, end_s=1, confidence=0.4),), engine="x"),
    )
    thought = ask(reasoner(answer), cues=cues)[0]
    assert (thought.emotion, thought.age, thought.gender, thought.events) == ("angry", "child", None, ("cry",))


def test_a_sentence_is_spoken_before_the_next_is_written() -> None:
    engine = reasoner(GOOD)
    items = engine.respond(Prompt(heard("i lost my job"), sad()), cancel=CancelScope())
    assert isinstance(next(items), Thought)
    assert next(items) == "That is a lot to carry."
    assert model_of(engine).written == BLOCK + "That is a lot to carry. W"
    items.close()  # type: ignore[attr-defined]
    assert model_of(engine).closed == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "empty"),
        (REPLY, "not ended by </think>"),
        ("<think>Because.</think>" + REPLY, "<heard> is missing"),
        (GOOD.replace("<emotion>sad", "<emotion>gloomy"), "'gloomy' is not legal"),
        (BLOCK, "no whole sentence"),
        (BLOCK + "That is a lot to", "no whole sentence"),
        (BLOCK + "🎉", "no whole sentence"),
        (BLOCK + "<reply>happy That is nice. Good.", "tags among the words"),
    ],
)
def test_a_form_that_is_wrong_is_mended_once(bad: str, reason: str) -> None:
    engine = reasoner(bad, GOOD)
    assert ask(engine)[1] == "That is a lot to carry."
    assert reason in model_of(engine).asked[1][-1].content
    assert model_of(engine).asked[1][:-2] == model_of(engine).asked[0]
    assert model_of(engine).settings[0]["seed"] != model_of(engine).settings[1]["seed"]
    twice = reasoner(bad, bad)
    with pytest.raises(EngineFailed, match=reason) as failed:
        ask(twice)
    assert "\n" not in str(failed.value)
    assert model_of(twice).closed == 2


def test_a_first_sentence_not_fit_to_be_heard_is_asked_for_again() -> None:
    bad = BLOCK + "You should take two pills. Rest now."
    engine = reasoner(bad, GOOD)
    assert ask(engine)[1] == "That is a lot to carry."
    assert "unsafe" in model_of(engine).asked[1][-1].content
    with pytest.raises(EngineFailed, match="not fit to be heard"):
        ask(reasoner(bad, bad))


def test_form_and_critic_have_budgets_of_their_own() -> None:
    celebrating = BLOCK.replace("<reply>comforting", "<reply>joyful")
    assert ask(reasoner("nonsense", celebrating + REPLY, GOOD))[0].reply_emotion == "comforting"


@pytest.mark.parametrize(
    "later",
    ["I can tell that you are sad.", "Congratulations!", "You must quit.", "I <think> so.", "Word " * 70 + "end."],
)
def test_a_later_sentence_not_fit_to_be_heard_ends_the_reply(later: str) -> None:
    engine = reasoner(f"{BLOCK}That is a lot to carry. {later} What happened with the job?", top_logprobs=1)
    items = ask(engine)
    assert items[1:-1] == ["That is a lot to carry."]
    assert "".join(token.text for token in items[-1].tokens).strip() == "That is a lot to carry."
    assert model_of(engine).closed == 1


def test_at_most_three_sentences() -> None:
    engine = reasoner(BLOCK + "One is said. Two is said. Three is said. Four is said. Five.")
    assert len(ask(engine)[1:-1]) == critic.MAX_SENTENCES
    assert "Five" not in model_of(engine).written


def test_a_sentence_that_breaks_off_is_left_out() -> None:
    items = ask(reasoner(GOOD + " And then they", top_logprobs=2))
    assert items[-1].text == REPLY
    assert "".join(token.text for token in items[-1].tokens) == f"\n\n{REPLY} "


def test_tokens_are_kept_only_when_asked_for() -> None:
    assert ask(reasoner(GOOD))[-1].tokens == ()
    tokens = ask(reasoner(GOOD, top_logprobs=1))[-1].tokens
    assert "".join(token.text for token in tokens) == "\n\n" + REPLY


def test_it_looks_up_what_was_said() -> None:
    history = [Exchange(said="my dog is ill", replied="Poor dog.", emotion="sad"), Exchange(said="hm", replied="Yes?")]
    engine = reasoner(RECALL + " I imagine the result", GOOD)
    assert ask(engine, history=history)[1] == "That is a lot to carry."
    called, result = model_of(engine).asked[1][-2:]
    assert called == Message("assistant", RECALL)
    assert '2 turns ago they said: "my dog is ill" (sounded sad); you answered: "Poor dog."' in result.content
    assert "may call once more" in result.content
    assert model_of(engine).written == GOOD


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("listen_again: 0.5-1.2", ['"job" at 0.60-1.00 s (0.30 sure)', "sigh at 1.0-1.4 s", "slow (2.0 syllables"]),
        ("listen_again: 3-4", ["none with a time", "none heard"]),
        ("listen_again: 2-1", ["is no span"]),
        ("listen_again: now", ["is no span"]),
        ("recall: the cat", ["nothing about that before"]),
        ("search: weather", ["There is no tool 'search'", "recall", "listen_again"]),
    ],
)
def test_what_tools_answer(call: str, found: list[str]) -> None:
    words = (Word(text="my", start_s=0.2, end_s=0.5), Word(text="job", start_s=0.6, end_s=1.0, probability=0.3))
    cues = Cues(
        events=EventsCue(events=(VocalEvent(kind="sigh", start_s=1, end_s=1.4, confidence=0.7),), engine="x"),
        prosody=Prosody(rate_syllables_s=2.0, engine="x"),
    )
    engine = reasoner(f"<think><call>{call}</call>", GOOD)
    prompt = Prompt(Transcript(text="my job", words=words, engine="x"), cues)
    assert list(engine.respond(prompt, cancel=CancelScope()))
    result = model_of(engine).asked[1][-1].content
    assert all(part in result for part in found), result
    assert '"my"' not in result.split("Sounds")[0]


def test_tool_steps_are_bounded() -> None:
    engine = reasoner(RECALL, RECALL, GOOD)
    assert ask(engine)
    assert "No call is left" in model_of(engine).asked[2][-1].content
    with pytest.raises(EngineFailed, match="calls a tool more than 2 times"):
        ask(reasoner(RECALL, RECALL, RECALL, RECALL))
    assert ask(reasoner(RECALL, RECALL, RECALL, GOOD)), "told once that it must answer"
    none = reasoner(GOOD, max_tool_steps=0)
    ask(none)
    assert "<call>" not in model_of(none).asked[0][0].content


def test_words_of_crisis_never_reach_the_model() -> None:
    engine = reasoner(region="us")
    thought, *_, reply = ask(engine, "i want to kill myself")
    assert model_of(engine).asked == []
    assert (thought.strategy, thought.topic) == ("care", "crisis")
    assert crisis.names_help(reply.text)
    after = [Exchange(said="i want to kill myself", strategy="care", replied=reply.text)]
    assert ask(engine, "it is all too much", history=after)[0].strategy == "care"
    expected = counsellor.load(counsellor.Options(region="us"))
    prompt = Prompt(heard("i want to kill myself"), sad())
    assert list(engine.respond(prompt, cancel=CancelScope())) == list(expected.respond(prompt, cancel=CancelScope()))


def test_words_of_crisis_are_not_shown_to_the_model_later_either() -> None:
    grave = Exchange(said="i want to kill myself", strategy="care", replied="Please call nine eight eight.")
    unmarked = Exchange(said="sometimes i cut myself with a knife", replied="Tell me more.", emotion="sad")
    after = [Exchange(said="my dog plays football now", strategy="ask", replied="Who scores?")] * 2
    engine = reasoner("<think>\n<call>recall: kill myself knife</call>", GOOD)
    ask(engine, history=[grave, unmarked, *after])
    assert len(model_of(engine).asked) == 2
    for message in (message for request in model_of(engine).asked for message in request):
        assert "cut myself" not in message.content
        assert "nine eight eight" not in message.content
        assert message.role == "assistant" or "kill myself" not in message.content
    assert sum("something grave" in message.content for message in model_of(engine).asked[0]) == 2


def test_the_request() -> None:
    history = [Exchange(said=f"said {n}", replied=f"replied {n}", emotion="fearful") for n in range(3)]
    cues = Cues(
        emotion=EmotionCue(probabilities={"sad": 0.71, "neutral": 0.2, "happy": 0.09}, engine="x"),
        age=AgeCue(probabilities={"child": 0.45, "adult": 0.35}, unknown=0.2, engine="x"),
    )
    engine = reasoner(GOOD, history_turns=2)
    ask(engine, history=history, cues=cues, attempt=1, complaints=["too long: 5 sentences"])
    system, *past, now = model_of(engine).asked[0]
    assert [m.role for m in past] == ["user", "assistant"] * 2
    assert past[0].content == "said 1 [sounded fearful]"
    assert past[1].content == "replied 1"
    assert system.role == "system"
    assert system.content.startswith((prompting.PROMPTS / "persona.txt").read_text().strip())
    assert now.role == "user"
    assert now.content.endswith(prompting.rules())
    for part in ("sounds sad, 0.71; second guess neutral, 0.20", "not sure enough (child 0.45, adult 0.35)",
                 "Gender: unknown, you cannot tell", '"i lost my job" (0.90 sure)', "- too long: 5 sentences"):  # fmt: skip
        assert part in now.content
    offered = [label for labels in LEGAL.values() for label in labels if label != "care"]
    assert all(label in system.content for label in offered)
    assert "care," not in system.content
    assert "$" not in system.content + now.content


def test_every_prompt_file_is_used() -> None:
    used = {
        "persona",
        "think_tag",
        "think_language",
        "think_both",
        "tools",
        "cues",
        "revise",
        "rules",
        "repair",
        "result",
    }
    assert {path.stem for path in prompting.PROMPTS.glob("*.txt")} == used


def test_a_request_too_long_goes_without_the_oldest_exchanges() -> None:
    history = [Exchange(said=f"said {n}", replied="yes") for n in range(5)]
    engine = reasoner(PromptTooLong("x"), PromptTooLong("x"), GOOD)
    assert ask(engine, history=history)
    assert [len(asked) for asked in model_of(engine).asked] == [12, 6, 4]
    assert model_of(engine).asked[2][1].content == "said 4"
    with pytest.raises(PromptTooLong):
        ask(reasoner(PromptTooLong("x")))


def test_a_failure_in_the_midst_is_told() -> None:
    items = reasoner([*BLOCK, *"That is hard. W", EngineFailed("gone")]).respond(
        Prompt(heard("i lost my job"), sad()), cancel=CancelScope()
    )
    assert isinstance(next(items), Thought)
    assert next(items) == "That is hard."
    with pytest.raises(EngineFailed, match="gone"):
        next(items)


def test_cancelled() -> None:
    scope = CancelScope()
    items = reasoner(GOOD).respond(Prompt(heard("i lost my job"), sad()), cancel=scope)
    next(items)
    next(items)
    scope.cancel()
    with pytest.raises(Cancelled):
        next(items)
    with pytest.raises(Cancelled):
        next(reasoner(GOOD).respond(Prompt(heard("x"), sad()), cancel=scope))


def test_no_words_at_all() -> None:
    engine = reasoner(BLOCK.replace("reflect", "clarify") + "I could not hear you. Could you say it again?")
    prompt = Prompt(Transcript(text="", engine="x"), Cues())
    thought, *_ = engine.respond(prompt, cancel=CancelScope())
    assert isinstance(thought, Thought)
    assert thought.strategy == "clarify"
    assert "no word of it could be made out" in model_of(engine).asked[0][-1].content
