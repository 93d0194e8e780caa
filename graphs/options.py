"""What commands have in common: who answers (a profile's engines, or a student), and where what belongs to a person is kept."""

from __future__ import annotations

import functools
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cascade.home import default_home, using_home

if TYPE_CHECKING:
    from cascade.profiles import Engines
    from graphs.session import GraphMaker
    from graphs.student_engine import ThinkForm

BAD_INPUT, FAILED = 2, 1  # exit codes
SIGNALLED = 128  # and the signal's number, as shells have it
INTERRUPTED = SIGNALLED + signal.SIGINT  # Ctrl-C


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that loads a profile."""
    for option in (
        click.option(
            "--engine", "swaps", multiple=True, metavar="STAGE=NAME", help="Use another engine for one stage."
        ),
        click.option("--profile", default="auto", show_default=True, help="auto, gpu, embedded, or a TOML file."),
    ):
        command = option(command)
    return command


def use_home(ctx: click.Context, _: click.Parameter, home: Path) -> Path:
    ctx.with_resource(using_home(home))
    return home


def home_option(command: Callable[..., Any], *, given: bool = True) -> Callable[..., Any]:
    """The home holds for all that the command does; `given`: the command takes it as a parameter, too."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        default=default_home,
        callback=use_home,
        expose_value=given,
        help="Where sessions, speakers and voices are kept [$ATTUNE_HOME].",
    )(command)


class AtLeastZero(click.FloatRange):
    """A finite number ≥ 0: `FloatRange` lets NaN and infinity through."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number, 0 or more.", param, ctx)
        return number


@contextmanager
def loaded_engines(profile: str, swaps: tuple[str, ...]) -> Iterator[Engines]:
    from cascade.allocator import keep_freed_memory
    from cascade.profiles import Engines, load_profile

    chosen = load_profile(profile, swaps)
    if chosen.note:
        click.echo(f"Profile {chosen.note}.", err=True)
    engines = Engines.load(chosen)
    if engines["asr"].info.options.get("device") == "cpu":
        keep_freed_memory()
    try:
        yield engines
    finally:
        engines.close()


# What a student does not take, by parameter: the option, and why.
NOT_WITH_MODEL = {
    "profile": ("--profile", "a student does all stages itself"),
    "swaps": ("--engine", "a student does all stages itself"),
    "speaker": ("--speaker", "a student reads no voice against another"),
    "judge": ("--judge", "a student's replies are not listened back to here"),
    "contribute": ("--contribute", "what a student answers is no lesson"),
}
ONLY_WITH_MODEL = {"think": "--think", "no_vector": "--no-vector"}


@dataclass(frozen=True)
class Answerer:
    """Who answers: the student in the folder `model`, or else a profile's engines."""

    profile: str
    swaps: tuple[str, ...]
    model: Path | None
    think: ThinkForm
    vector: bool

    @contextmanager
    def loaded(self) -> Iterator[tuple[Engines, GraphMaker]]:
        """Its engines, and the graph they answer in. Raises EngineUnavailable, ConfigError."""
        if self.model is None:
            from graphs.teacher import make_graph

            with loaded_engines(self.profile, self.swaps) as engines:
                yield engines, make_graph
        else:
            engines = self._student(self.model)  # first: it says which packages are not here
            from graphs.student import make_graph

            yield engines, make_graph

    def _student(self, folder: Path) -> Engines:
        from cascade.errors import EngineUnavailable
        from cascade.needs import extra, package

        for module in ("torch", "transformers", "safetensors"):
            if package(module, module, extra("student")).fix:
                raise EngineUnavailable(f"a student needs {module}, which is not here: {extra('student')}")
        from graphs.student_engine import load_student

        return load_student(folder, think=self.think, vector=self.vector)


def answerer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that answers; it takes them as one, `who`."""

    @functools.wraps(command)
    def with_answerer(
        *,
        profile: str,
        swaps: tuple[str, ...],
        student: bool,
        model: Path | None,
        think: ThinkForm,
        no_vector: bool,
        **others: Any,
    ) -> Any:
        if student:
            from e2e_model.shipped import STUDENT

            model = _only(model, STUDENT)
        _check_together(click.get_current_context(), model)
        return command(who=Answerer(profile, swaps, model, think, not no_vector), **others)

    made: Callable[..., Any] = with_answerer
    for option in (
        click.option("--no-vector", is_flag=True, help="With a student: no emotion vector for its voice."),
        click.option(
            "--think",
            type=click.Choice(["tag", "language", "none"]),
            default="tag",
            show_default=True,
            help="With a student: how it thinks before it answers.",
        ),
        click.option(
            "--model", type=click.Path(path_type=Path), help="Another student's folder: it answers, not a profile."
        ),
        click.option("--student", is_flag=True, help="The student that comes with Attune answers, not a profile."),
    ):
        made = option(made)
    return engine_options(made)


def _only(model: Path | None, shipped: Path) -> Path:
    from cascade.errors import ConfigError

    if model is not None:
        raise ConfigError(
            f"--student is the one that comes with Attune, --model {model} another; leave one of them out"
        )
    return shipped


def _check_together(context: click.Context, model: Path | None) -> None:
    """Raises ConfigError for options of which one has no meaning beside the other."""
    from cascade.errors import ConfigError

    given = [name for name in context.params if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    for name in given:
        if model is not None and name in NOT_WITH_MODEL and context.params[name]:
            option, why = NOT_WITH_MODEL[name]
            raise ConfigError(f"{option} does not go with --student or --model: {why}; leave one of them out")
        if model is None and name in ONLY_WITH_MODEL:
            raise ConfigError(
                f"{ONLY_WITH_MODEL[name]} goes with --student, or --model and its folder; a profile has no such choice"
            )
