"""Words in their windows: which units are asked for where, and that the loss is CTC's own, word by word."""

from __future__ import annotations

import torch

from distill.training.aligned import pieces
from distill.training.objectives import aligned_ctc, ctc


def units(text: str) -> list[int]:
    return [1 + "abcdefghijklmnopqrstuvwxyz".index(letter) for letter in text.lower() if letter.isalpha()]


def test_a_word_is_asked_for_where_it_is_heard() -> None:
    found = pieces(
        "I am in a car", [("I", 0.0, 0.2), ("am", 0.2, 0.5), ("in", 0.5, 0.9), ("car", 1.5, 2.0)], 50, 2.0, units
    )
    assert [ids for ids, _, _ in found] == [units("I"), units("am"), units("in a"), units("car")], (
        "a swallowed word stays"
    )
    assert [(first, end) for _, first, end in found] == [(0, 6), (4, 14), (11, 24), (36, 50)]


def test_what_cannot_be_placed_is_left_out() -> None:
    assert pieces("hello there", [("hello", 0.0, 1.0), ("where", 1.0, 2.0), ("there", 1.0, 2.0)], 40, 2.0, units) == [
        (units("hello there"), 0, 21)
    ], "times of other words"
    assert pieces("extraordinary", [("extraordinary", 0.0, 0.1)], 10, 2.0, units) == [], "too short for its units"
    assert pieces("hello", [], 10, 1.0, units) == []


def test_the_loss_is_ctc_of_each_window() -> None:
    """Its value and its gradient are those of torch's CTC, word by word; the same label twice needs a blank between."""
    torch.manual_seed(0)
    logits = torch.randn(20, 6, requires_grad=True)
    spans = torch.tensor([[0, 6], [5, 12], [14, 20], [2, 3]])
    targets, lengths = torch.tensor([1, 2, 3, 3, 5, 4]), torch.tensor([2, 2, 1, 1])
    whole = aligned_ctc(logits, spans, targets, lengths)
    alone = torch.stack(
        [
            ctc(logits[a:b], torch.tensor([b - a]), t, torch.tensor([len(t)]))
            for (a, b), t in zip(spans.tolist(), targets.split(lengths.tolist()), strict=True)
        ]
    ).sum()
    torch.testing.assert_close(whole, alone)
    (gradient,) = torch.autograd.grad(whole, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(alone, logits)[0])
    assert gradient[12:14].abs().sum() == 0, "states between words are asked for nothing"
    assert gradient[5].abs().sum() > 0


def test_a_word_that_cannot_be_said_in_its_window_counts_nothing() -> None:
    logits = torch.randn(4, 6, requires_grad=True)
    spans, lengths = torch.tensor([[0, 2], [1, 4]]), torch.tensor([2, 1])
    loss = aligned_ctc(logits, spans, torch.tensor([3, 3, 2]), lengths)
    torch.testing.assert_close(loss, ctc(logits[1:4], torch.tensor([3]), torch.tensor([2]), torch.tensor([1])))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert gradient[0].abs().sum() == 0


def test_no_times_no_loss() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    assert aligned_ctc(torch.randn(4, 3), empty.reshape(0, 2), empty, empty).ndim == 0
