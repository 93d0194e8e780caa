"""What codes share through their levels, and units with their neighbours."""

from __future__ import annotations

import torch
from students import fsq
from torch.nn import functional as F

from e2e_model.talker import Beside, Codes, Levels


def test_codes_share_the_levels_that_the_codec_gives_them() -> None:
    codec = fsq()  # 4 · 4 · 4
    numbers = torch.arange(codec.codebook_size)
    values = codec.quantizer.values(numbers.expand(1, codec.codebooks, -1))[0, :, :3]  # [64, 3] of the first book
    places = Levels(codec.levels, codec.codebook_size, 8).places.reshape(codec.codebook_size, 3, 4)
    assert places.sum(-1).eq(1).all()
    for number in range(3):
        level = places[:, number].argmax(-1)
        same = level[:, None] == level
        assert torch.equal(same, values[:, None, number] == values[:, number])


def test_a_code_s_row_and_logit_are_sums_of_its_levels_own() -> None:
    torch.manual_seed(0)
    codes = Codes(66, 8, 4, levels=(4, 4, 4))
    plain = Codes(66, 8, 4)
    plain.load_state_dict({k: v for k, v in codes.state_dict().items() if "levels" not in k})
    assert codes.levels is not None
    shared = torch.cat([codes.levels(torch.arange(64)), torch.zeros(2, 4)])  # READ and END have no levels
    plain.table.weight.data += shared
    hidden = torch.randn(5, 8)
    torch.testing.assert_close(codes.logits(hidden), plain.logits(hidden))
    torch.testing.assert_close(codes(torch.arange(66)), plain(torch.arange(66)))
    alone = codes.levels.logits(torch.randn(1, 4)).softmax(-1)[0, :64]  # without the table: levels are independent
    grid = alone.reshape(4, 4, 4)
    product = torch.einsum("i,j,k->ijk", grid.sum((1, 2)), grid.sum((0, 2)), grid.sum((0, 1)))
    torch.testing.assert_close(grid / alone.sum(), product / alone.sum() ** 3)


def test_units_see_their_neighbours_of_the_same_sample_alone() -> None:
    torch.manual_seed(0)
    beside = Beside(16, 2).eval()
    units, sample = torch.randn(9, 16), torch.tensor([0] * 5 + [1] * 4)
    together = beside(units, sample)
    torch.testing.assert_close(together[:5], beside(units[:5], sample[:5]))
    torch.testing.assert_close(together[5:], beside(units[5:], sample[5:]))
    changed = units.clone()
    changed[4] += 1
    moved = (beside(changed, sample) - together).abs().sum(-1) > 1e-6
    assert moved.tolist() == [False, False, True, True, True, False, False, False, False]
    assert F.mse_loss(together, units) > 0


def test_levels_are_taken_in_the_middle_of_their_shares() -> None:
    levels = Levels((3, 4), 12, 2)
    grid = (
        torch.tensor([0.2, 0.5, 0.3])[None, :] * torch.tensor([0.1, 0.2, 0.3, 0.4])[:, None]
    )  # the lowest place is the last
    shares = grid.flatten()
    assert levels.at(shares, torch.tensor([0.5, 0.5])) == 1 + 3 * 2
    assert levels.at(shares, torch.tensor([0.1, 0.95])) == 0 + 3 * 3
    assert levels.at(shares, torch.tensor([1.0, 0.0])) == 2 + 3 * 0
    assert (
        levels.at(shares * 0.999, torch.tensor([1.0, 1.0])) == 2 + 3 * 3
    )  # rounding leads to no level beyond the last
    torch.testing.assert_close(levels.mean(shares), torch.tensor([0.5 + 2 * 0.3, 0.2 + 2 * 0.3 + 3 * 0.4]))
    draw = torch.Generator().manual_seed(0)
    taken = torch.tensor([levels.at(shares, torch.rand(2, generator=draw)) for _ in range(4000)])
    torch.testing.assert_close(torch.bincount(taken, minlength=12) / 4000, shares, atol=0.02, rtol=0)
