"""What is here and what is missing: every engine of the table, and which of them a profile uses."""

from __future__ import annotations

from dataclasses import dataclass

from cascade.devices import problem
from cascade.engines import ENGINES, EngineSpec, engine_module
from cascade.errors import AttuneError
from cascade.profiles import Profile
from cascade.turn import Stage


@dataclass(frozen=True)
class Finding:
    """One engine. `missing`: the one line that fixes it, or None when it can be used."""

    stage: Stage
    name: str
    spec: EngineSpec
    chosen: bool
    missing: str | None


def examine(profile: Profile) -> list[Finding]:
    """Look at every engine without loading it; the profile's own come first in their stage."""
    found = []
    for stage, rows in ENGINES.items():
        chosen = profile.stages[stage].engine
        for name in sorted(rows, key=lambda name: name != chosen):
            found.append(Finding(stage, name, rows[name], name == chosen, _missing(stage, name)))
    return found


def _missing(stage: Stage, name: str) -> str | None:
    try:
        problem: str | None = engine_module(stage, name).missing()
    except AttuneError as error:
        return str(error)
    return problem


def devices() -> dict[str, str | None]:
    """Loudspeaker and microphone: None, or why there is none."""
    return {"loudspeaker": problem("output"), "microphone": problem("input")}
