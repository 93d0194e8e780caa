"""A Ray cluster: two nodes give what one process gives, whatever dies; engines in actors behave as engines at home do."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cascade.errors import AttuneError, ConfigError, EngineFailed, EngineUnavailable
from cascade.profiles import load_profile
from distill.teaching.cluster import RowMaker, cache_on_node, installed, on_ray, once_each, room, shares_on
from distill.teaching.commands import teach
from distill.teaching.planning import record_from
from distill.teaching.pool import WorkerDied
from distill.teaching.settings import GPU_SHARES, Cluster, Settings, Share
from distill.teaching.worker import Equipment, Made

RUN = Path(__file__).parents[1] / "cluster_run.py"
with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
EMBEDDED = Equipment("embedded", (), Settings(), None)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program saw on two nodes. Ray's sockets need a short path, and none of its processes may outlive it."""
    place = tempfile.mkdtemp(dir="/tmp", prefix="ray")
    own = {"RAY_TMPDIR": place, "TMPDIR": place, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(RUN.parents[1])}
    folder = tmp_path_factory.mktemp("datasets")
    ran = subprocess.run(
        [sys.executable, str(RUN), str(folder)], env=os.environ | own, capture_output=True, text=True, timeout=600
    )
    shutil.rmtree(place, ignore_errors=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(ran.stdout.splitlines()[-1])


@with_ray
def test_two_nodes_give_the_same_dataset_though_a_worker_is_killed(seen: dict[str, Any]) -> None:
    two_nodes = seen["two_nodes"]
    assert two_nodes["sha256"] == seen["plain_sha256"]
    assert two_nodes["rows"] == 8  # none doubled, though some were made twice
    assert two_nodes["workers"] >= 3  # one a node, and the one in the place of the killed
    assert two_nodes["same_engines"]


@with_ray
def test_engines_with_shares_of_a_gpu_give_the_same_rows(seen: dict[str, Any]) -> None:
    assert seen["hosted"] == {"same": True, "rows": 2, "gpu_left": 0.25}


@with_ray
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("input", "InputError: the sound is bad; record it again"),
        ("memory", "OutOfMemory: out of memory: MemoryError"),
        ("other", "EngineFailed: ValueError: what is this"),
        ("dies_once", "gave 'heard'"),
        ("plain", "gave 'heard'"),
        ("cancelled", "Cancelled: "),
        ("after", "heard"),
        ("stream", ["First.", "stopped"]),
        ("after_stream", "heard"),
    ],
)
def test_a_stand_in_does_as_its_engine(seen: dict[str, Any], case: str, expected: Any) -> None:
    assert seen["errors"][case] == expected


@with_ray
def test_an_engine_lost_for_good_is_told(seen: dict[str, Any]) -> None:
    assert seen["errors"]["gone"].startswith("EngineFailed: an engine of asr was lost (")
    assert seen["errors"]["lost"]


@with_ray
def test_stand_ins_for_models_encoders_and_voices(seen: dict[str, Any]) -> None:
    assert seen["rest"] == {
        "tokens": ["t0", "t1", "t2"],
        "model": "model",
        "utterance": [1.0, 1.0, 1.0],
        "rates": [16_000, 8_000],
        "bank": "anna",
    }


# --- without a cluster


def made(index: int) -> Made:
    return Made(index, b"row", (), 0.1, "w", {}, {})


def batches(*rows: Any) -> Iterator[Any]:
    pyarrow = pytest.importorskip("pyarrow")
    return iter(pyarrow.table({"row": [pickle.dumps(row)]}) for row in rows)


def test_a_row_made_twice_comes_once() -> None:
    rows = once_each(batches(made(1), made(0), made(1), made(2), made(0)))
    assert [row.index for row in rows] == [1, 0, 2]


def test_what_went_wrong_in_a_worker_is_raised() -> None:
    rows = once_each(batches(made(1), WorkerDied("an engine of tts was lost"), made(2)))
    assert next(rows).index == 1
    with pytest.raises(WorkerDied, match="engine of tts"):
        next(rows)


def test_another_attune_on_a_node_is_one_line() -> None:
    maker = RowMaker(EMBEDDED, {}, "0.0.9 (123456789abc)", 1)
    [[cell]] = [answer["row"] for answer in maker({"item": ["{}"]})]  # type: ignore[dict-item, list-item]
    error = pickle.loads(cell)
    assert isinstance(error, EngineFailed)
    assert str(error).startswith(f"on the node {os.uname().nodename}: the node {os.uname().nodename} has Attune")
    assert installed() in str(error)
    assert "0.0.9 (123456789abc); install the same on both" in str(error)


def test_a_worker_that_cannot_begin_says_so_for_every_row() -> None:
    maker = RowMaker(Equipment("nowhere.toml", (), Settings(), None), {"tts": None}, installed(), 1)  # type: ignore[dict-item]
    answers = [pickle.loads(answer["row"][0]) for answer in maker({"item": ["{}", "{}"]})]  # type: ignore[dict-item]
    assert [type(answer) for answer in answers] == [ConfigError, ConfigError]
    assert "profile 'nowhere.toml' is not known" in str(answers[0])


def node(cpus: float = 4, gpus: float = 0) -> dict[str, Any]:
    return {"Resources": {"CPU": cpus} | ({"GPU": gpus} if gpus else {})}


def test_without_gpus_every_worker_has_its_own_engines() -> None:
    assert shares_on([node(), node()], load_profile("gpu"), Cluster()) == {}


def test_each_gpu_gets_a_set_of_the_engines_that_use_one() -> None:
    shares = shares_on([node(gpus=2), node(gpus=1), node()], load_profile("gpu"), Cluster())
    assert shares == {stage: Share(gpus=share, engines=3) for stage, share in GPU_SHARES.items()}
    assert sum(GPU_SHARES.values()) <= 1
    assert shares_on([node(gpus=2)], load_profile("embedded"), Cluster()) == {}


def test_shares_that_are_given_go_before_the_usual() -> None:
    given = Cluster(stages={"reasoning": Share(gpus=1, engines=1), "prosody": Share(cpus=0.5)})
    shares = shares_on([node(gpus=2)], load_profile("gpu"), given)
    assert shares["reasoning"] == Share(gpus=1, engines=1)
    assert shares["prosody"] == Share(cpus=0.5, engines=1)
    assert shares["asr"] == Share(gpus=GPU_SHARES["asr"], engines=1)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (Share(gpus=2), "an engine of tts asks for 2 GPU, the cluster's largest node has 1"),
        (Share(cpus=6), "an engine of tts asks for 6 CPU, the cluster's largest node has 4"),
        (Share(gpus=0.5, engines=5), "the engines of tts ask for 2.5 GPU together, the cluster has 2"),
    ],
)
def test_shares_that_do_not_fit_are_one_line(share: Share, message: str) -> None:
    with pytest.raises(EngineUnavailable, match=message):
        shares_on([node(gpus=1), node(gpus=1)], load_profile("embedded"), Cluster(stages={"tts": share}))


def test_workers_get_the_cpus_that_engines_leave() -> None:
    shares: dict[Any, Share] = {"tts": Share(cpus=0.5, engines=3)}
    assert room([node(4), node(3)], Cluster(), {}) == 7
    assert room([node(4), node(3)], Cluster(cpus_per_worker=2), {}) == 3
    assert room([node(4), node(3)], Cluster(), shares) == 5
    assert room([node(0)], Cluster(), {}) == 1  # waits for a node that comes later


def test_a_cache_file_is_the_nodes_own_and_a_url_everybodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_on_node("redis://head:6379/0") == "redis://head:6379/0"
    assert cache_on_node(None) is None
    here = Path(cache_on_node("/data/tiny/work/cache.sqlite") or "")
    assert here == tmp_path / f"attune-{os.getuid()}" / "cache.sqlite"
    assert here.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("address", ["nonsense", "ray://127.0.0.1:10001", ":6379", "head:port"])
def test_an_address_that_is_none_is_one_line(address: str) -> None:
    with pytest.raises(ConfigError, match=r"give host:port of the cluster's head, auto or local"):
        on_ray(EMBEDDED, address).infos()


def test_a_cluster_that_is_not_there_is_one_line() -> None:
    with pytest.raises(EngineUnavailable, match=r"--ray 127.0.0.1:1: no cluster to be had \(.*refused"):
        on_ray(EMBEDDED, "127.0.0.1:1").infos()


def test_without_ray_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineUnavailable, match=r"--ray needs the package ray: pip install .*\[ray\]"):
        on_ray(EMBEDDED, "local").infos()


def test_nothing_to_make_begins_no_cluster() -> None:
    assert list(on_ray(EMBEDDED, "127.0.0.1:1")([])) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stages.judging]\ngpus = 1", "stages.judging = 'judging'; legal: asr, emotion"),
        ("[stages.tts]\ngpu = 1", "stages.tts.gpu is not known; legal: gpus, cpus, engines, at_once"),
        ("[stages.tts]\ngpus = -1", "stages.tts.gpus = -1; legal: 0 or more"),
        ("workers = 3", "workers is not known; legal: stages, cpus_per_worker"),
    ],
)
def test_a_bad_file_for_the_cluster_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(AttuneError, match=message):
        record_from(Cluster, path)


def test_a_file_for_the_cluster_needs_a_cluster(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text("cpus_per_worker = 2")
    arguments = ["-o", str(tmp_path / "d"), "--profile", "embedded", "--cluster", str(path)]
    shown = CliRunner().invoke(teach, arguments)
    assert shown.exit_code == 2
    assert "give --ray, too" in shown.output
