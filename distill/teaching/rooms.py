"""Rooms and microphones: where and with what a simulated person is recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade.audio import Waveform

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Channel:
    """Where and with what it was recorded."""

    reverb_s: float  # until 60 dB down
    reverb_db: float  # level of all echoes against the direct sound
    noise_db: float  # of the room under speech of usual level
    noise_slope: float  # 0 white, 1 pink, 2 brown
    tilt_db: float  # dB per octave about 1 kHz
    ripple_db: float  # unevenness of the microphone
    telephone: bool
    level_dbfs: float  # of speech of usual level
    seed: int


def draw_channel(rng: np.random.Generator) -> Channel:
    return Channel(
        reverb_s=rng.uniform(0.08, 0.4),
        reverb_db=rng.uniform(-30, -9),
        noise_db=rng.uniform(-52, -24),
        noise_slope=rng.uniform(0, 2),
        tilt_db=rng.normal(0, 0.8),
        ripple_db=rng.uniform(0, 2),
        telephone=bool(rng.random() < 0.12),
        level_dbfs=rng.uniform(-34, -14),
        seed=int(rng.integers(2**31)),
    )


def heard(wave: Waveform, channel: Channel, *, gain_db: float, seed: int) -> Waveform:
    """The clip through the channel; `gain_db`: how much louder than usual the person speaks.

    Clips as a recorder would. It begins `silence_s(seed)` later.
    """
    fixed, rng = np.random.default_rng(channel.seed), np.random.default_rng(seed)
    rate, x = wave.sample_rate, wave.samples.astype(np.float64)
    before = int(_silence_s(rng) * rate)
    x = np.concatenate([np.zeros(before), x, np.zeros(int(rng.uniform(0.1, 0.5) * rate))])
    length = int(channel.reverb_s * rate)
    tail = fixed.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    echo = np.concatenate([[1.0], tail * 10 ** (channel.reverb_db / 20) / np.sqrt(np.sum(tail**2))])
    size = 1 << (len(x) + len(echo)).bit_length()
    hz = np.fft.rfftfreq(size, 1 / rate).astype(np.float64)
    x = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(echo, size) * _microphone(hz, channel, fixed), size)[: len(x)]
    active = np.square(x)[np.square(x) > np.square(x).max() * 1e-4]
    x *= 10 ** ((channel.level_dbfs + gain_db) / 20) / np.sqrt(active.mean() if len(active) else 1.0)
    slope = np.maximum(np.fft.rfftfreq(len(x), 1 / rate), 50) ** (-channel.noise_slope / 2)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(len(x))) * slope, len(x))
    x += noise / noise.std() * 10 ** ((channel.level_dbfs + channel.noise_db) / 20)
    return Waveform(np.round(np.clip(x, -1, 1) * 32767).astype(np.float32) / np.float32(32768), rate)


def silence_s(seed: int) -> float:
    """How much room there is before the first word, in seconds, with this seed of `heard`."""
    return _silence_s(np.random.default_rng(seed))


def _silence_s(rng: np.random.Generator) -> float:
    """The first thing that is drawn."""
    return float(rng.uniform(0.05, 0.4))


def _microphone(hz: Array, channel: Channel, fixed: np.random.Generator) -> Array:
    octaves = np.log2(np.maximum(hz, 40) / 1000)
    gain_db = channel.tilt_db * np.clip(octaves, -3, 3)
    for number in range(1, 5):
        gain_db = gain_db + channel.ripple_db / number * np.sin(number * octaves + fixed.uniform(0, 2 * np.pi))
    if channel.telephone:
        gain_db = np.where((hz > 3700) | (hz < 200), -50.0, gain_db)
    return np.asarray(10 ** (gain_db / 20))
