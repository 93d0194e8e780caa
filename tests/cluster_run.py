"""Run by test_cluster in a process of its own: two Ray nodes on this machine, real rows, and engines that misbehave.

Prints what it saw as one line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import EmotionFeatures, Message, Prompt, Speech
from cascade.errors import Cancelled, InputError
from cascade.turn import EngineInfo, Token, Transcript
from distill.teaching import hosted
from distill.teaching.cluster import OnRay, on_ray
from distill.teaching.pool import Executor, infos, local
from distill.teaching.records import Scenario
from distill.teaching.scenarios.plan import PlanOptions, planned
from distill.teaching.settings import Cluster, Settings, Share
from distill.teaching.teach import settings_of, teach
from distill.teaching.worker import Equipment, Made

ROWS = 8  # two chunks: one for each node
QUICK = Settings(calibrate=False, candidates=1)
WAVE = Waveform(np.zeros(1600, np.float32), 16_000)


def some_scenarios() -> list[Scenario]:
    """One for the talker alone, which takes less time, then a dialogue, and so on: a worker that is killed after its first row
    has work left.
    """
    drawn = list(planned(PlanOptions(turns=200, seed=3)))
    tasks = {task: [one for one in drawn if one.task == task][: ROWS // 2] for task in ("dialogue", "speak")}
    pairs = zip(tasks["speak"], tasks["dialogue"], strict=True)
    return [one.model_copy(update={"index": k}) for k, one in enumerate(one for pair in pairs for one in pair)]


def made_into(folder: Path, equipment: Equipment, engines: Any, executor: Executor) -> str:
    settings = settings_of(equipment, engines, {"seed": 3})
    return teach(folder, settings, some_scenarios(), executor, resume=False).dataset_sha256


def digesting(executor: Executor, digests: dict[int, str]) -> Executor:
    def execute(lines: Iterable[str]) -> Iterator[Made]:
        for made in executor(lines):
            digests[made.index] = hashlib.sha256(made.row).hexdigest()
            yield made

    return execute


def on_two_nodes(folder: Path, equipment: Equipment, engines: Any, address: str) -> dict[str, Any]:
    """The same dataset, though the worker that gives the first row is killed then."""
    crew: OnRay = on_ray(equipment, address)
    workers: list[str] = []

    def killing(lines: Iterable[str]) -> Iterator[Made]:
        for made in crew(lines):
            if not workers:
                os.kill(int(made.worker.rpartition("-")[2]), signal.SIGKILL)
            workers.append(made.worker)
            yield made

    began = time.monotonic()
    found = crew.infos()
    begun_s = time.monotonic() - began
    sha256 = made_into(folder, equipment, found, killing)
    return {
        "sha256": sha256,
        "same_engines": found == engines,
        "rows": len(workers),
        "workers": len(set(workers)),
        "begun_s": begun_s,
        "run_s": time.monotonic() - began - begun_s,
    }


def with_engines_of_their_own(equipment: Equipment, plain: dict[int, str], address: str) -> dict[str, Any]:
    """Rows made through stand-ins, for engines that take shares of a GPU that is only said to be there."""
    import ray

    shares = {"tts": Share(gpus=0.25), "reasoning": Share(gpus=0.5, at_once=2), "emotion": Share(cpus=0.1)}
    scenarios = [one for one in some_scenarios() if one.index in (0, ROWS - 1)]
    lines = [one.model_dump_json(exclude_defaults=True) for one in scenarios]
    rows: dict[int, str] = {}
    gpu_left = None
    for _ in digesting(on_ray(equipment, address, Cluster.model_validate({"stages": shares})), rows)(lines):
        gpu_left = gpu_left or ray.available_resources().get("GPU")
    return {"same": all(plain[index] == row for index, row in rows.items()), "rows": len(rows), "gpu_left": gpu_left}


# --- stand-ins, each for an engine of our own in an actor


class Model:
    info = EngineInfo(name="model", version="1")

    def stream(self, messages: list[Message], *, max_tokens: int, cancel: CancelScope, **_: Any) -> Iterator[Token]:
        for number in range(max_tokens):
            yield Token(text=f"{messages[0].content}{number}", id=number, logprob=-1.0)


class Engine:
    """`died`: a file that says that its process has died once already."""

    def __init__(self, died: Path, bank: Any = None) -> None:
        self.info = EngineInfo(name="fake", version="1", options={"bank": bank and bank.folder.name})
        self.language_model, self._died, self._bank = Model(), died, bank

    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        match speech.sample_rate:
            case 1:
                raise InputError("the sound is bad; record it again")
            case 2:
                raise MemoryError
            case 3:
                raise ValueError("what\nis this")
            case 4:
                while True:
                    cancel.check()
                    time.sleep(0.01)
            case 5 if not self._died.exists():
                self._died.touch()
                os._exit(1)
            case 6:
                os._exit(1)
        return Transcript(text="heard", engine="fake")

    def embed(self, speech: Waveform, *, cancel: CancelScope) -> EmotionFeatures:
        return EmotionFeatures(speech.samples[:3] + 1, speech.samples.reshape(-1, 4), 50.0)

    def respond(self, prompt: Prompt, *, cancel: CancelScope) -> Iterator[str]:
        yield "First."
        while not cancel.cancelled:
            time.sleep(0.01)
        cancel.check()

    def speak(self, text: str, *, cancel: CancelScope, **_: Any) -> Speech:
        return Speech(Waveform(np.full(len(text), 0.5, np.float32), 8000 if self._bank else 16_000))

    def with_bank(self, bank: Any) -> Engine:
        return Engine(self._died, bank)


class EngineHost(hosted.Host):
    def __init__(self, died: Path) -> None:
        super().__init__(None, "asr", 1)  # type: ignore[arg-type]
        self._died = died

    def _loaded(self) -> Engine:
        return Engine(self._died)


class Stands:
    def __init__(self, folder: Path, restarts: int) -> None:
        remote = hosted.library().remote(
            num_cpus=0, max_restarts=restarts, max_task_retries=restarts, max_concurrency=8,
            concurrency_groups={hosted.ASIDE: 2},
        )  # fmt: skip
        self._actor = remote(EngineHost).remote(folder / "died")
        self._about = hosted.library().get(self._actor.about.remote())

    def for_(self, stage: Any) -> Any:
        return hosted.stand_in(hosted.Hosted(stage, self._about, (self._actor,)))


def told(work: Callable[[], Any]) -> str:
    try:
        return f"gave {work()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def errors_and_cancels(folder: Path, mortal: Stands) -> dict[str, Any]:
    """`mortal`: is not begun again when it dies."""
    stands, found = Stands(folder, restarts=2), {}
    asr, free = stands.for_("asr"), CancelScope()
    for case, rate in {"input": 1, "memory": 2, "other": 3, "dies_once": 5, "plain": 16_000}.items():
        found[case] = told(lambda rate=rate: asr.transcribe(Waveform(WAVE.samples, rate), cancel=free).text)
    scope = CancelScope()
    threading.Timer(0.2, scope.cancel).start()
    found["cancelled"] = told(lambda: asr.transcribe(Waveform(WAVE.samples, 4), cancel=scope))
    found["after"] = asr.transcribe(WAVE, cancel=free).text  # one call at a time: the stopped one has ended
    found["stream"] = stopped_after_one(stands.for_("reasoning"))
    found["after_stream"] = asr.transcribe(WAVE, cancel=free).text
    gone = mortal.for_("asr")
    found["gone"] = told(lambda: gone.transcribe(Waveform(WAVE.samples, 6), cancel=free))
    return found | {"lost": gone.line.lost}


def stopped_after_one(reasoner: Any) -> list[str]:
    """The first sentence comes while the engine still works; then the turn is stopped."""
    scope, seen = CancelScope(), []
    try:
        for sentence in reasoner.respond(Prompt(Transcript(text="x", engine="x"), None), cancel=scope):  # type: ignore[arg-type]
            seen.append(sentence)
            scope.cancel()
    except Cancelled:
        seen.append("stopped")
    return seen


def everything_else(stands: Stands) -> dict[str, Any]:
    from cascade.tts.voice_bank import Bank

    free = CancelScope()
    limits = {"max_tokens": 3, "temperature": 0.0, "seed": 0, "top_logprobs": 0}
    model, voice = stands.for_("reasoning").language_model, stands.for_("tts")
    tokens = [token.text for token in model.stream([Message("user", "t")], **limits, cancel=free)]
    features = stands.for_("emotion").embed(WAVE, cancel=free)
    features.frames[0] = 1  # an engine's arrays are one's own to write to
    how = {"emotion": "sad", "intensity": 1.0, "rate": 1.0, "seed": 0, "cancel": free}
    other = voice.with_bank(Bank(Path("/banks/anna"), {}))
    return {
        "tokens": tokens,
        "model": model.info.name,
        "utterance": features.utterance.tolist(),
        "rates": [one.speak("abc", **how).wave.sample_rate for one in (voice, other)],
        "bank": other.info.options["bank"],
    }


def main(folder: Path) -> None:
    from ray.cluster_utils import Cluster as Nodes

    memory = {"object_store_memory": 100 * 2**20}
    began = time.monotonic()
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **memory})
    nodes.add_node(num_cpus=1, num_gpus=1, **memory)
    found: dict[str, Any] = {"nodes_s": time.monotonic() - began}
    try:
        equipment = Equipment("embedded", (), QUICK, None)
        engines, plain = infos(equipment), {}
        found["plain_sha256"] = made_into(folder / "plain", equipment, engines, digesting(local(equipment, 1), plain))
        found["plain_s"] = time.monotonic() - began - found["nodes_s"]
        found["two_nodes"] = on_two_nodes(folder / "ray", equipment, engines, nodes.address)
        found["hosted"] = with_engines_of_their_own(equipment, plain, nodes.address)
        import ray

        ray.init(nodes.address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        mortal = Stands(folder, restarts=0)
        found["rest"] = everything_else(mortal)
        found["errors"] = errors_and_cancels(folder, mortal)
        ray.shutdown()
    finally:
        nodes.shutdown()
    print(json.dumps(found | {"all_s": time.monotonic() - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
