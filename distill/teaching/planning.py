"""From the command's options to a plan: who writes the turns, or whose own they are."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from cascade.cancel import CancelScope
from cascade.errors import ConfigError, InputError
from cascade.profiles import load_profile
from cascade.turn import Record
from distill.teaching.records import Scenario
from distill.teaching.settings import Settings
from distill.teaching.user_speech import SIMULATED, people, recast
from distill.teaching.worker import Equipment

R = TypeVar("R", bound=Record)
Tell = Callable[[str], None]


def settings_from(path: Path | None, seed: int) -> Settings:
    """Raises ConfigError naming the bad key or value."""
    return record_from(Settings, path, seed=seed)


def record_from(model: type[R], path: Path | None, **usual: Any) -> R:
    """A record from a TOML file over what is usual. Raises ConfigError naming the bad key or value."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not TOML that can be read ({error})") from None
    try:
        return model.model_validate({**usual, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        legal = (
            f"; legal: {', '.join(_within(model, first['loc']).model_fields)}"
            if first["type"] == "extra_forbidden"
            else ""
        )
        raise ConfigError(f"{path}: {key} = {str(first['input'])[:60]!r}: {first['msg']}{legal}") from None


def _within(model: type[Record], key: tuple[int | str, ...]) -> type[Record]:
    """The record in which a key lies."""
    for part in key[:-1]:
        if field := model.model_fields.get(str(part)):
            model = (get_args(field.annotation) or (field.annotation,))[-1]
    return model


def plan_of(asked: dict[str, Any], equipment: Equipment, *, tell: Tell) -> tuple[Iterable[Scenario], dict[str, Any]]:
    """The scenarios, drawn only as they are asked for, and the options that they rest on.

    Raises InputError for a bad line of the user's own, unless bad lines are skipped.
    """
    origin: dict[str, Any] = {"seed": asked["seed"], "swaps": list(equipment.swaps)}
    if asked["scenarios"] is not None:
        path = Path(asked["scenarios"]).absolute()
        return _own(path, asked["seed"], asked["on_bad"], tell), origin | {
            "scenarios": str(path),
            "on_bad": asked["on_bad"],
        }
    writer = asked["writer"] or ("model" if _has_model(equipment) else "grammar")
    origin |= {"turns": asked["turns"], "writer": writer}
    plan = (_written if writer == "model" else _drawn)(asked, equipment, tell)
    voices = equipment.settings.user_voices
    return plan if voices == SIMULATED else recast(plan, people(Path(voices))), origin


def _own(path: Path, seed: int, on_bad: str, tell: Tell) -> Iterator[Scenario]:
    from distill.teaching.scenarios.own import own_scenarios

    scenarios, problems = own_scenarios(path, seed)
    if problems and on_bad == "stop":
        more = f" (and {len(problems) - 1} more; --on-bad skip leaves them out)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}")
    for problem in problems:
        tell(f"attune: left out: {problem}")
    yield from scenarios


def _drawn(asked: dict[str, Any], equipment: Equipment, tell: Tell) -> Iterator[Scenario]:
    from distill.teaching.scenarios.plan import PlanOptions, planned

    yield from planned(PlanOptions(turns=asked["turns"], seed=asked["seed"]))


def _has_model(equipment: Equipment) -> bool:
    return load_profile(equipment.profile, equipment.swaps).stages["reasoning"].engine in ("transformers", "openai")


def _written(asked: dict[str, Any], equipment: Equipment, tell: Tell) -> Iterator[Scenario]:
    """By the profile's language model, loaded for this alone."""
    from cascade.engines import load_engine
    from distill.teaching.scenarios.plan import PlanOptions
    from distill.teaching.scenarios.writer import written

    reasoning = load_profile(equipment.profile, equipment.swaps).stages["reasoning"]
    model = getattr(load_engine("reasoning", reasoning.engine, reasoning.options), "language_model", None)
    if model is None:
        raise ConfigError(f"--writer model: reasoning={reasoning.engine} is no language model; legal: grammar")
    options, index = PlanOptions(turns=asked["turns"], seed=asked["seed"]), 0
    for scenario in written(options, model, cancel=CancelScope()):
        yield scenario.model_copy(update={"index": index})  # what could not be had leaves no hole
        index += 1
    if index < asked["turns"]:
        tell(f"attune: {asked['turns'] - index} of {asked['turns']} turns could not be had of the model")
