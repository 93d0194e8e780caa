"""A whole comparison, in one folder that can be gone on with: items, answers, speed, measures, report.

RUN/settings.json is written first; items/ is the test set; answers/ and latency/ are the systems' (graphs.comparison); measured/
holds what was measured of each answer; comparison.json, comparison.html and comparison.md are written last, and anew each time.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import Field

from cascade.audio import Waveform, read_speech
from cascade.errors import InputError
from cascade.reasoning import openai
from cascade.turn import Cues, Emotion, Record
from distill.comparison import assemble
from distill.comparison.attune_eval import ItemSet, build, check_dataset, leaks_into, open_items, own_plan
from distill.comparison.eval_plan import Size
from distill.comparison.listening import Tools, open_tools, unmeasured
from distill.comparison.markdown import markdown
from distill.comparison.measures import contrast_pairs, tones_of, twins_of, values_of
from distill.comparison.page import write_page
from distill.comparison.records import Item
from distill.comparison.systems import check_systems
from distill.comparison.votes import read_file, read_votes
from distill.files import whole_file
from distill.run_folder import SETTINGS, VERSIONS, check_run, locked, make_folder
from distill.teaching.make import known_cues
from graphs.comparison import (
    Answer,
    Case,
    Progress,
    SystemSpec,
    answer_all,
    pace_all,
    read_answers,
    read_taken,
    write_record,
)
from graphs.resources import energy_j

JSON, PAGE, MARKDOWN = "comparison.json", "comparison.html", "comparison.md"
ITEMS_SHA, SECONDS = "items.sha256", "seconds"
T = TypeVar("T")


class Settings(Record):
    """What makes a run this run. The first system is the reference. items: a size of Attune-eval, or a folder of items; own:
    recordings to be added; paced: items whose speed is measured, in `rounds`; scored: items whose replies' sound is rated, which
    takes longer than all else; judge: a language model's endpoint.
    """

    systems: tuple[SystemSpec, ...]
    items: str = "small"
    own: str | None = None
    seed: int = 0
    paced: int = 20
    rounds: int = 3
    scored: int = 40
    judge: openai.Options | None = None
    judge_repeats: int = 3

    @property
    def reference(self) -> str:
        return self.systems[0].name


@dataclass(frozen=True)
class Order:
    """What is asked for. jobs: how many answers are made at once; votes: files of listeners' blind votes; learnt_from: datasets
    that students were trained on, in whose training split the items are sought.
    """

    settings: Settings
    out: Path
    jobs: int = 2
    votes: tuple[Path, ...] = ()
    learnt_from: tuple[Path, ...] = ()
    resume: bool = False
    command: str = ""


def read_settings(out: Path) -> Settings | None:
    """Of the run in a folder; None where there is none. Raises InputError."""
    path = out / SETTINGS
    if not path.is_file():
        return None
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        there.pop(VERSIONS, None)
        return Settings.model_validate(there)
    except (ValueError, AttributeError):
        raise InputError(f"{path}: is no settings file of a comparison; choose another folder") from None


class Measured(Record):
    """What was measured of one answer."""

    values: dict[str, tuple[float, float]]
    notes: dict[str, str] = Field(default_factory=dict)
    listen_back: str | None = None


def compare(order: Order, tell: Callable[[str], None], progress: Progress) -> Path:
    """Everything that is not done yet; the page. Raises AttuneError; KeyboardInterrupt loses nothing."""
    asked = order.settings
    check_systems(asked.systems)
    _check_inputs(order)
    make_folder(order.out, resume=order.resume)
    with locked(order.out), _timed(order.out) as spent_s:
        settings = asked.model_dump(mode="json") | {VERSIONS: {"attune": version("attune")}}
        check_run(order.out, settings, resume=order.resume)
        items = _items(order, progress)
        cases = [_case(items, item) for item in items.items]
        for at, spec in enumerate(asked.systems):
            earlier = [one.name for one in asked.systems[:at] if one.kind == "cascade"]
            answer_all(spec, cases, order.out, seed=asked.seed, jobs=order.jobs, progress=progress, earlier=earlier)
        paced = evenly(cases, asked.paced)
        pace_all(asked.systems, paced, order.out, seed=asked.seed, rounds=asked.rounds, progress=progress)
        _measure_all(order, items, progress)
        tell("writing the report")
        return _report(order, items, [case.id for case in paced], spent_s())


def _check_inputs(order: Order) -> None:
    """What is only needed at the end is looked at before anything is done. Raises InputError."""
    asked = order.settings
    if asked.own:
        own_plan(Path(asked.own), asked.seed)
    for path in order.votes:
        read_file(path)
    for folder in order.learnt_from:
        check_dataset(folder)


@contextmanager
def _timed(run: Path) -> Iterator[Callable[[], float]]:
    """Seconds that were spent on this run until now, with those before it was interrupted."""
    path, began = run / SECONDS, time.monotonic()
    before = float(path.read_text(encoding="utf-8")) if path.is_file() else 0.0
    try:
        yield lambda: before + time.monotonic() - began
    finally:
        if (run / SETTINGS).is_file():
            with whole_file(path) as file:
                file.write(f"{before + time.monotonic() - began:.1f}".encode())


def evenly(cases: Sequence[T], count: int) -> list[T]:
    """So many of them, spread over the whole."""
    count = min(count, len(cases))
    return [cases[(2 * at + 1) * len(cases) // (2 * count)] for at in range(count)]


# --- items


def _items(order: Order, progress: Progress) -> ItemSet:
    """Raises InputError: nothing in it; not what this run began with."""
    asked = order.settings
    folder = order.out / "items" if asked.items in get_args(Size) else Path(asked.items)
    if asked.items in get_args(Size):
        own = Path(asked.own) if asked.own else None
        build(
            folder,
            cast("Size", asked.items),
            asked.seed,
            lambda done, of: progress("speaking the items", done, of),
            own=own,
        )
    items = open_items(folder)
    path = order.out / ITEMS_SHA
    if not path.is_file():
        with whole_file(path) as file:
            file.write(items.sha256.encode())
    elif path.read_text(encoding="utf-8") != items.sha256:
        raise InputError(
            f"{folder}: these are not the items that this run began with (sha256 {items.sha256[:12]}…, then "
            f"{path.read_text(encoding='utf-8')[:12]}…); put those back, or compare in a new folder"
        )
    return items


def _case(items: ItemSet, item: Item) -> Case:
    truth: Cues = known_cues(item.labels, item.audio.duration_s)
    return Case(id=item.id, wav=str((items.folder / item.audio.path).absolute()), truth=truth)


# --- measures


def _measure_all(order: Order, items: ItemSet, progress: Progress) -> None:
    """Every answer that was not measured yet: the same ears and rules for all systems, as many at a time as there are jobs."""
    ids = [item.id for item in items.items]
    answers = {spec.name: read_answers(order.out, spec.name, ids) for spec in order.settings.systems}
    work = [(spec.name, item) for item in items.items for spec in order.settings.systems]
    waiting = [(name, item) for name, item in work if not _measured_path(order, name, item).is_file()]
    if not waiting:
        return
    queue, lock, done = iter(waiting), threading.Lock(), len(work) - len(waiting)
    scored = set(evenly(ids, order.settings.scored))
    stopped, twins = threading.Event(), {id: tones_of(found) for id, found in twins_of(items.items).items()}

    def measure() -> None:
        nonlocal done
        asked = order.settings
        reference = partial(_reply, order, asked.reference, answers)
        with open_tools(
            profile=_ears(asked), judge=asked.judge, repeats=asked.judge_repeats, reference=reference
        ) as tools:
            while not stopped.is_set():
                with lock:
                    name, item = next(queue, (None, None))
                if name is None or item is None:
                    return
                own = replace(tools, reference=_nobody) if name == asked.reference else tools  # it is like itself
                own = own if item.id in scored else replace(own, quality={})
                _measure(order, own, name, item, answers, twins.get(item.id, ()))
                with lock:
                    done += 1
                    progress("measuring", done, len(work))

    with ThreadPoolExecutor(order.jobs) as pool:
        futures = [pool.submit(measure) for _ in range(order.jobs)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stopped.set()
            raise


def _measured_path(order: Order, name: str, item: Item) -> Path:
    return order.out / "measured" / name / f"{item.id}.json"


def _ears(asked: Settings) -> str:
    """Whose ears listen: those of the first cascade's profile."""
    return next((spec.profile for spec in asked.systems if spec.kind == "cascade"), "embedded")


def _nobody(_: str) -> None:
    return None


def _reply(order: Order, name: str, answers: Mapping[str, Mapping[str, Answer]], id: str) -> Waveform | None:
    """The sound of a system's reply; None where there is none."""
    turn = answers[name][id].turn
    spoken = turn.reply_audio if turn and turn.reply else None
    return read_speech(order.out / "answers" / name / spoken.path) if spoken else None


def _measure(
    order: Order,
    tools: Tools,
    name: str,
    item: Item,
    answers: Mapping[str, Mapping[str, Answer]],
    twins: Sequence[Emotion],
) -> None:
    found = values_of(item, answers[name][item.id].turn, _reply(order, name, answers, item.id), tools, twins)
    path = _measured_path(order, name, item)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, Measured(values=dict(found.values), notes=dict(found.notes), listen_back=found.listen_back))


# --- the report


def _report(order: Order, items: ItemSet, paced: Sequence[str], wall_s: float) -> Path:
    asked, ids = order.settings, [item.id for item in items.items]
    abouts, paces = assemble.read_systems(order.out, asked.systems, paced)
    names = [spec.name for spec in asked.systems]
    measured = {name: {id: _read_measured(order.out, name, id) for id in ids} for name in names}
    answers = {name: read_answers(order.out, name, ids) for name in names}
    parts = assemble.Parts(
        specs=asked.systems,
        items=items.items,
        answers=answers,
        values={name: _values(measured[name], items, answers[name]) for name in names},
        notes={name: {id: one.notes for id, one in found.items()} for name, found in measured.items()},
        listened={name: {id: one.listen_back for id, one in found.items()} for name, found in measured.items()},
        abouts=abouts,
        taken={name: read_taken(order.out, name) for name in names},
        paces=paces,
        unmeasured=_unmeasured(asked),
        seed=asked.seed,
    )
    about = {
        "name": items.name,
        "sha256": items.sha256,
        "folder": _relative(items.folder, order.out),
        "overlaps": {path.name: str(leaks_into(items, path)) for path in order.learnt_from},
    }
    comparison = assemble.assembled(parts, items=about, command=order.command, wall_s=wall_s)
    page = _written(order.out, comparison)
    if order.votes:  # of another comparison, perhaps: the report stands without them
        page = _written(order.out, comparison | {"votes": read_votes(order.votes, comparison)})
    return page


def _written(run: Path, comparison: Mapping[str, Any]) -> Path:
    """The three forms of the report; the page."""
    with whole_file(run / JSON) as file:
        file.write(json.dumps(comparison, indent=1, ensure_ascii=False).encode() + b"\n")
    with whole_file(run / MARKDOWN) as file:
        file.write(markdown(comparison).encode())
    return write_page(run)


def _unmeasured(asked: Settings) -> dict[str, str]:
    counted, note = energy_j()
    return unmeasured(asked.judge) | ({"energy_j": note} if counted is None else {})


def _values(
    measured: Mapping[str, Measured], items: ItemSet, answers: Mapping[str, Answer]
) -> dict[str, dict[str, tuple[float, float]]]:
    """What was measured of each answer, with what only both answers of a pair tell."""
    replies = {id: answer.turn.reply if answer.turn else None for id, answer in answers.items()}
    pairs = contrast_pairs(items.items, replies)
    return {
        id: {**one.values, **({"contrast_pairs": pairs[id]} if id in pairs else {})} for id, one in measured.items()
    }


def _read_measured(run: Path, name: str, id: str) -> Measured:
    return Measured.model_validate_json((run / "measured" / name / f"{id}.json").read_bytes())


def _relative(folder: Path, run: Path) -> str:
    inside = folder.absolute().is_relative_to(run.absolute())
    return str(folder.absolute().relative_to(run.absolute())) if inside else str(folder.absolute())
