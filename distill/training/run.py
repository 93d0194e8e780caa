"""A whole training run: from a dataset to a student, stage after stage, in one folder that can be gone on with.

RUN/settings.json is written first; RUN/student holds the student as it stood after the last stage that was finished; each
stage has a folder of its own (loop.py), with done.json when it is through.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cascade.audio import Samples, Waveform
from cascade.errors import ConfigError, InputError
from distill.commit import commit
from distill.files import whole_file
from distill.run_folder import make_folder
from distill.training import checkpoints, guards
from distill.training.assemble import (
    assembled,
    check_codec,
    check_labels,
    check_networks,
    codec_to_train,
    fitted,
    learn_words,
    mel_key,
    new_codec,
    set_dropout,
    set_training,
    with_ears,
    with_voice,
)
from distill.training.codec_job import CodecJob
from distill.training.costs import flops_per_token
from distill.training.data import Dataset, Row, Voice, open_datasets
from distill.training.decoder_job import DecoderJob
from distill.training.job import Result
from distill.training.loop import train
from distill.training.order import Order, found
from distill.training.parallel import is_first, processes
from distill.training.prepared import Prepared, prepare
from distill.training.refine import RefineJob
from distill.training.stages import STAGES, TABLE, Stage, StageName, voices_heard
from distill.training.student_job import StudentJob
from distill.training.sureness import learn_sureness
from e2e_model.codec import MimiCodec, load_codec
from e2e_model.features import log_mel
from e2e_model.model import SpeechLM

DONE = "done.json"
Tell = Callable[[str], None]
Progress = Callable[[int, int], None]


def run(order: Order, tell: Tell, progress: Progress) -> dict[str, Result]:
    """Every stage that is not done yet. Raises AttuneError, StudentError; guards.Stopped when a signal ends it."""
    dataset = open_datasets(order.data)
    order = _settled(order)
    check_labels(order.config, dataset)
    make_folder(order.out, resume=order.resume)
    results: dict[str, Result] = {}
    with guards.open_run(order.out, order.settings(dataset), resume=order.resume):
        if order.makes_codec or order.decodes:
            results |= _codec_stage(order, dataset, tell, progress)
        elif "codec" in order.stages and order.config.codec.kind == "fsq":
            tell(f"codec: left out, for there is one: {order.codec}")
        student = [name for name in order.stages if name != "codec"]
        if not student:
            return results
        codec = codec_of(order)
        lm = _begun(order, dataset, codec)
        lm.emotion_frames = order.emotion_frames
        prepared = _prepared(order, lm, dataset, progress, voices_heard(student))
        for name in student:
            if _done(order.out / name):
                tell(f"{name}: done")
                continue
            results[name] = _student_stage(order, order.stage(name), lm, dataset, prepared, tell)
    return results


def _settled(order: Order) -> Order:
    """As `found`, and readable, before anything is written. Raises ConfigError, StudentError."""
    order = found(order)
    if not order.makes_codec:
        codec = codec_of(order)
        if order.voice is not None:
            check_codec(codec, load_codec(order.voice / "codec"), order.voice)
    if order.start is None and order.config.thinker.source is None:
        check_networks(order.config)
    return order


def _codec_stage(order: Order, dataset: Dataset, tell: Tell, progress: Progress) -> dict[str, Result]:
    folder = order.out / "codec"
    if _done(folder):
        tell("codec: done")
        return {}
    codec = codec_to_train(order.config, order.seed, order.codec)
    stage = order.stage("codec")
    job = _codec_job(order, codec, dataset, progress)
    result = train(job, stage.schedule, order.out, seed=order.seed, resume=order.resume, tell=tell)
    checkpoints.use(folder / order.keep, job.model)
    if is_first():
        codec.cpu().save(folder / "weights")
        _finish(folder, result)
    return {"codec": result}


def _codec_job(order: Order, codec: Any, dataset: Dataset, progress: Progress) -> Any:
    """From sounds alone, or for a voice that is there."""
    if not order.decodes or order.voice is None:
        sounds = (Replies(dataset, dataset.rows(split), codec.sample_rate) for split in ("train", "validation"))
        return CodecJob(codec, *sounds, seed=order.seed)
    lm = SpeechLM.from_pretrained(order.voice, device="cpu")
    prepared = _prepared(order, lm, dataset, progress, heard=())
    return DecoderJob(codec, lm, dataset, prepared, capacity=order.capacity, seed=order.seed, chance=order.chance)


class Replies:
    """The speech of a dataset's replies, read when asked: the student speaks in that voice and in no other."""

    def __init__(self, dataset: Dataset, rows: list[Row], sample_rate: int) -> None:
        self._dataset, self._rate = dataset, sample_rate
        self._rows = [row for row in rows if row.reply_duration_s]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> Samples:
        sound = self._dataset.audio(self._rows[index], "reply")
        assert sound is not None, "it has a length, so it is there"
        return Waveform(*sound).resampled(self._rate).samples


def speaks(stages: Iterable[StageName]) -> bool:
    """Whether one of them needs the replies' codec tokens."""
    return any(not {"codes", "depth"}.isdisjoint(TABLE[name].objectives) for name in stages)


def codec_of(order: Order) -> Any:
    """The codec that this run speaks in. Raises ConfigError: there is none."""
    own = order.out / "codec" / "weights"
    if order.config.codec.kind == "mimi":
        source = order.codec or Path(order.config.codec.source or "")
        if not source.is_dir():
            raise ConfigError(
                f"codec: {source} is no folder; get Mimi's (hf download kyutai/mimi --local-dir mimi) and give it with --codec"
            )
        return MimiCodec.from_pretrained(source, codebooks=order.config.codec.codebooks)
    if order.codec is not None:
        return load_codec(order.codec)
    if own.is_dir():
        return load_codec(own)
    if not speaks(order.stages):
        return new_codec(
            order.config, order.seed
        )  # it says nothing yet: the voice may learn elsewhere at the same time
    raise ConfigError("codec: this run has none yet; let it have the stage codec, or give one with --codec")


def _begun(order: Order, dataset: Dataset, codec: Any) -> SpeechLM:
    """The student as it stood after the last stage, or as it begins. Raises InputError: another codec or label map."""
    there = order.out / "student"
    place = there if (there / "student.json").is_file() else order.start
    if place is None:
        lm = assembled(order.config, dataset, codec, seed=order.seed)
        lm = with_voice(with_ears(lm, order.ears), order.voice)
        learn_words(lm, dataset)
        _save(order, lm, dataset, [])
        return lm
    sources = {part: source for part in ("encoder", "thinker") if (source := getattr(order.config, part).source)}
    lm = SpeechLM.from_pretrained(place, device="cpu", **sources)
    if lm.codec.tokens_fingerprint() != codec.tokens_fingerprint():
        raise InputError(
            f"{place}: this student speaks in the tokens of another codec; give its own with --codec {place / 'codec'}"
        )
    lm.use_codec(codec)  # the same tokens, perhaps spoken more clearly
    check_labels(lm.config, dataset)
    wanted = fitted(lm.config, dataset)
    if wanted.vector != lm.config.vector:
        raise InputError(
            f"{place}: its emotion vector lives in the space {lm.config.vector.space!r} ({lm.config.vector.size}), the "
            f"dataset's in {wanted.vector.space!r} ({wanted.vector.size}); take a dataset of the same analyzer"
        )
    if place != there:
        lm = with_voice(with_ears(lm, order.ears), order.voice)
        learn_words(lm, dataset)
    return lm


def _prepared(order: Order, lm: SpeechLM, dataset: Dataset, progress: Progress, heard: Sequence[Voice]) -> Prepared:
    """Features of whose speech is heard, and codes, made once; other processes wait for the first."""

    def mel(samples: Samples) -> Any:
        return log_mel(samples, mels=lm.config.mels, sample_rate=lm.config.sample_rate)

    with processes().main_process_first():
        return prepare(
            dataset,
            mel=mel,
            sample_rate=lm.config.sample_rate,
            mel_key=mel_key(lm.config),
            codec=lm.codec if order.decodes or speaks(order.stages) else None,
            folder=order.out / "prepared",
            progress=progress if is_first() else lambda *_: None,
            heard=heard,
        )


def _student_stage(
    order: Order, stage: Stage, lm: SpeechLM, dataset: Dataset, prepared: Prepared, tell: Tell
) -> Result:
    parts = stage.parts(pretrained=lm.config.thinker.source is not None, freeze=order.freeze)
    set_training(lm, parts)
    if order.dropout is not None:
        set_dropout(lm, order.dropout)
    kind = RefineJob if stage.name == "refine" else StudentJob
    job = kind(
        stage,
        lm,
        dataset,
        prepared,
        capacity=order.capacity,
        seed=order.seed,
        chance=order.chance,
        by_heart=order.by_heart,
    )
    job.flops_per_token = flops_per_token(job)
    if (unspelt := job.unspelt()) and is_first():
        tell(f"{stage.name}: {unspelt:,} turns are left out: they hold words that the dictionary lacks")
    result = train(job, stage.schedule, order.out, seed=order.seed, resume=order.resume, tell=tell)
    checkpoints.use(order.out / stage.name / order.keep, job.model)
    lm.cpu().eval()
    if is_first():
        if lm.least_sure is None or not {"encoder", "heads"}.isdisjoint(parts):
            learn_sureness(lm, [*dataset.rows("validation"), *dataset.rows("test")], prepared)
        done = [name for name in STAGES if _done(order.out / name)]
        _save(order, lm, dataset, [*done, stage.name])
        _finish(order.out / stage.name, result)
    return result


def _save(order: Order, lm: SpeechLM, dataset: Dataset, done: list[str]) -> None:
    if not is_first():
        return
    lm.save_pretrained(
        order.out / "student",
        whole=order.config.thinker.source is None,
        flavour=order.config.flavour,
        dataset=dataset.sha256,
        stages=done,
        seed=order.seed,
        commit=commit(),
        attune=version("attune"),
    )


def _done(stage: Path) -> bool:
    return (stage / DONE).is_file()


def _finish(stage: Path, result: Result) -> None:
    with whole_file(stage / DONE) as file:
        file.write(json.dumps(dataclasses.asdict(result), indent=1).encode() + b"\n")
