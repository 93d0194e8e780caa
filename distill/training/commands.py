"""Commands of training, for the command line: parse, call, print."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from graphs.options import INTERRUPTED

if TYPE_CHECKING:
    from distill.training.order import Order
    from e2e_model.prompts import ThinkForm


@click.group()
def analyzer() -> None:
    """Train or score the acoustic classifier."""


@analyzer.command()
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write to."
)
@click.option("--clips", default=4200, show_default=True, type=click.IntRange(min=200), help="Clips to synthesize.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes that synthesize.")
def train(out: Path, clips: int, seed: int, workers: int) -> None:
    """Train it anew on speech it synthesizes.

    Writes acoustic.npz and acoustic.json, its card.
    """
    from cascade.errors import InputError
    from distill.training.analyzer import shown, train

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error

    def progress(done: int, of: int) -> None:
        click.echo(f"\r{done} of {of} speakers measured", nl=done == of, err=True)

    card = train(out, clips=clips, seed=seed, workers=workers, progress=progress)
    click.echo(shown(card["unseen_speakers"]))
    click.echo(f'Kept {out / "acoustic.npz"}. Use it: weights = "…" under [emotion] and [speaker] of a profile.')


@analyzer.command()
@click.argument("labels", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--seed", default=0, show_default=True, help="Which three neutral clips of a speaker are the baseline.")
def score(labels: Path, seed: int) -> None:
    """Score it on your labelled recordings.

    LABELS is a CSV with the columns file, emotion, gender, and if known age and speaker.
    """
    from distill.training.analyzer import score, shown

    click.echo(shown(score(labels, seed=seed)))


@click.command(name="train")
@click.option(
    "--flavour", default="nano", show_default=True, help="nano, base, full, or the path of a .toml of your own."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="A folder that `attune teach` made; several as one.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The run's folder.")
@click.option("--stages", default="all", show_default=True, help="codec, understand, speak, empathise, refine.")
@click.option(
    "--resume", is_flag=True, help="Go on with the run in -o, exactly where it stopped; its own options hold."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--dry-run", is_flag=True, help="Only say what it would take: parameters, memory, work, time.")
@click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path),
    help="Begin with another run's student (its folder, or the run's).",
)
@click.option(
    "--ears",
    type=click.Path(path_type=Path),
    help="Take encoder and heads of this student, trained at the same time on another core.",
)
@click.option(
    "--voice",
    type=click.Path(path_type=Path),
    help="Take talker and codec of this student; a thinker of another tokenizer will do. With --stages codec: the decoder "
    "learns on from what this talker expects.",
)
@click.option(
    "--freeze",
    multiple=True,
    type=click.Choice(["encoder", "heads", "adapter", "thinker", "vector", "talker"]),
    help="A part that stays as it is in all stages.",
)
@click.option(
    "--codec",
    type=click.Path(path_type=Path),
    help="A codec's folder, or a run's [nano trains its own; others: Mimi's]. With --stages codec: its decoder learns on.",
)
@click.option("--encoder", type=click.Path(path_type=Path), help="A Whisper's folder, in place of the flavour's.")
@click.option("--thinker", type=click.Path(path_type=Path), help="A causal LM's folder, in place of the flavour's.")
@click.option("--emotion-encoder", type=click.Path(path_type=Path), help="An emotion2vec's folder (flavour full).")
@click.option(
    "--think", "thinks", multiple=True, type=click.Choice(["tag", "language", "none"]), help="Forms to learn [all]."
)
@click.option("--no-vector", is_flag=True, help="Ablation: no emotion vector.")
@click.option("--gate", type=click.Choice(["gate", "sum", "hidden"]), help="Ablation: how state and text become one.")
@click.option("--no-label-kl", is_flag=True, help="Ablation: labels alone, without the teacher's posteriors.")
@click.option("--steps", multiple=True, metavar="STAGE=N", help="Steps of a stage, in place of the table's.")
@click.option(
    "--rate",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="× the table's learning rates: lower for a student that learns on.",
)
@click.option(
    "--ema",
    default=0.0,
    show_default=True,
    metavar="DECAY",
    type=click.FloatRange(0, 1, max_open=True),
    help="Keep the moving average of the weights: .995 looks back over some 200 steps; 0: none.",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    help="What encoder and heads leave out in training [the flavour's: 0].",
)
@click.option(
    "--keep",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="Weights of a stage: the best of the held-out rows, or the last.",
)
@click.option("--capacity", default=4096, show_default=True, type=click.IntRange(min=256), help="Tokens of a pack.")
@click.option("--packs", type=click.IntRange(min=1), help="Packs of a step, over all processes.")
@click.option(
    "--by-heart",
    type=click.IntRange(min=1),
    metavar="N",
    help="To see whether it can: learn the first N dialogues by heart, nothing left to chance, and evaluate on them.",
)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True)
@click.option("--parallel", type=click.Choice(["auto", "ddp", "fsdp2"]), default="auto", show_default=True)
@click.option("--compile", "compile_", is_flag=True, help="torch.compile the blocks.")
@click.option("--gradient-checkpointing", is_flag=True, help="Less memory, more work.")
@click.pass_context
def train_student(ctx: click.Context, /, dry_run: bool, **asked: Any) -> None:
    """Train a student from a dataset.

    Many processes: accelerate launch -m cli train …
    """
    from cascade.errors import ConfigError, EngineUnavailable
    from cascade.needs import extra
    from distill.run_folder import make_folder

    try:
        from distill.training import guards, parallel, run
        from distill.training.plan import plan_of, shown
        from e2e_model.errors import StudentError
    except ImportError as error:
        raise EngineUnavailable(f"training needs {error.name}, which is not installed: {extra('train')}") from error
    command = _as_begun(ctx, asked)
    for name in ("flavour", "gate"):
        if asked["start"] and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise ConfigError(f"--{name}: a student given with --from stays as it is; leave one of the two out")
    if not asked["data"]:
        if asked["resume"]:
            make_folder(asked["out"], resume=True)  # none there: that is what to say
        raise ConfigError("--data is missing: give a folder that attune teach made")
    try:
        order = _order(dry_run, command=command, **asked)
        if dry_run:
            click.echo(shown(plan_of(order)))
            return
        run.run(order, partial(click.echo, err=True), _preparing)
    except StudentError as error:
        raise ConfigError(str(error)) from error
    except guards.Stopped as error:
        click.echo(f"attune: {error}", err=True)
        ctx.exit(INTERRUPTED)
    if not parallel.is_first():
        return
    if order.stages == ("codec",):
        click.echo(f"The codec is in {order.out / 'codec' / 'weights'}: attune train --codec {order.out} …")
    else:
        click.echo(f"The student is in {order.out / 'student'}: attune chat --model {order.out / 'student'}")


def _as_begun(ctx: click.Context, asked: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as JSON has them. With --resume, those that the run was begun with hold, too, in `asked`."""
    from distill.run_folder import command_of

    given = {
        name: json.loads(json.dumps(value, default=str))
        for name, value in asked.items()
        if name not in ("out", "resume") and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    begun = command_of(asked["out"]) if asked["resume"] else {}
    for option in ctx.command.params:
        if option.name in begun and option.name not in given:
            asked[option.name] = option.type_cast_value(ctx, begun[option.name])
    return begun | given


def _order(
    dry_run: bool,
    flavour: str,
    stages: str,
    thinks: tuple[ThinkForm, ...],
    no_vector: bool,
    gate: str | None,
    no_label_kl: bool,
    steps: tuple[str, ...],
    packs: int | None,
    dtype: str,
    compile_: bool,
    encoder: Path | None,
    thinker: Path | None,
    emotion_encoder: Path | None,
    **same: Any,
) -> Order:
    """The options as an order. Raises ConfigError, StudentError."""
    from distill.training import order
    from distill.training.examples import Chance
    from distill.training.stages import FEELING
    from e2e_model.config import Config

    config = Config.flavoured(flavour)
    for part, folder in (("encoder", encoder), ("thinker", thinker)):
        if folder is not None:
            config = config.with_(**{part: {"source": str(folder), "model": {}}})
    if gate is not None:
        config = config.with_(talker={"gate": gate})
    chance, without = Chance(), []
    if thinks:
        chance = replace(chance, thinks=thinks)
    if same["by_heart"]:
        chance = chance.still()
    if no_vector:
        chance, without = replace(chance, vector=0.0), [*FEELING]
    if no_label_kl:
        without += ["emotion_kl", "age_kl", "gender_kl"]
    return order.Order(
        config,
        stages=order.parsed_stages(stages),
        steps=order.parsed_steps(steps),
        packs_per_step=packs,
        chance=chance,
        without=tuple(without),
        dtype=_dtype(dtype),
        compile=compile_,
        emotion_frames=None if dry_run else _emotion_frames(config, emotion_encoder),
        **same,
    )


def _dtype(asked: str) -> Any:
    """auto: bfloat16 where the machine computes in it."""
    import torch

    if asked != "auto":
        return asked
    fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if fast else "float32"


def _emotion_frames(config: Any, folder: Path | None) -> Any:
    """emotion2vec's frames for a flavour that hears through it."""
    from cascade.errors import ConfigError

    if not config.emotion_encoder.size:
        if folder is not None:
            raise ConfigError(f"--emotion-encoder: the flavour {config.flavour} has none; leave it out")
        return None
    from graphs.student_engine import emotion_frames

    return emotion_frames(str(folder or config.emotion_encoder.source))


def _preparing(done: int, of: int) -> None:
    if done == of or sys.stderr.isatty():
        click.echo(f"\rfeatures and codes: {done} of {of}", nl=done == of, err=True)
