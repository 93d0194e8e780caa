"""Reply text and thinker's states → codec tokens, in the voice of an emotion.

Fusion (Emotion Omni, arXiv 2508.18655): a gate g = sigmoid(W[h; e]) mixes the thinker's state h with the text's embedding
e, and adaptive layer norm applies the emotion vector. A causal decoder then writes codec tokens, R units : W frames.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2e_model.attention import PACKED
from e2e_model.config import Config
from e2e_model.rows import Written

Gate = str
LONGEST_UNIT = 32  # frames that are told apart


def causal_model(config: dict[str, Any]) -> Any:
    """A decoder of transformers' own by its configuration, without a vocabulary of its own."""
    from transformers import AutoConfig, AutoModel

    made = AutoConfig.for_model(**{**config, "vocab_size": 1, "pad_token_id": None, "use_cache": False})
    model = AutoModel.from_config(made, attn_implementation=PACKED)  # type: ignore[no-untyped-call]
    model.set_input_embeddings(nn.Identity())  # it reads states, never tokens
    return model


class Fusion(nn.Module):
    """Thinker's state [N, H] and unit's embedding [N, D] and emotion vector [N, V] → [N, D]."""

    def __init__(self, hidden: int, width: int, vector: int, gate: Gate) -> None:
        super().__init__()
        self.how = gate
        self.project = nn.Linear(hidden, width)
        self.gate = nn.Linear(2 * width, width) if gate == "gate" else None
        self.style = nn.Linear(vector, 2 * width)
        nn.init.normal_(self.style.weight, std=0.02)
        nn.init.zeros_(self.style.bias)
        self.no_style = nn.Parameter(torch.zeros(2 * width))  # where the vector is switched off

    def forward(self, hidden: Tensor, unit: Tensor, vector: Tensor, vector_on: Tensor) -> Tensor:
        state = self.project(hidden)
        mixed = self.mixed(state, unit)
        style = torch.where(vector_on[:, None], self.style(vector), self.no_style.to(vector.dtype))
        scale, shift = style.chunk(2, -1)
        return F.layer_norm(mixed.float(), mixed.shape[-1:]) * (1 + scale) + shift

    def mixed(self, state: Tensor, unit: Tensor) -> Tensor:
        if self.gate is not None:
            share = torch.sigmoid(self.gate(torch.cat([state, unit.to(state.dtype)], -1)))
            return share * state + (1 - share) * unit
        return state if self.how == "hidden" else state + unit


class Talker(nn.Module):
    """Writes codes of the first codebook, READ (the next word, please) and END; the others of a frame by a small decoder."""

    def __init__(
        self, config: Config, hidden: int, units: int, codebook_size: int, levels: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        part, width = config.talker, int(config.talker.model["hidden_size"])
        self.codebook_size, self.codebooks = codebook_size, config.codec.codebooks
        self.read, self.end = codebook_size, codebook_size + 1
        levels = levels if part.code_levels else ()
        self.emotions = nn.Embedding(len(config.labels.reply_emotion) + 1, width)
        self.units = nn.Embedding(units, width)
        self.codes = Codes(codebook_size + 2, width, part.code_rank, levels)
        self.fusion = Fusion(hidden, width, max(1, config.vector.size), part.gate)
        self.beside = Beside(width, part.ahead) if part.order == "units" else None
        self.decoder = causal_model(part.model)
        self.depth = (
            Depth(part.depth or {}, width, codebook_size, self.codebooks, levels) if self.codebooks > 1 else None
        )
        for table in (self.emotions, self.units):
            nn.init.normal_(table.weight, std=0.02)

    def embed_units(self, units: Tensor, states: Tensor, vector: Tensor, vector_on: Tensor) -> Tensor:
        """[U] ids, [U, H] thinker's states, [U, V] vectors → [U, D]."""
        out: Tensor = self.fusion(states, self.units(units), vector, vector_on)
        return out

    def embed_frames(self, codes: Tensor) -> Tensor:
        """[F, K] → [F, D]."""
        first: Tensor = self.codes(codes[:, 0])
        return first if self.depth is None else first + self.depth.embed(codes[:, 1:])

    def embeds(self, written: Written, states: Tensor, vector: Tensor, vector_on: Tensor) -> Tensor:
        """The row [P, D]. states: the thinker's [T, H]; vector [N, V]."""
        sample = written.unit_sample
        states = states[written.unit_state] * written.state_seen[:, None]
        units = self.embed_units(written.units, states, vector[sample], vector_on[sample])
        frames = (self.embed_frames(written.frames) * written.frame_seen[:, None]).to(units.dtype)
        if self.beside is not None:
            units = self.beside(units, sample).to(units.dtype)
            frames = frames + self.beside.at(units[written.frame_unit], written.frame_since).to(units.dtype)
        row = units.new_zeros(sum(written.lengths), units.shape[-1])
        row = row.index_copy(0, written.begin_at, self.emotions(written.emotion).to(units.dtype))
        row = row.index_copy(0, written.unit_at, units)
        row = row.index_copy(0, written.frame_at, frames)
        reads = self.codes(written.read_at.new_full((1,), self.read)).to(units.dtype)
        return row.index_copy(0, written.read_at, reads.expand(len(written.read_at), -1))

    def logits(self, hidden: Tensor) -> Tensor:
        """[Q, D] → [Q, codes + 2]."""
        return self.codes.logits(hidden)


class Beside(nn.Module):
    """Each unit with `reach` units on either side: how a phone sounds depends on its neighbours. `at`: what every frame is told
    of the unit that it is at, and for how long; as faint as codes are at first, or it would drown them."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.reach, narrow = reach, width // 4
        self.fall = nn.Linear(width, narrow)
        self.mix = nn.Linear((2 * reach + 1) * narrow, width)
        self.rise = nn.Linear(width, width)
        self.under = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.under.weight, std=0.02 * width**-0.5)
        self.since = nn.Embedding(LONGEST_UNIT, width)
        nn.init.normal_(self.since.weight, std=0.02)

    def forward(self, units: Tensor, sample: Tensor) -> Tensor:
        """units [U, D] of the samples [U] they belong to, one behind the other → [U, D]."""
        places = torch.arange(len(units), device=units.device)[:, None]
        beside = places + torch.arange(-self.reach, self.reach + 1, device=units.device)  # [U, 2 R + 1]
        inside = beside.clamp(0, max(0, len(units) - 1))
        own = (inside == beside) & (sample[inside] == sample[:, None])
        near = self.fall(units)[inside].where(own[:, :, None], 0.0)
        out: Tensor = units + self.rise(F.gelu(self.mix(near.flatten(1))))
        return out

    def at(self, units: Tensor, since: Tensor) -> Tensor:
        """Units [F, D] that frames belong to, and how many frames since they were read [F] → [F, D]."""
        out: Tensor = self.under(units) + self.since(since.clamp(max=LONGEST_UNIT - 1))
        return out


class Codes(nn.Module):
    """The codes' table, in and out (tied). With a rank it is factored (ALBERT, Lan et al., arXiv 1909.11942): [codes, rank] and
    a projection to the decoder's width. levels: see Levels."""

    def __init__(self, codes: int, width: int, rank: int, levels: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.table = nn.Embedding(codes, rank or width)
        self.levels = Levels(levels, codes, rank or width) if levels else None
        self.rise = nn.Linear(rank, width, bias=False) if rank else None
        nn.init.normal_(self.table.weight, std=0.02)
        if self.rise is not None:  # so that an embedding is as long as one without a rank
            nn.init.normal_(self.rise.weight, std=rank**-0.5)

    def forward(self, codes: Tensor) -> Tensor:
        """[N] → [N, D]."""
        made: Tensor = self.table(codes)
        if self.levels is not None:
            made = made + self.levels(codes)
        return made if self.rise is None else self.rise(made)

    def logits(self, hidden: Tensor) -> Tensor:
        """[Q, D] → [Q, codes]."""
        if self.rise is not None:
            hidden = F.linear(hidden, self.rise.weight.T.to(hidden.dtype))
        logits = F.linear(hidden, self.table.weight.to(hidden.dtype))
        return logits if self.levels is None else logits + self.levels.logits(hidden)


class Levels(nn.Module):
    """What codes that are numbers of several levels share (FSQ, arXiv 2309.15505): each code's row of a table and its logit are
    the sums of its levels' own, so that what is learnt of one code is learnt of its neighbours."""

    places: Tensor

    def __init__(self, levels: tuple[int, ...], codes: int, width: int) -> None:
        super().__init__()
        self.counts = levels
        self.table = nn.Embedding(sum(levels), width)
        nn.init.normal_(self.table.weight, std=0.02)
        places = torch.zeros(codes, sum(levels))  # what is no number of such levels, like READ, has none
        numbers = torch.arange(math.prod(levels))
        for place, count in enumerate(levels):
            level = numbers // math.prod(levels[:place]) % count
            places[numbers, sum(levels[:place]) + level] = 1.0
        self.register_buffer("places", places, persistent=False)  # [codes, all levels]

    def forward(self, codes: Tensor) -> Tensor:
        """[N] → [N, D]."""
        return F.linear(self.places[codes], self.table.weight.T)

    def shares(self, codes: Tensor) -> list[Tensor]:
        """Of the levels of each place [..., levels], by those of the codes [..., codes], which sum to 1."""
        return list(torch.split(codes @ self.places[: codes.shape[-1]].to(codes.dtype), list(self.counts), dim=-1))

    def mean(self, codes: Tensor) -> Tensor:
        """The level that is to be expected at each place [..., places], by the codes' shares [..., codes]."""
        return torch.stack([share @ torch.arange(share.shape[-1]).to(share) for share in self.shares(codes)], -1)

    def at(self, codes: Tensor, lots: Tensor) -> int:
        """The code of the levels at which the shares, summed up from the lowest level, reach the lots. codes: their shares;
        lots: of each place [places], 0 to 1."""
        code, base = 0, 1
        for share, lot, count in zip(self.shares(codes), lots.tolist(), self.counts, strict=True):
            level = min(count - 1, int((share.cumsum(-1) < lot).sum()))
            code, base = code + level * base, base * count
        return code

    def logits(self, hidden: Tensor) -> Tensor:
        """[Q, D] → [Q, codes]."""
        return F.linear(F.linear(hidden, self.table.weight.to(hidden.dtype)), self.places.to(hidden.dtype))


class Depth(nn.Module):
    """The other codebooks of a frame, one after the other, each seeing the earlier ones (as RQ-Transformer, Lee et al.,
    arXiv 2203.01941, and Moshi, arXiv 2410.00037)."""

    def __init__(
        self, config: dict[str, Any], width: int, size: int, codebooks: int, levels: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        inner = int(config["hidden_size"])
        tables = [nn.Embedding(size, width) for _ in range(codebooks - 1)]
        for table in tables:
            nn.init.normal_(table.weight, std=0.02)
        self.tables = nn.ModuleList(tables)
        self.inward = nn.Linear(width, inner)
        self.decoder = causal_model(config)
        self.heads = nn.ModuleList(nn.Linear(inner, size) for _ in range(codebooks - 1))
        books = range(codebooks - 1 if levels else 0)
        self.levels_in = nn.ModuleList(Levels(levels, size, width) for _ in books)
        self.levels_out = nn.ModuleList(Levels(levels, size, inner) for _ in books)

    def embed(self, codes: Tensor) -> Tensor:
        """[F, K - 1] → [F, D], summed."""
        return torch.stack([self._row(k, codes[:, k]) for k in range(len(self.tables))]).sum(0)

    def _row(self, book: int, codes: Tensor) -> Tensor:
        row: Tensor = self.tables[book](codes)
        return row + self.levels_in[book](codes) if self.levels_in else row

    def logits(self, hidden: Tensor, first: Tensor, codes: Tensor) -> list[Tensor]:
        """hidden [F, D], first codebook's embedding [F, D], codes [F, k] of the next books as far as they are known →
        logits [F, size] of each book up to the first that is not."""
        known = [self._row(k, codes[:, k]) for k in range(min(len(self.tables), codes.shape[1]))]
        steps = torch.stack([hidden.float(), first.float(), *(x.float() for x in known)], 1)  # [F, k + 2, D]
        made = self.decoder(inputs_embeds=self.inward(steps), use_cache=False).last_hidden_state[:, 1:]
        told = [head(made[:, k]) for k, head in enumerate(self.heads) if k < made.shape[1]]
        if self.levels_out:
            told = [x + self.levels_out[k].logits(made[:, k]) for k, x in enumerate(told)]  # type: ignore[operator]
        return told
