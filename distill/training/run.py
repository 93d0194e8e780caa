"""A whole training run: from a dataset to a student, stage after stage, in one folder that can be gone on with.

RUN/settings.json is written first; RUN/student holds the student as it stood after the last stage that was finished; each
stage has a folder of its own (loop.py), with done.json when it is through.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from cascade.audio import Samples, Waveform
from cascade.errors import ConfigError, InputError
from distill.commit import commit
from distill.files import whole_file
from distill.run_folder import make_folder
from distill.training import checkpoints, guards
from distill.training.assemble import (
    assembled,
    check_codec,
    check_ears,
    check_labels,
    check_networks,
    check_voice,
    fitted,
    fsq_codec,
    learn_words,
    mel_key,
    new_codec,
    set_training,
    with_ears,
    with_voice,
)
from distill.training.codec_job import CodecJob
from distill.training.costs import flops_per_token
from distill.training.data import Dataset, Row, open_dataset
from distill.training.examples import Chance
from distill.training.job import Result
from distill.training.loop import train
from distill.training.parallel import is_first, processes
from distill.training.prepared import Prepared, prepare
from distill.training.refine import RefineJob
from distill.training.stages import STAGES, TABLE, Stage, StageName, scaled, voices_heard
from distill.training.student_job import StudentJob
from distill.training.sureness import learn_sureness
from e2e_model.build import resolved
from e2e_model.checkpoint import read_card
from e2e_model.codec import MimiCodec, load_codec
from e2e_model.config import Config
from e2e_model.features import log_mel
from e2e_model.model import SpeechLM

DONE = "done.json"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What is asked for. steps, epochs: by stage, in place of the table's; by_heart: train on the first so many dialogues
    and evaluate on the same; start: another student's folder to begin with; ears: one whose encoder and heads are taken;
    voice: one whose talker and codec are; freeze: parts that stay as they are in all stages; codec: a codec's folder, then
    stage 0 is left out, or alone lets its decoder learn on."""

    config: Config
    data: Path
    out: Path
    stages: tuple[StageName, ...] = STAGES
    seed: int = 0
    resume: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    capacity: int = 4096
    packs_per_step: int | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    by_heart: int | None = None
    chance: Chance = field(default_factory=Chance)
    without: tuple[str, ...] = ()  # objectives that are switched off
    start: Path | None = None
    ears: Path | None = None
    voice: Path | None = None
    freeze: tuple[str, ...] = ()
    codec: Path | None = None
    rate: float = 1.0  # × the table's learning rates
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    emotion_frames: Callable[[Samples], Any] | None = None

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """What makes this run this run."""
        return {
            "config": self.config.plain(),
            "dataset": dataset.sha256,
            "stages": list(self.stages),
            "seed": self.seed,
            "dtype": self.dtype,
            "capacity": self.capacity,
            "packs_per_step": self.packs_per_step,
            "steps": dict(self.steps),
            "by_heart": self.by_heart,
            "chance": dataclasses.asdict(self.chance),
            "without": list(self.without),
            "start": str(self.start) if self.start else None,
            "ears": str(self.ears) if self.ears else None,
            "voice": str(self.voice) if self.voice else None,
            "freeze": list(self.freeze),
            "codec": str(self.codec) if self.codec else None,
            "rate": self.rate,
            "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        }

    @property
    def decodes(self) -> bool:
        """Whether a codec that is given shall learn to decode better: its tokens stay, and students keep speaking in them."""
        return self.stages == ("codec",) and self.codec is not None

    @property
    def makes_codec(self) -> bool:
        """Whether one is trained here from the start."""
        return "codec" in self.stages and self.codec is None and self.config.codec.kind == "fsq"

    def stage(self, name: StageName) -> Stage:
        """A stage of the table, as this order wants it."""
        made = scaled(TABLE[name], pretrained=self.config.thinker.source is not None, dtype=self.dtype)
        schedule = dataclasses.replace(
            made.schedule,
            learning_rate=self.rate * made.schedule.learning_rate,
            parallel=self.parallel,
            compile=self.compile,
            gradient_checkpointing=self.gradient_checkpointing,
            packs_per_step=self.packs_per_step or made.schedule.packs_per_step,
        )
        if name in self.steps:
            schedule = dataclasses.replace(schedule, steps=self.steps[name], epochs=None)
        kept = {name: weight for name, weight in made.objectives.items() if name not in self.without}
        return dataclasses.replace(made, schedule=schedule, objectives=kept)


def run(order: Order, tell: Tell, progress: Callable[[int, int], None]) -> dict[str, Result]:
    """Every stage that is not done yet. Raises AttuneError, StudentError; guards.Stopped when a signal ends it."""
    dataset = open_dataset(order.data)
    order = _settled(order)
    check_labels(order.config, dataset)
    make_folder(order.out, resume=order.resume)
    results: dict[str, Result] = {}
    with guards.open_run(order.out, order.settings(dataset), resume=order.resume):
        if order.makes_codec or order.decodes:
            results |= _codec_stage(order, dataset, tell)
        elif "codec" in order.stages and order.config.codec.kind == "fsq":
            tell(f"codec: left out, for there is one: {order.codec}")
        student = [name for name in order.stages if name != "codec"]
        if not student:
            return results
        codec = codec_of(order)
        lm = _begun(order, dataset, codec)
        lm.emotion_frames = order.emotion_frames
        prepared = _prepared(order, lm, dataset, progress)
        for name in student:
            if _done(order.out / name):
                tell(f"{name}: done")
                continue
            results[name] = _student_stage(order, order.stage(name), lm, dataset, prepared, tell)
    return results


def found(order: Order) -> Order:
    """With the places of all that it names, and the configuration that follows of them. A student that is learnt on, or whose
    voice is taken, brings its codec. Raises ConfigError, StudentError: not there, nor of one kind."""
    start, ears, voice = (_inside(path, "student", "student.json") for path in (order.start, order.ears, order.voice))
    for name, path in (("ears", ears), ("voice", voice)):
        if path is not None and path == start:
            raise ConfigError(f"--{name}: {path} is where this begins, ears, voice and all; leave --{name} out")
    of = {path: Config.of(read_card(path)["config"], str(path)) for path in (start, ears, voice) if path is not None}
    config = resolved(order.config if start is None else of[start])
    if ears is not None:
        check_ears(config, of[ears], ears)
    if voice is not None:
        check_voice(config, of[voice], voice)
    codec = _inside(order.codec, "codec/weights", "codec.json")
    owner = voice or start
    if codec is None and owner is not None and config.codec.kind == "fsq":
        codec = owner / "codec"
    order = dataclasses.replace(order, config=config, start=start, ears=ears, voice=voice, codec=codec)
    pretrained = config.thinker.source is not None
    for stage in (TABLE[name] for name in order.stages if name != "codec"):
        if not stage.parts(pretrained=pretrained, freeze=order.freeze):
            raise ConfigError(
                f"--freeze {' '.join(order.freeze)}: {stage.name} would learn nothing; freeze fewer parts"
            )
    return order


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


def _inside(path: Path | None, place: str, file: str) -> Path | None:
    """The folder itself, or what lies in a run's folder that was given in its place."""
    if path is not None and not (path / file).is_file() and (path / place / file).is_file():
        return path / place
    return path


def _codec_stage(order: Order, dataset: Dataset, tell: Tell) -> dict[str, Result]:
    folder = order.out / "codec"
    if _done(folder):
        tell("codec: done")
        return {}
    if order.codec is None:
        codec = new_codec(order.config, order.seed)
    else:
        codec = fsq_codec(order.codec)
        codec.encoder.requires_grad_(False)
    stage = order.stage("codec")
    train_, held_out = (Replies(dataset, dataset.rows(split), codec.sample_rate) for split in ("train", "validation"))
    job = CodecJob(codec, train_, held_out, seed=order.seed)
    result = train(job, stage.schedule, order.out, seed=order.seed, resume=order.resume, tell=tell)
    checkpoints.use_best(folder, job.model)
    if is_first():
        codec.cpu().save(folder / "weights")
        _finish(folder, result)
    return {"codec": result}


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


def _prepared(order: Order, lm: SpeechLM, dataset: Dataset, progress: Callable[[int, int], None]) -> Prepared:
    """Features and codes, made once; other processes wait for the first."""

    def mel(samples: Samples) -> Any:
        return log_mel(samples, mels=lm.config.mels, sample_rate=lm.config.sample_rate)

    with processes().main_process_first():
        return prepare(
            dataset,
            mel=mel,
            sample_rate=lm.config.sample_rate,
            mel_key=mel_key(lm.config),
            codec=lm.codec if speaks(order.stages) else None,
            folder=order.out / "prepared",
            progress=progress if is_first() else lambda *_: None,
            heard=voices_heard(name for name in order.stages if name != "codec"),
        )


def _student_stage(
    order: Order, stage: Stage, lm: SpeechLM, dataset: Dataset, prepared: Prepared, tell: Tell
) -> Result:
    parts = stage.parts(pretrained=lm.config.thinker.source is not None, freeze=order.freeze)
    set_training(lm, parts)
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
    checkpoints.use_best(order.out / stage.name, job.model)
    lm.cpu().eval()
    if is_first():
        if lm.least_sure is None or not {"encoder", "heads"}.isdisjoint(parts):
            learn_sureness(lm, dataset.rows("validation"), prepared)
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


def parsed_stages(text: str) -> tuple[StageName, ...]:
    """ "all", or names with commas, in the table's order. Raises ConfigError."""
    asked = [name.strip() for name in text.split(",") if name.strip()]
    if asked == ["all"]:
        return STAGES
    wrong = next((name for name in asked if name not in STAGES), None)
    if wrong is not None or not asked:
        raise ConfigError(f"stage {wrong!r}: choose all, or some of {', '.join(STAGES)} with commas between")
    return tuple(name for name in STAGES if name in asked)


def parsed_steps(texts: tuple[str, ...]) -> dict[str, int]:
    """("speak=500", …) as a table. Raises ConfigError."""
    steps: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        if name not in STAGES or not count.isdigit() or not int(count):
            raise ConfigError(f"--steps {text}: give stage=N with a stage of {', '.join(STAGES)} and N from 1 on")
        steps[name] = int(count)
    return steps
