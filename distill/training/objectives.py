"""The objectives of all stages, as pure functions: each gives the SUM over its items, in nats or as named; the caller divides.

All work in float32 whatever autocast says (in float64 where they are given it), change nothing in place, and give a zero that
still hangs on the graph where there are no items, so that every rank of a parallel run has gradients to share.
A target that is not known is IGNORE, or has weight 0: it counts in no sum and gets no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

__all__ = [
    "IGNORE", "cross_entropy", "ctc", "event_bce", "preference", "reverse_kl", "soft_label_kl", "summed_log_probs",
    "top_k_kl", "vector_cosine", "vector_mse",
]  # fmt: skip

IMPOSSIBLE = -1e30  # a log-probability, finite so that no gradient is NaN
IGNORE = -100  # a target that is not known
P = ParamSpec("P")
R = TypeVar("R")


def _exact(function: Callable[P, R]) -> Callable[P, R]:
    """Outside autocast, with half-precision arguments as float32."""

    @wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        up = [_up(value) for value in args]
        named = {name: _up(value) for name, value in kwargs.items()}
        with torch.autocast(device, enabled=False):
            return function(*up, **named)  # type: ignore[arg-type]  # only their precision has changed

    return exact


def _up(value: object) -> object:
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return value


def _sum(values: Tensor, weights: Tensor | None) -> Tensor:
    """values: [N]; weights: [N] or None, then each counts once."""
    return values.sum() if weights is None else (values * weights).sum()


# --- words, labels and events


@_exact
def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """−log p(target) of next tokens, or of labels. Source: maximum likelihood.

    logits: [N, V]; targets: [N] int64, IGNORE where not known; weights: [N].
    """
    known = targets if weights is None else targets.where(weights > 0, IGNORE)
    return _sum(functional.cross_entropy(logits, known, ignore_index=IGNORE, reduction="none"), weights)


@_exact
def ctc(logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, *, blank: int = 0) -> Tensor:
    """−log p(labels) over all alignments, summed over utterances (Graves et al., ICML 2006).

    logits: [ΣT, V], utterances one after another; lengths: [B], their T; targets: [ΣL] without blanks; target_lengths: [B].
    An utterance with too few states for its labels counts 0 (zero_infinity), and so does one without labels: its words are not
    known.
    """
    told = target_lengths > 0
    if not told.any():
        return logits.sum() * 0
    parts = torch.split(logits.log_softmax(-1), lengths.tolist())
    padded = pad_sequence(
        [part for part, known in zip(parts, told.tolist(), strict=True) if known]
    )  # [T of the longest, B, V]
    lengths, target_lengths = lengths[told], target_lengths[told]
    return functional.ctc_loss(
        padded, targets, lengths, target_lengths, blank=blank, reduction="sum", zero_infinity=True
    )


@_exact
def aligned_ctc(logits: Tensor, spans: Tensor, targets: Tensor, target_lengths: Tensor, *, blank: int = 0) -> Tensor:
    """CTC of each word within the states where it is heard, summed over words: alignments are free within a word alone.

    logits: [ΣT, V]; spans: [W, 2], first state of each word and one behind its last, which may overlap; targets, target_lengths:
    as in `ctc`, by word. A word with too few states for its labels counts 0. The forward algorithm runs over a word's own labels
    alone: torch's CTC fills a gradient over the whole vocabulary for each of many short words, which takes 100 times as long.
    """
    if not len(spans):
        return logits.sum() * 0
    lengths = spans[:, 1] - spans[:, 0]  # [W]
    states, ends = _extended(targets, target_lengths, blank)  # [W, S], [W]
    steps = torch.arange(int(lengths.max()), device=logits.device)  # [T]
    rows = (spans[:, :1] + steps).clamp(max=len(logits) - 1)  # [W, T]
    each = logits.log_softmax(-1)[rows[:, :, None], states[:, None, :]]  # [W, T, S]
    loss = -_forward(each, lengths, states, ends, blank)
    return loss.where(loss < -IMPOSSIBLE / 2, 0.0).sum()


def _extended(targets: Tensor, lengths: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Labels with a blank before, between and behind them, [W, 2 L + 1], and how many of these states each word has, [W]."""
    words = pad_sequence(list(torch.split(targets, lengths.tolist())), batch_first=True, padding_value=blank)
    states = torch.full((len(words), 2 * words.shape[1] + 1), blank, device=targets.device)
    states[:, 1::2] = words
    return states, 2 * lengths + 1


def _forward(log_probs: Tensor, lengths: Tensor, states: Tensor, ends: Tensor, blank: int) -> Tensor:
    """log p of each word, [W] (Graves et al., ICML 2006, equations 6 to 8); log_probs: [W, T, S]."""
    never = log_probs.new_full((len(states), 2), IMPOSSIBLE)
    skips = torch.zeros_like(states, dtype=torch.bool)  # from one label to the next, unless they are the same
    skips[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    alpha = torch.cat([log_probs[:, 0, :2], log_probs.new_full((len(states), states.shape[1] - 2), IMPOSSIBLE)], 1)
    for step in range(1, log_probs.shape[1]):
        back = torch.cat([never, alpha], 1)  # [W, S + 2]
        one, two = back[:, 1:-1], back[:, :-2].where(skips, IMPOSSIBLE)
        further = torch.logsumexp(torch.stack([alpha, one, two]), 0) + log_probs[:, step]
        alpha = further.where((step < lengths)[:, None], alpha)
    last = alpha.gather(1, torch.stack([ends - 1, ends - 2], 1))
    return torch.logsumexp(last, 1)


@_exact
def soft_label_kl(logits: Tensor, posterior: Tensor) -> Tensor:
    """KL from a teacher's posterior to the student's, over one set of labels (Hinton et al., arXiv 1503.02531).

    logits: [B, C]; posterior: [B, C], each row summing to m ≤ 1; all zeros where there is none. What lacks to 1 is the teacher's
    “cannot tell”: it speaks of the teacher's hearing, not of the voice, so no label gets it. The row is renormalised by m, and
    weighs m: m · KL(p / m ‖ q). A teacher half sure pulls half as hard; divide by Σ m to have a mean.
    """
    mass = posterior.sum(-1)  # [B]
    entropy = torch.xlogy(posterior, posterior).sum(-1) - torch.xlogy(mass, mass)
    return (entropy - (posterior * logits.log_softmax(-1)).sum(-1)).sum()


@_exact
def event_bce(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Vocal events, several of which may be there: a row's sum of binary cross-entropies, each event on its own.

    logits, targets (0 to 1): [B, E]; weights: [B], 0 where nobody can tell. Source: maximum likelihood of independent events.
    """
    rows = functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").sum(-1)
    return _sum(rows, weights)


# --- a teacher's tokens


@_exact
def top_k_kl(logits: Tensor, top_ids: Tensor, top_logprobs: Tensor, weights: Tensor | None = None) -> Tensor:
    """KL from a teacher LM, of which the k best tokens are known, to the student; all other tokens are one bucket, so that the
    student's mass on them counts, too. Token KL on the answer as in BLSP-Emo (arXiv 2406.03872), cut to k + 1 outcomes.

    logits: [N, V]; top_ids: [N, k], −1 where a list is shorter; top_logprobs: [N, k], −inf there; weights: [N].
    """
    student = logits.log_softmax(-1)
    told = top_ids >= 0
    ids = top_ids.where(told, 0)
    p = top_logprobs.exp().where(told, 0.0).to(logits.dtype)  # [N, k]
    p_rest = (1 - p.sum(-1)).clamp(min=0) * (told.sum(-1) < logits.shape[-1])  # nothing but rounding where all are told
    top = (torch.xlogy(p, p) - p * student.gather(-1, ids)).sum(-1)
    return _sum(top + torch.xlogy(p_rest, p_rest) - p_rest * _log_rest(student, ids, told), weights)


def _log_rest(log_probs: Tensor, ids: Tensor, told: Tensor) -> Tensor:
    """log of the mass outside `ids`, [N]: by a sum over the others, for 1 − Σ loses all digits where the rest is small."""
    vocabulary = log_probs.shape[-1]
    marked = torch.zeros(len(ids), vocabulary + 1, dtype=torch.bool, device=ids.device)
    inside = marked.scatter(-1, ids.where(told, vocabulary), True)[:, :vocabulary]
    return log_probs.masked_fill(inside, torch.finfo(log_probs.dtype).min).logsumexp(-1)


@_exact
def reverse_kl(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """KL(student ‖ teacher) over the whole vocabulary, at each token that the student itself has sampled.

    On-policy distillation (Agarwal et al., GKD, arXiv 2306.13649; reverse KL: MiniLLM, arXiv 2306.08543); no gradient goes
    through the sampling or into the teacher. Both: logits [N, V] over the same tokens, finite; weights: [N].
    """
    log_q, log_p = student.log_softmax(-1), teacher.detach().log_softmax(-1)
    return _sum((log_q.exp() * (log_q - log_p)).sum(-1), weights)


# --- the emotion vector (Emotion Omni, arXiv 2508.18655: 0.6 · MSE + 0.4 · (1 − cosine); the stages hold the weights)


@_exact
def vector_mse(predicted: Tensor, true: Tensor) -> Tensor:
    """A row's mean squared error. Both [B, D], rows that are known only."""
    return (predicted - true).square().mean(-1).sum()


@_exact
def vector_cosine(predicted: Tensor, true: Tensor) -> Tensor:
    """A row's 1 − cosine, 0 to 2. Both [B, D], rows that are known only."""
    return (1 - functional.cosine_similarity(predicted, true, dim=-1)).sum()


# --- preferences


@_exact
def summed_log_probs(logits: Tensor, targets: Tensor, owners: Tensor, count: int) -> Tensor:
    """log p of whole sequences, [count], from their tokens in any order.

    logits: [N, V]; targets: [N], IGNORE where a token counts nowhere; owners: [N], whose token it is.
    """
    each = -functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    return each.new_zeros(count).index_add(0, owners, each)


@_exact
def preference(
    best: Tensor,
    worst: Tensor,
    reference_best: Tensor,
    reference_worst: Tensor,
    gains: Tensor,
    weights: Tensor,
    *,
    beta: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """The preference loss, summed over pairs, and its anchor: −log p of the best replies, to be divided by their tokens.

    DPO (arXiv 2305.18290) with an offset that grows with what the better reply gains (arXiv 2402.10571), here a weighted sum
    over several rewards: −log σ(β · ((best − reference_best) − (worst − reference_worst)) − gains · weights). The anchor keeps
    the best reply from losing probability along with the worst (arXiv 2404.19733).

    best, worst, reference_…: [N] summed log-probabilities; gains: [N, R], best's reward less worst's, NaN where not measured
    (it asks for nothing); weights: [R].
    """
    ahead = (best - reference_best.detach()) - (worst - reference_worst.detach())
    offset = (gains.nan_to_num(nan=0.0) * weights).sum(-1).to(ahead.dtype)
    return -functional.logsigmoid(beta * ahead - offset).sum(), -best.sum()
