"""What a dataset that `attune teach` made is worth: `python runs/measure_dataset.py match DIR`, or `stages --turns 24`.

match    pairs of a contrast set: the same words in two tones, two replies. A judge that hears only the two recordings and reads
         only the two replies says which reply belongs to which recording. It hears tones by the acoustic analyzer, cold, and has
         learnt from rows of other templates which words answer which tone (logistic regression on words and pairs of words).
         Chance 0.5; with the recordings swapped at random it must fall to chance. The gates kept rows in which the same analyzer,
         calibrated, heard the tone: --with-rejected takes all
stages   seconds that each stage takes alone on the same inputs, against the whole; and one worker against two
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.paralinguistics import acoustic
from cascade.profiles import Engines, load_profile
from distill.teaching.dataset.shards import read_rows, shards_of

FOLDS = 5
COLUMNS = ["contrast", "template", "task", "user_emotion", "reply_text", "user_audio"]


def contrast_rows(folder: Path, places: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for place in places:
        for path in shards_of(folder, place):
            rows = (row for row in read_rows(path, COLUMNS) if row["task"] == "dialogue" and row["user_emotion"])
            yield from (row for row in rows if row["reply_text"] and row["user_audio"])


def heard_tones(row: dict[str, Any], analyzer: acoustic.Acoustic) -> dict[str, float]:
    samples, rate = soundfile.read(io.BytesIO(row["user_audio"]["bytes"]), dtype="float32")
    cue = analyzer.analyze(Waveform(samples, rate), baseline=None, cancel=CancelScope()).emotion
    return cue.probabilities if cue else {}


def match(asked: argparse.Namespace) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    places = ("train", "validation", "test", *(["rejected"] if asked.with_rejected else []))
    rows = list(contrast_rows(asked.folder, places))
    analyzer = acoustic.load(acoustic.Options())
    folds = {name: at % FOLDS for at, name in enumerate(sorted({row["template"] for row in rows}))}
    right, shuffled, dice = [], [], random.Random(0)
    for fold in range(FOLDS):
        learnt = [row for row in rows if folds[row["template"]] != fold]
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        model = LogisticRegression(max_iter=2000, class_weight="balanced")
        model.fit(words.fit_transform(row["reply_text"] for row in learnt), [row["user_emotion"] for row in learnt])
        for pair in pairs([row for row in rows if row["contrast"] and folds[row["template"]] == fold]):
            tones = [heard_tones(row, analyzer) for row in pair]
            told = model.predict_proba(words.transform(row["reply_text"] for row in pair))
            fit = np.array([[score(tone, model.classes_, reply) for reply in told] for tone in tones])
            right.append(decided(fit))
            shuffled.append(decided(fit if dice.random() < 0.5 else fit[::-1]))
    share, spread = float(np.mean(right)), 1.96 * float(np.std(right)) / max(1, len(right)) ** 0.5
    found = {
        "rows": "all" if asked.with_rejected else "those that passed the gates",
        "pairs": len(right),
        "right": round(share, 3),
        "ci95": [round(share - spread, 3), round(min(1.0, share + spread), 3)],
        "recordings_swapped_at_random": round(float(np.mean(shuffled)), 3),
        "chance": 0.5,
    }
    print(json.dumps(found))


def pairs(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    rows = sorted(rows, key=lambda row: (row["contrast"], row["user_emotion"]))
    for _, members in itertools.groupby(rows, key=lambda row: row["contrast"]):
        yield from itertools.combinations(members, 2)


def score(tones: dict[str, float], labels: Any, told: Any) -> float:
    """How probable it is that recording and reply have the same tone."""
    return float(np.log(sum(tones.get(label, 0.0) * share for label, share in zip(labels, told, strict=True)) + 1e-9))


def decided(fit: Any) -> float:
    straight, crossed = fit[0, 0] + fit[1, 1], fit[0, 1] + fit[1, 0]
    return 0.5 if straight == crossed else float(straight > crossed)


def stages(asked: argparse.Namespace) -> None:
    """Whole runs of one and two workers, and what each stage of the same turns takes with nothing else beside it."""
    from distill.teaching.pool import infos, local
    from distill.teaching.scenarios.plan import PlanOptions, planned
    from distill.teaching.settings import Settings
    from distill.teaching.teach import settings_of, teach
    from distill.teaching.worker import Equipment

    plan = list(planned(PlanOptions(turns=asked.turns)))
    lines = [scenario.model_dump_json() for scenario in plan]
    found: dict[str, Any] = {"turns": asked.turns}
    with tempfile.TemporaryDirectory() as place:
        for workers in (1, 2, 2, 1):
            folder = Path(place) / f"{workers}-{len(found)}"
            equipment = Equipment("embedded", (), Settings(), None)
            settings = settings_of(equipment, infos(equipment), {})
            begun = time.perf_counter()
            teach(folder, settings, plan, local(equipment, workers), resume=False)
            found.setdefault(f"seconds_{workers}", []).append(round(time.perf_counter() - begun, 2))
    found["two_workers_as_fast_as_one_times"] = round(min(found["seconds_1"]) / min(found["seconds_2"]), 3)
    found |= in_stages(lines)
    print(json.dumps(found))


OTHER_PROCESS = ("asr", "tts")  # their work is done in a process of their own: wall time; else the thread's own seconds


class Timed:
    """An engine whose calls are counted, in seconds of `spent[stage]`."""

    def __init__(self, engine: Any, stage: str, spent: dict[str, float]) -> None:
        self._engine, self._stage, self._spent = engine, stage, spent
        self._clock = time.perf_counter if stage in OTHER_PROCESS else time.thread_time

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        return (
            self._timed(found)
            if name in ("say", "transcribe", "analyze", "speak", "judge", "respond", "embed")
            else found
        )

    def _timed(self, call: Any) -> Any:
        def timed(*args: Any, **options: Any) -> Any:
            begun = self._clock()
            out = call(*args, **options)
            out = list(out) if isinstance(out, Iterator) else out  # a reasoner works as it is read
            self._spent[self._stage] += self._clock() - begun
            return out

        return timed


def in_stages(lines: list[str]) -> dict[str, Any]:
    """One process's seconds inside each stage, in the midst of its turns. A judge that listens and analyzes counts with both."""
    from distill.teaching import make, user_speech
    from distill.teaching.dataset.rows import table_of
    from distill.teaching.records import Scenario
    from distill.teaching.settings import Settings

    spent: dict[str, float] = defaultdict(float)
    engines = Engines.load(load_profile("embedded"))
    timed = {stage: Timed(engine, stage, spent) for stage, engine in engines.loaded.items()}
    maker = make.Maker(replace(engines, loaded=timed), Settings())
    maker._voices, begun = Timed(user_speech.Simulated(), "user_speech", spent), time.perf_counter()
    for line in lines:
        sample = maker.make(Scenario.model_validate_json(line))
        at = time.thread_time()
        table_of(sample)
        spent["encode"] += time.thread_time() - at
    whole = time.perf_counter() - begun
    engines.close()
    slowest, seconds = max(spent.items(), key=lambda item: item[1])
    return {
        "one_process_s": round(whole, 2),
        "stages_s": {stage: round(value, 2) for stage, value in sorted(spent.items())},
        "slowest": slowest,
        "throughput_over_slowest_alone": round(seconds / whole, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    matching = commands.add_parser("match")
    matching.add_argument("folder", type=Path)
    matching.add_argument(
        "--with-rejected", action="store_true", help="rows too in which the analyzer heard another tone"
    )
    matching.set_defaults(run=match)
    parts = commands.add_parser("stages")
    parts.add_argument("--turns", type=int, default=24)
    parts.set_defaults(run=stages)
    asked = parser.parse_args()
    asked.run(asked)


if __name__ == "__main__":
    main()
