"""Many replies at once: batched sampling by the thinker alone, padded on the left. For training on policy, and to measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from e2e_model.generate import thrice
from e2e_model.model import SpeechLM
from e2e_model.prompts import Row


@torch.no_grad()
def sample_replies(
    lm: SpeechLM,
    rows: Sequence[Row],
    audio: Sequence[Tensor | None],
    *,
    most: int,
    temperature: float,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Goes on from each row's last token until its stop, `most` tokens at most; the stop itself is left out.

    audio: the adapter's states [A, H] of each row's speech. temperature 0: the likeliest tokens.
    """
    from transformers import DynamicCache

    network = lm.thinker.base_model
    embeds = [embedded(lm, row, heard) for row, heard in zip(rows, audio, strict=True)]
    longest = max(len(one) for one in embeds)
    device = embeds[0].device
    padded = torch.stack([F.pad(one, (0, 0, longest - len(one), 0)) for one in embeds])  # [B, P, H]
    mask = torch.stack([F.pad(torch.ones(len(one)), (longest - len(one), 0)) for one in embeds]).long().to(device)
    places = torch.stack([F.pad(torch.tensor(row.places), (longest - len(row.places), 0)) for row in rows]).to(device)
    cache, replies = DynamicCache(config=network.config), [list[int]() for _ in rows]
    over = torch.zeros(len(rows), dtype=torch.bool)
    step: dict[str, Any] = {"inputs_embeds": padded, "position_ids": places}
    for _ in range(most):
        made = network(**step, attention_mask=mask, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        logits = lm.token_logits(made)
        for row, reply in zip(logits, replies, strict=True):
            row[list(thrice(reply))] = -torch.inf
        tokens = _chosen(logits, temperature, generator)
        over |= tokens.cpu() == lm.speller.stop
        for reply, token, ended in zip(replies, tokens.tolist(), over.tolist(), strict=True):
            if not ended:
                reply.append(token)
        if over.all():
            break
        places = places[:, -1:] + 1
        mask = F.pad(mask, (0, 1), value=1)
        step = {"inputs_embeds": lm.tokens(tokens)[:, None], "position_ids": places}
    return replies


def embedded(lm: SpeechLM, row: Row, audio: Tensor | None) -> Tensor:
    """[P, H]: tokens, with the speech in its place."""
    tokens: Tensor = lm.tokens(torch.tensor(row.ids, device=next(lm.parameters()).device))
    if audio is None or not row.speech:
        return tokens
    return torch.cat([tokens[: row.before], audio.to(tokens.dtype), tokens[row.before :]])


def _chosen(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """[B, V] → [B]."""
    if temperature <= 0:
        return logits.argmax(-1)
    shares = (logits.float() / temperature).softmax(-1)
    if generator is not None and generator.device != shares.device:
        return torch.multinomial(shares.cpu(), 1, generator=generator)[:, 0].to(shares.device)
    return torch.multinomial(shares, 1, generator=generator)[:, 0]
