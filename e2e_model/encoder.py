"""Speech → states at 50 Hz, and what they tell by themselves: words (CTC) and cues.

The network is transformers' Whisper encoder, weights and all; only its way through is another: speech of any length, many
utterances in one row, none seeing another, so that no padding is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from e2e_model.attention import PACKED, packed_kwargs
from e2e_model.features import MELS_HZ, floor_of

BLANK_BIAS = 6.0
CUES = ("emotion", "age", "gender", "events")


@dataclass(frozen=True, eq=False)
class Heard:
    """What came of a row of utterances. S: states of all of them, one behind the other."""

    states: Tensor  # [S, D]
    mixed: Tensor  # [S, D] of all layers, for the cues
    lengths: list[int]  # states of each utterance


class SpeechEncoder(WhisperEncoder):  # type: ignore[no-untyped-call]
    """Whisper's encoder for utterances of any length; longer ones than its window are read window by window.

    With `stack` frames of the log-mel as one, its states come at 50 / stack Hz, for as much less work.
    """

    def __init__(self, config: WhisperConfig, *, window_s: float, padded: bool, jitter: bool, stack: int = 1) -> None:
        config._attn_implementation = PACKED
        super().__init__(config)
        whole = 2 * stack  # frames of one state
        self.window = min(int(window_s * MELS_HZ), whole * config.max_source_positions) // whole * whole
        self.padded, self.jitter, self.stack = padded, jitter, stack
        self.mix = nn.Parameter(torch.zeros(config.encoder_layers + 1))  # weights of the layers, as SUPERB has them

    def forward(self, mels: Sequence[Tensor], starts: Sequence[int] | None = None) -> Heard:
        """mels: [T, M] each; starts: the place each one's first state takes (0 if not told)."""
        windows = [part for mel in mels for part in torch.split(mel, self.window)]
        kept = [self._states(len(part)) for part in windows]
        starts = starts or [0] * len(mels)
        firsts = [start for mel, start in zip(mels, starts, strict=True) for _ in torch.split(mel, self.window)]
        hidden, lengths = self._front(windows, firsts)
        options = packed_kwargs(lengths, hidden.device)
        layers = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, None, **options)
            layers.append(hidden)
        shares = self.mix.float().softmax(0)
        mixed = sum(
            (share * F.layer_norm(x.float(), x.shape[-1:]) for share, x in zip(shares, layers, strict=True)),
            torch.zeros((), device=hidden.device),
        )
        states = self.layer_norm(hidden)
        if self.padded:  # what was filled up is left out again
            keep = torch.cat([torch.arange(n, device=hidden.device) < k for n, k in zip(lengths, kept, strict=True)])
            states, mixed = states[:, keep], mixed[:, keep]
        return Heard(states[0], mixed[0], [self.states_of(len(mel)) for mel in mels])

    def _front(self, windows: list[Tensor], firsts: list[int]) -> tuple[Tensor, list[int]]:
        """Convolutions and positions: [1, S, D] and the states of each window."""
        if self.padded:
            windows = [F.pad(mel, (0, 0, 0, self.window - len(mel)), value=float(floor_of(mel))) for mel in windows]
        windows = [self._stacked(mel) for mel in windows]
        frames = torch.tensor([len(mel) for mel in windows], device=windows[0].device)
        batch = nn.utils.rnn.pad_sequence(windows, batch_first=True).transpose(1, 2)  # [B, M, T]
        hidden = F.gelu(self.conv1(batch))
        inside = torch.arange(hidden.shape[-1], device=hidden.device) < frames[:, None]
        hidden = F.gelu(self.conv2(hidden * inside[:, None])).transpose(1, 2)  # [B, S, D]
        lengths = ((frames + 1) // 2).tolist()
        places = self.embed_positions.weight
        parts = [
            hidden[i, :n] + places[first : first + n] for i, (n, first) in enumerate(zip(lengths, firsts, strict=True))
        ]
        out = torch.cat(parts)[None]
        return F.dropout(out, p=self.dropout, training=self.training), lengths

    def _stacked(self, mel: Tensor) -> Tensor:
        """[T, M] → [ceil(T / stack), M · stack], the last frame repeated."""
        if self.stack == 1:
            return mel
        filled = torch.cat([mel, mel[-1:].expand(-len(mel) % self.stack, -1)])
        return filled.reshape(-1, mel.shape[1] * self.stack)

    def _states(self, frames: int) -> int:
        """Of one window."""
        return (-(-frames // self.stack) + 1) // 2

    def states_of(self, frames: int) -> int:
        """How many states speech of so many frames has."""
        whole, rest = divmod(frames, self.window)
        return whole * self._states(self.window) + self._states(rest)

    def start_of(self, frames: int, share: float) -> int:
        """A place to begin at, by a share 0..1 of the room there is; 0 unless this encoder is trained so."""
        room = self.config.max_source_positions - self._states(min(frames, self.window))
        return int(share * max(0, room)) if self.jitter else 0


class Heads(nn.Module):
    """What the encoder tells by itself: CTC over spelling units (0 is the blank), and one classifier per cue."""

    def __init__(self, width: int, units: int, labels: dict[str, int]) -> None:
        super().__init__()
        self.ctc = nn.Linear(width, units + 1)
        with torch.no_grad():
            self.ctc.bias[0] = BLANK_BIAS  # at first nearly every state is a blank, as it is in the end
        self.dropout = 0.0  # of what the cues are told by
        self.pool = nn.Linear(2 * width, width)
        self.cues = nn.ModuleDict({name: nn.Linear(width, size) for name, size in labels.items()})

    def forward(self, heard: Heard) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits: CTC [S, units + 1], and by cue [B, labels]."""
        mean, deviation = pooled(heard.mixed, heard.lengths)
        # Each utterance's level and spread stay: loudness and movement of a voice are what cues are made of.
        told = F.dropout(torch.cat([mean, deviation], -1), self.dropout, self.training)
        summary = F.gelu(self.pool(told))
        return self.ctc(heard.states), {name: head(summary) for name, head in self.cues.items()}


def pooled(states: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """[B, D] mean and standard deviation of each utterance's states [S, D]."""
    owner = torch.repeat_interleave(
        torch.arange(len(lengths), device=states.device), torch.tensor(lengths, device=states.device)
    )
    states = states.float()
    sizes = torch.tensor(lengths, device=states.device, dtype=torch.float32).clamp(min=1)[:, None]
    zeros = states.new_zeros(len(lengths), states.shape[-1])
    mean = zeros.index_add(0, owner, states) / sizes
    variance = zeros.index_add(0, owner, (states - mean[owner]) ** 2) / sizes
    return mean, (variance + 1e-4).sqrt()


class Adapter(nn.Module):
    """Stacks `stack` frames of the encoder (and of the emotion encoder beside it) and projects them into the thinker."""

    def __init__(self, widths: Sequence[int], stack: int, hidden: int, out: int) -> None:
        super().__init__()
        self.stack = stack
        self.rise = nn.Linear(stack * sum(widths), hidden)
        self.fall = nn.Linear(hidden, out)

    def forward(self, states: Sequence[Tensor], lengths: Sequence[int]) -> tuple[Tensor, list[int]]:
        """states: [S, D] of each encoder, equally long → [A, out] and the length of each utterance, rounded up."""
        parts = torch.split(torch.cat(list(states), -1), list(lengths))
        padded = [F.pad(part, (0, 0, 0, -len(part) % self.stack)) for part in parts]
        stacked = torch.cat([part.reshape(len(part) // self.stack, -1) for part in padded])
        return self.fall(F.gelu(self.rise(stacked))), [len(part) // self.stack for part in padded]

    def length(self, states: int) -> int:
        return -(-states // self.stack)
