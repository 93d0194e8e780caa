from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cascade.cancel import CancelScope
from cascade.errors import Cancelled, EngineFailed, EngineTimeout
from cascade.process import WorkerProcess

WORKER = """
import json, os, sys, time
for line in sys.stdin.buffer:
    request = json.loads(line)
    body = sys.stdin.buffer.read(request["bytes"])
    do = request["do"]
    if do == "die":
        print("my last words", file=sys.stderr)
        os._exit(3)
    if do == "die once":
        if not os.path.exists(request["mark"]):
            open(request["mark"], "w").close()
            os._exit(3)
    if do == "hang":
        time.sleep(60)
    header = {"error": "no"} if do == "refuse" else {"bytes": len(body) * 2, "pid": os.getpid()}
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\\n" + (b"" if do == "refuse" else body * 2))
    sys.stdout.buffer.flush()
"""


@pytest.fixture
def worker(tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    process = WorkerProcess(script, name="echo", timeout_s=1.0)
    yield process
    process.close()


def test_large_payloads_both_ways(worker: WorkerProcess) -> None:
    payload = os.urandom(3_000_000)
    _, body = worker.ask({"do": "echo"}, payload, cancel=CancelScope())
    assert body == payload * 2


def test_a_killed_worker_is_started_again(worker: WorkerProcess) -> None:
    first, _ = worker.ask({"do": "echo"}, cancel=CancelScope())
    os.kill(first["pid"], signal.SIGKILL)
    second, body = worker.ask({"do": "echo"}, b"x", cancel=CancelScope())
    assert body == b"xx"
    assert second["pid"] != first["pid"]


def test_a_worker_that_dies_on_a_request_gets_one_more_try(worker: WorkerProcess, tmp_path: Path) -> None:
    _, body = worker.ask({"do": "die once", "mark": str(tmp_path / "mark")}, b"x", cancel=CancelScope())
    assert body == b"xx"
    with pytest.raises(EngineFailed, match=r"died 2 times.*my last words"):
        worker.ask({"do": "die"}, cancel=CancelScope())
    assert worker.ask({"do": "echo"}, b"y", cancel=CancelScope())[1] == b"yy"


def test_a_refusal_is_the_engines_own_word(worker: WorkerProcess) -> None:
    with pytest.raises(EngineFailed, match="echo: no"):
        worker.ask({"do": "refuse"}, cancel=CancelScope())


def test_a_hanging_worker_is_ended_at_its_limit(worker: WorkerProcess) -> None:
    with pytest.raises(EngineTimeout, match="within 1 s"):
        worker.ask({"do": "hang"}, cancel=CancelScope())
    assert worker.pid is None
    assert worker.ask({"do": "echo"}, b"y", cancel=CancelScope())[1] == b"yy"


def test_a_worker_that_takes_no_input_is_ended_too(worker: WorkerProcess) -> None:
    worker.ask({"do": "echo"}, cancel=CancelScope())
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(EngineTimeout, match="within 1 s"):
        worker.ask({"do": "echo"}, bytes(1_000_000), cancel=CancelScope())
    assert worker.ask({"do": "echo"}, b"y", cancel=CancelScope())[1] == b"yy"


def test_cancelling_ends_the_work_within_100_ms(worker: WorkerProcess) -> None:
    worker.ask({"do": "echo"}, cancel=CancelScope())
    scope, stopped_at = CancelScope(), []

    def stop() -> None:
        stopped_at.append(time.perf_counter())
        scope.cancel()

    threading.Timer(0.2, stop).start()
    with pytest.raises(Cancelled):
        worker.ask({"do": "hang"}, cancel=scope)
    assert time.perf_counter() - stopped_at[0] < 0.1


def test_threads_take_turns(worker: WorkerProcess) -> None:
    got: dict[int, bytes] = {}

    def ask(number: int) -> None:
        got[number] = worker.ask({"do": "echo"}, bytes([number]) * 1000, cancel=CancelScope())[1]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: bytes([number]) * 2000 for number in range(8)}
