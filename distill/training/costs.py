"""What a pack costs: floating-point operations, and bytes kept for the backward pass.

Operations are the model's own, whatever the machine does beside them: 2 · in · out of a matrix for a token (Kaplan et al.,
arXiv 2001.08361, appendix), 4 · width · length² of attention for a sample (PaLM, arXiv 2204.02311, appendix B; a causal mask is
not taken off). Backward, a matrix costs as much again for its own gradient, if it learns, and as much again for its input's,
if anything before it learns: so a frozen thinker between an adapter that learns and the loss costs two thirds of one that learns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from distill.training import objectives as by
from distill.training.job import Batch
from e2e_model.model import SpeechLM

FLOAT_BYTES = 4
PROBES = (64, 128)  # tokens: two lengths tell what grows with them


@dataclass(frozen=True)
class Reading:
    """Samples that a causal model reads. asked: places whose next token is asked for; learns: has a backward pass."""

    lengths: tuple[int, ...]
    asked: int
    learns: bool = True


@dataclass(frozen=True)
class Load:
    """What a pack holds. windows: states the encoder computes at once; states: those of speech; stacked: the adapter's; units,
    frames: what the talker reads and writes; tokens: as the loop counts them; listens: how often speech is read besides,
    without learning."""

    windows: tuple[int, ...]
    utterances: int
    states: int
    stacked: int
    thinker: tuple[Reading, ...]
    talker: Reading
    units: int
    frames: int
    tokens: int
    listens: int = 0


def load_of(lm: SpeechLM, batch: Batch) -> Load:
    tensors, encoder = batch.tensors, lm.encoder
    frames = [part for mel in tensors["mels"] for part in _windows(len(mel), encoder.window)]
    windows = tuple(encoder.states_of(encoder.window if encoder.padded else one) for one in frames)
    states = [encoder.states_of(len(mel)) for mel in tensors["mels"]]
    refining = "best" in tensors
    said = None if refining else tensors["written"]
    return Load(
        windows=windows,
        utterances=len(states),
        states=sum(states),
        stacked=sum(map(lm.adapter.length, states)),
        thinker=tuple(_refined(tensors) if refining else _read(tensors["rows"])),
        talker=Reading(tuple(said.lengths), len(said.asked)) if said else Reading((), 0),
        units=len(said.units) if said else 0,
        frames=len(said.frames) if said else 0,
        tokens=batch.tokens,
        listens=int(refining),
    )


def _windows(frames: int, window: int) -> list[int]:
    whole, rest = divmod(frames, window)
    return [window] * whole + [rest] * (rest > 0)


def _read(rows: Any, learns: bool = True) -> list[Reading]:
    return [Reading(tuple(rows.lengths), len(rows.asked), learns)] if rows is not None else []


def _refined(tensors: Mapping[str, Any]) -> list[Reading]:
    """Stage 4: the student reads the better replies, the worse ones, and its own, taken to be as long as the better ones and
    written by it before; its teacher reads all three."""
    best, worst = tensors["best"], tensors["worst"]
    mine = [*_read(best), *_read(worst), *_read(best)]
    its = [Reading(one.lengths, one.asked, learns=False) for one in mine]
    return [*mine, *its, *_read(best, learns=False)]


# --- operations


@dataclass
class Work:
    """Operations of layers, added in the order in which a pack runs through them. flows: something so far learns, so that a
    gradient must come back to here."""

    flows: bool = False
    learns: bool = True  # False: no backward pass at all
    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        return self.forward + self.backward

    def product(self, operations: float, learns: bool = False) -> None:
        """A matrix and what goes through it."""
        self.forward += operations
        self.backward += operations * self.learns * (learns + self.flows)
        self.flows |= learns

    def matrices(self, module: nn.Module, tokens: int) -> None:
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                self.product(2.0 * tokens * layer.weight.numel(), layer.weight.requires_grad)

    def attention(self, config: Any, lengths: Iterable[int]) -> None:
        """Queries with keys, and what they pick with values: two products, of no weights."""
        operations = 4.0 * attention_width(config) * sum(one * one for one in lengths)
        self.forward += operations
        self.backward += 2 * operations * self.learns * self.flows


def attention_width(config: Any) -> int:
    """Heads × their width, over all layers."""
    if hasattr(config, "encoder_layers"):
        return int(config.encoder_layers * config.d_model)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * config.num_attention_heads * head)


def work_of(lm: SpeechLM, load: Load) -> dict[str, Work]:
    """By part of the student, with what `requires_grad` says."""
    encoder = _encoding(lm, load)
    heads, adapter = Work(encoder.flows), Work(encoder.flows)
    heads.matrices(lm.heads.ctc, load.states)
    heads.matrices(lm.heads.pool, load.utterances)
    heads.matrices(lm.heads.cues, load.utterances)
    if load.thinker:
        adapter.matrices(lm.adapter, load.stacked)
    thinker = Work()
    for reading in load.thinker:
        one = _thinking(lm, reading, adapter.flows and load.stacked > 0)
        thinker.forward, thinker.backward = thinker.forward + one.forward, thinker.backward + one.backward
        thinker.flows |= one.flows
    vector = Work(thinker.flows)
    vector.matrices(lm.vector, len(load.thinker[0].lengths) if load.thinker else 0)
    parts = {"encoder": encoder, "heads": heads, "adapter": adapter, "thinker": thinker, "vector": vector}
    again = load.listens
    for part in (encoder, heads, adapter):
        part.forward *= 1 + again
    return {**parts, "talker": _talking(lm, load, thinker.flows)}


def _encoding(lm: SpeechLM, load: Load) -> Work:
    work, states = Work(), sum(load.windows)
    padded = len(load.windows) * max(load.windows, default=0)  # the convolutions alone run over a padded batch
    for layer, places in ((lm.encoder.conv1, 2 * padded), (lm.encoder.conv2, padded)):
        work.product(2.0 * places * layer.weight.numel(), layer.weight.requires_grad)
    work.matrices(lm.encoder.layers, states)
    work.attention(lm.encoder.config, load.windows)
    return work


def _thinking(lm: SpeechLM, reading: Reading, flows: bool) -> Work:
    embeddings: Any = lm.tokens
    work = Work(flows or bool(embeddings.weight.requires_grad), reading.learns)
    work.matrices(lm.thinker.base_model, sum(reading.lengths))
    work.attention(lm.thinker.config, reading.lengths)
    work.matrices(lm.thinker.get_output_embeddings(), reading.asked)
    return work


def _talking(lm: SpeechLM, load: Load, flows: bool) -> Work:
    talker = lm.talker
    work = Work(flows)
    work.matrices(talker.fusion, load.units)
    work.flows |= talker.units.weight.requires_grad
    if talker.beside is not None:
        work.matrices(talker.beside, load.units)  # `under`, too: every frame of a unit takes the same
    work.matrices(talker.decoder, sum(load.talker.lengths))
    work.attention(talker.decoder.config, load.talker.lengths)
    codes = talker.codes
    for table in (codes.table, codes.rise) if codes.rise is not None else (codes.table,):
        work.product(2.0 * load.talker.asked * table.weight.numel(), table.weight.requires_grad)
    work.flows |= codes.table.weight.requires_grad
    _levels(work, codes.levels, load.frames, load.talker.asked)
    if talker.depth is not None:
        steps = talker.codebooks + 1  # state, first book, and the others
        work.matrices(talker.depth.inward, load.frames * steps)
        work.matrices(talker.depth.decoder, load.frames * steps)
        work.attention(talker.depth.decoder.config, [steps] * load.frames)
        work.matrices(talker.depth.heads, load.frames)
        for inward, outward in zip(talker.depth.levels_in, talker.depth.levels_out, strict=True):
            _levels(work, inward, 2 * load.frames, 0)
            _levels(work, outward, 0, load.frames)
    return work


def _levels(work: Work, levels: Any, inward: int, outward: int) -> None:
    """What codes share, looked up and asked for."""
    if levels is not None:
        table = levels.table.weight
        work.product(2.0 * (inward + outward) * table.numel(), table.requires_grad)
        work.product(2.0 * outward * levels.places.numel())


def flops_per_token(job: Any, packs: int = 4) -> float:
    """Of a job that trains the student, over the first packs of its first epoch, per token as the loop counts them."""
    loads = [load_of(job.lm, job.batch(pack, 0)) for pack in job.packs(0)[:packs]]
    operations = sum(part.total for load in loads for part in work_of(job.lm, load).values())
    return operations / max(1, sum(load.tokens for load in loads))


# --- bytes


@dataclass(frozen=True)
class Kept:
    """Bytes that a network keeps for its backward pass: `fixed` (weights in 16 bits) and `each`, for each of its tokens.
    slim: each, where only what enters a layer is kept (gradient checkpointing); layer: each of the one computed anew."""

    fixed: float = 0.0
    each: float = 0.0
    slim: float = 0.0
    layer: float = 0.0


@dataclass
class Bytes:
    """All that a pack keeps, whole and with gradient checkpointing."""

    whole: float = 0.0
    checkpointed: float = 0.0
    _peak: list[float] = field(default_factory=lambda: [0.0])

    def add(self, kept: Kept, tokens: int) -> None:
        if tokens:
            self.whole += kept.fixed + kept.each * tokens
            self.checkpointed += kept.slim * tokens + (0.0 if kept.layer else kept.fixed)
            self._peak.append(kept.layer * tokens)

    def told(self) -> tuple[int, int]:
        return round(self.whole), round(self.checkpointed + max(self._peak))


def kept_bytes(lm: SpeechLM, load: Load, dtype: torch.dtype) -> tuple[int, int]:
    """What the backward pass of a pack needs, without and with gradient checkpointing: counted by torch itself, on networks
    that have shapes alone."""
    total, probe, work = Bytes(), Probe(dtype), work_of(lm, load)
    encoder, thinker = lm.encoder.config, lm.thinker.config
    if work["encoder"].flows:
        total.add(probe.layers(lm.encoder, _encode, encoder.d_model, encoder.encoder_layers), sum(load.windows))
    if work["heads"].flows:
        total.add(probe.rows(lm.heads, lambda heads, x: _cross(heads.ctc(x)), encoder.d_model), load.states)
    for reading in [one for one in load.thinker if one.learns and work["thinker"].flows]:
        body, layers = lm.thinker.base_model, thinker.num_hidden_layers
        total.add(probe.layers(body, _decode, thinker.hidden_size, layers), sum(reading.lengths))
        head = lm.thinker.get_output_embeddings()
        total.add(probe.rows(head, lambda head, x: _cross(head(x)), thinker.hidden_size), reading.asked)
    if work["talker"].flows:
        _talker_bytes(lm.talker, load, probe, total)
    return total.told()


def _talker_bytes(talker: Any, load: Load, probe: Probe, total: Bytes) -> None:
    config = talker.decoder.config
    width = int(config.hidden_size)
    total.add(probe.layers(talker.decoder, _decode, width, config.num_hidden_layers), sum(load.talker.lengths))
    total.add(probe.rows(talker, lambda m, x: _cross(m.logits(x)), width), load.talker.asked)
    if talker.depth is not None:
        total.add(probe.rows(talker.depth, _deep(talker.codebooks), width), load.frames)


class Probe:
    """Runs networks on tensors that have shapes and no values, and adds up what autograd keeps."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def rows(self, module: nn.Module, run: Callable[[Any, Tensor], Tensor], width: int) -> Kept:
        """A network that takes [N, width]."""
        fixed, each = self._line(module, lambda m, x: run(m, x[0]), width)
        return Kept(fixed, each, slim=each)

    def layers(self, module: nn.Module, run: Callable[[Any, Tensor], Tensor], width: int, count: int) -> Kept:
        """A network of `count` layers that takes [1, N, width]."""
        fixed, each = self._line(module, run, width)
        return Kept(fixed, each, slim=count * width * FLOAT_BYTES, layer=each / count)

    def _line(self, module: nn.Module, run: Callable[[Any, Tensor], Tensor], width: int) -> tuple[float, float]:
        """Bytes for no token, and for each."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        bare = copy.deepcopy(module)
        with FakeTensorMode(allow_non_fake_inputs=True):
            bare = bare.to_empty(device="cpu").train()
            few, many = (self._saved(bare, run, torch.empty(1, n, width, requires_grad=True)) for n in PROBES)
        each = (many - few) / (PROBES[1] - PROBES[0])
        return max(0.0, few - each * PROBES[0]), each

    def _saved(self, bare: nn.Module, run: Callable[[Any, Tensor], Tensor], entering: Tensor) -> float:
        sizes: dict[int, int] = {}
        own = {one.untyped_storage()._cdata for one in (*bare.parameters(), *bare.buffers())}

        def keep(tensor: Tensor) -> Tensor:
            store = tensor.untyped_storage()
            if store._cdata not in own:
                sizes[store._cdata] = store.nbytes()
            return tensor

        lower = torch.autocast("cpu", self._dtype, enabled=self._dtype != torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept), lower:
            made = run(bare, entering)
        assert made.requires_grad, "what keeps nothing is not asked"
        return float(sum(sizes.values()))


def _encode(encoder: Any, hidden: Tensor) -> Tensor:
    layers = [hidden]
    for layer in encoder.layers:
        layers.append(layer(layers[-1], None))
    mixed = sum(
        (nn.functional.layer_norm(one.float(), one.shape[-1:]) for one in layers), torch.zeros((), device=hidden.device)
    )
    return encoder.layer_norm(layers[-1]) + mixed  # type: ignore[no-any-return]


def _decode(decoder: Any, entering: Tensor) -> Tensor:
    return decoder(inputs_embeds=entering, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


def _cross(logits: Tensor) -> Tensor:
    return by.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def _deep(codebooks: int) -> Callable[[Any, Tensor], Tensor]:
    def run(depth: Any, hidden: Tensor) -> Tensor:
        codes = torch.zeros(len(hidden), codebooks - 1, dtype=torch.long)
        return torch.stack([_cross(book) for book in depth.logits(hidden, hidden, codes)]).sum()

    return run


def state_bytes(parameters: Sequence[nn.Parameter], muons: set[int]) -> tuple[int, int, int]:
    """Weights, gradients, and the optimizer's moments: two of AdamW's, one of Muon's."""
    learnt = [one for one in parameters if one.requires_grad]
    weights = sum(one.numel() * one.element_size() for one in parameters)
    gradients = sum(one.numel() * one.element_size() for one in learnt)
    moments = sum(one.numel() * one.element_size() * (1 if id(one) in muons else 2) for one in learnt)
    return weights, gradients, moments
