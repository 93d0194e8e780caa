"""The student inside a module whose forward gives each objective's sum: what the loop drives, alone or over many devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill.training import objectives as by
from e2e_model.model import SpeechLM
from e2e_model.rows import Rows, Written

KINDS = ("reply", "think", "transcript", "labels")  # of the thinker's tokens that count
CHOICES = ("emotion", "age", "gender")
# Every sum there is; those whose names end in _right are watched only.
SUMS = (
    *("ctc", "aligned", "events", "vector_mse", "vector_cosine", "codes", "codes_right", "depth", "reply_kl"),
    *(f"{name}{end}" for name in CHOICES for end in ("", "_right", "_kl")),
    *(f"{kind}{end}" for kind in KINDS for end in ("", "_right")),
)


class StudentLosses(nn.Module):
    """`forward` takes what student_job.py gathers. Every batch has rows for the thinker, or with `only_hears` none has;
    speech and speaking may be missing."""

    def __init__(self, lm: SpeechLM, *, only_hears: bool = False) -> None:
        super().__init__()
        self.lm, self._only_hears = lm, only_hears

    def gradient_checkpointing_enable(self) -> None:
        self.lm.gradient_checkpointing_enable()

    def shards(self) -> Iterable[nn.Module]:
        """The blocks that every batch runs through once, in this order."""
        yield from self.lm.encoder.layers if self._only_hears else self.lm.thinker.base_model.layers

    def forward(
        self,
        mels: list[Tensor],
        starts: list[int],
        emotion_frames: list[Tensor] | None,
        targets: dict[str, Tensor],
        rows: Rows | None,
        kinds: Tensor,
        written: Written | None,
        feeling: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        audio = None
        if mels and rows is None:
            heard, ctc, cues = self.lm.hear(mels, starts)
            sums |= heard_sums(ctc, heard.lengths, cues, targets)
        elif mels:
            heard, ctc, cues, audio, _ = self.lm.listen(mels, starts, emotion_frames)
            sums |= heard_sums(ctc, heard.lengths, cues, targets)
        if rows is not None:
            states = self.lm.thinker_states(rows, audio)
            sums |= self.written_sums(states, rows, kinds, targets)
            vector, sums["vector_mse"], sums["vector_cosine"] = felt(self.lm, states, rows, feeling)
            if written is not None:
                sums |= self.spoken_sums(states, written, vector, feeling)
        nothing = kinds.new_zeros((), dtype=torch.float32)
        return {name: sums.get(name, nothing) for name in SUMS}

    def written_sums(self, states: Tensor, rows: Rows, kinds: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropies of the thinker's tokens, by kind; and where a teacher LM told its choices, their divergence."""
        sums = {}
        logits = self.lm.token_logits(states[rows.ask_at])
        right = logits.argmax(-1) == rows.asked
        for number, kind in enumerate(KINDS):
            mine = kinds == number
            if mine.any():
                sums[kind] = by.cross_entropy(logits[mine], rows.asked[mine])
                sums[f"{kind}_right"] = right[mine].sum()
        if "top_ids" in targets:
            sums["reply_kl"] = by.top_k_kl(logits[targets["top_at"]], targets["top_ids"], targets["top_logprobs"])
        return sums

    def spoken_sums(
        self, states: Tensor, written: Written, vector: Tensor, feeling: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        whose = feeling["spoken"]  # the rows that are spoken
        talker = self.lm.talker
        made = self.lm.talker_states(written, states, vector[whose], feeling["on"][whose])
        logits = talker.logits(made[written.ask_at])
        sums = {
            "codes": by.cross_entropy(logits, written.asked),
            "codes_right": (logits.argmax(-1) == written.asked).sum(),
        }
        if talker.depth is not None:
            codes = written.frames
            books = talker.depth.logits(made[written.frame_from], talker.codes(codes[:, 0]), codes[:, 1:])
            sums["depth"] = torch.stack(
                [by.cross_entropy(book, codes[:, k + 1]) for k, book in enumerate(books[: talker.codebooks - 1])]
            ).sum()
        return sums


def felt(lm: SpeechLM, states: Tensor, rows: Rows, feeling: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors that the talker gets, true or predicted, and how far the predicted ones are off."""
    predicted = lm.feel(states, rows, len(rows.lengths))
    known = feeling["known"]
    true = lm.vector.normalised(feeling["true"])
    given = torch.where(feeling["use_true"][:, None], true, predicted.detach())
    pair = predicted[known], true[known]
    return given, by.vector_mse(*pair), by.vector_cosine(*pair)


def heard_sums(
    ctc: Tensor, lengths: Iterable[int], cues: dict[str, Tensor], targets: dict[str, Tensor]
) -> dict[str, Tensor]:
    """CTC, cue labels, soft labels, and how many labels were right."""
    counts = torch.tensor(list(lengths), device=ctc.device)
    sums = {
        "ctc": by.ctc(ctc, counts, targets["ctc"], targets["ctc_lengths"]),
        "aligned": by.aligned_ctc(ctc, targets["aligned_spans"], targets["aligned"], targets["aligned_lengths"]),
    }
    for name in CHOICES:
        known = targets[name] != by.IGNORE
        sums[name] = by.cross_entropy(cues[name], targets[name])
        sums[f"{name}_right"] = ((cues[name].argmax(-1) == targets[name]) & known).sum()
        sums[f"{name}_kl"] = by.soft_label_kl(cues[name], targets[f"{name}_posterior"])
    sums["events"] = by.event_bce(cues["events"], targets["events"], targets["events_known"])
    return sums


def count_of(batch: dict[str, Any]) -> dict[str, float]:
    """By objective: how many items its sum is over."""
    targets, rows, kinds = batch["targets"], batch["rows"], batch["kinds"]
    written, feeling = batch["written"], batch["feeling"]
    counts: dict[str, float] = dict.fromkeys(SUMS, 0.0)
    if batch["mels"]:
        counts["ctc"] = float(targets["ctc_words"])  # nats a word, whatever words are spelt in
        counts["aligned"] = float(len(targets["aligned_lengths"]))
        for name in CHOICES:
            counts[name] = counts[f"{name}_right"] = float((targets[name] != by.IGNORE).sum())
            counts[f"{name}_kl"] = float(targets[f"{name}_posterior"].sum())
        counts["events"] = float(targets["events_known"].sum())
    if rows is not None:
        for number, kind in enumerate(KINDS):
            counts[kind] = counts[f"{kind}_right"] = float((kinds == number).sum())
        counts["vector_mse"] = counts["vector_cosine"] = float(feeling["known"].sum())
        if "top_ids" in targets:
            counts["reply_kl"] = float(len(targets["top_ids"]))
    if written is not None:
        counts["codes"] = counts["codes_right"] = float(len(written.asked))
        counts["depth"] = float(written.frames.numel() - len(written.frames))
    return counts
