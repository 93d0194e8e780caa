"""`attune compare`, for the command line: parse, build, call, print."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from graphs.options import INTERRUPTED, engine_options, home_option

if TYPE_CHECKING:
    from distill.comparison.run import Settings

EVERY_S, EVERY_S_IN_A_LOG = 0.5, 15.0
CPUS = os.cpu_count() or 1
SIZES = ("trial", "tiny", "small", "full")


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The run's folder.")
@click.option(
    "--system",
    "systems",
    multiple=True,
    metavar="SPEC",
    help="cascade[:cues=heard|hidden|oracle,profile=P], student[:think=tag|language|none,vector=on|off], or FOLDER of a student "
    "of yours[:…]; the first is what the others are compared with. [cascade, without cues, with true cues, student]",
)
@click.option(
    "--items",
    default="small",
    show_default=True,
    help="Attune-eval trial, tiny, small or full (8, 32, 300, 1,750 items), or a set of items: RUN/items of an earlier run.",
)
@click.option(
    "--own",
    type=click.Path(path_type=Path, exists=True),
    help="Your recordings, too: a JSONL, or a folder with labels.csv (path; text, emotion, age, gender, events if known).",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same comparison.json."
)
@click.option("--jobs", default=CPUS, show_default=True, type=click.IntRange(min=1), help="Answers made at once.")
@click.option(
    "--paced",
    default=20,
    show_default=True,
    type=click.IntRange(min=0),
    help="Items whose speed is measured, one at a time.",
)
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Speed is measured so often, warm."
)
@click.option(
    "--scored",
    default=40,
    show_default=True,
    type=click.IntRange(min=0),
    help="Items whose replies' sound is rated (DNSMOS).",
)
@click.option("--judge-url", metavar="URL", help="An OpenAI-compatible endpoint whose model judges the replies.")
@click.option("--judge-model", metavar="NAME", help="The judge, as that server names it; its key: $OPENAI_API_KEY.")
@click.option(
    "--judge-repeats", default=3, show_default=True, type=click.IntRange(min=1, max=10), help="Asked so often."
)
@click.option(
    "--votes",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Blind votes that the page saved, to be counted.",
)
@click.option(
    "--learnt-from",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A dataset that a student learnt from: the report says what of the items it held.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the run in the folder, or write its report anew; its options hold."
)
@partial(home_option, given=False)
@engine_options
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    out: Path,
    jobs: int,
    votes: tuple[Path, ...],
    learnt_from: tuple[Path, ...],
    resume: bool,
    **asked: Any,
) -> None:
    """Compare the cascade with students and with itself.

    Every system answers the same spoken items; comparison.html shows what they heard, felt, said and took, side by side and to
    hear, with intervals.
    """
    from distill.comparison.run import PAGE, Order, compare

    settings = _settings(ctx, out, resume, asked)
    show = Shown(None if asked["systems"] or resume else _usual()[1])
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it, its processes end with it
    try:
        order = Order(settings, out, jobs, votes, learnt_from, resume, _command(settings))
        page = compare(order, show.line, show.progress)
    except KeyboardInterrupt:
        click.echo(f"\nattune: stopped; no answer is lost: attune compare -o {out} --resume", err=True)
        ctx.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)
    markdown = page.with_name("comparison.md").read_text(encoding="utf-8")
    click.echo(markdown)
    click.echo(
        f"Look at {page} and listen; every number is in {page.with_name('comparison.json')}; {PAGE} needs nothing else."
    )


def _settings(ctx: click.Context, out: Path, resume: bool, asked: dict[str, Any]) -> Settings:
    """What is asked for; with --resume, what the run began with, and what is given must be the same. Raises AttuneError."""
    from cascade.errors import InputError
    from distill.comparison.run import read_settings

    there = read_settings(out) if resume else None
    if there is None:
        return _asked(asked)
    given = {name for name in asked if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if given:
        new = _asked({**_as_options(there), **{name: asked[name] for name in given}}, there)
        if new != there:
            raise InputError(
                f"{out}: its run was begun with other settings than {', '.join(sorted(given))} now; leave them out, or choose "
                "another folder"
            )
    return there


def _as_options(there: Settings) -> dict[str, Any]:
    return {"systems": (), "profile": "auto", "swaps": (), "judge_url": None, "judge_model": None} | {
        name: getattr(there, name) for name in ("items", "own", "seed", "paced", "rounds", "scored", "judge_repeats")
    }


def _asked(asked: dict[str, Any], there: Settings | None = None) -> Settings:
    from cascade.errors import ConfigError
    from distill.comparison.run import Settings
    from distill.comparison.systems import parsed

    if asked["own"] and asked["items"] not in SIZES:
        raise ConfigError("--own adds recordings to a size of Attune-eval; with --items FOLDER leave it out")
    texts = asked["systems"] or (() if there else _usual()[0])
    systems = tuple(parsed(text, profile=asked["profile"], engines=tuple(asked["swaps"])) for text in texts)
    judge = _judge(asked["judge_url"], asked["judge_model"])
    return Settings(
        systems=there.systems if there and not asked["systems"] else systems,
        items=_items(asked["items"]),
        own=str(Path(asked["own"]).absolute()) if asked["own"] else None,
        seed=asked["seed"],
        paced=asked["paced"],
        rounds=asked["rounds"],
        scored=asked["scored"],
        judge=there.judge if there and not asked["judge_url"] else judge,
        judge_repeats=asked["judge_repeats"],
    )


def _usual() -> tuple[tuple[str, ...], str | None]:
    """All that can be had here, and a line on what cannot."""
    from cascade.needs import extra, package
    from distill.comparison.systems import STUDENT, USUAL

    cascades = tuple(name for name in USUAL if name != STUDENT)
    for name in ("torch", "transformers", "safetensors"):
        if package(name, name, extra("student")).fix:
            return cascades, f"the student is left out, it needs {name}: {extra('student')}"
    return USUAL, None


def _items(given: str) -> str:
    """A size, or a folder's whole path. Raises ConfigError."""
    from cascade.errors import ConfigError

    if given in SIZES:
        return given
    if not (Path(given) / "items.json").is_file():
        raise ConfigError(
            f"--items {given}: legal: {', '.join(SIZES)}, or the folder of a set of items (RUN/items of an earlier run); for "
            "recordings of your own: --own"
        )
    return str(Path(given).absolute())


def _judge(url: str | None, model: str | None) -> Any:
    """The judge's endpoint, asked whether it is there. Raises ConfigError, EngineUnavailable."""
    if url is None and model is None:
        return None
    from cascade.engines import parse_options
    from cascade.errors import ConfigError, EngineUnavailable
    from cascade.reasoning import openai

    if not url or not model:
        raise ConfigError("--judge-url and --judge-model go together: where the judge is, and what it is called there")
    options = parse_options("reasoning", "openai", {"base_url": url, "model": model})
    assert isinstance(options, openai.Options)
    gap = next((need for need in openai.needs(options) if need.fix), None)
    if gap:
        raise EngineUnavailable(f"--judge-url {url}: lacks {gap.name}: {gap.fix}")
    return options


def _command(settings: Settings) -> str:
    """The command that makes this comparison, as a person would type it."""
    from distill.comparison.systems import typed

    cascade = next((spec for spec in settings.systems if spec.kind == "cascade"), None)
    parts = ["attune", "compare", "-o", "RUN", "--items", settings.items, "--seed", settings.seed]
    if cascade:
        parts += ["--profile", cascade.profile, *(word for swap in cascade.engines for word in ("--engine", swap))]
    profile = cascade.profile if cascade else ""
    parts += [word for spec in settings.systems for word in ("--system", typed(spec, profile))]
    parts += ["--own", Path(settings.own).name] if settings.own else []
    if settings.judge:
        judge = settings.judge
        parts += [
            "--judge-url",
            judge.base_url,
            "--judge-model",
            judge.model,
            "--judge-repeats",
            settings.judge_repeats,
        ]
    parts += ["--paced", settings.paced, "--rounds", settings.rounds, "--scored", settings.scored]
    return shlex.join(map(str, parts))


class Shown:
    """Progress on standard error: one line on a terminal, now and then a line in a log."""

    def __init__(self, first: str | None) -> None:
        """first: told before anything else, once the work begins: a refusal stays one line."""
        self._live = sys.stderr.isatty()
        self._last = ("", 0.0)
        self._first = first

    def line(self, text: str) -> None:
        click.echo(f"\r{text}", err=True)

    def progress(self, what: str, done: int, of: int) -> None:
        if self._first:
            self.line(f"attune: {self._first}")
            self._first = None
        before, at = self._last
        now = time.monotonic()
        if done < of and what == before and now - at < (EVERY_S if self._live else EVERY_S_IN_A_LOG):
            return
        self._last = (what, now)
        end = done == of or not self._live
        click.echo(f"\r{what}: {done} of {of}\x1b[K" if self._live else f"{what}: {done} of {of}", nl=end, err=True)
