"""Attune's own small codec: log-mel, causal convolutions, finite scalar quantization, causal convolutions, inverse STFT.

Encoder and decoder are causal all the way; each sees a little of what comes next because its input is ahead of its output by
`*_delay_frames`. So a stream needs to keep nothing but the last inputs of each convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from e2e_model.codec.base import Codec
from e2e_model.errors import ConfigProblem

Memory = list[Tensor]  # the last inputs of each convolution, in their order

MEL_FLOOR = 1e-3  # of magnitude: under the noise of 16-bit sound
MAX_LOG_MAGNITUDE = 6.0  # a full-scale tone has log(n_fft / 4)


@dataclass(frozen=True)
class FsqConfig:
    """Of the codec of the nano flavour. Frames of the STFT come `stride` to a frame of tokens."""

    sample_rate: int = 16_000
    n_fft: int = 640
    hop_length: int = 160
    mel_bins: int = 80
    stride: int = 4
    codebooks: int = 2  # tokens of a frame
    levels: tuple[int, ...] = (8, 8, 4, 4)  # of each codebook
    kernel_size: int = 5
    expansion: int = 3  # width of a block's hidden layer, times its own
    encoder_width: int = 128
    encoder_fine_blocks: int = 1  # at the rate of the STFT
    encoder_blocks: int = 2  # at the rate of the tokens
    encoder_delay_frames: int = 2
    decoder_width: int = 256
    decoder_blocks: int = 3  # at the rate of the tokens
    decoder_fine_width: int = 192
    decoder_fine_blocks: int = 3  # at the rate of the STFT
    decoder_delay_frames: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        for name, value in asdict(self).items():
            least = 0 if name.endswith(("_blocks", "_delay_frames")) else 1
            numbers = value if name == "levels" else (value,)
            if not numbers or not all(isinstance(number, int) and number >= least for number in numbers):
                raise ConfigProblem(f"codec: {name} = {value!r}; whole numbers from {least} are legal")
        if min(self.levels) < 2:
            raise ConfigProblem(f"codec: levels = {self.levels}; each is 2 or more")
        if self.n_fft % self.hop_length or self.n_fft == self.hop_length or (self.n_fft - self.hop_length) % 2:
            raise ConfigProblem(
                f"codec: n_fft = {self.n_fft}, hop_length = {self.hop_length}; n_fft is twice the hop or another multiple, "
                "and their difference is even"
            )


class FsqCodec(Codec):
    """16 kHz, 25 Hz, two codebooks of 1024, with the defaults."""

    kind: ClassVar[str] = "fsq"

    def __init__(self, config: FsqConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = config.sample_rate
        self.samples_per_frame = config.stride * config.hop_length
        self.codebooks = config.codebooks
        self.codebook_size = math.prod(config.levels)
        self.quantizer = Quantizer(config.levels, config.codebooks)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, wave: Tensor) -> Tensor:
        """wave: [B, N]. Returns it through the tokens, [B, N], with a gradient straight through the rounding."""
        values = self.quantizer(self.encoder(self.whole_frames(wave)))
        decoded: Tensor = self.decoder(values)
        return decoded[:, : wave.shape[1]]

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        return self.quantizer.indices(self.quantizer(self.encoder(self.whole_frames(wave))))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        wave: Tensor = self.decoder(self.quantizer.values(codes))
        return wave

    def _makes_tokens(self, weight: str) -> bool:
        return not weight.startswith("decoder.")

    def stream(self) -> FsqStream:
        return FsqStream(self)

    def config_dict(self) -> dict[str, Any]:
        return {**asdict(self.config), "levels": list(self.config.levels)}

    @property
    def levels(self) -> tuple[int, ...]:
        return self.config.levels

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        known = [field.name for field in fields(FsqConfig)]
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise ConfigProblem(f"codec: unknown {', '.join(unknown)}; legal: {', '.join(known)}")
        return cls(FsqConfig(**config))


class Quantizer(nn.Module):
    """Finite scalar quantization (Mentzer et al., arXiv 2309.15505): each number is rounded to one of a few levels.

    Values lie in [-1, 1]; a token is the mixed-radix number of its codebook's levels.
    """

    def __init__(self, levels: tuple[int, ...], codebooks: int) -> None:
        super().__init__()
        self.codebooks = codebooks
        self.levels: Tensor
        self.basis: Tensor
        self.register_buffer("levels", torch.tensor(levels * codebooks), persistent=False)
        basis = [math.prod(levels[:place]) for place in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def forward(self, latent: Tensor) -> Tensor:
        """latent: [B, T, D], unbounded. Returns [B, T, D], the nearest levels."""
        latent = latent.float()
        half = (self.levels - 1) * (1 - 1e-3) / 2
        offset = (self.levels % 2 == 0) * 0.5  # an even number of levels has none at zero
        bounded = (latent + torch.atanh(offset / half)).tanh() * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (self.levels // 2)

    def indices(self, values: Tensor) -> Tensor:
        """values: [B, T, D]. Returns [B, K, T] int64."""
        half = self.levels // 2
        places = (values * half).round().long() + half
        books = places.reshape(*places.shape[:2], self.codebooks, -1)
        return (books * self.basis).sum(-1).transpose(1, 2)

    def values(self, indices: Tensor) -> Tensor:
        """indices: [B, K, T]. Returns [B, T, D]."""
        places = indices.transpose(1, 2)[..., None] // self.basis % self.levels[: len(self.basis)]
        return self.between(places.flatten(2))

    def between(self, levels: Tensor) -> Tensor:
        """levels: [..., D], whole or between two. Returns the values they stand for, [..., D]."""
        half = self.levels // 2
        return (levels - half) / half


class Block(nn.Module):
    """A ConvNeXt block (Liu et al., arXiv 2201.03545) over time, as in Vocos (arXiv 2306.00814), causal."""

    def __init__(self, width: int, kernel_size: int, expansion: int) -> None:
        super().__init__()
        self.past = kernel_size - 1
        self.mix = nn.Conv1d(width, width, kernel_size, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, T, D]; past: [B, kernel - 1, D], the inputs before. Returns [B, T, D] and the past of the next call."""
        seen = torch.cat([past.to(x.dtype), x], dim=1)
        mixed = self.mix(seen.transpose(1, 2)).transpose(1, 2)
        y = self.narrow(functional.gelu(self.widen(self.norm(mixed)), approximate="tanh"))
        return x + y, seen[:, seen.shape[1] - self.past :]


class Blocks(nn.Module):
    def __init__(self, count: int, width: int, config: FsqConfig) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList(Block(width, config.kernel_size, config.expansion) for _ in range(count))

    def forward(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """x: [B, T, D]."""
        kept = []
        for block, past in zip(self.blocks, memory, strict=True):
            x, past = block(x, past)
            kept.append(past)
        return x, kept

    def silence(self, x: Tensor) -> Memory:
        """What a sequence begins with: nothing before it."""
        return [x.new_zeros(x.shape[0], cast(Block, block).past, self.width) for block in self.blocks]


class Encoder(nn.Module):
    """A waveform to one latent vector per frame of tokens."""

    def __init__(self, config: FsqConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder_width
        self.log_mel = LogMel(config)
        self.enter = nn.Linear(config.mel_bins, width)
        self.fine = Blocks(config.encoder_fine_blocks, width, config)
        self.down = nn.Linear(config.stride * width, width)
        self.coarse = Blocks(config.encoder_blocks, width, config)
        self.norm = nn.LayerNorm(width)  # without it the latents may saturate, and the codebook collapse
        self.leave = nn.Linear(width, config.codebooks * len(config.levels))

    def forward(self, wave: Tensor) -> Tensor:
        """wave: [B, N], whole frames. Returns [B, T, levels]."""
        delay, stride = self.config.encoder_delay_frames, self.config.stride
        ahead = functional.pad(wave, (0, delay * stride * self.config.hop_length))
        x = self.enter(self.log_mel(ahead))  # [B, stride · (T + delay), D]
        x, _ = self.fine(x, self.fine.silence(x))
        x = self.down(x.reshape(x.shape[0], x.shape[1] // stride, -1))
        x, _ = self.coarse(x, self.coarse.silence(x))
        return self.leave(self.norm(x[:, delay:]))  # type: ignore[no-any-return]


class LogMel(nn.Module):
    """Log-mel magnitudes of a waveform, of speech about -3 to 3."""

    def __init__(self, config: FsqConfig) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.n_fft, self.hop_length = config.n_fft, config.hop_length
        self.window: Tensor
        self.filters: Tensor
        filters = mel_filter_bank(
            config.n_fft // 2 + 1, config.mel_bins, 0.0, config.sample_rate / 2, config.sample_rate, mel_scale="htk"
        )
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer(
            "filters", torch.from_numpy(filters).float(), persistent=False
        )  # [n_fft / 2 + 1, mel_bins]

    def forward(self, wave: Tensor) -> Tensor:
        """wave: [B, N]. Returns [B, N / hop, mel_bins]."""
        with torch.autocast(wave.device.type, enabled=False):
            edge = (self.n_fft - self.hop_length) // 2
            padded = functional.pad(wave.float(), (edge, edge))
            spectrum = torch.stft(
                padded, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True
            )
            mel = spectrum.abs().transpose(1, 2) @ self.filters
            return mel.clamp_min(MEL_FLOOR).log() / 2 + 1


class Decoder(nn.Module):
    """Levels to a waveform: Vocos's head (arXiv 2306.00814) predicts magnitude and phase, an inverse STFT does the rest."""

    def __init__(self, config: FsqConfig) -> None:
        super().__init__()
        self.config = config
        width, fine_width, bins = config.decoder_width, config.decoder_fine_width, config.n_fft // 2 + 1
        self.enter = nn.Linear(config.codebooks * len(config.levels), width)
        self.coarse = Blocks(config.decoder_blocks, width, config)
        self.up = nn.Linear(width, config.stride * fine_width)
        self.fine = Blocks(config.decoder_fine_blocks, fine_width, config)
        self.norm = nn.LayerNorm(fine_width)
        self.magnitude = nn.Linear(fine_width, bins)
        self.phase = nn.Linear(fine_width, bins)
        nn.init.constant_(self.magnitude.bias, -2.0)  # speech is quiet in most places
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        # Phase zero is a pulse in the middle of the window; it would be at its edge, where the window is zero.
        self.center: Tensor
        self.register_buffer("center", torch.arange(bins) % 2, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """values: [B, T, levels]. Returns [B, T · samples_per_frame]."""
        x = self.entered(values)  # [B, T + delay, D]
        frames, _ = self.frames(x, self.silence(x))
        summed, envelope = self.overlapped(frames[:, self.delay_hops :])
        edge = (self.config.n_fft - self.config.hop_length) // 2
        return summed.flatten(1)[:, edge:-edge] / envelope.flatten(1)[:, edge:-edge]

    @property
    def delay_hops(self) -> int:
        return self.config.decoder_delay_frames * self.config.stride

    def entered(self, values: Tensor) -> Tensor:
        """values: [B, T, levels]. Returns [B, T + delay, D], with the nothing that follows the end."""
        return functional.pad(self.enter(values), (0, 0, 0, self.config.decoder_delay_frames))

    def silence(self, x: Tensor) -> tuple[Memory, Memory]:
        return self.coarse.silence(x), self.fine.silence(x)

    def frames(self, x: Tensor, memory: tuple[Memory, Memory]) -> tuple[Tensor, tuple[Memory, Memory]]:
        """x: [B, T, D]. Returns windowed pieces of sound [B, T · stride, n_fft] and the memory of the next call."""
        x, coarse = self.coarse(x, memory[0])
        x = self.up(x)
        x, fine = self.fine(x.reshape(x.shape[0], x.shape[1] * self.config.stride, -1), memory[1])
        x = self.norm(x)
        log_magnitude, half_turns = self.magnitude(x).float(), self.phase(x).float()
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.polar(
                log_magnitude.clamp(max=MAX_LOG_MAGNITUDE).exp(), math.pi * (half_turns + self.center)
            )
            return torch.fft.irfft(spectrum, self.config.n_fft) * self.window, (coarse, fine)

    def overlapped(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """frames: [B, F, n_fft]. Returns their sum, each a hop after the one before, and that of the windows' squares.

        Both in hops: [B, F + n_fft / hop - 1, hop] and [1, as many, hop].
        """
        squares = self.window.square().expand(1, frames.shape[1], -1)
        return self._in_hops(frames), self._in_hops(squares)

    def _in_hops(self, frames: Tensor) -> Tensor:
        pieces = torch.unflatten(frames, -1, (-1, self.config.hop_length)).unbind(2)  # n_fft / hop times [B, F, hop]
        last = len(pieces) - 1
        return torch.stack([functional.pad(piece, (0, 0, at, last - at)) for at, piece in enumerate(pieces)]).sum(0)


class FsqStream:
    """Decodes as tokens come. Sound is `decoder_delay_frames` and a part of a window behind them."""

    def __init__(self, codec: FsqCodec) -> None:
        self._codec = codec
        self._decoder = codec.decoder
        config = codec.config
        self._edge = (config.n_fft - config.hop_length) // 2  # samples that `decode` cuts off at both ends
        self._skip_hops = self._decoder.delay_hops  # frames still to come that belong before the beginning
        self._skip_samples = self._edge
        nothing = codec.quantizer.basis.new_zeros(1, 0, len(codec.quantizer.levels)).float()
        self._memory = self._decoder.silence(nothing)
        self._tail = nothing.new_zeros(1, config.n_fft // config.hop_length - 1, config.hop_length)
        self._tail_envelope = self._tail

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        return self._summed(self._decoder.enter(self._codec.quantizer.values(codes[None])))

    @torch.no_grad()
    def push_levels(self, levels: Tensor) -> Tensor:
        return self._summed(self._decoder.enter(self._codec.quantizer.between(levels[None])))

    @torch.no_grad()
    def end(self) -> Tensor:
        nothing = self._tail.new_zeros(1, self._codec.config.decoder_delay_frames, self._codec.config.decoder_width)
        last = self._summed(nothing)
        rest = (self._tail / self._tail_envelope.clamp_min(1e-8)).flatten()
        return torch.cat([last, rest[self._skip_samples : rest.shape[0] - self._edge]])

    def _summed(self, x: Tensor) -> Tensor:
        """x: [1, t, D]. Returns [n]: the sound that no later frame will add to."""
        frames, self._memory = self._decoder.frames(x, self._memory)
        skipped = min(self._skip_hops, frames.shape[1])
        self._skip_hops -= skipped
        frames = frames[:, skipped:]
        summed, envelope = self._decoder.overlapped(frames)
        tail, count = self._tail.shape[1], frames.shape[1]
        summed = torch.cat([summed[:, :tail] + self._tail, summed[:, tail:]], dim=1)
        envelope = torch.cat([envelope[:, :tail] + self._tail_envelope, envelope[:, tail:]], dim=1)
        self._tail, self._tail_envelope = summed[:, count:], envelope[:, count:]
        sound = (summed[:, :count] / envelope[:, :count]).flatten()
        cut = min(self._skip_samples, sound.shape[0])
        self._skip_samples -= cut
        return sound[cut:]
