from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import tone

from cascade.audio import Waveform, check_writable, joined, problems_of_ref, read_speech, reference, write_wav
from cascade.errors import InputError


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def test_round_trip_keeps_sound_and_rate(tmp_path: Path) -> None:
    wave = tone(0.5, rate=22_050)
    write_wav(tmp_path / "a.wav", wave)
    back = read_speech(tmp_path / "a.wav")
    assert back.sample_rate == 22_050
    assert np.abs(back.samples - wave.samples).max() < 1 / 32768


def test_8_khz_stereo_is_mixed(tmp_path: Path) -> None:
    left, right = tone(rate=8000).samples, tone(hz=330, rate=8000).samples
    wave = read_speech(write(tmp_path / "s.wav", np.stack([left, right], 1), 8000))
    assert wave.sample_rate == 8000
    assert np.allclose(wave.samples, (left + right) / 2, atol=1e-4)


def bad_inputs(folder: Path) -> dict[str, tuple[Path, str]]:
    """name → (path, a word that the message must hold)"""
    whole = write(folder / "whole.wav", tone().samples)
    truncated = folder / "truncated.wav"
    truncated.write_bytes(whole.read_bytes()[:-5000])
    text = folder / "text.wav"
    text.write_text("these are words, not sound")
    empty = folder / "empty.wav"
    empty.write_bytes(b"")
    gap = tone().samples.copy()
    gap[100] = np.nan
    long = folder / "long.wav"  # three hours by its header, sparse on disk
    size = 3 * 3600 * 16_000 * 2
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", size
    )
    with long.open("wb") as file:
        file.write(header)
        file.truncate(44 + size)
    return {
        "missing": (folder / "nowhere.wav", "no such file"),
        "directory": (folder, "directory"),
        "empty": (empty, "empty"),
        "text": (text, "not audio"),
        "truncated": (truncated, "truncated"),
        "no samples": (write(folder / "none.wav", np.zeros(0, np.float32)), "no samples"),
        "nan": (write(folder / "nan.wav", gap, subtype="FLOAT"), "NaN"),
        "20 ms": (write(folder / "short.wav", tone(0.02).samples), "too short"),
        "silence": (write(folder / "silence.wav", np.zeros(16_000, np.float32)), "silence"),
        "3 hours": (long, "too long"),
    }


@pytest.mark.parametrize(
    "name", ["missing", "directory", "empty", "text", "truncated", "no samples", "nan", "20 ms", "silence", "3 hours"]
)
def test_bad_input_is_one_clear_line(tmp_path: Path, name: str) -> None:
    path, word = bad_inputs(tmp_path)[name]
    with pytest.raises(InputError) as caught:
        read_speech(path)
    message = str(caught.value)
    assert word in message
    assert str(path) in message
    assert "\n" not in message


def test_a_pipe_that_could_not_know_its_length_is_not_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "piped.wav", tone().samples)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert read_speech(path).duration_s == pytest.approx(1.0, abs=0.01)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    for target in (tmp_path / "no" / "where.wav", Path("/proc/attune.wav")):
        with pytest.raises(InputError, match="cannot be written"):
            write_wav(target, tone())
        with pytest.raises(InputError, match="cannot be written"):
            check_writable(target)
    assert list(tmp_path.iterdir()) == []


def test_a_reference_notices_changed_audio(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, tone())
    ref = reference(path, tone(), tmp_path)
    assert ref.path == "a.wav"
    assert problems_of_ref(ref, tmp_path) == []
    write_wav(path, tone(hz=300))
    assert "sha256" in problems_of_ref(ref, tmp_path)[0]
    path.unlink()
    assert "no such file" in problems_of_ref(ref, tmp_path)[0]


def test_levels_and_joining() -> None:
    sine = tone(1.0, level=1.0)
    assert sine.level_dbfs == pytest.approx(-3.01, abs=0.01)
    assert sine.at_level(-23).level_dbfs == pytest.approx(-23, abs=0.01)
    both = joined([sine, sine], gap_s=0.5)
    assert both.duration_s == pytest.approx(2.5)
    assert np.all(both.samples[16_000:24_000] == 0)
    assert Waveform(np.zeros(10, np.float32), 16_000).level_dbfs == float("-inf")


def test_resampling_keeps_pitch() -> None:
    wave = tone(1.0, hz=440, rate=48_000).resampled(16_000)
    spectrum = np.abs(np.fft.rfft(wave.samples))
    assert np.argmax(spectrum) * 16_000 / len(wave.samples) == pytest.approx(440, abs=2)
