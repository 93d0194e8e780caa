"""Speech as tokens and back: Attune's codec and Mimi, whole and as it comes, on disk and off it."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from e2e_model.codec import Codec, FsqCodec, FsqConfig, MimiCodec, load_codec, usage
from e2e_model.errors import CheckpointProblem, ConfigProblem

SMALL = FsqConfig(
    n_fft=64,
    hop_length=16,
    mel_bins=8,
    levels=(8, 5, 3),
    encoder_width=12,
    encoder_blocks=1,
    decoder_width=16,
    decoder_fine_width=12,
)
# Layer scales of 1: attention has a say in the result, as in trained weights. The window is short, so that streams outlast it.
TINY_MIMI = {
    "hidden_size": 32,
    "num_filters": 4,
    "upsampling_ratios": [4, 2],
    "codebook_size": 64,
    "codebook_dim": 16,
    "num_quantizers": 4,
    "vector_quantization_hidden_dimension": 16,
    "upsample_groups": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "sliding_window": 10,
    "layer_scale_initial_scale": 1.0,
}


def randomized(codec: MimiCodec) -> MimiCodec:
    """A fresh Mimi's codebooks are all zero: every frame would have the same token."""
    with torch.no_grad():
        for name, tensor in codec.model.named_buffers():
            if name.endswith("embed_sum"):
                tensor.normal_()
    return codec


def small_fsq() -> FsqCodec:
    codec = FsqCodec(SMALL).eval()
    with torch.no_grad():
        codec.encoder.leave.weight.mul_(10)  # fresh latents stay near one level
    return codec


@pytest.fixture(params=["fsq", "mimi"])
def codec(request: pytest.FixtureRequest) -> Codec:
    torch.manual_seed(0)
    return small_fsq() if request.param == "fsq" else randomized(MimiCodec(TINY_MIMI, codebooks=3))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def streamed(codec: Codec, codes: Tensor, sizes: list[int]) -> Tensor:
    """codes: [K, T]."""
    stream = codec.stream()
    pieces = [stream.push(part) for part in codes.split(sizes, dim=1)]
    return torch.cat([*pieces, stream.end()])


def random_sizes(total: int, seed: int) -> list[int]:
    chance = np.random.default_rng(seed)
    cuts = sorted({0, total, *chance.integers(1, total, chance.integers(1, total)).tolist()})
    return [after - before for before, after in itertools.pairwise(cuts)]


@pytest.mark.parametrize("frames", [0.1, 1, 7.5, 20])
def test_round_trip_shapes(codec: Codec, frames: float) -> None:
    length = round(frames * codec.samples_per_frame)
    codes = codec.encode(noise(2, length))
    assert codes.shape == (2, codec.codebooks, math.ceil(frames))
    assert codes.dtype == torch.int64
    assert 0 <= int(codes.min()) <= int(codes.max()) < codec.codebook_size
    assert codec.decode(codes).shape == (2, math.ceil(frames) * codec.samples_per_frame)
    assert codec.frame_rate * codec.samples_per_frame == codec.sample_rate


def test_tokens_depend_on_the_sound(codec: Codec) -> None:
    codes = codec.encode(noise(1, 40 * codec.samples_per_frame))
    assert all(len(row.unique()) > 3 for row in codes[0])


def test_zeros_behind_a_wave_change_none_of_its_tokens(codec: Codec) -> None:
    wave = noise(2, round(9.3 * codec.samples_per_frame))
    longer = torch.cat([wave, torch.zeros(2, 5 * codec.samples_per_frame)], dim=1)
    assert torch.equal(codec.encode(longer)[:, :, :10], codec.encode(wave))


@pytest.mark.parametrize("sizes", [[1] * 40, [40], [1, 39], *(random_sizes(40, seed) for seed in range(3))], ids=str)
def test_streaming_equals_whole(codec: Codec, sizes: list[int]) -> None:
    codes = torch.randint(codec.codebook_size, (1, codec.codebooks, 40), generator=torch.Generator().manual_seed(1))
    whole = codec.decode(codes)[0]
    pieces = streamed(codec, codes[0], sizes)
    assert pieces.shape == whole.shape
    assert float((pieces - whole).abs().max()) < 1e-4 * max(1.0, float(whole.abs().max()))


def test_levels_sound_like_their_tokens_and_in_between() -> None:
    codec = small_fsq()
    places = torch.tensor(codec.levels * codec.codebooks)
    levels = torch.stack([torch.randint(int(n), (9,)) for n in places], -1).float()  # [t, K · places]
    books = levels.reshape(9, codec.codebooks, -1).long()
    codes = (books * codec.quantizer.basis).sum(-1).T

    def heard(*parts: Tensor) -> Tensor:
        stream = codec.stream()
        return torch.cat([*(stream.push_levels(part) for part in parts), stream.end()])

    torch.testing.assert_close(heard(*levels.split([2, 7])), codec.decode(codes[None])[0], atol=1e-4, rtol=1e-4)
    moved = levels.clone()
    moved[4, 0] += 0.5
    assert not torch.allclose(heard(moved), heard(levels))


@pytest.mark.parametrize("frames", [1, 2])
def test_streams_as_short_as_can_be(codec: Codec, frames: int) -> None:
    codes = torch.zeros(1, codec.codebooks, frames, dtype=torch.int64)
    torch.testing.assert_close(streamed(codec, codes[0], [1] * frames), codec.decode(codes)[0], atol=1e-5, rtol=1e-5)


def test_a_stream_of_nothing_is_silent(codec: Codec) -> None:
    assert len(codec.stream().end()) == 0


def test_sound_is_at_most_two_frames_behind_its_tokens(codec: Codec) -> None:
    stream, heard = codec.stream(), 0
    for pushed in range(1, 11):
        heard += len(stream.push(torch.zeros(codec.codebooks, 1, dtype=torch.int64)))
        assert heard >= (pushed - 2) * codec.samples_per_frame


def test_two_streams_do_not_mix(codec: Codec) -> None:
    codes = torch.randint(codec.codebook_size, (2, codec.codebooks, 6), generator=torch.Generator().manual_seed(2))
    streams = [codec.stream(), codec.stream()]
    pieces: list[list[Tensor]] = [[], []]
    for at in range(6):
        for one, stream in enumerate(streams):
            pieces[one].append(stream.push(codes[one, :, at : at + 1]))
    for one, stream in enumerate(streams):
        made = torch.cat([*pieces[one], stream.end()])
        torch.testing.assert_close(made, codec.decode(codes)[one], atol=1e-4, rtol=1e-4)


def test_a_changed_weight_is_another_codec(codec: Codec) -> None:
    before = codec.fingerprint()
    assert codec.fingerprint() == before
    with torch.no_grad():
        next(codec.parameters()).view(-1)[0] += 1e-3
    assert codec.fingerprint() != before


def test_another_configuration_is_another_codec() -> None:
    torch.manual_seed(0)
    three = MimiCodec(TINY_MIMI, codebooks=3)
    two = MimiCodec(TINY_MIMI, codebooks=2)
    two.load_state_dict(three.state_dict())
    assert two.fingerprint() != three.fingerprint()


def test_what_is_saved_loads_back(codec: Codec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    again = load_codec(tmp_path)
    wave = noise(1, 6 * codec.samples_per_frame)
    assert type(again) is type(codec)
    assert not again.training
    assert again.fingerprint() == codec.fingerprint()
    assert torch.equal(again.encode(wave), codec.encode(wave))
    assert torch.equal(again.decode(codec.encode(wave)), codec.decode(codec.encode(wave)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec.json", "codec.safetensors"]


def test_half_of_the_bytes_is_another_codec_by_its_fingerprint(codec: Codec, tmp_path: Path) -> None:
    before = codec.fingerprint()
    codec.save(tmp_path / "whole")
    codec.save(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "codec.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    assert codec.fingerprint() == before, "saving changed the codec"
    again = load_codec(tmp_path / "half")
    assert again.fingerprint() not in ("", before)
    assert {tensor.dtype for tensor in again.parameters()} == {torch.float32}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def garbage(path: Path) -> None:
    path.write_bytes(b"\x80\x04cposix\nsystem\n")


@pytest.mark.parametrize("spoil", [cut, flip, remove, garbage])
def test_spoiled_weights_are_refused_by_name(codec: Codec, tmp_path: Path, spoil: Any) -> None:
    codec.save(tmp_path)
    spoil(tmp_path / "codec.safetensors")
    with pytest.raises(CheckpointProblem, match=r"codec\.safetensors: ") as caught:
        load_codec(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", [cut, remove, garbage])
def test_a_spoiled_configuration_is_refused_by_name(codec: Codec, tmp_path: Path, spoil: Any) -> None:
    codec.save(tmp_path)
    spoil(tmp_path / "codec.json")
    with pytest.raises(CheckpointProblem, match=r"codec\.json: "):
        load_codec(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "opus"}, "kind = 'opus'; legal: fsq, mimi"),
        ({"config": {"levels": [1]}}, "levels"),
        ({"config": {"hop": 3}}, "unknown hop; legal: sample_rate"),
        ({"fingerprint": "0"}, "fingerprint differs"),
        ({"extra": 1}, "kind, config and fingerprint"),
        ({"config": {"kernel_size": 3}}, "weights"),
    ],
    ids=str,
)
def test_a_changed_configuration_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    small_fsq().save(tmp_path)
    path = tmp_path / "codec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointProblem, match=says):
        load_codec(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"levels": (8, 1)}, {"levels": ()}, {"n_fft": 100}, {"n_fft": 160}, {"stride": 0}, {"stride": 1.5}],
    ids=str,
)
def test_illegal_configurations(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigProblem, match="codec: "):
        FsqConfig(**change)


def test_token_statistics() -> None:
    even = usage(torch.arange(8).repeat(2, 1, 3), 16)
    assert even.share == 0.5
    assert even.perplexity == pytest.approx(8)
    assert usage(torch.zeros(2, 1, 5, dtype=torch.int64), 16) == (1 / 16, 1.0)
    skewed = usage(torch.tensor([[[0, 0, 0, 1]]]), 4)
    assert skewed.perplexity == pytest.approx(2 ** -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    both = usage(torch.stack([torch.zeros(8, dtype=torch.int64), torch.arange(8)])[None], 8)
    assert both == (pytest.approx((1 / 8 + 1) / 2), pytest.approx((1 + 8) / 2))


def test_every_token_has_levels_of_its_own() -> None:
    quantizer = small_fsq().quantizer
    tokens = torch.stack([torch.arange(8 * 5 * 3), torch.arange(8 * 5 * 3).flip(0)])[None]  # [1, K, T]
    values = quantizer.values(tokens)
    assert len(values[0, :, :3].unique(dim=0)) == len(values[0, :, 3:].unique(dim=0)) == 120
    assert torch.equal(quantizer.indices(values), tokens)
    assert float(values.abs().max()) <= 1


def test_rounding_reaches_every_level_and_lets_gradients_through() -> None:
    quantizer = small_fsq().quantizer
    latent = torch.linspace(-6, 6, 400)[None, :, None].repeat(1, 1, 6).requires_grad_()
    values = quantizer(latent)
    assert [len(values[0, :, place].unique()) for place in range(6)] == [8, 5, 3, 8, 5, 3]
    values.sum().backward()
    assert latent.grad is not None
    assert bool((latent.grad[0, 100:300] > 0).all())


def test_the_default_is_a_small_codec_with_most_of_it_in_the_decoder() -> None:
    codec = FsqCodec(FsqConfig())
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in codec.named_children()}
    assert 2e6 < sum(count.values()) < 4e6
    assert count["decoder"] > 2 * count["encoder"]
    assert (codec.frame_rate, codec.codebooks, codec.codebook_size) == (25, 2, 1024)


def test_resynthesis_is_as_long_as_the_wave_and_what_the_tokens_say() -> None:
    torch.manual_seed(0)
    codec, wave = small_fsq(), noise(2, 1001)
    made = codec(wave)
    assert made.shape == wave.shape
    torch.testing.assert_close(made, codec.decode(codec.encode(wave))[:, :1001])
    made.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in codec.parameters())


def test_mimi_from_transformers_own_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = randomized(MimiCodec(TINY_MIMI, codebooks=3))
    codec.model.save_pretrained(tmp_path)
    again = MimiCodec.from_pretrained(tmp_path, codebooks=3)
    wave = noise(1, 999)
    assert torch.equal(again.encode(wave), codec.encode(wave))
    torch.testing.assert_close(again.decode(again.encode(wave)), codec.decode(codec.encode(wave)))
    again.save(tmp_path / "ours")
    assert load_codec(tmp_path / "ours").fingerprint() == again.fingerprint()


def test_a_folder_that_holds_no_whole_mimi(tmp_path: Path) -> None:
    with pytest.raises(CheckpointProblem, match=r"no config\.json"):
        MimiCodec.from_pretrained(tmp_path)
    MimiCodec(TINY_MIMI, codebooks=3).model.save_pretrained(tmp_path)
    cut(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointProblem, match="no Mimi that can be loaded"):
        MimiCodec.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "codebooks"),
    [({}, 5), ({}, 0), ({"use_causal_conv": False}, 3), ({"num_quantizers": "many"}, 3)],
    ids=str,
)
def test_a_mimi_that_cannot_be(change: dict[str, Any], codebooks: int) -> None:
    with pytest.raises(ConfigProblem, match="codec: "):
        MimiCodec({**TINY_MIMI, **change}, codebooks)


def test_nothing_of_mimi_trains() -> None:
    codec = MimiCodec(TINY_MIMI, codebooks=3)
    assert not any(p.requires_grad for p in codec.parameters())
    assert not nn.Sequential(codec).train()[0].model.training
