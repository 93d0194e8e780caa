"""Going on from a prompt, token by token: keys and values that are kept, and one token out of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from e2e_model.model import SpeechLM
from e2e_model.prompts import Row

CIRCLE = 4  # tokens


class Cached:
    """A causal network with its keys and values, one row."""

    def __init__(self, network: Any) -> None:
        from transformers import DynamicCache

        self.network, self.cache, self.at = network, DynamicCache(config=network.config), 0

    def push(self, embeds: Tensor, places: Sequence[int] | None = None) -> Tensor:
        """embeds [T, H] → states [T, H]."""
        places = places or range(self.at, self.at + len(embeds))
        made = self.network(
            inputs_embeds=embeds[None],
            position_ids=torch.tensor([list(places)], device=embeds.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.at = places[-1] + 1
        states: Tensor = made.last_hidden_state[0]
        return states


def sampled(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """One of [V]."""
    if temperature <= 0:
        return int(logits.argmax())
    shares = (logits.float() / temperature).softmax(-1).cpu()
    return int(torch.multinomial(shares, 1, generator=generator))


def prefill(lm: SpeechLM, row: Row, audio: Tensor | None) -> tuple[Tensor, Cached]:
    """States of the row's tokens [T, H] (the last one's is where writing goes on), and the cache behind them."""
    embeds = lm.tokens(torch.tensor(row.ids, device=device_of(lm)))
    if audio is not None:
        embeds = torch.cat([embeds[: row.before], audio.to(embeds.dtype), embeds[row.before :]])
    cached = Cached(lm.thinker.base_model)
    states = cached.push(embeds, row.places)
    return torch.cat([states[: row.before], states[row.before + row.speech :]]), cached


def device_of(lm: SpeechLM) -> torch.device:
    return next(lm.parameters()).device


def thrice(tokens: Sequence[int]) -> set[int]:
    """What must not come next, or the same four tokens would stand there for the third time: whoever looks words up may turn in a
    circle, and no reply that is taught says anything three times."""
    last = tuple(tokens[1 - CIRCLE :])
    if len(last) < CIRCLE - 1:
        return set()
    before = Counter(tuple(tokens[at : at + CIRCLE]) for at in range(len(tokens) - CIRCLE + 1))
    return {four[-1] for four, count in before.items() if count > 1 and four[:-1] == last}
