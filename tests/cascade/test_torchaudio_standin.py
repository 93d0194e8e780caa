"""The stand-in for torchaudio: its numbers, and that nobody else ever sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import soxr
import torch

from cascade.tts import torchaudio_standin as standin
from cascade.tts.f5_library import library

RATE = 24_000


def named() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]


def sine(hz: float, rate: int, seconds: float = 1.0) -> torch.Tensor:
    at = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return torch.sin(2 * torch.pi * hz * at).float()


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_mel_spectrogram_is_librosas_on_the_htk_scale_without_norm(power: float) -> None:
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(RATE) + sine(440, RATE).numpy()).astype(np.float32)
    ours = standin.MelSpectrogram(RATE, 1024, None, 256, n_mels=100, power=power)(torch.from_numpy(samples)).numpy()
    theirs = librosa.feature.melspectrogram(
        y=samples, sr=RATE, n_fft=1024, hop_length=256, n_mels=100, power=power, htk=True, norm=None, pad_mode="reflect"
    )
    assert ours.shape == theirs.shape == (100, 94)
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-3)


def test_batches_and_uncentred_frames_keep_their_shapes() -> None:
    batch = torch.randn(2, 3, 2048, generator=torch.Generator().manual_seed(0))
    assert standin.Spectrogram(512, hop_length=128, center=False)(batch).shape == (2, 3, 257, 13)
    assert set(standin.MelSpectrogram().state_dict()) == {"spectrogram.window", "mel_scale.fb"}  # as in checkpoints


def test_what_it_does_not_have_is_said() -> None:
    for wrong in ({"norm": "slaney"}, {"normalized": True}):
        with pytest.raises(NotImplementedError, match="install torchaudio"):
            standin.MelSpectrogram(**wrong)


@pytest.mark.parametrize(("old", "new"), [(44_100, RATE), (RATE, 16_000), (16_000, RATE)])
def test_resampled_sine_keeps_level_and_pitch(old: int, new: int) -> None:
    moved = standin.Resample(old, new)(sine(1000, old)[None, None])
    assert moved.shape == (1, 1, new)
    inner = slice(new // 10, -new // 10)
    np.testing.assert_allclose(moved[0, 0, inner], sine(1000, new)[inner], atol=2e-3)


def test_resampling_takes_away_what_the_new_rate_cannot_hold() -> None:
    high = standin.resample(sine(9000, RATE), RATE, 16_000)
    assert high[1000:-1000].abs().max() < 1e-4
    low = sine(300, RATE)
    expected = soxr.resample(low.numpy(), RATE, 16_000)
    np.testing.assert_allclose(standin.resample(low, RATE, 16_000), expected, atol=1e-4)
    assert standin.resample(low, RATE, RATE) is low


def test_a_saved_file_is_read_as_it_was(tmp_path: Path) -> None:
    stereo = torch.stack([sine(300, RATE, 0.1), sine(500, RATE, 0.1)]) * 0.5
    standin.save(tmp_path / "a.wav", stereo, RATE)
    found, rate = standin.load(tmp_path / "a.wav")
    assert rate == RATE
    assert found.shape == stereo.shape
    np.testing.assert_allclose(found, stereo, atol=1e-4)


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if nothing of torchaudio had been imported. transformers remembers the machine's own state, not the test's."""
    library()
    for name in named():
        monkeypatch.delitem(sys.modules, name)
    return monkeypatch


def made_torchaudio(folder: Path, ending: str) -> Path:
    package = folder / "torchaudio"
    package.mkdir()
    (package / "_part.py").write_text("")
    (package / "__init__.py").write_text(f"import torchaudio._part\n{ending}\n")
    return folder


@pytest.mark.parametrize("error", ["OSError('libcudart.so.13: cannot open')", "ImportError('undefined symbol')"])
def test_where_the_real_one_fails_the_standin_serves_and_goes(
    hidden: pytest.MonkeyPatch, tmp_path: Path, error: str
) -> None:
    hidden.syspath_prepend(made_torchaudio(tmp_path, f"raise {error}"))
    with standin.in_place():
        import torchaudio
        from torchaudio.functional.functional import _hz_to_mel

        assert torchaudio.transforms.MelSpectrogram is standin.MelSpectrogram
        assert _hz_to_mel(1000.0) == pytest.approx(1000, abs=0.1)
    assert named() == []


def test_a_real_one_that_works_is_used_and_stays(hidden: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hidden.syspath_prepend(made_torchaudio(tmp_path, "real = True"))
    try:
        with standin.in_place():
            import torchaudio

            assert torchaudio.real
        assert sorted(named()) == ["torchaudio", "torchaudio._part"]
    finally:
        for name in named():
            del sys.modules[name]


def test_it_goes_even_when_the_import_inside_fails(hidden: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hidden.syspath_prepend(made_torchaudio(tmp_path, "raise OSError"))

    def failing() -> None:
        with standin.in_place():
            assert "torchaudio.transforms" in sys.modules
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert named() == []


def test_what_someone_put_there_to_hide_it_stays(hidden: pytest.MonkeyPatch) -> None:
    hidden.setitem(sys.modules, "torchaudio", None)
    with standin.in_place():
        assert sys.modules["torchaudio"] is not None
    assert sys.modules["torchaudio"] is None


def test_transformers_never_notices() -> None:
    script = """
import sys, transformers
from transformers import Wav2Vec2FeatureExtractor, WhisperModel
from transformers.utils import is_torchaudio_available
from importlib.util import find_spec
from cascade.tts.f5_library import library
real = find_spec("torchaudio") is not None
found = library()
from transformers import ASTFeatureExtractor, ASTModel, AutoProcessor, Qwen3ForCausalLM, Wav2Vec2Model
remembered = is_torchaudio_available()
is_torchaudio_available.cache_clear()
assert remembered == is_torchaudio_available() == real, (remembered, real)
is_torchaudio_available.cache_clear()
from cascade.tts import torchaudio_standin
with torchaudio_standin.in_place():
    assert is_torchaudio_available() == real  # whoever asks meanwhile
assert library() is found
left = [name for name in sys.modules if name.startswith(("torchaudio", "f5_tts.model"))]
assert real or not left, left
try:
    import torchaudio
    assert real
except ImportError:
    assert not real
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
