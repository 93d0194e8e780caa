"""How far one sound is from another, by their spectra: pure functions of float32, each a SUM over the sounds of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

# (n_fft, hop length) at 16 kHz: short windows for onsets and single glottal pulses, long ones for harmonics.
RESOLUTIONS = ((256, 64), (640, 160), (1024, 256))
MEL_RESOLUTION = 1  # of those, the one that log-mels are made of
MEL_BINS = 80
FLOOR = 3e-3  # of magnitude, about a step of 16-bit sound: what differs below it is no difference


def magnitudes(wave: Tensor, resolutions: Sequence[tuple[int, int]] = RESOLUTIONS) -> list[Tensor]:
    """wave: [B, N]. Returns [B, n_fft / 2 + 1, T] for each resolution; gradients are finite in silence, too."""
    return [_magnitude(wave, n_fft, hop_length) for n_fft, hop_length in resolutions]


def _magnitude(wave: Tensor, n_fft: int, hop_length: int) -> Tensor:
    window = torch.hann_window(n_fft, device=wave.device)
    spectrum = torch.stft(wave, n_fft, hop_length, window=window, pad_mode="constant", return_complex=True)
    power: Tensor = torch.view_as_real(spectrum).square().sum(-1)
    return power.clamp_min(FLOOR**2).sqrt()


def spectral_convergence(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """‖|S| − |Ŝ|‖_F / ‖|S|‖_F of each sound by itself, mean over resolutions (arXiv 1910.11480, equation 4)."""
    errors = [(theirs - ours).square().sum((1, 2)) for ours, theirs in zip(made, wanted, strict=True)]
    sizes = [theirs.square().sum((1, 2)) for theirs in wanted]
    ratios = [(error / size).clamp_min(1e-12).sqrt().sum() for error, size in zip(errors, sizes, strict=True)]
    return torch.stack(ratios).mean()


def log_magnitude_distance(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean |log |S| − log |Ŝ|| of each sound, mean over resolutions (arXiv 1910.11480, equation 5)."""
    distances = [
        (theirs.log() - ours.log()).abs().mean((1, 2)).sum() for ours, theirs in zip(made, wanted, strict=True)
    ]
    return torch.stack(distances).mean()


def mel_distance(made: Tensor, wanted: Tensor, sample_rate: int) -> Tensor:
    """made, wanted: [B, F, T] magnitudes. Mean |difference| of their log-mels (natural logarithm)."""
    filters = _mel_filters(made.shape[1], sample_rate).to(made.device)
    ours, theirs = ((magnitude.transpose(1, 2) @ filters).log() for magnitude in (made, wanted))
    return (theirs - ours).abs().mean((1, 2)).sum()


@cache
def _mel_filters(bins: int, sample_rate: int) -> Tensor:
    """[bins, mel_bins]; each filter sums to 1."""
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(bins, MEL_BINS, 0.0, sample_rate / 2, sample_rate, mel_scale="htk")
    return torch.from_numpy(bank / bank.sum(0)).float()
