"""From the command's options to a plan: who writes the turns, or whose own they are."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cascade.cancel import CancelScope
from cascade.errors import ConfigError, InputError
from cascade.profiles import load_profile
from cascade.turn import Record
from cascade.values import complaint
from distill.teaching.records import Scenario
from distill.teaching.scenarios.plan import PlanOptions, beside, planned
from distill.teaching.settings import Settings
from distill.teaching.user_speech import SIMULATED, people, recast
from distill.teaching.worker import Equipment

R = TypeVar("R", bound=Record)
Tell = Callable[[str], None]
BESIDE = ("listen", "speak", "unclear", "write")  # options of what is made beside the turns


def settings_from(path: Path | None, seed: int) -> Settings:
    """The seed is the command's alone, for the plan rests on it, too. Raises ConfigError naming the bad key or value."""
    given = _table_from(path)
    if "seed" in given:
        raise ConfigError(f"{path}: seed = {given['seed']!r} does not belong there; give it as --seed")
    return _record_of(Settings, path, given | {"seed": seed}, hidden=("seed",))


def record_from(model: type[R], path: Path | None) -> R:
    """A record from a TOML file. Raises ConfigError naming the bad key or value."""
    return _record_of(model, path, _table_from(path))


def _table_from(path: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not TOML that can be read ({error})") from None


def _record_of(model: type[R], path: Path | None, given: dict[str, Any], hidden: Sequence[str] = ()) -> R:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"{path}: {complaint(model, error, hidden=hidden)}") from None


def plan_of(asked: dict[str, Any], equipment: Equipment, *, tell: Tell) -> tuple[Iterable[Scenario], dict[str, Any]]:
    """The scenarios, and the options that they rest on. Those that are made are drawn only as they are asked for.

    `asked["turns"]`: None: all of the user's own.
    Raises InputError for a bad line of the user's own, unless bad lines are skipped.
    """
    origin: dict[str, Any] = {"seed": asked["seed"], "swaps": list(equipment.swaps), "turns": asked["turns"]}
    voices = equipment.settings.user_voices
    everybody = people(Path(voices)) if voices != SIMULATED else []
    if asked["scenarios"] is not None:
        if any(asked[name] for name in BESIDE):
            raise ConfigError(
                f"{', '.join(f'--{name}' for name in BESIDE)} add to turns that are made here; leave them out beside --scenarios"
            )
        path = Path(asked["scenarios"]).absolute()
        return _own(path, asked["seed"], asked["on_bad"], tell)[: asked["turns"]], origin | {
            "scenarios": str(path),
            "on_bad": asked["on_bad"],
        }
    writer = asked["writer"] or ("model" if _has_model(equipment) else "grammar")
    beside_them = {name: asked[name] for name in BESIDE}
    origin |= {"writer": writer, **beside_them}
    options = PlanOptions(turns=asked["turns"], seed=asked["seed"], **beside_them)
    plan = _with_beside(_written(options, equipment, tell) if writer == "model" else planned(options), options)
    return recast(plan, everybody) if everybody else plan, origin


def _with_beside(turns: Iterator[Scenario], options: PlanOptions) -> Iterator[Scenario]:
    first = 0
    for scenario in turns:
        yield scenario
        first = scenario.index + 1
    yield from beside(options, first)


def _own(path: Path, seed: int, on_bad: str, tell: Tell) -> list[Scenario]:
    from distill.teaching.scenarios.own import own_scenarios

    scenarios, problems = own_scenarios(path, seed)
    if problems and on_bad == "stop":
        more = f" (and {len(problems) - 1} more; --on-bad skip leaves them out)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}")
    for problem in problems:
        tell(f"attune: left out: {problem}")
    unlabelled = sum(scenario.text is None for scenario in scenarios)
    if unlabelled:
        tell(
            f"attune: {unlabelled} of {len(scenarios)} turns are recordings without their words: the teacher answers what the "
            "recognizer hears, which may be wrong; labels.csv (path, text, emotion, …) says what is in them"
        )
    return scenarios


def _has_model(equipment: Equipment) -> bool:
    return load_profile(equipment.profile, equipment.swaps).stages["reasoning"].engine in ("transformers", "openai")


def _written(options: PlanOptions, equipment: Equipment, tell: Tell) -> Iterator[Scenario]:
    """By the profile's language model, loaded for this alone."""
    from cascade.engines import load_engine
    from distill.teaching.scenarios.writer import written

    reasoning = load_profile(equipment.profile, equipment.swaps).stages["reasoning"]
    model = getattr(load_engine("reasoning", reasoning.engine, reasoning.options), "language_model", None)
    if model is None:
        raise ConfigError(f"--writer model: reasoning={reasoning.engine} is no language model; legal: grammar")
    index = 0
    for scenario in written(options, model, cancel=CancelScope()):
        yield scenario.model_copy(update={"index": index})  # what could not be had leaves no hole
        index += 1
    if index < options.turns:
        tell(f"attune: {options.turns - index} of {options.turns} turns could not be had of the model")
