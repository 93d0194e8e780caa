"""Stage 4: the student's own replies, scored by a teacher that reads what the student must hear; and better replies before worse.

The teacher is the student's own thinker as it stood when the stage began, reading the true words and labels: it knows the
emotion, so that on-policy distillation cannot wash it out. The same frozen copy, hearing what the student hears, is the
reference of the preference loss.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill.training import objectives as by
from distill.training.data import Row as Turn
from distill.training.examples import cues_of, history_of, rng_of
from distill.training.job import HELD_OUT, Batch
from distill.training.losses import felt
from distill.training.student_job import StudentJob
from e2e_model.model import SpeechLM
from e2e_model.prompts import Row
from e2e_model.rows import Rows, gathered
from e2e_model.sample import sample_replies
from e2e_model.think import Piece, spoken_words, tag_pieces

REWARDS = ("empathy", "emotion", "brevity")
REWARD_WEIGHTS = (1.0, 0.5, 0.1)
REPLY_TOKENS = 48
TEMPERATURE = 1.0
SUMS = ("reverse_kl", "preference", "anchor", "preferred", "vector_mse", "vector_cosine")


class RefineLosses(nn.Module):
    """The student, and its thinker as it was. FSDP2 shards it as one: a batch runs through the thinker several times."""

    teacher: Any

    def __init__(self, lm: SpeechLM) -> None:
        super().__init__()
        self.lm = lm
        self.teacher = copy.deepcopy(lm.thinker).requires_grad_(False).eval()

    def gradient_checkpointing_enable(self) -> None:
        self.lm.gradient_checkpointing_enable()

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        _, _, _, audio, _ = self.lm.listen(batch["mels"], batch["starts"], batch["emotion_frames"])
        best, sampled = batch["best"], batch["sampled"]
        states = self.lm.thinker_states(best, audio)
        sums = dict.fromkeys(SUMS, states.new_zeros((), dtype=torch.float32))
        _, sums["vector_mse"], sums["vector_cosine"] = felt(self.lm, states, best, batch["feeling"])
        sums |= self.preferred(states, audio, batch)
        if len(sampled.asked):
            mine = self.lm.token_logits(self.lm.thinker_states(sampled, audio)[sampled.ask_at])
            with torch.no_grad():
                taught = batch["taught"]
                states = self.lm.thinker_states(taught, None, self.teacher)
                its = self.teacher.get_output_embeddings()(states[taught.ask_at])
            sums["reverse_kl"] = by.reverse_kl(mine, its)
        return sums

    def preferred(self, best_states: Tensor, audio: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Pairs of a better and a worse reply; all best replies are anchors."""
        best, worst, pairs = batch["best"], batch["worst"], batch["pairs"]
        count = len(best.lengths)
        log_best = self._log_probs(self.lm.token_logits(best_states[best.ask_at]), best, batch["best_owner"], count)
        with torch.no_grad():
            states = self.lm.thinker_states(best, audio.detach(), self.teacher)
            before = self.teacher.get_output_embeddings()(states[best.ask_at])
            reference = self._log_probs(before, best, batch["best_owner"], count)
        if worst is None:
            return {"anchor": -log_best.sum()}
        states = self.lm.thinker_states(worst, audio)
        log_worst = self._log_probs(self.lm.token_logits(states[worst.ask_at]), worst, batch["worst_owner"], len(pairs))
        with torch.no_grad():
            states = self.lm.thinker_states(worst, audio.detach(), self.teacher)
            before = self.teacher.get_output_embeddings()(states[worst.ask_at])
            reference_worst = self._log_probs(before, worst, batch["worst_owner"], len(pairs))
        weights = torch.tensor(REWARD_WEIGHTS, device=log_best.device)
        loss, _ = by.preference(log_best[pairs], log_worst, reference[pairs], reference_worst, batch["gains"], weights)
        ahead = (log_best[pairs] - reference[pairs]) > (log_worst - reference_worst)
        return {"preference": loss, "anchor": -log_best.sum(), "preferred": ahead.sum().float()}

    @staticmethod
    def _log_probs(logits: Tensor, rows: Rows, owners: Tensor, count: int) -> Tensor:
        return by.summed_log_probs(logits, rows.asked, owners, count)


class RefineJob(StudentJob):
    """Stage 4 as a job of the loop."""

    on_policy = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.model = RefineLosses(self.lm)

    def batch(self, pack: Any, epoch: int) -> Batch:
        rows = self._train if epoch != HELD_OUT else self._held_out
        turns = [rows[place] for _, place in pack]
        mels = [torch.from_numpy(self._prepared.mel(turn).astype(np.float32)) for turn in turns]
        states = [self.lm.encoder.states_of(len(mel)) for mel in mels]
        speech = [self.lm.adapter.length(count) for count in states]
        best = [self._hearing(turn, n, turn.reply_text) for turn, n in zip(turns, speech, strict=True)]
        pairs = [k for k, turn in enumerate(turns) if turn.worst_text and turn.worst_text != turn.reply_text]
        worst = [self._hearing(turns[k], speech[k], turns[k].worst_text, worst=True) for k in pairs]
        seeds = [int(rng_of(self._seed, epoch, "refine", turn).integers(1 << 31)) for turn in turns[:1]]
        feeling = self._feelings(turns)
        tensors: dict[str, Any] = {
            "mels": mels,
            "starts": [0] * len(mels),
            "emotion_frames": [self._emotion_frames(turn, "user") for turn in turns]
            if self.lm.config.emotion_encoder.size
            else None,
            "best": self._rows(best, speech, range(len(turns))),
            "best_owner": owners(best),
            "worst": self._rows(worst, speech, pairs) if pairs else None,
            "worst_owner": owners(worst),
            "pairs": torch.tensor(pairs, dtype=torch.long),
            "gains": torch.tensor([gains(turns[k]) for k in pairs], dtype=torch.float32).reshape(-1, len(REWARDS)),
            "feeling": feeling,
            "turns": turns,
            "speech": speech,
            "seed": seeds[0],
        }
        counts = {
            **dict.fromkeys(SUMS, 0.0),
            "preference": float(len(pairs)),
            "preferred": float(len(pairs)),
            "anchor": float(sum(sum(row.counts) for row in best)),
            "vector_mse": float(feeling["known"].sum()),
            "vector_cosine": float(feeling["known"].sum()),
        }
        return Batch(tensors, counts, sum(states) + 2 * sum(len(row.places) for row in best + worst))

    def prepare(self, batch: Batch) -> Batch:
        """The student answers; what it wrote is read by both."""
        tensors = dict(batch.tensors)
        turns: Sequence[Turn] = tensors.pop("turns")
        speech, seed = tensors.pop("speech"), tensors.pop("seed")
        with torch.no_grad():
            _, _, _, audio, lengths = self.lm.listen(tensors["mels"], tensors["starts"], tensors["emotion_frames"])
        hears = self.lm.config.thinker.hears
        prompts = [self._hearing(turn, n, None) for turn, n in zip(turns, speech, strict=True)]
        heard = list(torch.split(audio, list(lengths))) if hears else [None] * len(turns)
        chance = torch.Generator().manual_seed(seed)
        replies = sample_replies(self.lm, prompts, heard, most=REPLY_TOKENS, temperature=TEMPERATURE, generator=chance)
        mine = [self._hearing(turn, n, reply) for turn, n, reply in zip(turns, speech, replies, strict=True)]
        its = [self._reading(turn, reply) for turn, reply in zip(turns, replies, strict=True)]
        sampled = self._rows(mine, speech, range(len(turns)))
        taught = self._rows(its, [], [-1] * len(turns))
        device = audio.device
        tensors |= {"sampled": sampled.to(device), "taught": taught.to(device)}
        return replace(batch, tensors=tensors, counts={**batch.counts, "reverse_kl": float(len(sampled.asked))})

    # Rows: the same think before all of them, so that the reply alone counts.

    def _hearing(self, turn: Turn, speech: int, reply: Any, worst: bool = False) -> Row:
        told = (turn.worst_strategy, turn.worst_emotion) if worst else (turn.strategy, turn.reply_emotion)
        pieces = self._pieces(turn, *told)
        heard = speech if self.lm.config.thinker.hears else 0
        row = self.lm.prompter.row(
            "speech→speech", "tag", speech=heard, history=history_of(turn), pieces=pieces, reply=reply or [], given=True
        )
        return only_reply(row, open_=reply is None)

    def _reading(self, turn: Turn, reply: list[int]) -> Row:
        pieces = self._pieces(turn, turn.strategy, turn.reply_emotion)
        row = self.lm.prompter.row(
            "text→text", "tag", text=turn.user_text, history=history_of(turn), pieces=pieces, reply=reply, given=True
        )
        return only_reply(row)

    def _pieces(self, turn: Turn, strategy: str | None, emotion: str | None) -> list[Piece]:
        cues = cues_of(turn, self.lm.config.told)
        return tag_pieces(spoken_words(turn.user_text or ""), cues, strategy, emotion)

    def _rows(self, rows: Sequence[Row], speech: Sequence[int], whose: Sequence[int]) -> Rows:
        hears = [k if row.speech else -1 for k, row in zip(whose, rows, strict=True)]
        return gathered(rows, list(speech), hears, self.lm.config.vector.states)

    def _feelings(self, turns: Sequence[Turn]) -> dict[str, Tensor]:
        size = self.lm.vector.mean.shape[0]
        vectors = [np.zeros(size, np.float32) if t.reply_vector is None else t.reply_vector for t in turns]
        return {
            "true": torch.from_numpy(np.stack(vectors)).float(),
            "known": torch.tensor([t.reply_vector is not None for t in turns]),
            "use_true": torch.zeros(len(turns), dtype=torch.bool),
        }


def only_reply(row: Row, open_: bool = False) -> Row:
    """The loss asks for the reply and its stop alone; open_: the stop is taken off, for a reply still to be written."""
    counts = [k >= row.reply[0] for k in range(len(row.ids))]
    if not open_:
        return replace(row, counts=counts)
    return replace(row, ids=row.ids[:-1], counts=counts[:-1], places=row.places[:-1])


def owners(rows: Sequence[Row]) -> Tensor:
    """Whose each token that counts is."""
    return torch.tensor([k for k, row in enumerate(rows) for counts in row.counts if counts], dtype=torch.long)


def gains(turn: Turn) -> list[float]:
    """How much better the best reply is by each reward; NaN where not measured."""
    empathy = (
        turn.empathy - turn.worst_empathy if turn.empathy is not None and turn.worst_empathy is not None else np.nan
    )
    emotion = float(turn.worst_emotion != turn.reply_emotion) if turn.worst_emotion else np.nan
    best, worst = len(turn.reply_text or ""), len(turn.worst_text or "")
    return [empathy, emotion, (worst - best) / max(1, worst, best)]
