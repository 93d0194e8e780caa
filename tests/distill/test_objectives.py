"""Each objective against a plain computation, its gradient, and what must not change it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.training.objectives import (
    IGNORE,
    cross_entropy,
    ctc,
    event_bce,
    preference,
    reverse_kl,
    soft_label_kl,
    summed_log_probs,
    top_k_kl,
    vector_cosine,
    vector_mse,
)

LABELS = torch.tensor([0, 3, IGNORE, 1])
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
POSTERIOR = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.2, 0.1], [0.0, 0.0, 0.0]], dtype=torch.float64)
TOP_IDS = torch.tensor([[2, 0], [4, -1], [1, 3]])
TOP_LOGPROBS = torch.tensor([[0.5, 0.25], [0.9, 0.0], [0.6, 0.4]], dtype=torch.float64).log()


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Leaves that need a gradient."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_()


def _kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


# --- words, labels, events


def test_cross_entropy_counts_what_is_known_by_its_weight() -> None:
    logits = drawn(4, 5)
    p = logits.softmax(-1).tolist()
    assert cross_entropy(logits, LABELS).item() == pytest.approx(
        -math.log(p[0][0]) - math.log(p[1][3]) - math.log(p[3][1])
    )
    loss = cross_entropy(logits, LABELS, WEIGHTS)
    assert loss.item() == pytest.approx(-math.log(p[0][0]) - 0.5 * math.log(p[1][3]))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[2:].abs().max() == 0  # not known, no weight


def _alignments(length: int, vocabulary: int, target: list[int]) -> list[tuple[int, ...]]:
    def collapsed(path: tuple[int, ...]) -> list[int]:
        return [symbol for symbol, _ in itertools.groupby(path) if symbol]

    return [path for path in itertools.product(range(vocabulary), repeat=length) if collapsed(path) == target]


def test_ctc_sums_all_alignments() -> None:
    lengths, targets = [4, 3, 5], [[1, 2], [2], [1, 1]]
    logits = drawn(sum(lengths), 3)
    expected, start = 0.0, 0
    for length, target in zip(lengths, targets, strict=True):
        p = logits[start : start + length].softmax(-1)
        paths = _alignments(length, 3, target)
        expected -= math.log(sum(math.prod(p[t, symbol].item() for t, symbol in enumerate(path)) for path in paths))
        start += length
    joined = torch.tensor([symbol for target in targets for symbol in target])
    found = ctc(logits, torch.tensor(lengths), joined, torch.tensor([2, 1, 2]))
    assert found.item() == pytest.approx(expected)


def test_ctc_of_packed_speech_is_the_sum_of_each_alone() -> None:
    logits = drawn(12, 4)
    lengths, target_lengths = torch.tensor([5, 7]), torch.tensor([2, 3])
    targets = torch.tensor([1, 2, 3, 3, 1])
    both = ctc(logits, lengths, targets, target_lengths)
    first = ctc(logits[:5], lengths[:1], targets[:2], target_lengths[:1])
    second = ctc(logits[5:], lengths[1:], targets[2:], target_lengths[1:])
    assert both.item() == pytest.approx((first + second).item())


def test_ctc_leaves_out_what_cannot_be_aligned() -> None:
    logits = drawn(6, 4)
    loss = ctc(logits, torch.tensor([2, 4]), torch.tensor([1, 2, 3, 1]), torch.tensor([3, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(ctc(logits[2:], torch.tensor([4]), torch.tensor([1]), torch.tensor([1])).item())
    assert logits.grad is not None
    assert logits.grad[:2].abs().max() == 0
    assert logits.grad.isfinite().all()


def test_soft_labels_weigh_what_the_teacher_could_tell() -> None:
    logits = drawn(3, 3)
    q = logits.softmax(-1).tolist()
    expected = _kl([0.7, 0.3, 0.0], q[0]) + 0.5 * _kl([0.4, 0.4, 0.2], q[1])
    loss = soft_label_kl(logits, POSTERIOR)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[2].abs().max() == 0  # a teacher who can tell nothing teaches nothing


def test_soft_labels_are_met_where_the_student_says_the_same() -> None:
    same = (POSTERIOR[:2] / POSTERIOR[:2].sum(-1, keepdim=True)).clamp(min=1e-300).log().requires_grad_()
    loss = soft_label_kl(same, POSTERIOR[:2])
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert same.grad is not None
    assert same.grad.abs().max() < 1e-9


def test_a_sure_posterior_is_a_label() -> None:
    logits = drawn(4, 5)
    sure = torch.nn.functional.one_hot(torch.tensor([0, 3, 2, 1]), 5).double()
    assert soft_label_kl(logits, sure).item() == pytest.approx(cross_entropy(logits, torch.tensor([0, 3, 2, 1])).item())


def test_events_are_each_on_their_own() -> None:
    logits = drawn(4, 3)
    targets = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0.25, 0, 0]])
    p = logits.sigmoid()
    rows = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(-1)
    assert event_bce(logits, targets).item() == pytest.approx(rows.sum().item())
    assert event_bce(logits, targets, WEIGHTS).item() == pytest.approx((rows * WEIGHTS).sum().item())


# --- a teacher's tokens


def test_top_k_with_the_rest_as_one_bucket() -> None:
    logits = drawn(3, 5)
    q = logits.softmax(-1).tolist()
    rows = [
        _kl([0.5, 0.25, 0.25], [q[0][2], q[0][0], q[0][1] + q[0][3] + q[0][4]]),
        _kl([0.9, 0.1], [q[1][4], 1 - q[1][4]]),
        _kl([0.6, 0.4], [q[2][1], q[2][3]]),  # nothing is left for the rest
    ]
    assert top_k_kl(logits, TOP_IDS, TOP_LOGPROBS).item() == pytest.approx(sum(rows))
    weighted = top_k_kl(logits, TOP_IDS, TOP_LOGPROBS, torch.tensor([2.0, 0.0, 1.0]))
    assert weighted.item() == pytest.approx(2 * rows[0] + rows[2])


def test_top_k_of_the_whole_vocabulary_is_the_kl() -> None:
    student, teacher = drawn(4, 5), drawn(4, 5, seed=1).detach()
    ids = torch.arange(5).flip(0).expand(4, 5)
    top = teacher.log_softmax(-1).gather(-1, ids)
    p, q = teacher.softmax(-1).tolist(), student.softmax(-1).tolist()
    loss = top_k_kl(student, ids, top)
    loss.backward()
    assert loss.item() == pytest.approx(sum(_kl(a, b) for a, b in zip(p, q, strict=True)))
    assert student.grad is not None
    assert torch.allclose(student.grad, student.softmax(-1) - teacher.softmax(-1))


def test_top_k_is_bounded_where_the_student_gives_the_rest_nothing() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0, 0.0]], requires_grad=True)
    loss = top_k_kl(logits, torch.tensor([[0]]), torch.tensor([[0.5]]).log())
    loss.backward()
    assert loss.item() == pytest.approx(math.log(0.5) + 0.5 * (40 - math.log(3)), rel=1e-4)
    assert logits.grad is not None
    assert torch.allclose(logits.grad, torch.tensor([[0.5, -1 / 6, -1 / 6, -1 / 6]]), atol=1e-6)


def test_reverse_kl_is_from_the_student() -> None:
    student, teacher = drawn(4, 6), drawn(4, 6, seed=1)
    q, p = student.softmax(-1).tolist(), teacher.softmax(-1).tolist()
    rows = [_kl(a, b) for a, b in zip(q, p, strict=True)]
    assert reverse_kl(student, teacher).item() == pytest.approx(sum(rows))
    loss = reverse_kl(student, teacher, WEIGHTS)
    assert loss.item() == pytest.approx(sum(row * weight for row, weight in zip(rows, WEIGHTS.tolist(), strict=True)))
    loss.backward()
    assert student.grad is not None
    assert student.grad[:3].abs().min() > 0
    assert teacher.grad is None
    assert reverse_kl(student, student).item() == pytest.approx(0)


# --- the emotion vector, preferences


def test_the_vector_s_two_errors() -> None:
    predicted, true = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert vector_mse(predicted, true).item() == pytest.approx(16 / 2 + 5 / 2)
    assert vector_cosine(predicted, true).item() == pytest.approx((1 - 3 / 5) + 1)
    nothing = torch.zeros(1, 2, requires_grad=True)  # has no direction
    vector_cosine(nothing, true[:1]).backward()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()


def test_log_probs_are_summed_by_owner() -> None:
    logits = drawn(4, 5)
    log_p = logits.log_softmax(-1)
    found = summed_log_probs(logits, LABELS, torch.tensor([2, 0, 0, 2]), 4)
    expected = [log_p[1, 3].item(), 0.0, (log_p[0, 0] + log_p[3, 1]).item(), 0.0]
    assert found.tolist() == pytest.approx(expected)


def preferred(**changes: Any) -> tuple[Tensor, Tensor]:
    given: dict[str, Any] = {
        "best": torch.tensor([-3.0, -8.0]),
        "worst": torch.tensor([-5.0, -7.0]),
        "reference_best": torch.tensor([-4.0, -8.0]),
        "reference_worst": torch.tensor([-4.0, -8.0]),
        "gains": torch.tensor([[0.5, 1.0], [0.2, float("nan")]]),
        "weights": torch.tensor([1.0, 0.25]),
        "beta": 0.5,
    }
    return preference(**given | changes)


def test_a_preference_asks_for_more_where_more_is_gained() -> None:
    loss, anchor = preferred()
    margins = [0.5 * (1 - -1) - (0.5 + 0.25), 0.5 * (0 - 1) - 0.2]
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(-margin)) for margin in margins))
    assert anchor.item() == pytest.approx(11.0)
    plain, _ = preferred(weights=torch.zeros(2))
    assert plain.item() == pytest.approx(sum(math.log1p(math.exp(-0.5 * ahead)) for ahead in (2, -1)))
    assert plain < loss


def test_a_preference_moves_both_replies_and_not_the_reference() -> None:
    best, worst = torch.tensor([-3.0, -8.0], requires_grad=True), torch.tensor([-5.0, -7.0], requires_grad=True)
    reference = torch.tensor([-4.0, -8.0], requires_grad=True)
    loss, anchor = preferred(best=best, worst=worst, reference_best=reference)
    loss.backward()
    assert best.grad is not None
    assert worst.grad is not None
    assert (best.grad < 0).all()
    assert torch.equal(best.grad, -worst.grad)
    assert reference.grad is None
    anchor.backward()
    assert (best.grad < -worst.grad).all()


# --- all of them

T = torch.tensor
CASES: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "cross_entropy": (lambda x: cross_entropy(x, LABELS, WEIGHTS), ((4, 5),)),
    "ctc": (lambda x: ctc(x, T([4, 3]), T([1, 2, 2]), T([2, 1])), ((7, 4),)),
    "soft_label_kl": (lambda x: soft_label_kl(x, POSTERIOR), ((3, 3),)),
    "event_bce": (lambda x: event_bce(x, T([[1, 0], [0.5, 1], [0, 0], [1, 1]]), WEIGHTS), ((4, 2),)),
    "top_k_kl": (lambda x: top_k_kl(x, TOP_IDS, TOP_LOGPROBS), ((3, 5),)),
    "reverse_kl": (lambda x: reverse_kl(x, drawn(4, 3, seed=9).detach(), WEIGHTS), ((4, 3),)),
    "vector_mse": (vector_mse, ((3, 4), (3, 4))),
    "vector_cosine": (vector_cosine, ((3, 4), (3, 4))),
    "summed_log_probs": (lambda x: summed_log_probs(x, LABELS, T([1, 0, 0, 1]), 2), ((4, 5),)),
    "preference": (lambda b, w: sum(preference(b, w, b.detach(), b.detach(), T([[0.1], [0.2]]), T([1.0]))), ((2,), (2,))),  # type: ignore[return-value]
}  # fmt: skip
EMPTY: dict[str, Callable[[Tensor], Tensor]] = {
    "cross_entropy": lambda x: cross_entropy(x, T([], dtype=torch.int64)),
    "ctc": lambda x: ctc(x, *(T([], dtype=torch.int64) for _ in range(3))),
    "soft_label_kl": lambda x: soft_label_kl(x, torch.zeros(0, 3)),
    "event_bce": lambda x: event_bce(x, torch.zeros(0, 3), torch.zeros(0)),
    "top_k_kl": lambda x: top_k_kl(x, torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2)),
    "reverse_kl": lambda x: reverse_kl(x, torch.zeros(0, 3), torch.zeros(0)),
    "vector_mse": lambda x: vector_mse(x, torch.zeros(0, 3)),
    "vector_cosine": lambda x: vector_cosine(x, torch.zeros(0, 3)),
    "summed_log_probs": lambda x: summed_log_probs(x, T([], dtype=torch.int64), T([], dtype=torch.int64), 2).sum(),
    "preference": lambda x: sum(preference(*[x.sum(-1)] * 4, torch.zeros(0, 2), torch.ones(2))),  # type: ignore[arg-type,return-value]
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    objective, shapes = CASES[name]
    inputs = tuple(drawn(*shape, seed=seed) for seed, shape in enumerate(shapes))
    assert torch.autograd.gradcheck(objective, inputs)


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_summed_in_float32(name: str) -> None:
    objective, shapes = CASES[name]
    halves = [drawn(*shape, seed=seed, dtype=torch.bfloat16) for seed, shape in enumerate(shapes)]
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(*halves)
    assert found.dtype in (torch.float32, torch.float64)  # the latter where the weights are
    expected = objective(*(half.detach().float() for half in halves))
    assert torch.equal(found.float(), expected.float())
    found.sum().backward()
    assert all(half.grad is not None and half.grad.dtype == torch.bfloat16 for half in halves)


@pytest.mark.parametrize("name", EMPTY)
def test_no_items_are_a_zero_with_a_graph(name: str) -> None:
    inputs = torch.zeros(0, 3, requires_grad=True)
    loss = EMPTY[name](inputs * 1)
    assert loss.item() == 0
    loss.backward()
    assert inputs.grad is not None


@pytest.mark.parametrize("name", ["cross_entropy", "soft_label_kl", "event_bce", "top_k_kl", "reverse_kl"])
def test_a_sum_over_items_is_the_sum_of_sums(name: str) -> None:
    rows = drawn(3, 5)
    others = {
        "cross_entropy": (T([1, IGNORE, 4]), T([1.0, 1.0, 0.5])),
        "soft_label_kl": (torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) / 5,),
        "event_bce": (T([[1.0, 0, 0, 1, 0]] * 3),),
        "top_k_kl": (TOP_IDS, TOP_LOGPROBS),
        "reverse_kl": (drawn(3, 5, seed=2),),
    }[name]
    objective: Callable[..., Tensor] = globals()[name]
    whole = objective(rows, *others)
    parts = [objective(rows[a:b], *(other[a:b] for other in others)) for a, b in ((0, 1), (1, 3))]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts))


@pytest.mark.parametrize("name", ["cross_entropy", "soft_label_kl", "top_k_kl", "reverse_kl"])
def test_logits_are_known_up_to_a_constant(name: str) -> None:
    objective, shapes = CASES[name]
    logits = drawn(*shapes[0]).detach()
    shift = drawn(len(logits), 1, seed=5).detach() * 50
    assert objective(logits + shift).item() == pytest.approx(objective(logits).item())
