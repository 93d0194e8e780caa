"""comparison.json: everything the report shows, and where each number comes from.

What differs from run to run lies under keys named "timings"; the rest is the same for the same seed, items and systems.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from cascade.turn import Cue, Record, Turn
from distill.commit import commit
from distill.comparison.measures import CUES, MEASURES, CueName, told_of
from distill.comparison.records import EVAL_TASKS, Figure, Item, Measure, Values
from distill.comparison.statistics import (
    Told,
    calibration,
    calibration_figures,
    calibration_winners,
    confusion,
    figures,
    winners,
)
from distill.comparison.systems import about
from graphs.comparison import Answer, Pace, SystemAbout, SystemSpec, read_about, read_pace

SCHEMA = 1


@dataclass(frozen=True)
class Parts:
    """All that the report is made of. Everything by system, and then by item where there is one of each."""

    specs: Sequence[SystemSpec]
    items: Sequence[Item]
    answers: Mapping[str, Mapping[str, Answer]]
    values: Mapping[str, Mapping[str, Values]]
    notes: Mapping[str, Mapping[str, Mapping[str, str]]]
    listened: Mapping[str, Mapping[str, str | None]]
    abouts: Mapping[str, SystemAbout]
    taken: Mapping[str, SystemAbout]  # while speed was measured
    paces: Mapping[str, Mapping[str, Pace]]
    unmeasured: Mapping[str, str]  # measures that could not be had here, and why
    seed: int

    @property
    def reference(self) -> str:
        return self.specs[0].name


def assembled(parts: Parts, *, items: Mapping[str, Any], command: str, wall_s: float) -> dict[str, Any]:
    """The report's content as JSON."""
    measures = [_known(measure, parts.unmeasured) for measure in MEASURES]
    steady, timed = ([one for one in measures if one.timing == is_timing] for is_timing in (False, True))
    timings = {name: {id: pace_values(pace) for id, pace in paces.items()} for name, paces in parts.paces.items()}
    made = figures(parts.values, parts.items, steady, parts.reference, parts.seed)
    fast = figures(timings, parts.items, timed, parts.reference, parts.seed)
    return {
        "schema": SCHEMA,
        "attune": version("attune"),
        "commit": commit(),
        "seed": parts.seed,
        "command": command,
        "reference": parts.reference,
        "items": {**items, "count": len(parts.items), "tasks": _tasks(parts.items)},
        "systems": [_system(spec, parts) for spec in parts.specs],
        "measures": [measure.model_dump(mode="json") for measure in measures],
        "figures": [_plain(figure) for figure in [*made, *_calibration_errors(parts), *_sizes(parts)]],
        "winners": _winners(steady, parts),
        "confusions": list(_confusions(parts)),
        "calibration": list(_calibrations(parts)),
        "rows": [_row(item, parts, timings) for item in parts.items],
        "timings": {
            "wall_s": round(wall_s, 1),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}",
            "figures": [_plain(figure) for figure in [*fast, *_taken(parts)]],
            "stages": {name: _stages(paces.values()) for name, paces in parts.paces.items()},
        },
    }


def _known(measure: Measure, unmeasured: Mapping[str, str]) -> Measure:
    return measure.model_copy(update={"unmeasured": unmeasured.get(measure.name, measure.unmeasured)})


def _plain(record: Record) -> dict[str, Any]:
    """Rounded to what means something, so that the file is read more easily."""
    return _rounded(record.model_dump(mode="json"))  # type: ignore[no-any-return]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _tasks(items: Iterable[Item]) -> dict[str, int]:
    counts = {task: sum(item.task == task for item in items) for task in EVAL_TASKS}
    return {task: count for task, count in counts.items() if count}


# --- systems


def _system(spec: SystemSpec, parts: Parts) -> dict[str, Any]:
    found, answers = parts.abouts[spec.name], parts.answers[spec.name].values()
    told = {
        key: value
        for key, value in spec.model_dump(mode="json", exclude_defaults=True).items()
        if key not in ("name", "kind")
    }
    if spec.model:
        told["model"] = Path(spec.model).parent.name + "/" + Path(spec.model).name
    return {
        "name": spec.name,
        "kind": spec.kind,
        "about": about(spec),
        "settings": told,
        "engines": {stage: f"{info.name} {info.version}" for stage, info in found.engines.items()},
        "parameters": found.parameters,
        "answered": sum(answer.turn is not None and answer.turn.reply is not None for answer in answers),
        "failed": sum(answer.turn is None or answer.turn.reply is None for answer in answers),
        "timings": {
            "load_s": parts.taken[spec.name].load_s,
            "peak_memory_mb": parts.taken[spec.name].peak_memory_mb,
        },
    }


def _taken(parts: Parts) -> list[Figure]:
    """What a system takes as a whole: one number each, no items behind it and so no interval."""
    return [
        Figure(measure=measure, task="all", system=name, value=value, low=None, high=None, items=0)
        for name, one in parts.taken.items()
        for measure, value in (("peak_memory_mb", one.peak_memory_mb), ("load_s", one.load_s))
        if value is not None
    ]


def _sizes(parts: Parts) -> list[Figure]:
    return [
        Figure(measure="parameters", task="all", system=name, value=one.parameters, low=None, high=None, items=0)
        for name, one in parts.abouts.items()
        if one.parameters is not None
    ]


# --- speed


def pace_values(pace: Pace) -> Values:
    """Medians over the rounds, by measure."""
    runs = [run for run in pace.runs if run.total_s > 0]
    found: dict[str, tuple[float, float]] = {}
    if first := [run.first_sound_s for run in runs if run.first_sound_s is not None]:
        found["first_sound_s"] = (median(first), 1.0)
    if runs:
        found["total_s"] = (median(run.total_s for run in runs), 1.0)
    if runs and pace.reply_s > 0:
        found["real_time_factor"] = (median(run.total_s for run in runs), pace.reply_s)
    if pace.energy_j:
        found["energy_j"] = (median(pace.energy_j), 1.0)
    if pace.cpu_s:
        found["cpu_s"] = (median(pace.cpu_s), 1.0)
    return found


def _stages(paces: Iterable[Pace]) -> dict[str, float]:
    """Median seconds of each stage over all items and rounds."""
    found: dict[str, list[float]] = {}
    for pace in paces:
        for run in pace.runs:
            for stage, seconds in run.stages_s.items():
                found.setdefault(stage, []).append(seconds)
    return {stage: round(median(seconds), 4) for stage, seconds in found.items()}


# --- labels


def _winners(measures: Iterable[Measure], parts: Parts) -> dict[str, list[str]]:
    groups = {item.id: item.group for item in parts.items}
    found = {}
    for measure in measures:
        of_systems = {
            name: {id: values[measure.name] for id, values in table.items() if measure.name in values}
            for name, table in parts.values.items()
        }
        found[measure.name] = winners(of_systems, groups, parts.seed, measure.better)
    for cue in CUES:
        told = {spec.name: _told(spec.name, cue, parts) for spec in parts.specs}
        found[f"{cue}_ece"] = calibration_winners(told, groups, parts.seed)
    return found


def _told(name: str, cue: CueName, parts: Parts) -> dict[str, Told]:
    told = {item.id: told_of(item, parts.answers[name][item.id].turn, cue) for item in parts.items}
    return {id: one for id, one in told.items() if one is not None}


def _confusions(parts: Parts) -> Iterable[dict[str, Any]]:
    for spec in parts.specs:
        for cue in CUES:
            counts = confusion(_told(spec.name, cue, parts).values())
            if counts:
                labels = sorted({*counts, *(told for row in counts.values() for told in row)})
                yield {"system": spec.name, "cue": cue, "labels": labels, "counts": counts}


def _calibration_errors(parts: Parts) -> Iterable[Figure]:
    for cue in CUES:
        told = {spec.name: _told(spec.name, cue, parts) for spec in parts.specs}
        yield from calibration_figures(f"{cue}_ece", told, parts.items, parts.reference, parts.seed)


def _calibrations(parts: Parts) -> Iterable[dict[str, Any]]:
    groups = {item.id: item.group for item in parts.items}
    for spec in parts.specs:
        for cue in CUES:
            found = calibration(_told(spec.name, cue, parts), groups, parts.seed)
            if found is not None:
                ece = _rounded({"ece": found.ece.value, "low": found.ece.low, "high": found.ece.high})
                bins = [_rounded(asdict(one)) for one in found.bins]
                yield {"system": spec.name, "cue": cue, **ece, "bins": bins, "labels": _rounded(dict(found.labels))}


# --- rows


def _row(item: Item, parts: Parts, timings: Mapping[str, Mapping[str, Values]]) -> dict[str, Any]:
    return {
        "item": item.model_dump(mode="json"),
        "answers": {spec.name: _answer(item, spec.name, parts, timings) for spec in parts.specs},
    }


def _answer(item: Item, name: str, parts: Parts, timings: Mapping[str, Mapping[str, Values]]) -> dict[str, Any]:
    answer, pace = parts.answers[name][item.id], parts.paces[name].get(item.id)
    return {
        **_of_turn(name, answer),
        "listen_back": parts.listened[name].get(item.id),
        "values": _rounded({key: list(value) for key, value in parts.values[name].get(item.id, {}).items()}),
        "notes": dict(parts.notes[name].get(item.id, {})),
        "timings": {
            "values": _rounded({key: list(value) for key, value in timings[name].get(item.id, {}).items()}),
            "runs": [_plain(run) for run in pace.runs] if pace else [],
        },
    }


def _of_turn(name: str, answer: Answer) -> dict[str, Any]:
    turn = answer.turn
    if turn is None:
        return {"heard": None, "cues": {}, "reply": None, "audio": None, "failures": [answer.crashed or "no answer"]}
    thought, reply = turn.thought, turn.reply
    return {
        "heard": turn.transcript.text if turn.transcript else None,
        "cues": _cues(turn),
        "strategy": thought.strategy if thought else None,
        "reply_emotion": reply.emotion if reply else None,
        "thought": thought.language() if thought else None,
        "reply": reply.text if reply else None,
        "audio": f"answers/{name}/{turn.reply_audio.path}" if turn.reply_audio and reply else None,
        "failures": [f"{one.stage} {one.kind}: {one.message}" for one in turn.failures],
    }


def _cues(turn: Turn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in CUES:
        cue: Cue | None = getattr(turn.cues, name)
        if cue is not None:
            found[name] = _rounded({"label": cue.label, "best": cue.best, "confidence": cue.confidence})
    events = turn.cues.events
    if events is not None and events.events is not None:
        found["events"] = [_rounded({"kind": one.kind, "confidence": one.confidence}) for one in events.events]
    return found


def read_systems(
    run: Path, specs: Sequence[SystemSpec], paced: Sequence[str]
) -> tuple[dict[str, SystemAbout], dict[str, dict[str, Pace]]]:
    """What systems are and how fast, from a run's folder."""
    abouts = {spec.name: read_about(run, spec.name) for spec in specs}
    return abouts, {spec.name: {id: read_pace(run, spec.name, id) for id in paced} for spec in specs}
