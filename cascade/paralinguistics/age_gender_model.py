"""The network of audeering's age and gender models: wav2vec 2.0, the mean over time, one head for each (arXiv 2306.16962).

Transformers has no class for it. Names of modules are those of the published weights. Imports torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model, Wav2Vec2PreTrainedModel

UNUSED = ("wav2vec2.masked_spec_embed",)  # for masking in training only; not every checkpoint has it


class Head(torch.nn.Module):
    """(B, hidden) → (B, outputs). The dropouts of training are left out."""

    def __init__(self, hidden: int, outputs: int) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(hidden, hidden)
        self.out_proj = torch.nn.Linear(hidden, outputs)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.out_proj(torch.tanh(self.dense(pooled)))
        return scores


class AgeGenderModel(Wav2Vec2PreTrainedModel):  # type: ignore[no-untyped-call]
    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.age = Head(config.hidden_size, 1)
        self.gender = Head(config.hidden_size, 3)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Parts of one utterance, each (1, samples) → age (), 1 = 100 years; gender (3,) probabilities.

        The mean goes over the frames of all parts, so long speech costs no more memory than its longest part.
        """
        states = torch.cat([self.wav2vec2(part).last_hidden_state for part in parts], dim=1)  # (1, T, hidden)
        pooled = states.mean(dim=1)
        return self.age(pooled)[0, 0], torch.softmax(self.gender(pooled)[0], dim=-1)
