"""Turns written by a language model that says what it is told: what is asked, what is refused, what is given up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest
from fakes import INFO

from cascade.cancel import CancelScope
from cascade.engines import Message
from cascade.errors import Cancelled, EngineFailed, EngineUnavailable
from cascade.turn import REPLY_EMOTIONS, Token
from distill.teaching.records import Scenario
from distill.teaching.scenarios import writer
from distill.teaching.scenarios.plan import PlanOptions, requests
from distill.teaching.scenarios.writer import FAILURES, PROMPTS, TRIES, Unfit, check, parsed, written

ALONE = {"speak_share": 0.0, "contrast_share": 0.0, "history_share": 0.0}
GOOD = (
    "My brother sold his old bike to the baker.",
    "They want me to sing at the market tomorrow.",
    "We found a letter under the kitchen floor.",
    "The doctor says I can go home next week.",
    "I have been waiting for the plumber all day.",
)


class Scripted:
    """Gives its answers one after another, letter by letter; exceptions are raised."""

    info = INFO

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[list[Message]] = []
        self.settings: list[dict[str, Any]] = []

    def stream(self, messages: Sequence[Message], **settings: Any) -> Iterator[Token]:
        self.asked.append(list(messages))
        self.settings.append(settings)
        if not self.answers:
            raise AssertionError("asked more often than it has answers")
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        yield from (Token(text=letter) for letter in answer)


def line(text: str) -> str:
    return json.dumps({"text": text})


def write(model: Scripted, turns: int, refused: Counter[str] | None = None, **options: Any) -> list[Scenario]:
    plan = PlanOptions(turns=turns, seed=1, **{**ALONE, **options})
    found = list(written(plan, model, cancel=CancelScope(), refused=refused))
    assert model.answers == [], "it was asked as often as it has answers"
    return found


def test_lines_become_the_turns_that_were_planned() -> None:
    model = Scripted(*map(line, GOOD))
    found = write(model, 5)
    assert [one.text for one in found] == list(GOOD)
    assert [one.index for one in found] == list(range(5))
    for one, request in zip(found, requests(PlanOptions(turns=5, seed=1, **ALONE)), strict=True):
        assert request.speaker is not None
        assert (one.split, one.domain, one.template) == (request.split, request.family.domain, request.family.id)
        assert (one.labels.emotion, one.voice) == (request.tones[0], request.speaker.name)
    assert len({setting["seed"] for setting in model.settings}) == 5


def test_same_options_same_questions() -> None:
    first, again = Scripted(*map(line, GOOD)), Scripted(*map(line, GOOD))
    assert write(first, 5, history_share=1.0) == write(again, 5, history_share=1.0)
    assert first.asked == again.asked


def test_what_the_model_is_asked() -> None:
    model = Scripted(*map(line, GOOD))
    found = write(model, 5, history_share=1.0, child_share=1.0, elder_share=0.0)
    tones = {"angry": "in anger", "sad": "in sadness", "happy": "full of joy"}
    for one, (message,) in zip(found, model.asked, strict=True):
        assert message.role == "user"
        assert ("a girl of about nine" if one.labels.gender == "female" else "a boy of about nine") in message.content
        assert one.domain.replace("_", " ") in message.content
        assert tones.get(one.labels.emotion or "", "") in message.content
        assert all(f'they said: "{exchange.said}"' in message.content for exchange in one.history)
        assert '{"text": "the line"}' in message.content
        assert "4 to 22 words" in message.content
        assert "$" not in message.content


def test_a_contrast_set_is_one_line_in_several_tones() -> None:
    model = Scripted(line(GOOD[0]), line(GOOD[1]))
    found = list(
        islice(
            written(PlanOptions(turns=40, seed=1, **{**ALONE, "contrast_share": 1.0}), model, cancel=CancelScope()), 3
        )
    )
    rows = [one for one in found if one.contrast == found[0].contrast]
    assert len(rows) >= 2
    assert {one.text for one in rows} == {GOOD[0]}
    assert "It must make sense in every one of these tones" in model.asked[0][0].content
    assert model.asked[0][0].content.count(";") >= len(rows) - 1


def test_the_talker_s_own_text() -> None:
    model = Scripted(line("Your coat is behind the kitchen door."))
    found = write(model, 11, speak_share=1.0, speak_set_share=1.0)
    assert [one.reply_emotion for one in found] == list(REPLY_EMOTIONS)
    assert {(one.task, one.text, one.voice) for one in found} == {
        ("speak", "Your coat is behind the kitchen door.", None)
    }
    assert "what a friendly voice assistant says" in model.asked[0][0].content


def test_a_line_that_cannot_be_used_is_asked_for_again_with_the_reason() -> None:
    model = Scripted("Sure! Here you go.", line("I am so sad about it."), line(GOOD[0]))
    assert [one.text for one in write(model, 1)] == [GOOD[0]]
    first, second, third = model.asked
    assert second[0] == third[0] == first[0]
    assert second[1] == Message("assistant", "Sure! Here you go.")
    assert "is not one JSON object" in second[2].content
    assert "names a feeling: 'sad'" in third[2].content
    assert len({setting["seed"] for setting in model.settings}) == 3


def test_what_it_cannot_give_is_counted_and_not_replaced() -> None:
    refused: Counter[str] = Counter()
    model = Scripted(line(GOOD[0]), *["nonsense"] * TRIES, line(GOOD[1]), *[line("Too short.")] * TRIES, line(GOOD[2]))
    found = write(model, 5, refused)
    assert [(one.index, one.text) for one in found] == list(enumerate(GOOD[:3]))
    assert refused == {"not JSON": 1, "length": 1}


def test_a_whole_set_that_is_given_up_counts_its_turns() -> None:
    refused: Counter[str] = Counter()
    assert write(Scripted(*["nonsense"] * TRIES), 11, refused, speak_share=1.0, speak_set_share=1.0) == []
    assert refused == {"not JSON": 11}


def test_nothing_twice_and_nothing_nearly_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: Counter[str] = Counter()
    near = "They want me to sing at the market tomorrow, they do."
    same_domain = PlanOptions(turns=2, seed=1, **{**ALONE, "speak_share": 1.0, "speak_set_share": 0.0})
    model = Scripted(line(GOOD[1]), line(near), line(GOOD[1].upper().capitalize()), line(GOOD[1]))
    found = list(written(same_domain, model, cancel=CancelScope(), refused=refused))
    assert [one.text for one in found] == [GOOD[1]]
    assert refused == {"near the same": 1}
    assert "nearly the same as 'they want me to sing at the market tomorrow'" in model.asked[2][2].content


def test_it_remembers_a_bounded_number_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "REMEMBERED", 1)
    options = PlanOptions(turns=3, seed=1, **{**ALONE, "speak_share": 1.0, "speak_set_share": 0.0})
    near = "They want me to sing at the market tomorrow, they do."
    model = Scripted(line(GOOD[1]), line(GOOD[2]), line(near))
    assert len(list(written(options, model, cancel=CancelScope()))) == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "not one JSON object"),
        ('{"text": "x"} and more', "not one JSON object"),
        ('```json\n{"text": "x"}\n```', "not one JSON object"),
        ('{"text": "x", "tone": "sad"}', "not the key text alone"),
        ('{"text": 5}', "not the key text alone"),
        ('["x"]', "not the key text alone"),
        ("[" * 100_000, "not one JSON object"),
    ],
)
def test_an_answer_of_another_form(answer: str, reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        parsed(answer)


def test_a_thought_before_the_answer_is_passed_over() -> None:
    assert parsed('<think>\nA bike?\n</think>\n{"text": "It’s  my bike. "}') == "It's my bike."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Too short.", "length"),
        ("I said " * 20 + "it.", "length"),
        ("I have 3 cats at home now.", "markup"),
        ("I *really* want to go home.", "markup"),
        ("I want to go home 🎉 now.", "markup"),
        ('She said "no" to me again.', "markup"),
        ("I watch TV with my brother.", "markup"),
        ("Ich habe gestern meinen Job verloren.", "language"),
        ("J'ai perdu mes clefs hier soir.", "language"),
        ("I was so angry at my brother.", "names a feeling"),
        ("I am scared of the big dog.", "names a feeling"),
        ("I do not want to live any more.", "crisis"),
        ("I want to kill myself tonight.", "crisis"),
    ],
)
def test_a_line_that_is_not_what_was_asked_for(text: str, kind: str) -> None:
    with pytest.raises(Unfit) as unfit:
        check(text)
    assert unfit.value.kind == kind


@pytest.mark.parametrize("text", [*GOOD, "I lost my keys, and the box is empty.", "Did my café call you back?"])
def test_a_line_that_is_fine(text: str) -> None:
    check(text)


def test_a_model_that_fails_once_costs_one_request() -> None:
    refused: Counter[str] = Counter()
    found = write(Scripted(EngineFailed("out of memory"), line(GOOD[0]), EngineFailed("x"), line(GOOD[1])), 4, refused)
    assert [one.text for one in found] == list(GOOD[:2])
    assert refused == {"the model failed": 2}


def test_a_model_that_fails_again_and_again_ends_it() -> None:
    with pytest.raises(EngineFailed, match="gone"):
        write(Scripted(*[EngineFailed("gone")] * FAILURES), 50)
    with pytest.raises(EngineUnavailable):
        write(Scripted(EngineUnavailable("no key")), 50)


def test_cancelled() -> None:
    scope = CancelScope()
    items = written(PlanOptions(turns=3, seed=1, **ALONE), Scripted(line(GOOD[0])), cancel=scope)
    next(items)
    scope.cancel()
    with pytest.raises(Cancelled):
        next(items)


def test_every_prompt_file_is_used() -> None:
    assert {path.stem for path in PROMPTS.glob("*.txt")} == {"turn", "contrast", "talk", "rules", "again"}
