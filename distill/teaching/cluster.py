"""Makes rows on a Ray cluster, through Ray Data.

Workers as on one machine, one a CPU, anywhere in the cluster; engines that need a GPU in actors of their own (`hosted`). Every
node has the same Attune installed, and finds what the run names by path (models, voice banks, recordings) under the same path.
A worker or node that dies is replaced and its scenarios are made again: rows depend on their scenarios alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cascade
import distill
import graphs
from cascade.engines import load_engine, parse_options
from cascade.errors import AttuneError, ConfigError, EngineFailed, EngineUnavailable, one_line
from cascade.profiles import Engines, Profile, load_profile
from cascade.turn import STAGES, EngineInfo, Stage
from distill.teaching import hosted
from distill.teaching.hosted import Hosted
from distill.teaching.pool import CHUNK, WorkerDied
from distill.teaching.records import Scenario
from distill.teaching.settings import GPU_SHARES, Cluster, Share
from distill.teaching.worker import Equipment, Made, Worker

if TYPE_CHECKING:
    import numpy as np

AUTO, LOCAL = "auto", "local"
REACH_S = 5.0  # for a cluster's port to answer
CHECK_S = 120.0  # for every node to say what is installed there
STALL_S = 900.0  # without a row from anybody: what kills its worker is tried again and again
SCENARIO, ROW = "item", "row"  # columns


def on_ray(equipment: Equipment, address: str, cluster: Cluster | None = None, *, workers: int | None = None) -> OnRay:
    """An executor of workers on a cluster: `address` host:port, "auto" (the cluster this machine is in) or "local" (a new one).

    `workers`: at most so many; None: one for each CPU (`cpus_per_worker`). A cache that is a file becomes one on each node.
    """
    return OnRay(equipment, address, cluster or Cluster(), workers)


class OnRay:
    """An Executor. What it begun on the cluster for `infos` serves the rows that come next, and ends with them."""

    def __init__(self, equipment: Equipment, address: str, cluster: Cluster, workers: int | None) -> None:
        self._equipment, self._address, self._cluster, self._workers = equipment, address, cluster, workers
        self._open: ExitStack | None = None
        self._crew: _Crew | None = None

    def infos(self) -> dict[str, EngineInfo]:
        """The engines as the cluster runs them: this machine may lack what they need.

        Raises EngineUnavailable (no Ray, no such cluster, no room), ConfigError, EngineFailed (another Attune on a node).
        """
        crew = self._begun()
        return {stage: crew.infos[stage] for stage in STAGES}

    def __call__(self, lines: Iterable[str]) -> Iterator[Made]:
        """Raises as `infos`, and WorkerDied: workers that die again and again."""
        scenarios = list(lines)
        try:
            if scenarios:
                crew = self._begun()
                with _lost_workers():
                    yield from crew.rows(scenarios)
        finally:
            self.close()

    def close(self) -> None:
        if self._open:
            self._open.close()
        self._open = self._crew = None

    def _begun(self) -> _Crew:
        if self._crew is None:
            with ExitStack() as stack:
                stack.enter_context(_connected(self._address))
                with _lost_workers():
                    self._crew = _Crew(self._equipment, self._cluster, self._workers)
                self._open = stack.pop_all()
        return self._crew


# --- the driver


@contextmanager
def _connected(address: str) -> Iterator[None]:
    _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray = hosted.library()
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with _no_native_log():
            ray.init(address=address, **quiet)
    except (Exception, SystemExit) as error:  # Ray ends the program where a cluster does not answer
        raise _unreachable(address, one_line(error)) from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is told in one line of ours
    try:
        with redirect_stdout(sys.stderr):  # where Ray tells of workers that died
            yield
    finally:
        ray.shutdown()


@contextmanager
def _no_native_log() -> Iterator[None]:
    """Ray's native part writes to the standard error, past Python, even how little it will write there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_address(address: str) -> None:
    """Raises ConfigError, EngineUnavailable. Ray itself would try a dead address for two minutes, and show each try."""
    if address in (AUTO, LOCAL):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise ConfigError(f"--ray {address!r}: give host:port of the cluster's head, {AUTO} or {LOCAL}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, one_line(error)) from error


def _unreachable(address: str, why: str) -> EngineUnavailable:
    return EngineUnavailable(
        f"--ray {address}: no cluster to be had ({why}); run this on a node of a cluster (`ray start` makes one), or use "
        f"--ray {LOCAL}"
    )


@contextmanager
def _lost_workers() -> Iterator[None]:
    """What Ray tells of dead processes and nodes becomes WorkerDied: what they were making can be made again."""
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError, UserCodeException

    try:
        yield
    except UserCodeException:  # a fault of ours, which would come again
        raise
    except (RayError, ExecutionTimeoutError) as error:
        raise WorkerDied(f"the cluster lost a worker for good ({one_line(error)})") from error


class _Crew:
    """What works on the cluster: engines that serve all workers, and the room for these."""

    def __init__(self, equipment: Equipment, cluster: Cluster, workers: int | None) -> None:
        ray, self._code = hosted.library(), installed()
        self._equipment, self._cluster = equipment, cluster
        nodes = [node for node in ray.nodes() if node["Alive"]]
        _check_nodes(nodes, self._code)
        profile = load_profile(equipment.profile, equipment.swaps)
        shares = shares_on(nodes, profile, cluster)
        self._fit = room(nodes, cluster, shares)
        self._most = workers or self._fit
        self._served = hosted.start(equipment, shares)
        elsewhere = [stage for stage in profile.stages if stage not in shares]
        loading = ray.remote(num_cpus=cluster.cpus_per_worker)(_infos_of).remote(equipment, elsewhere)
        found = hosted.gotten(loading, hosted.START_S, "no worker could begin: other work holds the cluster's CPUs")
        if isinstance(found, AttuneError):
            raise found
        self.infos: dict[Stage, EngineInfo] = found | {s: one.about.info for s, one in self._served.items()}

    def rows(self, scenarios: list[str]) -> Iterator[Made]:
        """`scenarios` is emptied."""
        ray, chunks = hosted.library(), ceil(len(scenarios) / CHUNK)
        data = ray.data.from_items(scenarios, override_num_blocks=chunks)
        scenarios.clear()  # they lie in the cluster now
        _set_up(data.context)
        rows = data.map_batches(
            RowMaker,
            fn_constructor_args=(self._equipment, self._served, self._code, self._most),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(
                min_size=min(self._fit, self._most, chunks), max_size=self._most, max_tasks_in_flight_per_actor=1
            ),
            num_cpus=self._cluster.cpus_per_worker,
        )
        yield from once_each(rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))


def _infos_of(equipment: Equipment, stages: Sequence[Stage]) -> dict[Stage, EngineInfo] | AttuneError:
    """In a worker. An error is given back: raised, Ray would wrap it in a traceback."""
    found: dict[Stage, EngineInfo] = {}
    try:
        profile = load_profile(equipment.profile, equipment.swaps)
        for stage in stages:
            config = profile.stages[stage]
            engine = load_engine(stage, config.engine, config.options)
            found[stage] = engine.info
            if hasattr(engine, "close"):
                engine.close()
    except AttuneError as error:
        return error
    return found


def _set_up(context: Any) -> None:
    """Ray Data says nothing, and gives each row as soon as it is made."""
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = STALL_S


def once_each(batches: Iterable[Any]) -> Iterator[Made]:
    """Scenarios of a lost worker are made again; the rows of which are there already are dropped."""
    seen: set[int] = set()
    for batch in batches:
        for cell in batch.column(ROW):
            made = pickle.loads(cell.as_py())
            if isinstance(made, AttuneError):
                raise made
            if made.index not in seen:
                seen.add(made.index)
                yield made


def installed() -> str:
    """Attune's version and a digest of its code and data: what must be the same wherever rows are made."""
    digest = hashlib.sha256()
    for package in (cascade, distill, graphs):
        folder = Path(package.__file__ or "").parent
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
            digest.update(f"{package.__name__}/{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return f"{version('attune')} ({digest.hexdigest()[:12]})"


def _check_nodes(nodes: Sequence[Mapping[str, Any]], code: str) -> None:
    """Raises EngineFailed where a node has no Attune, or another."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray, asking = hosted.library(), []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answer = ray.remote(num_cpus=0, scheduling_strategy=there)(installed).remote()
        asking.append((node["NodeManagerHostname"], answer))
    for name, answer in asking:
        try:
            found = hosted.gotten(answer, CHECK_S, f"the node {name} does not tell what is installed there")
        except ray.exceptions.RayTaskError as error:
            why = one_line(getattr(error, "cause", None) or error)
            raise EngineFailed(f"Attune cannot be used on the node {name} ({why}); install {code} there") from error
        _check_same(name, found, code)


def _check_same(node: str, found: str, code: str) -> None:
    if found != code:
        raise EngineFailed(f"the node {node} has Attune {found}, this machine {code}; install the same on both")


# --- who gets what of the cluster


def shares_on(nodes: Sequence[Mapping[str, Any]], profile: Profile, cluster: Cluster) -> dict[Stage, Share]:
    """The stages with engines of their own: those named, and where there are GPUs, those whose engine would use one.

    `engines` of each becomes a number. Raises EngineUnavailable: they do not fit.
    """
    gpus = _most(nodes, "GPU", sum)
    shares: dict[Stage, Share] = {}
    if gpus:
        shares |= {stage: Share(gpus=GPU_SHARES[stage]) for stage in GPU_SHARES if _wants_gpu(profile, stage)}
    shares.update((stage, share) for stage, share in cluster.stages.items())
    one_set = sum(share.gpus for share in shares.values() if share.engines is None)
    left = gpus - sum(share.gpus * (share.engines or 0) for share in shares.values())
    sets = max(1, int(left) // max(1, ceil(one_set)))
    shares = {
        stage: share if share.engines else share.model_copy(update={"engines": sets if share.gpus else 1})
        for stage, share in shares.items()
    }
    _check_fit(nodes, shares)
    return shares


def _wants_gpu(profile: Profile, stage: Stage) -> bool:
    config = profile.stages[stage]
    options = parse_options(stage, config.engine, config.options, profile.folder)
    return getattr(options, "device", "cpu") != "cpu"


def _check_fit(nodes: Sequence[Mapping[str, Any]], shares: Mapping[Stage, Share]) -> None:
    for stage, share in shares.items():
        for kind, asked in (("GPU", share.gpus), ("CPU", share.cpus)):
            if asked > (there := _most(nodes, kind, max)):
                raise EngineUnavailable(
                    f"an engine of {stage} asks for {asked:g} {kind}, the cluster's largest node has {there:g}; give it a "
                    "smaller share, or add such a node first"
                )
    for kind, field in (("GPU", "gpus"), ("CPU", "cpus")):
        asked, there = _total(shares, field), _most(nodes, kind, sum)
        if asked > there + 1e-6:
            raise EngineUnavailable(
                f"the engines of {', '.join(shares)} ask for {asked:g} {kind} together, the cluster has {there:g}; give them "
                "smaller shares or fewer engines"
            )


def _most(nodes: Sequence[Mapping[str, Any]], kind: str, of: Any) -> float:
    return float(of([node["Resources"].get(kind, 0.0) for node in nodes]))


def _total(shares: Mapping[Stage, Share], field: str) -> float:
    return float(sum(getattr(share, field) * (share.engines or 1) for share in shares.values()))


def room(nodes: Sequence[Mapping[str, Any]], cluster: Cluster, shares: Mapping[Stage, Share]) -> int:
    """Workers for which there are CPUs beside the engines; at least one, which waits for a CPU if it must."""
    each = cluster.cpus_per_worker
    slots = sum(int(node["Resources"].get("CPU", 0.0) / each) for node in nodes)
    return max(1, slots - ceil(_total(shares, "cpus") / each))


# --- in a worker


class RowMaker:
    """A worker in an actor of Ray Data. What goes wrong is a row, too: raised, Ray would wrap it in a traceback."""

    def __init__(self, equipment: Equipment, served: Mapping[Stage, Hosted], code: str, workers: int) -> None:
        self._lines: list[hosted.Line] = []
        self._trouble: AttuneError | None = None
        try:
            _check_same(os.uname().nodename, installed(), code)
            here = replace(equipment, cache=cache_on_node(equipment.cache))
            self._worker = Worker(here, self._engines(here, served, workers))
        except AttuneError as error:
            self._trouble = type(error)(f"on the node {os.uname().nodename}: {error}")

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> Iterator[dict[str, list[bytes]]]:
        for line in batch[SCENARIO]:
            yield {ROW: [pickle.dumps(self._trouble or self._made(line))]}

    def _made(self, line: str) -> Made | AttuneError:
        made = self._worker.row(Scenario.model_validate_json(line))
        lost = next((one.lost for one in self._lines if one.lost), None)
        return WorkerDied(lost) if lost else made  # a row that lacks what was lost is no row

    def _engines(self, equipment: Equipment, served: Mapping[Stage, Hosted], workers: int) -> Engines | None:
        """Stand-ins for the engines that are served elsewhere; None where none is.

        A stage's deadline is for one turn alone; where turns wait for one another's, it holds for all that may be before them.
        """
        if not served:
            return None
        profile = load_profile(equipment.profile, equipment.swaps)
        stand_ins = {stage: hosted.stand_in(found) for stage, found in served.items()}
        self._lines = [one.line for one in stand_ins.values()]
        patient = {s: replace(config, deadline_s=config.deadline_s * workers) for s, config in profile.stages.items()}
        loaded = {s: stand_ins.get(s) or load_engine(s, c.engine, c.options) for s, c in profile.stages.items()}
        return Engines(replace(profile, stages=patient), loaded)


def cache_on_node(place: str | None) -> str | None:
    """A URL as it is. A file is one machine's alone: each node has one, for all the runs that its user makes there."""
    if place is None or "://" in place:
        return place
    folder = Path(tempfile.gettempdir()) / f"attune-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder / "cache.sqlite")
