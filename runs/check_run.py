"""Whether a run of laptop.sh left all that it should: `python runs/check_run.py FOLDER`. Says what is missing or did not fall."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

LEFT = (
    "data/manifest.json", "data/README.md", "data/report.html", "ears/student/student.json", "ears/curves.png",
    "codec/codec/weights/codec.safetensors",
    "words/student/student.json", "voice/student/student.json", "answers/student/student.json",
    "nano/student/model.safetensors", "nano/student/codec/codec.safetensors", "nano/curves.png",
    "compared/comparison.html", "compared/comparison.json", "compared/comparison.md", "steps.jsonl",
)  # fmt: skip
STAGES = (
    "codec/codec",
    "ears/understand",
    "words/speak",
    "voice/speak",
    "answers/empathise",
    "nano/speak",
)  # refine sees too few replies to be held to it


def problems(run: Path) -> Iterator[str]:
    yield from (f"{run / name}: is not there" for name in LEFT if not (run / name).is_file())
    for stage in STAGES:
        curve = run / stage / "curve.jsonl"
        if not curve.is_file():
            yield f"{curve}: is not there"
            continue
        rows = [json.loads(line) for line in curve.read_text(encoding="utf-8").splitlines()]
        held = [row["total"] for row in rows if row["split"] == "held_out"]
        if len(held) < 2 or not min(held[1:]) < held[0]:
            yield f"{curve}: the held-out loss did not fall: {held}"


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1])))
    print("\n".join(found) or f"{sys.argv[1]}: every step left what the next one needs, and every held-out loss fell")
    sys.exit(bool(found))
