"""Prompts and rows: where everything stands, what counts, and holes that nothing can see."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from students import SENTENCES, nano
from torch import Tensor

from e2e_model.config import Config
from e2e_model.model import SpeechLM
from e2e_model.prompts import ALOUD, ANSWERING, ASKED, HEARING, SPEECH, TASKS, Row
from e2e_model.respond import Said
from e2e_model.rows import gathered, spoken, written
from e2e_model.think import HOLE, Piece, tag_pieces
from e2e_model.tokenizer import START, STOP

CUES = {"emotion": "sad", "age": "adult", "gender": "female", "events": ("cry",)}


@pytest.fixture(scope="module")
def lm() -> SpeechLM:
    return nano()


def logits(lm: SpeechLM, rows: Sequence[Row], audio: Tensor | None = None, speech_of: Sequence[int] = ()) -> Tensor:
    """[P, V] of rows one behind the other."""
    made = gathered(rows, [] if audio is None else [len(audio)], list(speech_of) or [-1] * len(rows), 5)
    with torch.no_grad():
        return lm.token_logits(lm.thinker_states(made, audio))


# Prompts.


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_its_words_and_its_place_for_speech(lm: SpeechLM, task: str) -> None:
    text = None if task in HEARING else "I lost my job."
    before, after = lm.prompter.prompt(task, "tag", text)
    shown = lm.speller.text(before), lm.speller.text(after)
    asked = ASKED[task] + (" Think in tags." if task in ANSWERING else "")
    assert shown[0].startswith(f"{START}system\n{asked}{STOP}")
    assert "".join(shown).endswith(f"{STOP}\n{START}assistant\n")
    assert SPEECH not in "".join(shown)
    if task in HEARING:
        assert shown[0].endswith(f"{START}user\n")
        assert shown[1].startswith(STOP)
    else:
        assert f"{START}user\n{text}{STOP}" in shown[0]
        assert after == []


def test_tasks_are_told_apart() -> None:
    assert len(set(ASKED.values())) == len(TASKS) == len(ASKED)
    assert {task for task in TASKS if task.endswith("→speech")} < set(ALOUD)


def test_think_is_asked_for_in_words(lm: SpeechLM) -> None:
    shown = {
        form: lm.speller.text(lm.prompter.prompt("text→text", form, "so")[0]) for form in ("tag", "language", "none")
    }
    assert "Think in tags." in shown["tag"]
    assert "Think in words." in shown["language"]
    assert "Think" not in shown["none"]


def test_earlier_turns_come_first_and_the_speech_last(lm: SpeechLM) -> None:
    history = [Said("one", "two"), Said("three " + SPEECH, "four")]
    before, after = lm.prompter.prompt("speech→speech", "none", None, history)
    shown = lm.speller.text(before)
    assert [shown.index(word) for word in ("one", "two", "three", "four")] == sorted(
        shown.index(word) for word in ("one", "two", "three", "four")
    )
    assert shown.count(f"{START}user\n") == 3
    assert shown.endswith(f"{START}user\n")
    assert lm.speller.text(after) == f"{STOP}\n{START}assistant\n"


def test_typed_text_cannot_stand_for_speech(lm: SpeechLM) -> None:
    before, after = lm.prompter.prompt("text→text", "none", f"a{SPEECH}b")
    assert "ab" in lm.speller.text(before)
    assert after == []


def test_an_emotion_to_say_it_in_is_told(lm: SpeechLM) -> None:
    assert "Sound sad." in lm.speller.text(lm.prompter.prompt("speak", "none", "so", emotion="sad")[0])
    assert "Sound" not in lm.speller.text(lm.prompter.prompt("text→speech", "none", "so", emotion="sad")[0])


# Rows.


def test_a_row_counts_its_reply_and_its_stop(lm: SpeechLM) -> None:
    row = lm.prompter.row("speech→text", "none", speech=7, reply=SENTENCES[0])
    first, end = row.reply
    assert lm.speller.text(row.ids[first:end]) == SENTENCES[0]
    assert row.ids[end:] == [lm.speller.stop]
    assert [k for k, counts in enumerate(row.counts) if counts] == list(range(first, end + 1))
    assert row.places == list(range(len(row.ids) + 7))
    unasked = lm.prompter.row("speech→text", "none", speech=7, reply=SENTENCES[0], asks_reply=False)
    assert unasked.ids == row.ids
    assert not any(unasked.counts)


def counted(lm: SpeechLM, row: Row) -> str:
    return lm.speller.text([token for token, counts in zip(row.ids, row.counts, strict=True) if counts])


def test_what_the_heads_can_tell_is_not_asked_for_when_given(lm: SpeechLM) -> None:
    pieces = tag_pieces("so", CUES, "ask", "sad")
    given = lm.prompter.row("speech→text", "tag", pieces=pieces, reply="Yes.", given=True)
    assert counted(lm, given) == "<strategy>ask<reply>sad</think>Yes.<|im_end|>"
    written_ = lm.prompter.row("speech→text", "tag", pieces=pieces, reply="Yes.")
    assert counted(lm, written_) == "".join(piece.text for piece in pieces) + "</think>Yes.<|im_end|>"
    assert given.ids == written_.ids


def test_a_prompt_to_go_on_from_has_no_end(lm: SpeechLM) -> None:
    row = lm.prompter.row("speech→text", "tag", speech=2, pieces=tag_pieces("so", CUES))
    assert lm.speller.text(row.ids).endswith("<strategy>")
    assert row.reply == (len(row.ids), len(row.ids))
    bare = lm.prompter.row("speech→text", "none", speech=2)
    assert lm.speller.text(bare.ids).endswith(f"{START}assistant\n")


@pytest.mark.parametrize("missing", ["emotion", "age", "gender", "events"])
def test_a_hole_and_what_follows_it_are_in_no_loss(lm: SpeechLM, missing: str) -> None:
    whole = lm.prompter.row("speech→text", "tag", pieces=tag_pieces("so", CUES, "ask", "sad"), reply="Yes.")
    row = lm.prompter.row(
        "speech→text", "tag", pieces=tag_pieces("so", {**CUES, missing: None}, "ask", "sad"), reply="Yes."
    )
    mark = {"events": "event"}.get(missing, missing)
    assert f"<{mark}><" in lm.speller.text(row.ids)  # its label is written nowhere
    hole = row.places[row.ids.index(lm.speller.ids(f"<{mark}>")[0]) + 1]
    after = row.places.index(hole)
    assert hole == row.places[after - 1] + 1 + len(lm.speller.ids(HOLE))
    # The mark after it would be told from the mark before it: as if a label could be left out.
    assert not row.counts[after]
    assert row.counts.count(True) == whole.counts.count(True) - len(lm.speller.ids(_label(missing))) - 1


def _label(cue: str) -> str:
    value = CUES[cue]
    return value if isinstance(value, str) else "+".join(value)


def test_holes_next_to_each_other_are_one(lm: SpeechLM) -> None:
    pieces = [Piece("a"), Piece(HOLE, False), Piece(HOLE, False), Piece("b")]
    row = lm.prompter.row("text→text", "tag", text="so", pieces=pieces, reply="Yes.")
    at = row.ids.index(lm.speller.ids("b")[0], row.before)
    assert row.places[at] - row.places[at - 1] == 1 + 2 * len(lm.speller.ids(HOLE))
    assert not row.counts[at]


def test_a_think_without_a_decision_does_not_teach_to_close_it(lm: SpeechLM) -> None:
    row = lm.prompter.row("speech→text", "tag", pieces=tag_pieces("so", CUES), reply="Yes.")
    assert counted(lm, row).endswith("<strategy>Yes.<|im_end|>")


def masked_logits(lm: SpeechLM, row: Row, hidden: Sequence[int]) -> Tensor:
    """[T, V] of a row of tokens by transformers' own attention, with a mask [T, T] that hides some of the keys."""
    thinker = copy.deepcopy(lm.thinker)
    thinker.set_attn_implementation("sdpa")
    mask = torch.ones(len(row.ids), len(row.ids), dtype=torch.bool).tril()
    mask[:, list(hidden)] = False
    mask.fill_diagonal_(True)
    with torch.no_grad():
        return thinker(  # type: ignore[no-any-return]
            input_ids=torch.tensor([row.ids]),
            position_ids=torch.arange(len(row.ids))[None],
            attention_mask=mask[None, None],
            use_cache=False,
        ).logits[0]


@pytest.mark.parametrize("missing", ["emotion", "events", "all"])
def test_a_hole_is_a_placeholder_that_nothing_attends_to(lm: SpeechLM, missing: str) -> None:
    cues: dict[str, Any] = {name: None if missing in (name, "all") else value for name, value in CUES.items()}
    pieces = tag_pieces("so", cues, "ask", None)
    shown = [replace(piece, known=True) for piece in pieces]
    row = lm.prompter.row("text→text", "tag", text="so", pieces=pieces, reply="Yes, I see.")
    full = lm.prompter.row("text→text", "tag", text="so", pieces=shown, reply="Yes, I see.")
    hidden = sorted(set(range(len(full.ids))) - set(row.places))
    assert len(hidden) == len(lm.speller.ids(HOLE)) * sum(not piece.known for piece in pieces)
    assert [full.ids[place] for place in row.places] == row.ids
    wanted = masked_logits(lm, full, hidden)
    torch.testing.assert_close(logits(lm, [row]), wanted[row.places], atol=1e-5, rtol=1e-5)
    seen = masked_logits(lm, full, [])[row.places]
    assert (seen - wanted[row.places]).abs().max() > 1e-3  # unhidden, it would be seen


# Rows one behind the other.


def test_rows_lie_one_behind_the_other(lm: SpeechLM) -> None:
    rows = [
        lm.prompter.row(
            "speech→text", "tag", speech=3, pieces=tag_pieces("so", CUES, "ask", "sad"), reply=SENTENCES[0]
        ),
        lm.prompter.row("text→text", "none", text="so", reply="Yes"),
        lm.prompter.row("asr", "none", speech=2, reply="so it is"),
        lm.prompter.row("emotion", "none", speech=3, reply="<emotion>sad"),
    ]
    made = gathered(rows, [3, 2], [0, -1, 1, 0], 5)
    assert made.lengths == [len(row.places) for row in rows]
    assert sorted([*made.token_at.tolist(), *made.speech_at.tolist()]) == list(range(sum(made.lengths)))
    assert made.speech_from.tolist() == [
        0,
        1,
        2,
        3,
        4,
        0,
        1,
        2,
    ]  # the third hears the second utterance, the last the first
    ids = dict(zip(made.token_at.tolist(), made.ids.tolist(), strict=True))
    assert [ids[place + 1] for place in made.ask_at.tolist()] == made.asked.tolist()
    firsts = np.cumsum([0, *made.lengths])
    for sample, row in enumerate(rows):
        first, end = row.reply
        assert [ids[place] for place in made.reply_at[sample]] == row.ids[first:end]
        felt = made.vector_at[made.vector_sample == sample].tolist()
        assert felt == made.reply_at[sample][:5]
        own = made.positions[firsts[sample] : firsts[sample + 1]].tolist()
        assert own == row.places
    assert made.speech_at.tolist()[:3] == [rows[0].before + k for k in range(3)]


def test_the_emotion_head_takes_the_mean_of_the_first_answer_states(lm: SpeechLM) -> None:
    rows = [lm.prompter.row("text→text", "none", text="so", reply=reply) for reply in (SENTENCES[0], "Hi")]
    made = gathered(rows, [], [-1, -1], 5)
    with torch.no_grad():
        states = lm.thinker_states(made, None)
        felt = lm.feel(states, made, 2)
        for sample in range(2):
            mean = states[made.reply_at[sample][:5]].mean(0)
            torch.testing.assert_close(felt[sample], lm.vector(mean), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("order", ["words", "ratio", "units"])
def test_what_the_talker_reads_and_writes(lm: SpeechLM, order: str) -> None:
    how = Config.flavoured("nano").with_(talker={"order": order}).talker
    draw = np.random.default_rng(0)
    replies = [lm.speller.ids(text) for text in (SENTENCES[1], "Yes.")]
    codes = [draw.integers(0, 64, (2, count)) for count in (40, 6)]
    said = [
        spoken(lm.speller, reply, code, how, emotion=k, frame_rate=25.0)
        for k, (reply, code) in enumerate(zip(replies, codes, strict=True))
    ]
    places = [[100 + k for k in range(len(replies[0]))], [500 + k for k in range(len(replies[1]))]]
    made = written(said, places, read=64, end=65)
    everything = torch.cat([made.begin_at, made.unit_at, made.frame_at, made.read_at]).tolist()
    assert sorted(everything) == list(range(sum(made.lengths)))
    assert made.begin_at.tolist() == [0, made.lengths[0]]
    assert made.emotion.tolist() == [0, 1]
    assert made.frames.T.tolist() == np.concatenate(codes, 1).tolist()
    assert made.frame_from.tolist() == [place - 1 for place in made.frame_at.tolist()]
    units = [unit for reply in replies for word in lm.speller.words(reply) for unit in word]
    assert made.units.tolist() == [unit.id for unit in units]
    owners = made.unit_sample.tolist()
    assert made.unit_state.tolist() == [places[k][unit.token] for k, unit in zip(owners, units, strict=True)]
    # Every frame and READ is asked for at the place before it, and each sample's END at its last place.
    asked = dict(zip(made.ask_at.tolist(), made.asked.tolist(), strict=True))
    for place, frame in zip(made.frame_at.tolist(), made.frames[:, 0].tolist(), strict=True):
        assert asked.pop(place - 1) == frame
    firsts = np.cumsum([0, *made.lengths]) + 1
    reads = made.read_at if order != "units" else [place for place in made.unit_at.tolist() if place not in firsts]
    for place in list(reads):
        assert asked.pop(int(place) - 1) == 64
    before = [max(place for place in made.unit_at.tolist() if place < frame) for frame in made.frame_at.tolist()]
    assert made.unit_at[made.frame_unit].tolist() == before
    assert asked == {made.lengths[0] - 1: 65, sum(made.lengths) - 1: 65}


def test_units_are_spoken_where_their_words_are(lm: SpeechLM) -> None:
    timed = [("yes", 0.0, 0.4), ("I", 0.4, 0.5), ("see", 0.5, 1.0)]
    how = Config.flavoured("nano").talker
    reply = lm.speller.ids("Yes, I see.")
    said = spoken(lm.speller, reply, np.zeros((1, 25)), how, emotion=0, timed=timed, frame_rate=25.0)
    assert [index for kind, index in said.steps if kind == "frame"] == list(range(25))
    spelt, counts = [len(word) for word in lm.speller.words(reply)], [0] * len(said.units)
    at = -1
    for kind, index in said.steps:
        at = index if kind in ("unit", "next") else at
        counts[at] += kind == "frame"
    edges = np.cumsum([0, *spelt])
    assert [sum(counts[a:b]) for a, b in itertools.pairwise(edges)] == [10, 2, 13]
    comma, sound = counts[spelt[0] - 1], counts[: spelt[0] - 1]
    assert comma > max(sound)  # a pause is longer than a phone
    unread = spoken(lm.speller, lm.speller.ids("好 yes 好"), np.zeros((1, 25)), how, emotion=0, frame_rate=25.0)
    assert [index for kind, index in unread.steps if kind == "frame"] == list(range(25))


def test_words_are_spoken_at_their_times(lm: SpeechLM) -> None:
    timed = [("yes", 0.0, 0.4), ("I", 0.4, 0.5), ("see", 0.5, 1.0)]
    how = Config.flavoured("nano").with_(talker={"order": "words", "ahead": 0}).talker
    said = spoken(
        lm.speller, lm.speller.ids("Yes, I see."), np.zeros((1, 25)), how, emotion=0, timed=timed, frame_rate=25.0
    )
    frames_before_reads, count = [], 0
    for kind, _ in said.steps:
        count += kind == "frame"
        if kind == "read":
            frames_before_reads.append(count)
    assert frames_before_reads == [10, 12]


def test_a_row_moves_as_one(lm: SpeechLM) -> None:
    made = gathered([lm.prompter.row("text→text", "none", text="so", reply="Yes")], [], [-1], 5)
    moved = made.to("meta")
    assert moved.ids.device.type == "meta"
    assert moved.lengths == made.lengths
