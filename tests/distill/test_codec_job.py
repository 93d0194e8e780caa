"""Stage 0: one step, a few dozen steps, and what its crops depend on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cascade.audio import Samples, read_speech
from cascade.errors import InputError
from distill.training.codec_job import CodecJob
from distill.training.spectral import (
    FLOOR,
    log_magnitude_distance,
    magnitudes,
    mel_distance,
    spectral_convergence,
)
from e2e_model.codec import FsqCodec, FsqConfig

SMALL = FsqConfig(
    encoder_width=24,
    encoder_blocks=1,
    decoder_width=32,
    decoder_blocks=1,
    decoder_fine_width=32,
    decoder_fine_blocks=1,
)


def tones(count: int, first: int = 0) -> list[Samples]:
    """Sounds of one to two seconds, each of a few harmonics that come and go."""
    made = []
    for index in range(first, first + count):
        chance = np.random.default_rng(index)
        time_s = np.arange(16_000 + int(chance.integers(16_000))) / 16_000
        pitch_hz = chance.uniform(150, 500)
        wave = sum(np.sin(2 * np.pi * k * pitch_hz * time_s) / k for k in range(1, 5)) * (1 + np.sin(8 * time_s))
        made.append((0.1 * wave).astype(np.float32))
    return made


@pytest.fixture
def job() -> CodecJob:
    torch.manual_seed(0)
    return CodecJob(FsqCodec(SMALL), tones(16), tones(6, first=100), seed=3)


def loss_of(job: CodecJob, pack: list[int], epoch: int) -> torch.Tensor:
    batch = job.batch(pack, epoch)
    sums = job.model(**batch.tensors)
    return sum((job.weights[name] * sums[name] / batch.counts[name] for name in sums), torch.zeros(()))


def held_out(job: CodecJob) -> float:
    with torch.no_grad():
        return float(np.mean([float(loss_of(job, list(pack), -1)) for pack in job.held_out()]))


def test_one_step_changes_every_parameter(job: CodecJob) -> None:
    before = {name: tensor.detach().clone() for name, tensor in job.model.named_parameters()}
    optimizer = torch.optim.SGD(job.model.parameters(), 1e-2)
    loss_of(job, list(job.packs(0)[0]), 0).backward()
    optimizer.step()
    same = [name for name, tensor in job.model.named_parameters() if torch.equal(tensor, before[name])]
    assert same == []


def test_the_loss_falls(job: CodecJob) -> None:
    before = held_out(job)
    optimizer = torch.optim.AdamW(job.model.parameters(), 3e-3)
    for epoch in range(6):
        for pack in job.packs(epoch):
            optimizer.zero_grad()
            loss_of(job, list(pack), epoch).backward()
            optimizer.step()
    assert held_out(job) < 0.7 * before


def test_the_same_seed_takes_the_same_crops(job: CodecJob) -> None:
    other = CodecJob(FsqCodec(SMALL), tones(16), tones(6, first=100), seed=3)
    assert job.packs(1) == other.packs(1)
    assert torch.equal(job.batch([4, 2], 1).tensors["wave"], other.batch([4, 2], 1).tensors["wave"])


def test_an_epoch_takes_each_wave_once_from_another_place(job: CodecJob) -> None:
    assert sorted(index for pack in job.packs(0) for index in pack) == list(range(16))
    assert job.packs(0) != job.packs(1)
    assert not torch.equal(job.batch([4], 0).tensors["wave"], job.batch([4], 1).tensors["wave"])


def test_another_seed_takes_others(job: CodecJob) -> None:
    other = CodecJob(FsqCodec(SMALL), tones(16), tones(6, first=100), seed=4)
    assert job.packs(0) != other.packs(0)
    assert not torch.equal(job.batch([4], 0).tensors["wave"], other.batch([4], 0).tensors["wave"])


def test_held_out_crops_stay_and_are_counted(job: CodecJob) -> None:
    (pack,) = job.held_out()
    one, two = job.batch(pack, -1), job.batch(pack, -1)
    assert torch.equal(one.tensors["wave"], two.tensors["wave"])
    assert one.counts == {"convergence": 6.0, "log_magnitude": 6.0, "mel": 6.0}
    assert one.tokens == 6 * 25


def test_a_short_wave_is_followed_by_silence(job: CodecJob) -> None:
    short = CodecJob(FsqCodec(SMALL), [np.ones(100, np.float32)], tones(1), seed=0)
    wave = short.batch([0], 0).tensors["wave"]
    assert wave.shape == (1, 16_000)
    assert float(wave.sum()) == 100


def test_sums_do_not_depend_on_what_else_is_in_the_batch(job: CodecJob) -> None:
    with torch.no_grad():
        both = job.model(**job.batch([0, 1], 0).tensors)
        alone = [job.model(**job.batch([index], 0).tensors) for index in (0, 1)]
    for name, value in both.items():
        assert float(value) == pytest.approx(float(alone[0][name] + alone[1][name]), rel=1e-4)


def test_sums_are_float32_under_autocast(job: CodecJob) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        sums = job.model(**job.batch([0], 0).tensors)
    assert {value.dtype for value in sums.values()} == {torch.float32}


def test_samples_can_be_heard(job: CodecJob, tmp_path: Path) -> None:
    job.samples(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{index:02d}-{what}.wav" for index in range(4) for what in ("codec", "original")]
    original, made = (read_speech(tmp_path / f"00-{what}.wav") for what in ("original", "codec"))
    assert len(original.samples) == len(made.samples) == len(tones(1, first=100)[0])
    assert original.sample_rate == 16_000


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(InputError, match="0 sounds to train on, 1 held out"):
        CodecJob(FsqCodec(SMALL), [], tones(1), seed=0)


def test_spectral_distances_against_plain_arithmetic() -> None:
    chance = np.random.default_rng(0)
    made, wanted = (chance.uniform(0.1, 1, (2, 5, 7)).astype(np.float32) for _ in range(2))
    ours, theirs = [torch.from_numpy(made)], [torch.from_numpy(wanted)]
    convergence = sum(np.linalg.norm(w - m) / np.linalg.norm(w) for m, w in zip(made, wanted, strict=True))
    assert float(spectral_convergence(ours, theirs)) == pytest.approx(convergence, rel=1e-5)
    distance = np.abs(np.log(wanted) - np.log(made)).mean((1, 2)).sum()
    assert float(log_magnitude_distance(ours, theirs)) == pytest.approx(distance, rel=1e-5)


def test_a_magnitude_is_that_of_the_windowed_fourier_transform() -> None:
    wave = torch.from_numpy(tones(1)[0])[None]
    (made,) = magnitudes(wave, [(640, 160)])
    frame = wave[0, 1600 - 320 : 1600 + 320].numpy() * np.hanning(641)[:-1]
    np.testing.assert_allclose(made[0, :, 10], np.abs(np.fft.rfft(frame)).clip(FLOOR), rtol=1e-3, atol=1e-3)


def test_a_sound_is_no_way_from_itself_and_half_of_it_is_log_two() -> None:
    wave = torch.from_numpy(tones(1)[0])[None]
    loud, soft = magnitudes(wave), magnitudes(wave / 2)
    assert float(spectral_convergence(loud, loud)) < 1e-5
    assert float(mel_distance(loud[1], loud[1], 16_000)) == 0
    assert float(spectral_convergence(soft, loud)) == pytest.approx(0.5, abs=1e-3)
    assert (
        0.2 < float(mel_distance(soft[1], loud[1], 16_000)) <= np.log(2) + 1e-4
    )  # less: some of it is below the floor


def test_silence_has_finite_gradients() -> None:
    wave = torch.zeros(1, 4000, requires_grad=True)
    ours, theirs = magnitudes(wave), magnitudes(torch.zeros(1, 4000))
    loss = spectral_convergence(ours, theirs) + log_magnitude_distance(ours, theirs)
    (loss + mel_distance(ours[1], theirs[1], 16_000)).backward()
    assert wave.grad is not None
    assert bool(wave.grad.isfinite().all())
