"""Answers step by step: cached as uncached, streamed as whole, the same by seed, stopped within a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from answers import LIVELY, RATE, SPEECH, Choices, answered, joined, limited, lively, scripted, text_of, watched
from students import SENTENCES, SMALL_DECODER, base, nano
from torch import Tensor

from e2e_model import at_work
from e2e_model.answer import hear
from e2e_model.generate import thrice
from e2e_model.interleave import Step, by_ratio, by_units, by_words
from e2e_model.model import SpeechLM
from e2e_model.prompts import Row
from e2e_model.respond import Audio, End, Event, Text, Think
from e2e_model.rows import Spoken, gathered, written
from e2e_model.sample import sample_replies
from e2e_model.think import CLOSE, given_pieces


@pytest.fixture(scope="module")
def small() -> SpeechLM:
    return lively(nano(thinker={"model": {**SMALL_DECODER, "tie_word_embeddings": False}}))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> SpeechLM:
    return lively(base(tmp_path_factory.mktemp("base")))


@pytest.fixture(params=["small", "grown"])
def lm(request: pytest.FixtureRequest) -> SpeechLM:
    made: SpeechLM = request.getfixturevalue(request.param)
    return made


# Cached as uncached.


def prompt_row(lm: SpeechLM, form: Any = "tag") -> tuple[Row, Tensor | None]:
    with torch.no_grad():
        think, audio = hear(lm, SPEECH)
    assert audio is not None
    return lm.prompter.row("speech→speech", form, speech=len(audio), pieces=given_pieces(think, form, True)), audio


def with_tokens(row: Row, tokens: list[int]) -> Row:
    places = [row.places[-1] + 1 + k for k in range(len(tokens))]
    counts = row.counts + [False] * len(tokens)
    ids = row.ids + tokens
    return dataclasses.replace(row, ids=ids, places=row.places + places, counts=counts, reply=(len(ids), len(ids)))


def states_of(lm: SpeechLM, row: Row, audio: Tensor | None) -> Tensor:
    """Without a cache: [P, H]."""
    with torch.no_grad():
        length = 0 if audio is None else len(audio)
        return lm.thinker_states(gathered([row], [length] if length else [], [0 if length else -1], 5), audio)


@pytest.mark.parametrize("greedy", [True, False])
def test_cached_thinker_writes_what_the_whole_row_would(
    lm: SpeechLM, greedy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not greedy:  # labels that it cannot tell leave holes in its prompt
        monkeypatch.setattr(lm, "config", lm.config.with_(told=("emotion",)))
    choices = watched(monkeypatch, lm)
    answered(lm, task="speech→speech", seed=3, **({} if greedy else LIVELY))
    row, audio = prompt_row(lm)
    think = lm.config.limits.think_tokens
    close = lm.speller.ids(CLOSE)
    written_: list[int] = []
    assert len(choices.thinker) == think + lm.config.limits.reply_tokens + 1
    for step, (logits, token) in enumerate(choices.thinker):
        if step == think:
            written_ += close
        with torch.no_grad():
            whole = lm.token_logits(states_of(lm, with_tokens(row, written_), audio)[-1:])[0]
        legal = logits > -torch.inf  # not in a circle
        assert int(legal.sum()) >= len(logits) - 3
        torch.testing.assert_close(logits[legal], whole[legal], atol=1e-4, rtol=0)
        assert not greedy or token == int(logits.argmax())
        written_.append(token)


def test_a_reply_does_not_turn_in_a_circle(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert thrice([1, 2, 3, 4, 9, 1, 2, 3, 4, 9, 1, 2, 3]) == {4}
    assert thrice([1, 2, 3, 4, 9, 1, 2, 3]) == set(), "twice is no circle"
    assert thrice([7, 7, 7, 7, 7]) == {7}
    assert thrice([7, 7]) == set()
    limited(small, monkeypatch, reply_tokens=60)
    kept, stuck = small.token_logits, small.speller.ids("a")[0]
    monkeypatch.setattr(small, "token_logits", lambda states: kept(states).index_fill(-1, torch.tensor([stuck]), 99.0))
    choices = watched(monkeypatch, small)
    answered(small, task="text→text", think="none")
    tokens = [token for _, token in choices.thinker]
    assert tokens[:5] == [stuck] * 5
    assert tokens[5] != stuck


def order_of(lm: SpeechLM, choices: Choices, reply: list[int]) -> tuple[list[Step], np.ndarray[Any, Any], list[Any]]:
    """The order in which the talker worked, its codes [K, F], and the units it read."""
    talker, books = lm.talker, lm.talker.codebooks - 1
    codes = [token for _, token in choices.talker if token < talker.codebook_size]
    rest = np.array([token for _, token in choices.depth], dtype=np.int64).reshape(len(codes), books)
    words = lm.speller.words(reply)
    units = [unit for word in words for unit in word]
    how = lm.config.talker
    if how.order == "ratio":
        steps = by_ratio(len(units), len(codes), how.read, how.write)
    else:
        frames, count = [], 0
        for _, token in choices.talker:
            count += token < talker.codebook_size
            if token == talker.read:
                frames.append(count)
                count = 0
        spoken_of = words if how.order == "words" else units
        frames = [*frames, count] + [0] * (len(spoken_of) - len(frames) - 1)
        if how.order == "units":
            return by_units(frames), np.concatenate([np.array(codes)[:, None], rest], 1).T, units
        steps = by_words([len(word) for word in words], frames, how.ahead)
    return steps, np.concatenate([np.array(codes)[:, None], rest], 1).T, units


def check_talker(lm: SpeechLM, choices: Choices, reply_row: Row, audio: Tensor | None, emotion: int) -> None:
    """What the talker was given and wrote, as one row as training has it: the same logits."""
    first, end = reply_row.reply
    steps, codes, units = order_of(lm, choices, reply_row.ids[first:end])
    made = gathered([reply_row], [len(audio)] if audio is not None else [], [0 if audio is not None else -1], 5)
    order = written([Spoken(units, codes, steps, emotion)], made.reply_at, read=lm.talker.read, end=lm.talker.end)
    with torch.no_grad():
        states = lm.thinker_states(made, audio)
        hidden = lm.talker_states(order, states, lm.feel(states, made, 1), torch.tensor([True]))
        blind, on = dataclasses.replace(order, state_seen=order.state_seen * 0), torch.tensor([True])
        felt = lm.feel(states, made, 1)
        assert torch.equal(lm.talker_states(blind, states, felt, on), lm.talker_states(blind, states + 1, felt, on))
        logits = lm.talker.logits(hidden[order.ask_at])
        taken = [token for _, token in choices.talker]
        assert order.asked.tolist()[: len(taken)] == taken
        for (seen, _), whole in zip(choices.talker, logits, strict=False):
            legal = seen > -torch.inf
            assert int(legal.sum()) >= lm.talker.codebook_size
            torch.testing.assert_close(seen[legal], whole[legal], atol=1e-4, rtol=0)
        if lm.talker.depth is not None:
            frames = order.frames
            books = lm.talker.depth.logits(hidden[order.frame_from], lm.talker.codes(frames[:, 0]), frames[:, 1:])
            seen = torch.stack([one for one, _ in choices.depth]).reshape(len(frames), len(books), -1)
            torch.testing.assert_close(seen, torch.stack(books, 1), atol=1e-4, rtol=0)


def eager(monkeypatch: pytest.MonkeyPatch, lm: SpeechLM) -> None:
    """A talker that has learnt nothing dwells on each unit; this one asks for more, so that it comes to the end."""
    kept = lm.talker.logits
    more = torch.zeros(lm.talker.codebook_size + 2)
    more[[lm.talker.read, lm.talker.end]] = 4.0 if lm.config.talker.order == "units" else 0.0
    monkeypatch.setattr(lm.talker, "logits", lambda hidden: kept(hidden) + more)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cached_talker_speaks_what_training_would_have_asked_for(
    lm: SpeechLM, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(lm, monkeypatch, speech_s=20.0)
    eager(monkeypatch, lm)
    choices = watched(monkeypatch, lm)
    events = answered(lm, think="none", seed=seed, **LIVELY)
    assert len(choices.thinker) == lm.config.limits.reply_tokens + 1
    reply = [token for _, token in choices.thinker[:-1]]
    row, audio = prompt_row(lm, "none")
    row = with_tokens(row, reply)
    row = dataclasses.replace(row, reply=(len(row.ids) - len(reply), len(row.ids)))
    check_talker(lm, choices, row, audio, len(lm.config.labels.reply_emotion))
    taken = [token for _, token in choices.talker]
    assert taken[-1] == lm.talker.end
    assert events[-1] == End("length", text_of(events), {"thinker": len(choices.thinker), "talker": len(taken)})
    if lm.config.talker.order == "words":
        assert taken.count(lm.talker.read) == len(lm.speller.words(reply)) - lm.config.talker.ahead - 1 > 0
    elif lm.config.talker.order == "units":
        assert taken.count(lm.talker.read) == sum(map(len, lm.speller.words(reply))) - 1 > 0


def test_spoken_words_are_those_given(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(lm, monkeypatch, speech_s=20.0)
    eager(monkeypatch, lm)
    choices = watched(monkeypatch, lm)
    events = list(lm.speak(SENTENCES[1], "sad", speech_temperature=1.0))
    assert choices.thinker == []
    assert events[-1] == End("end", SENTENCES[1], {"talker": len(choices.talker)})
    assert all(isinstance(event, Audio) for event in events[:-1])
    row = lm.prompter.row("speak", "none", text=SENTENCES[1], reply=SENTENCES[1], emotion="sad")
    check_talker(lm, choices, row, None, lm.config.labels.reply_emotion.index("sad"))


def test_batched_sampling_writes_the_same_reply(lm: SpeechLM) -> None:
    events = answered(lm, task="speech→text", think="none")
    with torch.no_grad():
        _, audio = hear(lm, SPEECH)
    assert audio is not None
    row = lm.prompter.row("speech→text", "none", speech=len(audio))
    (reply,) = sample_replies(lm, [row], [audio], most=lm.config.limits.reply_tokens, temperature=0.0)
    assert len(reply) == lm.config.limits.reply_tokens
    assert lm.speller.text(reply).rstrip("\ufffd") == text_of(events)


# Streamed as whole.


def expected_of(lm: SpeechLM, choices: Choices) -> Tensor:
    """[F, K · places] of a codec whose codes have levels: where their means by the talker's shares lie in what it decodes."""
    size, codec = lm.talker.codebook_size, lm.codec
    first = [logits[:size] for logits, token in choices.talker if token < size]
    of_frames = torch.stack(
        [torch.stack(first), torch.stack([logits for logits, _ in choices.depth])], 1
    )  # [F, K, codes]
    values = codec.quantizer.values(torch.arange(size).expand(1, codec.codebooks, -1))[0]  # type: ignore[operator]
    each = values.reshape(size, codec.codebooks, -1)  # [codes, K, places]
    return torch.einsum("fkc,ckp->fkp", of_frames.softmax(-1), each).flatten(1)


def test_streamed_speech_is_the_whole_speech(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = watched(monkeypatch, lm)
    events = answered(lm, **LIVELY)
    _, codes, _ = order_of(lm, choices, [])
    with torch.no_grad():
        whole = (
            lm.codec.decode(torch.from_numpy(codes)[None])
            if lm.talker.codes.levels is None
            else lm.codec.decoder(expected_of(lm, choices)[None])  # type: ignore[operator]
        )[0].numpy()
    assert codes.shape[1] > 24
    np.testing.assert_allclose(joined(events), whole, atol=1e-4)
    assert {event.sample_rate for event in events if isinstance(event, Audio)} == {lm.codec.sample_rate}
    assert {event.samples.dtype for event in events if isinstance(event, Audio)} == {np.dtype(np.float32)}


def test_size_of_chunks_changes_nothing_but_the_chunks(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(lm, monkeypatch, think_tokens=2, speech_s=2.5)
    answers = {chunk: answered(lm, chunk=chunk, **LIVELY) for chunk in (1, 5, 12)}
    pieces = {chunk: sum(isinstance(event, Audio) for event in events) for chunk, events in answers.items()}
    assert pieces[1] > pieces[5] > pieces[12]
    for events in (answers[1], answers[5]):
        np.testing.assert_allclose(joined(events), joined(answers[12]), atol=1e-4)
        assert [event for event in events if not isinstance(event, Audio)] == [
            event for event in answers[12] if not isinstance(event, Audio)
        ]


def test_speech_begins_before_the_text_is_over(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(lm, monkeypatch, reply_tokens=99, speech_s=20.0)
    eager(monkeypatch, lm)
    reply = " ".join(SENTENCES[:2])
    scripted(monkeypatch, lm, "ask<reply>sad", CLOSE, reply)
    events = answered(lm, chunk=2)
    kinds = [type(event) for event in events]
    assert kinds[0] is Think
    assert kinds[-1] is End
    assert len(kinds) - 1 - kinds[::-1].index(Text) > kinds.index(Audio)
    assert kinds.index(Text) < kinds.index(Audio)
    end = events[-1]
    assert isinstance(end, End)
    assert (end.reason, end.text) == ("end", reply)
    assert text_of(events) == reply


def test_text_leaves_in_whole_characters(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = "Naïve – it’s 好 🎉"
    scripted(monkeypatch, small, reply)
    events = answered(small, task="speech→text", think="none")
    assert text_of(events) == reply
    assert not any("\ufffd" in event.text for event in events if isinstance(event, Text | End))
    limited(small, monkeypatch, reply_tokens=len(small.speller.ids(reply)) - 1)
    scripted(monkeypatch, small, reply)
    events = answered(small, task="speech→text", think="none")
    assert text_of(events) == reply[:-1]
    assert events[-1] == End("length", reply[:-1], {"thinker": len(small.speller.ids(reply)), "talker": 0})


# What is not believed.


def test_it_is_as_sure_as_its_states_are(small: SpeechLM) -> None:
    units = small.speller.ctc_size + 1
    blank, one, other = torch.full((3, units), -50.0)
    blank[0] = one[1] = other[2] = 50.0
    between = torch.full((units,), -50.0)
    between[1:5] = 50.0
    assert small.sureness(torch.stack([blank, one, other])) == pytest.approx(1.0)
    assert small.sureness(torch.stack([blank, between, blank])) == pytest.approx(1 / 4), "one of four units"
    assert small.sureness(torch.stack([between, one])) == pytest.approx(1 / 2)
    assert small.sureness(torch.stack([blank, blank])) == 0.0


@pytest.mark.parametrize("believed", [True, False])
def test_it_asks_again_where_it_is_not_sure_enough_and_is_told_no_emotion(
    lm: SpeechLM, believed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    think, _ = hear(lm, SPEECH)
    assert think.sure is not None
    monkeypatch.setattr(lm, "least_sure", think.sure - 0.01 if believed else think.sure + 0.01)
    events = answered(lm, task="speech→text")
    assert isinstance(events[0], Think)
    assert events[0].sure == think.sure
    assert ("<strategy>clarify" in events[0].text) is not believed
    assert think.emotion is not None
    assert (f"<emotion>{think.emotion}" in events[0].text) is believed, "nothing of an emotion that it may mistake, too"
    assert events[0].emotion == think.emotion, "what the ears told is there to be looked at"


# The same by seed; nothing outside of it.


def plain(events: list[Event]) -> list[Any]:
    return [event.samples.tolist() if isinstance(event, Audio) else event for event in events]


def test_seeds_reproduce(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(lm, monkeypatch, think_tokens=2, speech_s=1.0)
    torch.manual_seed(1)
    first = plain(answered(lm, seed=1, **LIVELY))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert plain(answered(lm, seed=1, **LIVELY)) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert plain(answered(lm, seed=2, **LIVELY)) != first


@pytest.mark.parametrize(
    "make", [lambda lm: lm.respond(SPEECH, RATE), lambda lm: lm.speak(SENTENCES[0], "sad", chunk=1)]
)
def test_between_events_torch_is_as_it_was(small: SpeechLM, make: Callable[[SpeechLM], Any]) -> None:
    count = 0
    for _ in make(small):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        count += 1
    assert count > 1
    left = make(small)
    next(left)
    left.close()
    assert not torch.is_inference_mode_enabled()


# Stopped.


@pytest.mark.parametrize("name", ["small", "grown"])
def test_it_stops_before_the_next_step_wherever_it_is(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm: SpeechLM = request.getfixturevalue(name)
    limited(lm, monkeypatch, think_tokens=6, speech_s=1.0, reply_tokens=12)
    whole = watched(monkeypatch, lm)
    answered(lm, **LIVELY)
    total, books = len(whole), lm.talker.codebooks
    monkeypatch.undo()
    limited(lm, monkeypatch, think_tokens=6, speech_s=1.0, reply_tokens=12)
    for until in [0, 1, *range(5, total - books, 11), total - books]:
        choices = watched(monkeypatch, lm)
        events = answered(lm, stop=lambda choices=choices, until=until: len(choices) >= until, **LIVELY)
        end = events[-1]
        assert isinstance(end, End)
        assert end.reason == "stopped"
        assert until <= len(choices) < until + books  # a frame is one step, with all of its codebooks
        assert end.steps == {"thinker": len(choices.thinker), "talker": len(choices.talker)}
        assert end.text.startswith(text_of(events))
        assert any(isinstance(event, Think) for event in events) == (
            len(choices.thinker) >= lm.config.limits.think_tokens
        )
        monkeypatch.undo()
        limited(lm, monkeypatch, think_tokens=6, speech_s=1.0, reply_tokens=12)


def test_stop_is_asked_before_anything_is_computed(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed after the stop")

    for part in (small.encoder, small.thinker.base_model, small.talker.decoder):
        monkeypatch.setattr(part, "forward", never)
    assert answered(small, stop=lambda: True) == [End("stopped", "", {"thinker": 0, "talker": 0})]
    assert list(small.speak("so", "sad", stop=lambda: True)) == [End("stopped", "so", {"talker": 0})]


def test_speaking_stops_too(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = watched(monkeypatch, lm)
    events = list(lm.speak(SENTENCES[0], None, stop=lambda: len(choices.talker) >= 3, speech_temperature=1.0))
    assert events[-1] == End("stopped", SENTENCES[0], {"talker": 3})
    assert len(choices.talker) == 3


def test_a_low_temperature_hurries_no_speech(small: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a chance to go on in every frame: half of all units last seven frames or more, though going on is likelier than
    any one code."""
    talker = small.talker
    going = torch.log(torch.tensor(0.1 / 0.9 * talker.codebook_size))
    logits = torch.zeros(talker.codebook_size + 2)
    logits[talker.read], logits[talker.end] = going, -torch.inf
    counts = {}
    for temperature in (0.0, 1.0):
        speaking = at_work.Speaking(
            small, at_work.Manner(speech_temperature=temperature), torch.Generator().manual_seed(1), None
        )
        taken = [speaking.chosen(logits.clone()) for _ in range(4000)]
        reads = [k for k, code in enumerate(taken) if code == talker.read]
        counts[temperature] = np.diff(reads)
    assert set(counts[0.0].tolist()) == {7}  # 0.9 ** 7 < 0.5
    assert counts[1.0].mean() == pytest.approx(10.0, rel=0.15)  # as the shares say
