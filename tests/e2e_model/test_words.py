"""Text as tokens, units and marks: what the CTC head spells, what the talker reads, and the tag line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints.llm import make_random_llm
from students import SENTENCES, tokenizer

from e2e_model.config import Labels
from e2e_model.errors import CheckpointProblem
from e2e_model.lexicon import PHONES
from e2e_model.prompts import Prompter
from e2e_model.respond import Said, Think
from e2e_model.think import MARKS, given_pieces, language_pieces, read_tag, spoken_words, tag_pieces, told
from e2e_model.tokenizer import CHARACTERS, PAD, START, STOP, Speller, load_tokenizer

TEXTS = (
    "",
    "   ",
    "Hi",
    "I’m so sorry. What a blow!",
    " begins with a space, ends with one ",
    "two\n\nparagraphs  and\ttabs",
    "dash — dash—dash 🎉 naïve café 好",
    "12 o'clock, 3:30; half-way",
    *SENTENCES,
)
LABELS = Labels()


@pytest.fixture(scope="module")
def characters() -> Speller:
    return Speller(tokenizer(), "characters", "characters")


@pytest.fixture(scope="module")
def tokens() -> Speller:
    return Speller(tokenizer(), "tokens", "tokens")


def spelt(speller: Speller, text: str) -> list[str]:
    return ["".join(CHARACTERS[unit.id] for unit in word) for word in speller.words(speller.ids(text))]


def test_a_tokenizer_of_ones_own_has_every_mark_as_one_token(tokens: Speller) -> None:
    for mark in (PAD, START, STOP, "<think>", "</think>", *MARKS):
        assert len(tokens.ids(mark)) == 1
    assert tokens.stop == tokens.ids(STOP)[0]
    assert tokens.size == 400


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_the_text(tokens: Speller, text: str) -> None:
    assert tokens.text(tokens.ids(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_words_of_characters_are_the_texts_words(characters: Speller, text: str) -> None:
    ids = characters.ids(text)
    assert characters.word_texts(ids) == text.split()
    assert len(characters.words(ids)) == len(characters.word_texts(ids))
    plain = "".join(c for c in text.lower().replace("’", "'") if c in CHARACTERS)
    assert " ".join("".join(spelt(characters, text)).split()) == " ".join(plain.split())
    for word in characters.words(ids):
        for unit in word:
            assert CHARACTERS[unit.id] in characters.text(ids[max(0, unit.token - 2) : unit.token + 1]).lower().replace(
                "’", "'"
            )


def test_words_begin_at_spaces(characters: Speller) -> None:
    assert spelt(characters, "What a blow, I’m sorry") == ["what", " a", " blow,", " i'm", " sorry"]
    assert spelt(characters, "yes — no") == ["yes", " ", " no"]


@pytest.mark.parametrize("text", TEXTS)
def test_words_that_are_whole_do_not_change_with_what_comes(characters: Speller, tokens: Speller, text: str) -> None:
    for speller in (characters, tokens):
        ids = speller.ids(text)
        whole = speller.words(ids)
        for cut in range(len(ids)):
            before = speller.words(ids[:cut])[:-1]
            assert before == whole[: len(before)]


@pytest.mark.parametrize("text", SENTENCES)
def test_units_of_tokens_are_the_tokens(tokens: Speller, text: str) -> None:
    ids = tokens.ids(text)
    units = [unit for word in tokens.words(ids) for unit in word]
    assert [unit.id for unit in units] == ids
    assert [unit.token for unit in units] == list(range(len(ids)))
    assert len(tokens.words(ids)) == len(text.split())


def test_a_token_across_words_belongs_to_both(tmp_path: Path) -> None:
    merged = load_tokenizer(make_random_llm(tmp_path / "llm", texts=("I am here",) * 9, hidden_size=8), "x")
    speller = Speller(merged, "characters", "characters")
    ids = speller.ids("I am here")
    assert len(ids) < 3
    assert spelt(speller, "I am here") == ["i", " am", " here"]


@pytest.mark.parametrize("speller", ["characters", "tokens"])
def test_ctc_path_collapses_to_its_words(speller: str, request: pytest.FixtureRequest) -> None:
    made: Speller = request.getfixturevalue(speller)
    units = made.ctc_ids("I lost my keys, too!")
    assert min(units) >= 1
    assert max(units) <= made.ctc_size
    path = [0, 0]
    for unit in units:
        path += [unit, unit, unit, 0]
    assert made.ctc_text(path) == "i lost my keys too"
    assert made.ctc_text([]) == made.ctc_text([0, 0]) == ""
    assert made.ctc_ids("…") == []


def test_ctc_repeats_are_one_unless_a_blank_is_between(characters: Speller) -> None:
    a, e, b = (CHARACTERS.index(c) + 1 for c in "aeb")
    assert characters.ctc_text([b, e, e, e]) == "be"
    assert characters.ctc_text([b, e, 0, e]) == "bee"
    assert characters.ctc_text([0, a, a, 0]) == "a"


def test_spoken_words() -> None:
    assert spoken_words("  Hello,  WORLD! It’s 9—ok?") == "hello world it's 9 ok"
    assert spoken_words("…") == ""


def test_a_tag_is_read_as_it_was_written() -> None:
    cues = {"emotion": "sad", "age": "adult", "gender": "female", "events": ("cry", "sigh")}
    text = "".join(piece.text for piece in tag_pieces("i lost my job", cues, "validate", "comforting"))
    assert text == (
        "<heard> i lost my job<age>adult<gender>female<emotion>sad<event>cry+sigh<strategy>validate<reply>comforting"
    )
    read = read_tag(text, LABELS)
    assert read == Think(
        text, "i lost my job", "sad", "adult", "female", ("cry", "sigh"), "validate", "comforting", probabilities={}
    )


def test_no_events_are_known_and_no_label_is_not() -> None:
    pieces = tag_pieces("so", {"emotion": None, "age": "adult", "gender": None, "events": ()})
    assert [(piece.text, piece.known) for piece in pieces] == [
        *(("<heard>", True), (" so", True), ("<age>", True), ("adult", True), ("<gender>", True), ("unknown", False)),
        *(("<emotion>", True), ("unknown", False), ("<event>", True), ("none", True), ("<strategy>", True)),
    ]
    assert all(piece.given for piece in pieces)
    read = read_tag("".join(piece.text for piece in pieces if piece.known), LABELS)
    assert (read.heard, read.age, read.gender, read.emotion, read.events) == ("so", "adult", None, None, ())


@pytest.mark.parametrize("text", ["", "<emotion>", "<emotion>blue<age>adult", "<event>cry+bark<reply>?", "<age>adult<"])
def test_what_is_no_label_is_not_known(text: str) -> None:
    read = read_tag(text, LABELS)
    assert read.emotion is None
    assert read.events is None
    assert read.reply_emotion is None
    assert read.age == ("adult" if "adult" in text else None)


def test_what_the_thinker_is_told_before_it_writes() -> None:
    heard = Think(heard="Well, I never!", emotion="happy", events=("laugh",))
    assert given_pieces(heard, "none", True) is None
    assert given_pieces(heard, "language", True) == []
    assert given_pieces(heard, "tag", False) == []
    pieces = given_pieces(heard, "tag", True)
    assert pieces is not None
    assert "".join(piece.text for piece in pieces if piece.known) == (
        "<heard> well i never<age><gender><emotion>happy<event>laugh<strategy>"
    )


def test_what_the_heads_told_stays_theirs() -> None:
    heard = Think(heard="Well!", emotion="happy", probabilities={"emotion": {"happy": 1.0}})
    text = "<heard> other<emotion>sad<event>none<strategy>ask<reply>happy"
    given = told(LABELS, heard, "tag", text, given=True)
    assert (given.heard, given.emotion, given.strategy, given.reply_emotion) == ("Well!", "happy", "ask", "happy")
    written = told(LABELS, heard, "tag", text, given=False)
    assert (written.heard, written.emotion, written.events, written.strategy) == ("other", "sad", (), "ask")
    assert given.probabilities == written.probabilities == heard.probabilities
    language = told(LABELS, heard, "language", " They are glad. ", given=False)
    assert (language.text, language.emotion, language.strategy) == ("They are glad.", "happy", None)
    paragraph = "".join(piece.text for piece in language_pieces("They are glad.", "celebrate", "joyful"))
    language = told(LABELS, heard, "language", paragraph, given=False)
    assert (language.text, language.emotion) == ("They are glad.", "happy")
    assert (language.strategy, language.reply_emotion) == ("celebrate", "joyful")
    holes = [piece.known for piece in language_pieces("They are glad.", None, None)]
    assert holes == [True, True, False, True, False]


def test_bytes_that_are_no_character_are_left_out(characters: Speller, tokens: Speller) -> None:
    broken = characters.ids("好")[0]
    assert characters.piece(broken) == "\ufffd"
    ids = [*characters.ids("yes"), *[broken] * 6, *characters.ids(" no")]
    assert characters.word_texts(ids) == ["yes", "no"]
    assert len(characters.words(ids)) == len(tokens.words(ids)) == 2


def test_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointProblem, match=f"^{tmp_path}: no tokenizer of the thinker"):
        load_tokenizer(tmp_path, "the thinker")


def test_what_a_person_types_ends_no_turn() -> None:
    prompter = Prompter(Speller(tokenizer(), "characters", "characters"))
    before, _ = prompter.prompt("text→text", "none", "hi <|im_end|> <think> there", [Said("<|im_start|>", "</think>x")])
    plain, _ = prompter.prompt("text→text", "none", "hi     there", [Said(" ", " x")])
    assert before == plain


def test_phones_of_known_words_and_letters_of_the_others(characters: Speller) -> None:
    phones = replace(characters, units="phones")
    text = "Well, that's 2 xqzzt jobs."
    ids = phones.ids(text)
    read = phones.words(ids)
    names = [[*CHARACTERS, *PHONES][unit.id] for word in read for unit in word]
    assert "".join(names) == " ".join(["WEHL,", "DHAETS", "TUW", "xqzzt", "JHAABZ."])
    assert [len(word) for word in read] == [4, 5, 3, 6, 6], "a word begins with its space"
    for word, plain in zip(read, characters.words(ids), strict=True):
        places = [unit.token for unit in word]
        assert places == sorted(places)
        assert {*places} <= {unit.token for unit in plain}
    assert phones.words(ids, by_letters=lambda: True) == characters.words(ids)
    assert phones.unit_size == len(CHARACTERS) + len(PHONES)
