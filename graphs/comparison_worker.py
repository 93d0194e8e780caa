"""One system of a comparison in a process of its own (see `cascade.process` and `graphs.comparison`).

Run as a script with a SystemSpec as JSON and the folder for its sounds as arguments.
Request   {"do": "begin"}                        → {"recognizer"}
          {"do": "answer", "case", "seed"}       → {"turn"}; the reply's sound is in the folder as <case>.wav
          {"do": "about"}                        → {"engines", "parameters", "load_s"}
Response  as above, or {"error"}
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from cascade.audio import read_speech
from cascade.profiles import Engines
from cascade.turn import Cues, Turn
from graphs.comparison import Case, SystemSpec
from graphs.state import Context, Done, InputState, Known


class Host:
    """Holds the system; loads it when first needed, so that a process that was started again goes on."""

    def __init__(self, spec: SystemSpec, folder: Path) -> None:
        self._spec, self._folder = spec, folder
        self._engines: Engines | None = None
        self._graph: Any = None
        self._load_s = 0.0

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        self._load()
        if request["do"] == "answer":
            return self._answer(Case.model_validate(request["case"]), request["seed"])
        return self._about() if request["do"] == "about" else {"recognizer": self._infos()["asr"]}

    def _load(self) -> None:
        if self._engines is not None:
            return
        from graphs.options import Answerer, loaded_engines

        began, spec = time.perf_counter(), self._spec
        if spec.model is None:
            from graphs.teacher import make_graph

            self._engines = loaded_engines(spec.profile, spec.swaps).__enter__()  # it lives as long as the process
            self._graph = make_graph()
        else:
            who = Answerer("", (), Path(spec.model), spec.think, spec.vector)
            self._engines, make = who.loaded().__enter__()
            self._graph = make(None)
        self._load_s = time.perf_counter() - began

    def _answer(self, case: Case, seed: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix=".turn-", dir=self._folder) as place:
            turn = asyncio.run(self._turn(case, seed, Path(place)))
            if turn.reply_audio is not None:
                name = f"{case.id}.wav"
                os.replace(Path(place) / turn.reply_audio.path, self._folder / name)
                turn = turn.model_copy(update={"reply_audio": turn.reply_audio.model_copy(update={"path": name})})
        return {"turn": turn.model_dump(mode="json")}

    async def _turn(self, case: Case, seed: int, place: Path) -> Turn:
        assert self._engines is not None, "loaded before"
        cues = case.truth if self._spec.cues == "oracle" else Cues()
        known = Known(case.heard, cues, listened=case.heard is None)
        speech = read_speech(case.wav)
        context = Context(self._engines, place, ears=False, user_speech=speech, known=known)
        begin: InputState = {"text": None, "wav": None, "seed": seed}
        done: Turn | None = None
        async for event in self._graph.astream(begin, context=context, stream_mode="custom"):
            done = event.turn if isinstance(event, Done) else done
        assert done is not None, "the graph ends every turn with Done"
        return done

    def _infos(self) -> dict[str, Any]:
        assert self._engines is not None, "loaded before"
        return {stage: info.model_dump(mode="json") for stage, info in self._engines.infos.items()}

    def _about(self) -> dict[str, Any]:
        infos = self._infos()
        counts = {info["options"].get("parameters") for info in infos.values()}
        return {
            "engines": infos,
            "parameters": counts.pop() if len(counts) == 1 else None,
            "load_s": self._load_s,
        }


def serve(requests: IO[bytes], responses: IO[bytes], host: Host) -> None:
    """Answer until the requests end."""
    for line in requests:
        try:
            header = host.do(json.loads(line))
        except Exception as error:  # whatever it was, the caller must hear of it: this process has no other voice
            header = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        responses.write(json.dumps({**header, "bytes": 0}).encode() + b"\n")
        responses.flush()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    serve(sys.stdin.buffer, answers, Host(SystemSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2])))
