"""What commands have in common: the profile and its engines, and where what belongs to a person is kept."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cascade.home import default_home, using_home

if TYPE_CHECKING:
    from cascade.profiles import Engines

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
