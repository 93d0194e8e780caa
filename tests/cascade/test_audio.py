from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import tone
from flaws import BAD_INPUTS, bad_inputs, write

from cascade.audio import Waveform, check_writable, joined, problems_of_ref, read_speech, reference, write_wav
from cascade.errors import InputError


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


@pytest.mark.parametrize("name", BAD_INPUTS)
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
