"""`attune teach`, for the command line: parse, build, call, print."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cascade.home import default_home
from graphs.options import FAILED, SIGNALLED, engine_options, home_option

if TYPE_CHECKING:
    from cascade.turn import EngineInfo
    from distill.teaching.pool import Executor
    from distill.teaching.records import Scenario
    from distill.teaching.run import RunSettings
    from distill.teaching.worker import Equipment

    Crew = Callable[[Equipment], tuple[Executor, dict[str, EngineInfo]]]

CACHE, HERE = "cache.sqlite", "here"
CPUS = os.cpu_count() or 1


@click.command()
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The dataset's folder."
)
@click.option(
    "--turns",
    default=500,
    show_default=True,
    type=click.IntRange(min=1),
    help="Turns to make; the gates keep fewer. With --scenarios: the first so many [all].",
)
@click.option(
    "--listen",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Sentences beside the turns that are only heard: simulated users, no answer. Cheap food for the student's ears.",
)
@click.option(
    "--speak",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Sentences about anything beside the turns that the teacher's voice only speaks, for the student's voice.",
)
@click.option(
    "--unclear",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Turns about anything, which the teacher answers by asking again: so the student learns to say so, too.",
)
@click.option(
    "--write",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Turns that the teacher answers on paper, without sound: they cost little and teach the student what to answer.",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed and profile, same dataset."
)
@click.option("--resume", is_flag=True, help="Go on with the run in the folder; its own options hold.")
@click.option(
    "--scenarios",
    type=click.Path(path_type=Path, exists=True),
    help="Your own turns: a JSONL, or a folder of recordings.",
)
@click.option(
    "--on-bad",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="At a bad line of --scenarios.",
)
@click.option(
    "--writer", type=click.Choice(["grammar", "model"]), help="Who writes the turns [model where the reasoner is one]."
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML: gates, sampling, candidates …",
)
@click.option(
    "--workers",
    default=CPUS,
    show_default=True,
    type=click.IntRange(min=1),
    help="Processes on this machine; with --ray at most so many on the cluster [all its CPUs].",
)
@click.option(
    "--ray",
    "ray_address",
    metavar="ADDRESS",
    help="Make the rows on a Ray cluster: host:port, auto (the one this machine is in) or local (a new one).",
)
@click.option(
    "--cluster",
    "cluster_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --ray: TOML; GPUs and CPUs for the engines of each stage.",
)
@click.option(
    "--cache",
    metavar="FILE|URL|none",
    help="Where repeated work is found: a file, or redis://… for many machines [OUT/work].",
)
@click.option(
    "--from-stream",
    "stream",
    metavar="URL|here",
    help="Take contributed turns instead: from a Redis, or this machine's own.",
)
@click.option("--once", is_flag=True, help="With --from-stream: end when nothing waits.")
@home_option
@engine_options
@click.pass_context
def teach(
    ctx: click.Context,
    /,
    out: Path,
    resume: bool,
    workers: int,
    ray_address: str | None,
    cluster_file: Path | None,
    cache: str | None,
    stream: str | None,
    once: bool,
    home: Path,
    **asked: Any,
) -> None:
    """Make a dataset: turns are spoken, the profile's cascade answers them, gates keep what is good.

    The folder holds Parquet parts that `datasets.load_dataset` opens, a card, and report.html to look at and listen to.
    """
    from distill.teaching.stores import open_store
    from distill.teaching.teach import teach

    if stream is not None:
        return _gather(out, None if stream == HERE else stream, home, once, asked)

    there = _run_in(out, resume)
    if there is not None:
        _check_explicit(ctx, out, there)
    if cache not in (None, "none") and ray_address is None:
        open_store(cache).close()
    if asked["scenarios"] is not None and not _is_given(ctx, "turns"):
        asked["turns"] = None
    given = workers if _is_given(ctx, "workers") else None
    crew = partial(_crew, workers=given, ray_address=ray_address, cluster_file=cluster_file)
    with _stopped(ctx, out):
        settings, executor, plan = _going_on(there, out, cache, crew) if there else _beginning(out, cache, asked, crew)
        outcome = teach(out, settings, plan, executor, resume=resume)
    if not outcome.kept:
        click.echo(
            f"attune: none of {outcome.turns} turns passed the gates: no dataset came out; {out / 'report.html'} says why",
            err=True,
        )
        ctx.exit(FAILED)
    share = outcome.kept / outcome.turns
    click.echo(f"Kept {outcome.kept} of {outcome.turns} turns ({share:.0%}) in {out}; look at {out / 'report.html'}.")
    if outcome.cache:
        click.echo("Found in the cache: " + ", ".join(f"{stage} {hit:.0%}" for stage, hit in outcome.cache.items()))
    click.echo(f"Dataset sha256 {outcome.dataset_sha256}")


def _run_in(out: Path, resume: bool) -> RunSettings | None:
    """The run to go on with; None to begin one. Raises InputError where the folder does not fit that."""
    from cascade.errors import InputError
    from distill.teaching.run import read_settings

    if resume and not out.is_dir():
        raise InputError(f"{out}: no such folder, so no run to go on with; leave out --resume to begin one")
    there = read_settings(out)
    if there is not None and not resume:
        raise InputError(f"{out}: holds a run already; --resume goes on with it, or choose another folder")
    return there


@contextmanager
def _stopped(ctx: click.Context, out: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop a run alike, and it says how to go on."""
    from distill.run_folder import SETTINGS

    caught = int(signal.SIGINT)

    def stop(number: int, _: object) -> None:
        nonlocal caught
        caught = number
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        begun = (out / SETTINGS).is_file()
        more = f"nothing made so far is lost: attune teach -o {out} --resume" if begun else "no run was begun yet"
        click.echo(f"\nattune: stopped; {more}", err=True)
        ctx.exit(SIGNALLED + caught)
    finally:
        signal.signal(signal.SIGTERM, before)


def _gather(out: Path, url: str | None, home: Path, once: bool, asked: dict[str, Any]) -> None:
    """Contributed turns become rows, until Ctrl-C or SIGTERM or, with --once, until none waits."""
    from cascade.cancel import CancelScope
    from distill.teaching.dataset.manifest import MANIFEST
    from distill.teaching.dataset.shards import PLACES, REJECTED, shards_of
    from distill.teaching.gates import verdict
    from distill.teaching.live.collect import collect
    from distill.teaching.live.forgetting import STALE, described, renew
    from distill.teaching.live.sources import open_source
    from distill.teaching.planning import settings_from

    settings, cancel = settings_from(asked["settings_file"], asked["seed"]), CancelScope()
    before = {number: signal.signal(number, lambda *_: cancel.cancel()) for number in (signal.SIGINT, signal.SIGTERM)}
    source = open_source(url, home, cancel=cancel, tell=lambda line: click.echo(f"attune: {line}", err=True))
    try:
        found = collect(
            source,
            out,
            gate=lambda sample: verdict(sample, settings.gates),
            once=once,
            cancel=cancel,
            tell=lambda line: click.echo(line, err=True),
        )
    finally:
        source.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    with_rows = [place for place in PLACES if shards_of(out, place)]
    if with_rows and not any((out / name).exists() for name in (MANIFEST, STALE)):
        described(out, {"source": "live turns", "gates": settings.gates.model_dump(mode="json")})
    renew(out)
    gone = f", {found.forgotten} rows of withdrawn consent deleted" if found.forgotten else ""
    click.echo(f"Kept {found.kept} turns, turned away {found.rejected}{gone}, in {out}")
    if set(with_rows) <= {REJECTED}:
        click.echo(f"attune: {out} holds no turn that passed the gates: there is nothing to train on", err=True)
        sys.exit(FAILED)


def _beginning(
    out: Path, cache: str | None, asked: dict[str, Any], crew: Crew
) -> tuple[RunSettings, Executor, Iterable[Scenario]]:
    from cascade.profiles import load_profile
    from distill.teaching.planning import plan_of, settings_from
    from distill.teaching.teach import settings_of
    from distill.teaching.worker import Equipment

    chosen = load_profile(asked["profile"], asked["swaps"])
    if chosen.note:
        click.echo(f"Profile {chosen.note}.", err=True)
    profile = asked["profile"] if Path(asked["profile"]).suffix != ".toml" else str(Path(asked["profile"]).absolute())
    name = chosen.name if profile == "auto" else profile
    settings = settings_from(asked["settings_file"], asked["seed"])
    equipment = Equipment(name, tuple(asked["swaps"]), settings, _cache(out, cache), str(default_home()))
    plan, origin = plan_of(asked, equipment, tell=lambda line: click.echo(line, err=True))
    executor, engines = crew(equipment)
    return settings_of(equipment, engines, origin), executor, plan


def _going_on(there: RunSettings, out: Path, cache: str | None, crew: Crew) -> tuple[RunSettings, Executor, None]:
    from distill.teaching.teach import settings_of
    from distill.teaching.worker import Equipment

    equipment = Equipment(
        there.profile, tuple(there.asked["swaps"]), there.settings, _cache(out, cache), str(default_home())
    )
    executor, engines = crew(equipment)
    return settings_of(equipment, engines, there.asked), executor, None


def _check_explicit(ctx: click.Context, out: Path, there: RunSettings) -> None:
    """Raises InputError where the command line asks for what the run in the folder does not do."""
    from cascade.errors import InputError

    for name, was in there.asked.items():
        given = ctx.params.get(name)
        if _is_given(ctx, name) and _plain(given) != was:
            raise InputError(
                f"{out}: its run has {name} = {was!r}, not {_plain(given)!r}; leave it out, or choose another folder"
            )


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value.absolute()) if isinstance(value, Path) else value


def _cache(out: Path, asked: str | None) -> str | None:
    return None if asked == "none" else asked or str((out / "work" / CACHE).absolute())


def _crew(
    equipment: Equipment, *, workers: int | None, ray_address: str | None, cluster_file: Path | None
) -> tuple[Executor, dict[str, EngineInfo]]:
    """Who makes the rows, and the engines as they are there."""
    click.echo("Loading the engines.", err=True)
    if ray_address is None:
        if cluster_file is not None:
            raise click.UsageError("--cluster says how a run lies on a Ray cluster; give --ray, too")
        from distill.teaching.pool import infos, local

        return local(equipment, workers or CPUS), infos(equipment)
    from distill.teaching.cluster import on_ray
    from distill.teaching.planning import record_from
    from distill.teaching.settings import Cluster

    on_cluster = on_ray(equipment, ray_address, record_from(Cluster, cluster_file), workers=workers)
    return on_cluster, on_cluster.infos()
