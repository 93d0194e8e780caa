"""A stand-in for the few functions of torchaudio that F5-TTS, Vocos and EnCodec name, where no torchaudio can be used.

torchaudio is built for CUDA only; on a CPU torch its import fails, and a package that is installed and fails breaks others that
look for it. The stand-in lies in `sys.modules` only while those three are being imported (`in_place`): they keep what they bound,
and nobody else ever sees it. transformers asks once whether there is a torchaudio and remembers: it is asked before.

Same names, arguments and numbers as the original in what is here: triangular mel bands on the HTK scale, no area norm.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import soundfile
import soxr
import torch

NAME = "torchaudio"
Tensor = torch.Tensor


def _hz_to_mel(hz: float, mel_scale: str = "htk") -> float:
    """O'Shaughnessy's formula, as in HTK."""
    _only(mel_scale == "htk", f"mel_scale {mel_scale!r}")
    return 2595.0 * math.log10(1.0 + hz / 700.0)


def _mel_to_hz(mels: Tensor, mel_scale: str = "htk") -> Tensor:
    _only(mel_scale == "htk", f"mel_scale {mel_scale!r}")
    return 700.0 * (torch.pow(10.0, mels / 2595.0) - 1.0)


def _only(here: bool, what: str) -> None:
    if not here:
        raise NotImplementedError(f"the stand-in for torchaudio has no {what}; install torchaudio for it")


def mel_bands(bins: int, low_hz: float, high_hz: float, bands: int, sample_rate: int) -> Tensor:
    """Weights (bins, bands) of triangles whose corners lie evenly on the mel scale, each of height 1."""
    corners_hz = _mel_to_hz(torch.linspace(_hz_to_mel(low_hz), _hz_to_mel(high_hz), bands + 2))
    bins_hz = torch.linspace(0, sample_rate // 2, bins)[:, None]
    left, peak, right = corners_hz[:-2], corners_hz[1:-1], corners_hz[2:]
    rising, falling = (bins_hz - left) / (peak - left), (right - bins_hz) / (right - peak)
    return torch.minimum(rising, falling).clamp(min=0)


class Spectrogram(torch.nn.Module):
    """(..., T) → (..., n_fft / 2 + 1, frames): magnitude to the given power, Hann window, reflected ends when centred."""

    window: Tensor

    def __init__(
        self,
        n_fft: int = 400,
        win_length: int | None = None,
        hop_length: int | None = None,
        *,
        power: float = 2.0,
        normalized: bool = False,
        center: bool = True,
    ) -> None:
        super().__init__()
        _only(not normalized, "normalized spectrogram")
        self.n_fft, self.win_length, self.power, self.center = n_fft, win_length or n_fft, power, center
        self.hop_length = hop_length or self.win_length // 2
        self.register_buffer("window", torch.hann_window(self.win_length))

    def forward(self, samples: Tensor) -> Tensor:
        flat = samples.reshape(-1, samples.shape[-1])
        spectrum = torch.stft(
            flat, self.n_fft, self.hop_length, self.win_length, self.window, center=self.center, return_complex=True
        )
        return spectrum.reshape(*samples.shape[:-1], *spectrum.shape[-2:]).abs().pow(self.power)


class _MelScale(torch.nn.Module):
    """Holds `fb` under the name it has in checkpoints."""

    fb: Tensor

    def __init__(self, bands: Tensor) -> None:
        super().__init__()
        self.register_buffer("fb", bands)

    def forward(self, spectrum: Tensor) -> Tensor:
        return (spectrum.transpose(-1, -2) @ self.fb).transpose(-1, -2)


class MelSpectrogram(torch.nn.Module):
    """(..., T) → (..., n_mels, frames)."""

    def __init__(
        self,
        sample_rate: int = 16_000,
        n_fft: int = 400,
        win_length: int | None = None,
        hop_length: int | None = None,
        f_min: float = 0.0,
        f_max: float | None = None,
        *,
        n_mels: int = 128,
        power: float = 2.0,
        normalized: bool = False,
        center: bool = True,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        _only(norm is None, f"mel norm {norm!r}")
        self.sample_rate, self.n_fft = sample_rate, n_fft
        self.spectrogram = Spectrogram(n_fft, win_length, hop_length, power=power, normalized=normalized, center=center)
        self.win_length, self.hop_length = self.spectrogram.win_length, self.spectrogram.hop_length
        self.mel_scale = _MelScale(mel_bands(n_fft // 2 + 1, f_min, f_max or sample_rate // 2, n_mels, sample_rate))

    def forward(self, samples: Tensor) -> Tensor:
        mels: Tensor = self.mel_scale(self.spectrogram(samples))
        return mels


def resample(waveform: Tensor, orig_freq: int, new_freq: int) -> Tensor:
    """(..., T) at another rate, by soxr; carries no gradient."""
    if orig_freq == new_freq:
        return waveform
    flat = waveform.detach().reshape(-1, waveform.shape[-1]).cpu().float().numpy()
    moved = torch.from_numpy(soxr.resample(flat.T, orig_freq, new_freq, quality="HQ").T.copy())
    return moved.reshape(*waveform.shape[:-1], moved.shape[-1]).to(waveform)


class Resample(torch.nn.Module):
    def __init__(self, orig_freq: int = 16_000, new_freq: int = 16_000) -> None:
        super().__init__()
        self.orig_freq, self.new_freq = orig_freq, new_freq

    def forward(self, waveform: Tensor) -> Tensor:
        return resample(waveform, self.orig_freq, self.new_freq)


def load(uri: str | Path) -> tuple[Tensor, int]:
    """float32 (channels, T) and the sample rate, of any file libsndfile knows."""
    samples, rate = soundfile.read(uri, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


def save(uri: str | Path, src: Tensor, sample_rate: int, **_: Any) -> None:
    """src (channels, T); the container by the file's ending, 16-bit PCM in WAV."""
    soundfile.write(uri, src.detach().cpu().T.numpy(), sample_rate)


def modules() -> dict[str, ModuleType]:
    """The stand-in's modules by their full names."""
    inner = _module(f"{NAME}.functional.functional", _hz_to_mel=_hz_to_mel, _mel_to_hz=_mel_to_hz, resample=resample)
    functional = _module(f"{NAME}.functional", functional=inner, resample=resample)
    classes = {kind.__name__: kind for kind in (Spectrogram, MelSpectrogram, Resample)}
    transforms = _module(f"{NAME}.transforms", **classes)
    whole = _module(NAME, functional=functional, transforms=transforms, load=load, save=save)
    return {module.__name__: module for module in (whole, functional, inner, transforms)}


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name, "Attune's stand-in.")
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    module.__dict__.update(content)
    return module


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """Inside, `import torchaudio` works: with the real one where it can be used, else with the stand-in. Not after."""
    _remembered_by_transformers()
    if _usable():
        yield
        return
    held = _taken_out()
    sys.modules.update(modules())
    try:
        yield
    finally:
        _taken_out()
        sys.modules.update(held)


def _remembered_by_transformers() -> None:
    if find_spec("transformers") is not None:
        from transformers.utils.import_utils import is_torchaudio_available

        is_torchaudio_available()


def _usable() -> bool:
    """Whether the real one can be imported; what a failed try left behind is taken away again."""
    held = {name: module for name, module in sys.modules.items() if _named(name)}
    try:
        importlib.import_module(NAME)
    except (ImportError, OSError, RuntimeError):  # not there; built for another torch or for CUDA alone
        _taken_out()
        sys.modules.update(held)
        return False
    return True


def _taken_out() -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if _named(name)}


def _named(module: str) -> bool:
    return module == NAME or module.startswith(f"{NAME}.")
