"""A comparison's process that dies, breaks or hangs on some cases and answers the others: see test_comparison.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from fake_student import FakeSpeechLM, sound, student, think  # noqa: E402

from e2e_model.respond import End, Text  # noqa: E402
from graphs.comparison import SystemSpec  # noqa: E402
from graphs.comparison_worker import Host, serve  # noqa: E402
from graphs.student import make_graph  # noqa: E402


class Dying(Host):
    """The graph is real, the student a stand-in. A case says by its name what becomes of it."""

    def _load(self) -> None:
        self._graph = self._graph or make_graph()
        self._engines = self._engines or student(FakeSpeechLM())

    def _answer(self, case: Any, seed: int) -> dict[str, Any]:
        if case.id.startswith("dies") or self._spec.fingerprint == f"dies:{case.id}":
            os._exit(9)
        if case.id.startswith("breaks"):
            raise ValueError("nobody thought\nof this")
        lm = FakeSpeechLM([think(), Text(f"I hear you, {seed}."), sound(), End("end", f"I hear you, {seed}.")])
        self._engines = student(lm)
        print("a library that talks")
        return super()._answer(case, seed)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers, Dying(SystemSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2])))
