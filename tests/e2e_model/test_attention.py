"""Packed rows: each sample as if it were alone, on the CPU's way and the mask's; padded batches; heads that share keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from students import SENTENCES, SMALL_DECODER, nano, noise
from torch import Tensor, nn

from e2e_model import attention
from e2e_model.attention import block_mask, offsets_of, packed_attention, packed_kwargs
from e2e_model.features import log_mel
from e2e_model.model import SpeechLM
from e2e_model.rows import gathered, spoken, written
from e2e_model.sample import sample_replies
from e2e_model.talker import causal_model

LENGTHS = (3, 1, 7, 4)
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def lm() -> SpeechLM:
    return nano(seed=1, thinker={"model": {**SMALL_DECODER, "tie_word_embeddings": False}})


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Softmax attention as it is written down, [T, H, D] each; G of the keys' heads serve H / G queries' heads each."""
    groups = query.shape[1] // key.shape[1]
    out = torch.empty_like(query)
    for head in range(query.shape[1]):
        q, k, v = query[:, head], key[:, head // groups], value[:, head // groups]
        scores = q @ k.T / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        out[:, head] = scores.softmax(-1) @ v
    return out


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("way", ["samples", "mask"])
def test_each_sample_sees_itself_alone(causal: bool, way: str) -> None:
    total = sum(LENGTHS)
    query, key, value = drawn(1, 4, total, 8, seed=1), drawn(1, 2, total, 8, seed=2), drawn(1, 2, total, 8, seed=3)
    offsets = offsets_of(LENGTHS)
    assert offsets.tolist() == [0, 3, 4, 11, 15]
    if way == "samples":
        made, _ = packed_attention(nn.Identity(), query, key, value, None, is_causal=causal, cu_seq_lens_q=offsets)
    else:  # what a GPU computes
        mask = block_mask(offsets, causal)
        made, _ = packed_attention(nn.Identity(), query, key, value, mask)
    start = 0
    for length in LENGTHS:
        own = slice(start, start + length)
        q, k, v = (x[0, :, own].transpose(0, 1) for x in (query, key, value))
        alone = plain(q, k, v, causal)
        torch.testing.assert_close(made[0, own], alone, **CLOSE)
        start += length


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("groups", [4, 2])
def test_bfloat16_in_training_is_the_same_attention(causal: bool, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, n, 50, 16, generator=generator) for n in (4, groups, groups))
    offsets = offsets_of([20, 30])
    module = torch.nn.Module()
    exact, _ = packed_attention(module, query, key, value, None, is_causal=causal, cu_seq_lens_q=offsets)
    half = [x.bfloat16().requires_grad_() for x in (query, key, value)]
    made, _ = packed_attention(module, *half, None, is_causal=causal, cu_seq_lens_q=offsets)
    assert made.dtype == torch.bfloat16
    assert float((made.detach().float() - exact).abs().max()) < 0.05
    made.sum().backward()
    assert half[0].grad is not None


@pytest.mark.parametrize("causal", [True, False])
def test_the_mask_is_a_block_for_each_sample(causal: bool) -> None:
    mask = block_mask(offsets_of([2, 1]), causal)
    first = [[1, 0, 0], [1, 1, 0], [0, 0, 1]] if causal else [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert mask.int().tolist() == first


def test_with_a_cache_a_query_sees_all_up_to_its_own_place() -> None:
    query, key, value = drawn(1, 2, 6, 8, seed=1), drawn(1, 2, 6, 8, seed=2), drawn(1, 2, 6, 8, seed=3)
    whole, _ = packed_attention(nn.Identity(), query, key, value, None, is_causal=True)
    for old in (0, 3, 5):
        parts, _ = packed_attention(nn.Identity(), query[:, :, old:], key, value, None, is_causal=True)
        torch.testing.assert_close(parts, whole[:, old:], **CLOSE)


def packed_and_alone(model: Any, embeds: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """States of a row of samples [P, H], and of each alone."""
    places = [torch.arange(len(one)) for one in embeds]
    with torch.no_grad():
        row = model(
            inputs_embeds=torch.cat(embeds)[None],
            position_ids=torch.cat(places)[None],
            use_cache=False,
            **packed_kwargs([len(one) for one in embeds], "cpu"),
        ).last_hidden_state[0]
        alone = [
            model(inputs_embeds=one[None], position_ids=at[None], use_cache=False).last_hidden_state[0]
            for one, at in zip(embeds, places, strict=True)
        ]
    return row, alone


def test_packed_decoder_equals_each_sample_alone() -> None:
    torch.manual_seed(0)
    model = causal_model(SMALL_DECODER).eval()
    embeds = [drawn(length, 32, seed=length) for length in LENGTHS]
    row, alone = packed_and_alone(model, embeds)
    torch.testing.assert_close(row, torch.cat(alone), **CLOSE)
    model.set_attn_implementation("sdpa")  # transformers' own
    _, other = packed_and_alone(model, embeds)
    torch.testing.assert_close(torch.cat(other), torch.cat(alone), **CLOSE)


def test_the_way_of_a_gpu_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = causal_model(SMALL_DECODER).eval()
    embeds = [drawn(length, 32, seed=length) for length in LENGTHS]
    row, _ = packed_and_alone(model, embeds)
    masks = []

    def counted(offsets: Tensor, causal: bool) -> Tensor:
        masks.append(causal)
        return block_mask(offsets, causal)

    monkeypatch.setattr(attention, "block_mask", counted)
    monkeypatch.setattr(attention, "SAMPLE_BY_SAMPLE", ())
    other, _ = packed_and_alone(model, embeds)
    assert masks == [True] * len(model.layers)
    torch.testing.assert_close(other, row, **CLOSE)


# The student's own parts.


def mels(lm: SpeechLM, *seconds: float) -> list[Tensor]:
    found = [log_mel(noise(length, seed=k), mels=lm.config.mels) for k, length in enumerate(seconds)]
    return [torch.from_numpy(mel) for mel in found]


def test_packed_speech_equals_each_utterance_alone(lm: SpeechLM) -> None:
    speech = mels(lm, 0.5, 1.31, 0.07)
    starts = [0, 700, 3]
    with torch.no_grad():
        heard, ctc, cues, audio, lengths = lm.listen(speech, starts)
        first = audio_first = 0
        for k, mel in enumerate(speech):
            one, ctc_one, cues_one, audio_one, length_one = lm.listen([mel], starts[k : k + 1])
            size = heard.lengths[k]
            assert one.lengths == [size] == [lm.encoder.states_of(len(mel))]
            own = slice(first, first + size)
            torch.testing.assert_close(heard.states[own], one.states, **CLOSE)
            torch.testing.assert_close(heard.mixed[own], one.mixed, **CLOSE)
            torch.testing.assert_close(ctc[own], ctc_one, **CLOSE)
            for name in cues:
                torch.testing.assert_close(cues[name][k], cues_one[name][0], **CLOSE)
            assert lengths[k] == length_one[0] == lm.adapter.length(size)
            torch.testing.assert_close(audio[audio_first : audio_first + lengths[k]], audio_one, **CLOSE)
            first, audio_first = first + size, audio_first + lengths[k]
        elsewhere = lm.encoder(speech[:1], [5]).states
        assert (elsewhere - heard.states[: heard.lengths[0]]).abs().max() > 1e-3  # a place is heard


def test_packed_thinker_and_talker_equal_each_sample_alone(lm: SpeechLM) -> None:
    speech = mels(lm, 0.6, 0.9)
    rows = [
        lm.prompter.row("speech→speech", "none", speech=8, reply=SENTENCES[0]),
        lm.prompter.row("text→speech", "none", text="so", reply="Yes."),
        lm.prompter.row("speech→speech", "none", speech=12, reply=SENTENCES[1]),
    ]
    hears = [0, -1, 1]
    codes = [np.random.default_rng(k).integers(0, 64, (2, 20 + k)) for k in range(3)]
    replies = [row.ids[slice(*row.reply)] for row in rows]
    said = [
        spoken(lm.speller, reply, code, lm.config.talker, emotion=k, frame_rate=25.0)
        for k, (reply, code) in enumerate(zip(replies, codes, strict=True))
    ]
    on = torch.tensor([True, False, True])

    def forward(chosen: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        audio = lm.listen(speech)[3]
        made = gathered([rows[k] for k in chosen], [8, 12], [hears[k] for k in chosen], 5)
        states = lm.thinker_states(made, audio)
        vector = lm.feel(states, made, len(chosen))
        order = written([said[k] for k in chosen], made.reply_at, read=lm.talker.read, end=lm.talker.end)
        return states, vector, lm.talker_states(order, states, vector, on[chosen])

    with torch.no_grad():
        assert lm.listen(speech)[4] == [8, 12]
        together = forward([0, 1, 2])
        alone = [forward([k]) for k in range(3)]
        for part in range(3):
            torch.testing.assert_close(together[part], torch.cat([one[part] for one in alone]), **CLOSE)


def test_a_padded_batch_writes_what_each_row_writes_alone(lm: SpeechLM) -> None:
    speech = mels(lm, 0.6, 0.9)
    with torch.no_grad():
        audio = torch.split(lm.listen(speech)[3], [8, 12])
    rows = [
        lm.prompter.row("speech→text", "none", speech=8),
        lm.prompter.row("text→text", "none", text=SENTENCES[0]),
        lm.prompter.row("speech→text", "none", speech=12),
    ]
    heard = [audio[0], None, audio[1]]
    together = sample_replies(lm, rows, heard, most=12, temperature=0.0)
    alone = [
        sample_replies(lm, [row], [one], most=12, temperature=0.0)[0] for row, one in zip(rows, heard, strict=True)
    ]
    assert together == alone
    assert len({tuple(reply) for reply in together}) > 1
    assert max(map(len, together)) == 12


def test_samples_of_many_rows_reproduce_by_their_seed(lm: SpeechLM) -> None:
    rows = [lm.prompter.row("text→text", "none", text=text) for text in SENTENCES]

    def replies(seed: int) -> list[list[int]]:
        chance = torch.Generator().manual_seed(seed)
        return sample_replies(lm, rows, [None] * 3, most=8, temperature=1.0, generator=chance)

    assert replies(1) == replies(1)
    assert replies(1) != replies(2)


def test_a_row_that_stopped_stays_stopped(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [lm.prompter.row("text→text", "none", text=text) for text in ("a", "so it is")]
    said = iter([[50, 51], [lm.speller.stop, 52], [53, 54], [55, lm.speller.stop], [56, 57]])

    def logits(states: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.tensor(next(said)), lm.speller.size).float()

    monkeypatch.setattr(lm, "token_logits", logits)
    assert sample_replies(lm, rows, [None, None], most=9, temperature=0.0) == [[50], [51, 52, 54]]
    assert next(said) == [56, 57]  # and nothing was computed after the last stop
