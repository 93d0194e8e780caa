"""A codec's decoder that learns on from what a talker expects: which frames, whose sound, and what stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import students
import torch
from answers import limited
from dataset_samples import usual_samples, write_dataset
from torch import Tensor

from cascade.audio import Waveform
from cascade.errors import ConfigError
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished
from distill.training import decoder_job
from distill.training.codec_job import resynthesis_sums
from distill.training.data import Dataset, open_dataset
from distill.training.decoder_job import AS_WRITTEN, DecoderJob, Expected
from distill.training.examples import Chance
from distill.training.job import HELD_OUT
from distill.training.prepared import prepare
from e2e_model.model import SpeechLM
from e2e_model.rows import Written


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, usual_samples(), block=10)
    finished(folder, {"seed": 7}, Facts.of(folder))
    return open_dataset(folder)


def made(dataset: Dataset, folder: Path, lm: SpeechLM) -> DecoderJob:
    prepared = prepare(
        dataset, mel=lambda samples: samples, sample_rate=16_000, mel_key="none", codec=lm.codec, folder=folder,
        progress=lambda done, of: None, heard=(),
    )  # fmt: skip
    return DecoderJob(lm.codec, lm, dataset, prepared, capacity=1 << 16, seed=0, chance=Chance())


@pytest.fixture
def job(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DecoderJob:
    monkeypatch.setattr(decoder_job, "CROP_S", 0.2)
    torch.manual_seed(0)
    return made(dataset, tmp_path, students.nano(vector={"size": 2, "space": "acoustic 1", "hidden": 16}))


def test_only_the_decoder_learns(job: DecoderJob) -> None:
    before = {name: one.detach().clone() for name, one in job.model.named_parameters()}
    learns = {name for name, one in job.model.named_parameters() if one.requires_grad and "decoder" in name}
    (pack, *_) = job.packs(0)
    batch = job.prepare(job.batch(pack, 0))
    sums = job.model(**batch.tensors)
    assert batch.counts == dict.fromkeys(sums, float(len(pack)))
    optimizer = torch.optim.AdamW([one for one in job.model.parameters() if one.requires_grad], 1e-3, weight_decay=0.0)
    torch.stack(list(sums.values())).sum().backward()
    optimizer.step()
    changed = {name for name, one in job.model.named_parameters() if not torch.equal(one, before[name])}
    assert changed == learns


def test_a_crop_s_sound_is_that_of_its_frames(
    job: DecoderJob, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the talker sure of the true codes, the sums would be those of the codec's own crops."""
    codec, model = job._codec, job.model
    assert isinstance(model, Expected)

    def sure(_: Expected, rows: object, written: Written, feeling: object) -> Tensor:
        return (
            codec.quantizer.values(written.frames.T[None])[0] * (codec.quantizer.levels // 2)
            + codec.quantizer.levels // 2
        )

    monkeypatch.setattr(Expected, "levels", sure)
    (pack, *_) = job.held_out()
    tensors = job.batch(pack, HELD_OUT).tensors
    size, (crops, samples) = codec.samples_per_frame, tensors["wave"].shape
    rows = [dataset.rows("validation")[place] for _, place in pack]
    before, parts, waves = 0, [], []
    for row, first in zip(rows, tensors["firsts"].tolist(), strict=True):
        sound = dataset.audio(row, "reply")
        assert sound is not None
        wave = torch.from_numpy(Waveform(*sound).resampled(codec.sample_rate).samples)
        codes = codec.encode(wave[None])
        at = first - before
        before += codes.shape[2]
        parts.append(codec.decode(codes[:, :, at : at + samples // size])[0])
        waves.append(torch.nn.functional.pad(wave, (0, samples))[at * size : at * size + samples])
    assert len(parts) == crops > AS_WRITTEN - 1
    assert torch.equal(torch.stack(waves), tensors["wave"])
    expected = resynthesis_sums(torch.stack(parts), tensors["wave"], codec.sample_rate)
    for name, value in model(**tensors).items():
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-4)


def test_replies_shorter_than_a_crop_are_left_out(job: DecoderJob) -> None:
    places = [place for pack in job.packs(0) for _, place in pack]
    lengths = sorted(job._prepared.code_frames(job._train[place]) for place in places)
    job._crop = lengths[-1] + 1
    with pytest.raises(ConfigError, match="no items"):
        job.packs(0)


def test_samples_are_spoken_by_the_student(job: DecoderJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(job.lm, monkeypatch, speech_s=1.0)
    job.samples(tmp_path)
    assert list(tmp_path.glob("*.wav"))
