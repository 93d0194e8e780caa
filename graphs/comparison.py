"""The same inputs through several systems: each in a process of its own, so that one that crashes costs one answer, and what it
takes of the machine can be told from the others.

Answers are asked for once, several processes at a time. How fast a system is, is measured apart: one at a time, warm, in rounds
over all systems, so that whatever else the machine does meets each of them.
Layout: RUN/answers/<system>/<case>.json and .wav, system.json; RUN/latency/<system>/<case>.json. A file is whole or not there, so
a run goes on where it was interrupted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from cascade.cancel import CancelScope
from cascade.errors import AttuneError, EngineError, EngineUnavailable
from cascade.process import WorkerProcess
from cascade.turn import Cues, EngineInfo, Record, Timings, Transcript, Turn
from graphs.resources import energy_j, usage

WORKER = Path(__file__).with_name("comparison_worker.py")
ANSWER_S = 600.0  # after which a system is taken for dead
HIDING = ("emotion", "speaker", "events", "prosody")  # stages that a cascade does without which reads words alone

Seen = Literal["heard", "hidden", "oracle"]
Progress = Callable[[str, int, int], None]  # what, done, of


class SystemSpec(Record):
    """All that a process needs to become a system. `cues`: what a cascade's reasoner is told of how it was said: what its
    analyzers heard, nothing (it reads words alone), or the truth. `fingerprint`: of a student's weights.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$")  # a folder's name, too
    kind: Literal["cascade", "student"]
    profile: str = "embedded"
    engines: tuple[str, ...] = ()
    cues: Seen = "heard"
    model: str | None = None
    think: Literal["tag", "language", "none"] = "tag"
    vector: bool = True
    fingerprint: str = ""

    @property
    def swaps(self) -> tuple[str, ...]:
        hidden = tuple(f"{stage}=unknown" for stage in HIDING) if self.cues == "hidden" else ()
        return (*self.engines, *hidden)


class Case(Record):
    """One input: `wav` is read by every system. `truth`: its labels as sure cues, for a system that is told them. `heard`: what
    the system's own recognizer has heard in it before, on behalf of another system; it need not listen again.
    """

    id: str
    wav: str
    truth: Cues = Cues()
    heard: Transcript | None = None


class Answer(Record):
    """What a system made of a case. turn None: it died or broke, and `crashed` says how, in one line."""

    item: str
    turn: Turn | None = None
    crashed: str = ""


class Pace(Record):
    """How fast: the timings of each round, warm, one at a time; processor seconds with those of all its processes; joules of the
    whole machine meanwhile, where it counts them.
    """

    item: str
    runs: tuple[Timings, ...] = ()
    cpu_s: tuple[float, ...] = ()
    energy_j: tuple[float, ...] = ()
    reply_s: float = 0.0


class SystemAbout(Record):
    """What a system is, and what it took: seconds to load, megabytes at most; None where nobody tells."""

    engines: dict[str, EngineInfo] = Field(default_factory=dict)
    parameters: int | None = None
    load_s: float | None = None
    peak_memory_mb: float | None = None


# --- asking


class System:
    """A system's process. Not for two threads at once."""

    def __init__(self, spec: SystemSpec, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.spec, self.folder = spec, folder
        self._worker = WorkerProcess(
            WORKER, [spec.model_dump_json(), str(folder.absolute())], name=spec.name, timeout_s=ANSWER_S
        )
        self._cancel = CancelScope()
        self.recognizer: EngineInfo | None = None

    def begin(self) -> None:
        """Load it. Raises EngineUnavailable: it cannot be had here."""
        try:
            found = self._worker.ask({"do": "begin"}, cancel=self._cancel)[0]
        except EngineError as error:
            raise EngineUnavailable(f"{self.spec.name}: {_bare(error, self.spec.name)}") from None
        self.recognizer = EngineInfo.model_validate(found["recognizer"])

    def answer(self, case: Case, seed: int) -> tuple[Answer, float | None]:
        """The answer, and the processor seconds it took; its sound is in the folder as <case>.wav."""
        before = self._usage()
        try:
            made, _ = self._worker.ask(
                {"do": "answer", "case": case.model_dump(mode="json"), "seed": seed}, cancel=self._cancel
            )
        except EngineError as error:
            return Answer(item=case.id, crashed=_bare(error, self.spec.name)), None
        after = self._usage()
        return Answer(item=case.id, turn=Turn.model_validate(made["turn"])), _spent(before, after)

    def about(self) -> SystemAbout:
        found = self._worker.ask({"do": "about"}, cancel=self._cancel)[0]
        pid = self._worker.pid
        found.pop("bytes", None)
        return SystemAbout(**found, peak_memory_mb=usage(pid).peak_memory_mb if pid else None)

    def stop(self) -> None:
        self._cancel.cancel()

    def close(self) -> None:
        self._worker.close()

    def _usage(self) -> float | None:
        return usage(self._worker.pid).cpu_s if self._worker.pid else None


@contextmanager
def running(spec: SystemSpec, folder: Path) -> Iterator[System]:
    system = System(spec, folder)
    try:
        system.begin()
        yield system
    finally:
        system.close()


def _bare(error: AttuneError, name: str) -> str:
    """Without the name that the process's client has put before it."""
    return str(error).removeprefix(f"{name}: ")


# --- answers


def answer_all(
    spec: SystemSpec,
    cases: Sequence[Case],
    run: Path,
    *,
    seed: int,
    jobs: int,
    progress: Progress,
    earlier: Sequence[str] = (),
) -> None:
    """Every case that has no answer yet. `earlier`: systems that have answered all; where one has the very same recognizer, what
    that heard counts for both, for listening takes most of a cascade's time. Raises EngineUnavailable: it cannot be loaded.
    """
    folder = run / "answers" / spec.name
    waiting = [case for case in cases if not (folder / f"{case.id}.json").is_file()]
    if not waiting and (folder / "system.json").is_file():
        return
    queue, lock, done = iter(waiting), threading.Lock(), len(cases) - len(waiting)
    systems: list[System] = []

    def work() -> None:
        nonlocal done
        with running(spec, folder) as system:
            systems.append(system)
            shared = next((name for name in earlier if _hears_alike(run, name, system)), None)
            while True:
                with lock:
                    case = next(queue, None)
                if case is None:
                    break
                answer, _ = system.answer(_heard_by(run, shared, case), seed)
                write_record(folder / f"{case.id}.json", answer)
                with lock:
                    done += 1
                    progress(spec.name, done, len(cases))
            write_record(folder / "system.json", _kept_about(folder, system.about()))

    with ThreadPoolExecutor(max(1, min(jobs, len(waiting)))) as pool:
        futures = [pool.submit(work) for _ in range(max(1, min(jobs, len(waiting))))]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for system in systems:
                system.stop()
            raise


def _hears_alike(run: Path, name: str, system: System) -> bool:
    return system.spec.kind == "cascade" and read_about(run, name).engines.get("asr") == system.recognizer


def _heard_by(run: Path, name: str | None, case: Case) -> Case:
    """The case with what another system's recognizer made of it; where that failed, it is listened to."""
    turn = read_answers(run, name, [case.id])[case.id].turn if name else None
    if turn is None or any(failure.stage == "asr" for failure in turn.failures):
        return case
    return case.model_copy(update={"heard": turn.transcript})


def _kept_about(folder: Path, about: SystemAbout) -> SystemAbout:
    """With the highest peak of all processes that were this system."""
    path = folder / "system.json"
    earlier = SystemAbout.model_validate_json(path.read_bytes()).peak_memory_mb if path.is_file() else None
    peaks = [peak for peak in (earlier, about.peak_memory_mb) if peak is not None]
    return about.model_copy(update={"peak_memory_mb": max(peaks, default=None)})


def read_answers(run: Path, name: str, ids: Sequence[str]) -> dict[str, Answer]:
    folder = run / "answers" / name
    return {id: Answer.model_validate_json((folder / f"{id}.json").read_bytes()) for id in ids}


def read_about(run: Path, name: str) -> SystemAbout:
    return SystemAbout.model_validate_json((run / "answers" / name / "system.json").read_bytes())


def read_taken(run: Path, name: str) -> SystemAbout:
    """What it took while its speed was measured: there each system does all its work itself. Nothing where none was."""
    path = run / "latency" / name / "system.json"
    return SystemAbout.model_validate_json(path.read_bytes()) if path.is_file() else SystemAbout()


# --- speed


def pace_all(
    specs: Sequence[SystemSpec], cases: Sequence[Case], run: Path, *, seed: int, rounds: int, progress: Progress
) -> None:
    """`rounds` over all systems; in each a system is loaded anew, warmed up by one case and then asked one case at a time."""
    total = rounds * len(cases)
    for number in range(rounds):
        for spec in specs:
            folder = run / "latency" / spec.name
            paces = {case.id: read_pace(run, spec.name, case.id) for case in cases}
            waiting = [case for case in cases if len(paces[case.id].runs) <= number]
            if not waiting:
                continue
            with running(spec, folder) as system:
                system.answer(waiting[0], seed)
                for case in waiting:
                    before = energy_j()[0]
                    answer, cpu_s = system.answer(case, seed)
                    spent_j = _spent(before, energy_j()[0])
                    write_record(folder / f"{case.id}.json", _paced(paces[case.id], answer, cpu_s, spent_j))
                    at = number * len(cases) + len(cases) - len(waiting) + waiting.index(case) + 1
                    progress(f"{spec.name}, speed", at, total)
                write_record(folder / "system.json", _kept_about(folder, system.about()))


def _spent(before: float | None, after: float | None) -> float | None:
    """Of a counter that only grows; None where nobody tells, or where it began anew meanwhile."""
    return None if before is None or after is None or after < before else after - before


def _paced(pace: Pace, answer: Answer, cpu_s: float | None, spent_j: float | None) -> Pace:
    """One more round. A crash has no time: it counts as a round without one, so that it is not asked for ever."""
    timings = answer.turn.timings if answer.turn else Timings()
    audio = answer.turn.reply_audio if answer.turn else None
    return pace.model_copy(
        update={
            "runs": (*pace.runs, timings),
            "cpu_s": (*pace.cpu_s, cpu_s) if cpu_s is not None else pace.cpu_s,
            "energy_j": (*pace.energy_j, spent_j) if spent_j is not None else pace.energy_j,
            "reply_s": audio.duration_s if audio else pace.reply_s,
        }
    )


def read_pace(run: Path, name: str, id: str) -> Pace:
    path = run / "latency" / name / f"{id}.json"
    return Pace.model_validate_json(path.read_bytes()) if path.is_file() else Pace(item=id)


def write_record(path: Path, record: Record) -> None:
    """Whole or not at all."""
    part = path.with_name(f"{path.name}.part{threading.get_ident()}")
    part.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
