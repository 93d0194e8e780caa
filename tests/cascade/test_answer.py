"""The form of a language model's answer: what is rendered is read back; what is not legal is refused with its reason."""

from __future__ import annotations

import random

import pytest

from cascade.reasoning.answer import Form, SentenceSplitter, Unfit, parse, render, spoken
from cascade.turn import AGES, EMOTIONS, EVENT_KINDS, GENDERS, REPLY_EMOTIONS, STRATEGIES, Thought

GOOD = "<heard>I lost my job.<age>adult<gender>female<emotion>sad<event>sigh+cry<strategy>reflect<reply>comforting"


def a_thought(draw: random.Random, form: Form) -> Thought:
    """Any thought that the form can hold, awkward words included."""
    said = draw.choice(
        ["", "I lost my job.", "a < b > c", "so <emotion>sad<reply>angry it said", "x\n<heard>y", "你好 🎉 </b>"]
    )
    events = draw.choice([None, (), tuple(draw.sample(EVENT_KINDS, draw.randint(1, 3)))])
    cues = {
        "emotion": draw.choice([None, *EMOTIONS]),
        "age": draw.choice([None, *AGES]),
        "gender": draw.choice([None, *GENDERS]),
        "events": events,
    }
    reasoning = (
        "" if form == "tag" else draw.choice(["Because 3 < 4.", "Two.\nLines of it.", 'They said "a > b", so I ask.'])
    )
    return Thought(
        heard=said,
        **(cues if form != "language" else {}),
        strategy=draw.choice(STRATEGIES),
        reply_emotion=draw.choice(REPLY_EMOTIONS),
        reasoning=reasoning,
    )


@pytest.mark.parametrize("form", ["tag", "language", "both"])
def test_what_is_rendered_is_read_back(form: Form) -> None:
    draw = random.Random(form)
    for _ in range(500):
        thought = a_thought(draw, form)
        assert parse(render(thought, form), form, thought.heard) == thought


def test_the_models_own_copy_of_the_words_is_not_used() -> None:
    assert parse(GOOD, "tag", "i lost my jog").heard == "i lost my jog"


def test_none_is_not_unknown() -> None:
    assert parse(GOOD.replace("sigh+cry", "none"), "tag", "").events == ()
    assert parse(GOOD.replace("sigh+cry", "unknown"), "tag", "").events is None


@pytest.mark.parametrize(
    ("form", "text", "reason"),
    [
        ("tag", "", "missing"),
        ("tag", "Because. " + GOOD, "more than the tag line"),
        ("both", GOOD, "paragraph"),
        ("both", "Because.", "<heard> is missing"),
        ("both", "Because <age>adult.\n" + GOOD, "twice"),
        ("both", f"Because.\n{GOOD}\n{GOOD}", "once, in this order"),
        ("tag", GOOD + " and more", "comforting and more"),
        ("tag", GOOD.replace("<age>adult", ""), "once, in this order"),
        ("tag", GOOD.replace("<age>adult<gender>female", "<gender>female<age>adult"), "once, in this order"),
        ("tag", GOOD.replace("<age>adult", "<age>adult<age>adult"), "once, in this order"),
        ("tag", GOOD.replace("adult", "grown"), "'grown' is not legal; legal: child, adult, elder, unknown"),
        ("tag", GOOD.replace("<emotion>sad", "<emotion>"), "'' is not legal"),
        ("tag", GOOD.replace("<emotion>sad", "<emotion>Sad"), "'Sad' is not legal"),
        ("tag", GOOD.replace("sigh+cry", "sigh+none"), "'none' is not legal"),
        ("tag", GOOD.replace("sigh+cry", "sigh,cry"), "'sigh,cry' is not legal"),
        ("tag", GOOD.replace("<strategy>reflect", "<strategy>unknown"), "'unknown' is not legal"),
        ("tag", GOOD.replace("comforting", "kind"), "'kind' is not legal"),
        ("language", "Because.", "<strategy> is missing"),
        ("language", "<strategy>ask<reply>happy", "paragraph"),
        ("language", "Because.\n<reply>happy<strategy>ask", "in this order|twice"),
    ],
)
def test_what_is_not_legal_is_refused_with_its_reason(form: Form, text: str, reason: str) -> None:
    with pytest.raises(Unfit, match=reason.replace("+", r"\+")) as refused:
        parse(text, form, "x")
    assert "\n" not in str(refused.value)


def split(text: str, size: int) -> tuple[list[str], str, bool]:
    splitter, whole = SentenceSplitter(), []
    for at in range(0, len(text), size):
        whole += splitter.add(text[at : at + size])
    rest, done = splitter.end()
    for sentence, end in whole:
        assert text[:end].rstrip().endswith(sentence)
    return [sentence for sentence, _ in whole], rest, done


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "sentences",
    [
        ["That is hard.", "What happened?"],
        ["Dr. Lee and Mrs. Fox said 3.5 is a lot, e.g. for you.", "I see!"],
        ["Well… maybe not.", "And then... you left?", "Oh."],
        ['She said "Really?" and left.', '"Go on."', "I am here."],
        ["It was J. K. who came at 5 p.m. and stayed.", "So it is I.", "Go on."],
        ["“No way!”", "(That is a lot.)", "What?!", "Yes."],
    ],
)
def test_sentences_are_cut_the_same_however_the_text_comes(sentences: list[str], size: int) -> None:
    whole, rest, done = split("\n\n" + " ".join(sentences), size)
    assert [*whole, rest] == sentences
    assert done


def test_a_sentence_is_given_out_before_the_next_is_written() -> None:
    splitter = SentenceSplitter()
    assert splitter.add("That is hard.") == []
    assert splitter.add(" W") == [("That is hard.", 14)]


@pytest.mark.parametrize("rest", ["And then", "What about Dr", "I paid 3,"])
def test_what_breaks_off_is_no_sentence(rest: str) -> None:
    assert split("That is hard. " + rest, 1)[1:] == (rest, False)


def test_a_lines_end_ends_a_sentence() -> None:
    assert split("Hello there\nHow are you?", 1) == (["Hello there"], "How are you?", True)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("**That** is _hard_.", "That is hard."),
        ("- One step.", "One step."),
        ("2. Then rest.", "Then rest."),
        ("So good! 🎉❤️", "So good!"),
        ("🎉", ""),
        ("...", ""),
        ("It’s £5 – naïve?", "It’s £5 – naïve?"),
    ],
)
def test_only_words_are_spoken(written: str, said: str) -> None:
    assert spoken(written) == said
