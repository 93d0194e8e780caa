"""Training speed against the plainest alternative: `python runs/bench_training.py DATASET`, a folder that `attune teach` made.

The same student learns from the same rows with the same objectives, optimizer and arithmetic, in turn, step by step:

trainer  transformers' Trainer: random batches, filled up to their longest, with attention masks (sdpa), logits of every place
asked    the same with logits only of the places whose next token is asked for
alike    the same with samples of like length together, still filled up
packed   `attune train`: one behind the other, nothing filled up

each in float32 and in bfloat16 (autocast). So trainer → asked is what fewer logits give, asked → alike what like lengths give,
alike → packed what no padding at all gives, and our loop in place of Trainer. Batches are made before the clock starts; tokens
are those of data, never padding; on a CPU the seconds are those of the process, so that what else runs does not count. First
all must find the same loss for the same samples. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as hf_logging

from distill.training import objectives as by
from distill.training.assemble import assembled, mel_key, set_training
from distill.training.data import open_dataset
from distill.training.examples import Chance
from distill.training.job import Batch, Job, Schedule
from distill.training.losses import KINDS, StudentLosses
from distill.training.optimizers import optimizers
from distill.training.parallel import World
from distill.training.prepared import prepare
from distill.training.stages import TABLE, scaled
from distill.training.step import Learner, update
from distill.training.stream import Dealt, Place
from distill.training.student_job import StudentJob
from e2e_model.codec import FsqCodec, FsqConfig
from e2e_model.config import Config
from e2e_model.encoder import Heard, pooled
from e2e_model.features import log_mel
from e2e_model.model import SpeechLM
from e2e_model.rows import Rows, Written

VARIANTS = ("trainer", "asked", "alike", "packed")
SAME = 1e-4
Way = tuple[str, str]  # variant and dtype


def places(lengths: Sequence[int]) -> Tensor:
    """[P]: where each place of samples one behind the other lies in a batch that is filled up to the longest."""
    longest = max(lengths)
    return torch.cat([torch.arange(n) + k * longest for k, n in enumerate(lengths)])


def filled(lengths: Sequence[int]) -> Tensor:
    """[B, T], true where there is a sample and no filling."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def padded(tensors: dict[str, Any], lm: SpeechLM) -> dict[str, Any]:
    """A batch of ours with all its places as those of a filled-up batch."""
    rows: Rows = tensors["rows"]
    to = places(rows.lengths)
    out = dict(tensors)
    at: dict[str, Any] = {name: to[getattr(rows, name)] for name in ("token_at", "speech_at", "ask_at", "vector_at")}
    positions = torch.zeros(len(rows.lengths) * max(rows.lengths), dtype=torch.long).index_copy(0, to, rows.positions)
    speech_from = rows.speech_from
    if tensors["mels"]:
        states = [lm.adapter.length(lm.encoder.states_of(len(mel))) for mel in tensors["mels"]]
        speech_from = places(states)[speech_from]
    out["rows"] = replace(rows, positions=positions, speech_from=speech_from, **at)
    if tensors["written"] is not None:
        said: Written = tensors["written"]
        there = places(said.lengths)
        names = ("begin_at", "unit_at", "frame_at", "read_at", "ask_at", "frame_from")
        moved: dict[str, Any] = {name: there[getattr(said, name)] for name in names}
        out["written"] = replace(said, unit_state=to[said.unit_state], **moved)
    return out


class PaddedLM(SpeechLM):
    """A student that reads filled-up batches, with masks."""

    def listen(self, mels: Any, starts: Any = None, emotion: Any = None) -> Any:
        """As SpeechLM's; the adapter's states are those of the filled-up batch, flat."""
        encoder, stacked = self.encoder, [self.encoder._stacked(mel) for mel in mels]
        frames = torch.tensor([len(mel) for mel in stacked])
        batch = nn.utils.rnn.pad_sequence(stacked, batch_first=True).transpose(1, 2)
        hidden = functional.gelu(encoder.conv1(batch))
        hidden = hidden * (torch.arange(hidden.shape[-1]) < frames[:, None])[:, None]
        hidden = functional.gelu(encoder.conv2(hidden)).transpose(1, 2)  # [B, S, D]
        size = hidden.shape[1]
        at = torch.tensor(starts)[:, None] + torch.arange(size)
        hidden = hidden + encoder.embed_positions(at.clamp(max=encoder.config.max_source_positions - 1))
        lengths = ((frames + 1) // 2).tolist()
        there = filled(lengths)
        mask = there[:, None, None].expand(-1, 1, size, -1)
        layers = [hidden]
        for layer in encoder.layers:
            layers.append(layer(layers[-1], mask))
        shares = encoder.mix.float().softmax(0)
        levelled = [functional.layer_norm(one.float(), one.shape[-1:]) for one in layers]
        mixed = torch.stack([share * one for share, one in zip(shares, levelled, strict=True)]).sum(0)
        states = encoder.layer_norm(layers[-1])
        heard = Heard(states[there], mixed[there], lengths)
        summary = functional.gelu(self.heads.pool(torch.cat(pooled(heard.mixed, lengths), -1)))
        cues = {name: head(summary) for name, head in self.heads.cues.items()}
        stack = self.adapter.stack
        whole = functional.pad(states * there[..., None], (0, 0, 0, -size % stack))
        audio, _ = self.adapter([whole.flatten(0, 1)], [whole.shape[0] * whole.shape[1]])
        return heard, self.heads.ctc(states)[there], cues, audio, lengths

    def thinker_states(self, rows: Rows, audio: Tensor | None, thinker: Any = None) -> Tensor:
        mask = filled(rows.lengths)
        tokens = self.tokens(rows.ids)
        row = tokens.new_zeros(mask.numel(), tokens.shape[-1]).index_copy(0, rows.token_at, tokens)
        if audio is not None and len(rows.speech_at):
            row = row.index_copy(0, rows.speech_at, audio[rows.speech_from].to(row.dtype))
        row, positions = row.view(*mask.shape, -1), rows.positions.view(mask.shape)
        made: Tensor = self.thinker.base_model(
            inputs_embeds=row, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return made.flatten(0, 1)

    def talker_states(self, written: Written, states: Tensor, vector: Tensor, vector_on: Tensor) -> Tensor:
        mask = filled(written.lengths)
        whole = replace(written, lengths=[mask.shape[1]] * len(mask))
        row = self.talker.embeds(whole, states, vector, vector_on).view(*mask.shape, -1)
        made: Tensor = self.talker.decoder(inputs_embeds=row, attention_mask=mask, use_cache=False).last_hidden_state
        return made.flatten(0, 1)


class PaddedLosses(StudentLosses):
    """everywhere: logits of every place, as a plain causal LM's loss takes them."""

    def __init__(self, lm: PaddedLM, weights: dict[str, float], everywhere: bool) -> None:
        super().__init__(lm)
        self.weights, self.everywhere = weights, everywhere

    def written_sums(self, states: Tensor, rows: Rows, kinds: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.everywhere:
            return super().written_sums(states, rows, kinds, targets)
        losses = everywhere(self.lm.token_logits(states), rows.ask_at, rows.asked)
        return {kind: losses[kinds == number].sum() for number, kind in enumerate(KINDS)}

    def spoken_sums(
        self, states: Tensor, written: Written, vector: Tensor, feeling: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if not self.everywhere:
            return super().spoken_sums(states, written, vector, feeling)
        whose = feeling["spoken"]
        made = self.lm.talker_states(written, states, vector[whose], feeling["on"][whose])
        return {"codes": everywhere(self.lm.talker.logits(made), written.ask_at, written.asked).sum()}


def everywhere(logits: Tensor, ask_at: Tensor, asked: Tensor) -> Tensor:
    """[Q] losses of those that are asked for, of all there are."""
    labels = torch.full((len(logits),), by.IGNORE).index_copy(0, ask_at, asked)
    return functional.cross_entropy(logits.float(), labels, ignore_index=by.IGNORE, reduction="none")[ask_at]


class ForTrainer(nn.Module):
    """What Trainer drives: a batch in, its loss out."""

    def __init__(self, losses: PaddedLosses) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, tensors: dict[str, Any], counts: dict[str, float]) -> dict[str, Tensor]:
        return {"loss": weighed(self.losses(**tensors), counts, self.losses.weights)}


def weighed(sums: dict[str, Tensor], counts: dict[str, float], weights: Any) -> Tensor:
    parts = [sums[name] * (weight / counts[name]) for name, weight in weights.items() if counts.get(name)]
    return torch.stack(parts).sum()


# --- the ways to train


def clock() -> float:
    """Seconds: of this process on a CPU, of the wall beside a GPU."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Packed:
    """The step of our loop."""

    def __init__(self, job: StudentJob, schedule: Schedule, dtype: str) -> None:
        job = copy.copy(job)
        job.model = StudentLosses(copy.deepcopy(job.lm))
        self._world = World("auto", dtype)
        self._world.spread(job.model)
        self._learner = Learner(cast("Job", job), self._world, 0, schedule.clip)
        self._optimizers = optimizers(job.model, schedule)

    def seconds(self, batches: Sequence[Batch]) -> float:
        took = 0.0
        for number, batch in enumerate(batches):
            began = clock()
            self._learner.gradients(1, [Dealt(Place(0, number, None), batch, True)], lambda: False)
            update(self._optimizers)
            took += clock() - began
        return took


class ByTrainer:
    """transformers' Trainer, timed from the beginning of a step to its end."""

    def __init__(self, model: PaddedLosses, schedule: Schedule, dtype: str, folder: Path) -> None:
        self._model, self._schedule, self._dtype, self._folder = ForTrainer(model), schedule, dtype, folder

    def seconds(self, batches: Sequence[Batch]) -> float:
        arguments = TrainingArguments(
            output_dir=str(self._folder), max_steps=len(batches), per_device_train_batch_size=1, bf16=self._dtype == "bfloat16",
            use_cpu=not torch.cuda.is_available(), learning_rate=self._schedule.learning_rate, max_grad_norm=self._schedule.clip,
            save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
            label_names=[],
        )  # fmt: skip
        data: Any = [{"tensors": one.tensors, "counts": one.counts} for one in batches]
        watch = Stopwatch()
        trainer = Trainer(
            model=self._model, args=arguments, train_dataset=data, data_collator=lambda many: many[0], callbacks=[watch],
            optimizers=(optimizers(self._model, self._schedule)[0], None),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return watch.seconds


class Stopwatch(TrainerCallback):
    seconds = began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = clock()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds += clock() - self.began


def padded_copy(lm: SpeechLM) -> PaddedLM:
    theirs = copy.deepcopy(lm)
    made = PaddedLM(theirs.config, theirs.speller, lm.codec, theirs.thinker, theirs.encoder)
    made.load_state_dict(lm.state_dict())
    for name, parameter in lm.named_parameters():
        made.get_parameter(name).requires_grad_(parameter.requires_grad)
    for network in (made.thinker, made.talker.decoder):
        network.set_attn_implementation("sdpa")
    made.encoder.config._attn_implementation = "sdpa"
    return made


# --- the comparison


class Batches:
    """Endless batches of each way: the same rows, dealt otherwise."""

    def __init__(self, job: StudentJob) -> None:
        self.job = job

    def of(self, variant: str) -> Iterator[Batch]:
        for epoch in itertools.count():
            packs = self.job.packs(epoch)
            for pack in packs if variant == "packed" else self.chosen(packs, epoch, alike=variant == "alike"):
                batch = self.job.batch(pack, epoch)
                yield batch if variant == "packed" else replace(batch, tensors=padded(batch.tensors, self.job.lm))

    def chosen(self, packs: Sequence[Any], epoch: int, *, alike: bool) -> list[Any]:
        """The epoch's samples, as many together as a pack has on average: by chance, or by their lengths."""
        items = [item for pack in packs for item in pack]
        size, chance = round(len(items) / len(packs)), np.random.default_rng(epoch)
        order = chance.permutation(len(items)).tolist()
        if alike:
            lengths = [self.job.batch([item], epoch).tokens for item in items]
            order.sort(key=lengths.__getitem__)
        batches = [[items[k] for k in order[at : at + size]] for at in range(0, len(order) - size + 1, size)]
        return [batches[k] for k in chance.permutation(len(batches))]


def check_same(job: StudentJob, weights: dict[str, float]) -> float:
    """Largest difference of a packed and a filled-up loss, in float32."""
    batch = job.batch(job.packs(0)[0], 0)
    both = [PaddedLosses(padded_copy(job.lm), weights, full) for full in (True, False)]
    with torch.no_grad():
        ours = float(weighed(job.model(**batch.tensors), batch.counts, weights))
        found = [float(weighed(one(**padded(batch.tensors, job.lm)), batch.counts, weights)) for one in both]
    worst = max(abs(theirs / ours - 1) for theirs in found)
    if worst > SAME:
        raise SystemExit(f"packed and filled-up losses differ by {worst:.2g}: they are not the same training")
    return worst


def made_job(asked: argparse.Namespace, folder: Path) -> StudentJob:
    torch.manual_seed(0)
    config, dataset = Config.flavoured("nano"), open_dataset(asked.dataset)
    lm = assembled(config, dataset, FsqCodec(FsqConfig()).eval(), seed=0)
    prepared = prepare(
        dataset, mel=lambda samples: log_mel(samples, mels=config.mels), sample_rate=config.sample_rate,
        mel_key=mel_key(config), codec=lm.codec, folder=folder, progress=lambda done, of: None,
    )  # fmt: skip
    stage = scaled(TABLE[asked.stage], pretrained=False, dtype="float32")
    set_training(lm, stage.from_zero)
    return StudentJob(stage, lm, dataset, prepared, capacity=asked.capacity, seed=0, chance=Chance())


def filling(batch: Batch) -> dict[str, float]:
    """Share of a filled-up batch that is filling."""
    lengths = {"thinker": batch.tensors["rows"].lengths, "speech": [len(mel) for mel in batch.tensors["mels"]]}
    lengths["talker"] = batch.tensors["written"].lengths if batch.tensors["written"] is not None else []
    return {name: 1 - sum(ns) / (len(ns) * max(ns)) for name, ns in lengths.items() if ns}


def compared(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    job = made_job(asked, folder)
    weights = {name: weight for name, weight in job.weights.items() if name != "nothing"}
    job.model.train()
    difference = check_same(job, weights)
    schedule = job.stage.schedule
    ways: dict[Way, Any] = {}
    for dtype, variant in itertools.product(asked.dtypes, VARIANTS):
        if variant == "packed":
            ways[variant, dtype] = Packed(job, schedule, dtype)
        else:
            losses = PaddedLosses(padded_copy(job.lm), weights, variant == "trainer")
            ways[variant, dtype] = ByTrainer(losses, schedule, dtype, folder)
    rates, fill, made_s = measured(asked, ways, Batches(job))
    return {
        "bench": "training", "flavour": "nano", "stage": asked.stage, "capacity": asked.capacity, "rounds": asked.rounds,
        "steps_a_round": asked.steps, "threads": torch.get_num_threads(), "machine": platform.processor() or platform.machine(),
        "same_loss_to": float(f"{difference:.1e}"), "filling": fill, "making_a_batch_s": made_s,
        "tokens_per_s": {f"{v} {d}": round(median(rates[v, d])) for v, d in ways},
        "times_faster": {name: ratio(rates, *two) for name, *two in steps(asked.dtypes) if rates.keys() >= {*two}},
    }  # fmt: skip


def steps(dtypes: Sequence[str]) -> list[tuple[str, Way, Way]]:
    """What is compared: its name, the faster, the slower."""
    found = [("as shipped against Trainer in float32", ("packed", "bfloat16"), ("trainer", "float32"))]
    for dtype in dtypes:
        found.append((f"{dtype}: packed against trainer", ("packed", dtype), ("trainer", dtype)))
        for slower, faster in itertools.pairwise(VARIANTS):
            found.append((f"{dtype}: {slower} to {faster}", (faster, dtype), (slower, dtype)))
    found.append(("packed: bfloat16 against float32", ("packed", "bfloat16"), ("packed", "float32")))
    return found


def ratio(rates: dict[Way, list[float]], a: Way, b: Way) -> list[float]:
    """Median, least and most over the rounds."""
    ratios = [x / y for x, y in zip(rates[a], rates[b], strict=True)]
    return [round(value, 2) for value in (median(ratios), min(ratios), max(ratios))]


def measured(asked: argparse.Namespace, ways: dict[Way, Any], batches: Batches) -> tuple[Any, Any, float]:
    """Rates by round, what is filled up, and seconds to make a batch of ours. The first round warms up and does not count."""
    endless: dict[Way, Iterator[Batch]] = {way: batches.of(way[0]) for way in ways}
    rates: dict[Way, list[float]] = {way: [] for way in ways}
    fill: dict[str, Any] = {}
    made_s = []
    for number in range(asked.rounds + 1):
        for way, trained in ways.items():
            began = clock()
            taken = list(itertools.islice(endless[way], asked.steps if number else 1))
            made_s += [(clock() - began) / len(taken)] if way[0] == "packed" else []
            fill.setdefault(way[0], []).extend(map(filling, taken))
            seconds = trained.seconds(taken)
            if number:
                rates[way].append(sum(batch.tokens for batch in taken) / seconds)
    shares = {
        variant: {name: round(float(np.mean([one[name] for one in found if name in one])), 2) for name in found[0]}
        for variant, found in fill.items() if variant in ("trainer", "alike")
    }  # fmt: skip
    return rates, shares, round(median(made_s), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--stage", choices=["speak", "empathise"], default="empathise")
    parser.add_argument("--capacity", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    asked = parser.parse_args()
    hf_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compared(asked, Path(folder))))


if __name__ == "__main__":
    main()
