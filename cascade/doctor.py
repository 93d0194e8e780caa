"""What is here and what is missing: every engine of the table, and what a profile's own rest on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cascade.devices import problem
from cascade.engines import ENGINES, EngineSpec, engine_module, load_engine, needs
from cascade.errors import AttuneError
from cascade.models import MODELS, checkpoint, download_line
from cascade.needs import Need
from cascade.profiles import Profile
from cascade.turn import STAGES, Stage


@dataclass(frozen=True)
class Finding:
    """One engine: chosen by the profile, or one that could be. `needs`: what it rests on, gaps with the line that mends them."""

    stage: Stage
    name: str
    spec: EngineSpec
    chosen: bool
    needs: Sequence[Need]

    @property
    def missing(self) -> str | None:
        """The first line that mends it, or None when it can be used."""
        return next((need.fix for need in self.needs if need.fix), None)


def examine(profile: Profile) -> list[Finding]:
    """Look at every engine without loading it; the profile's own come first in their stage, with the profile's options."""
    rests = profile.needs()
    found = []
    for stage, rows in ENGINES.items():
        chosen = profile.stages[stage].engine
        for name in sorted(rows, key=lambda name: name != chosen):
            rest = rests[stage] if name == chosen else _usual(stage, name)
            found.append(Finding(stage, name, rows[name], name == chosen, rest))
    return found


def _usual(stage: Stage, name: str) -> Sequence[Need]:
    """What an engine needs with its default options."""
    try:
        return needs(stage, name, engine_module(stage, name).Options())
    except AttuneError as error:
        return [Need("package", name, str(error))]


def shown(findings: Sequence[Finding]) -> Iterator[str]:
    """The table as lines: a row an engine; under each that is in use, what it rests on."""
    for finding in findings:
        mark, state = "●" if finding.chosen else "○", finding.missing or "ok"
        row = f"  {finding.stage:<10} {mark} {finding.name:<14} {finding.spec.about:<52} {finding.spec.licence:<23}"
        if not finding.chosen or not finding.needs:
            yield f"{row} {state}"
            continue
        yield f"{row} {'ok' if finding.missing is None else 'not usable here'}"
        told: set[str] = set()
        for need in finding.needs:
            fix = "" if not need.fix else ": the same" if need.fix in told else f": {need.fix}"
            told.add(need.fix or "")
            yield f"  {'':<10}   {'✗' if need.fix else '✓'} {need.kind:<11} {need.name}{fix}"


def models() -> Iterator[str]:
    """The table of models: name, size, licence, revision, and whether it is here or the line that brings it."""
    for name, model in MODELS.items():
        here = checkpoint(name, (model.marker,)).fix is None
        yield (
            f"  {'✓' if here else '✗'} {name:<20} {model.size_gb:>5.2f} GB  {model.licence:<34} "
            f"{model.repo}@{model.revision[:7]}"
        )
        if not here:
            yield f"      {download_line(name).partition('  #')[0]}"


def load_each(profile: Profile) -> Iterator[tuple[Stage, str, float, str | None]]:
    """Load a profile's engines one after another, and let each go: stage, engine, seconds, and why it failed or None."""
    for stage in STAGES:
        config = profile.stages[stage]
        began = time.perf_counter()
        why = None
        try:
            engine = load_engine(stage, config.engine, config.options)
            if hasattr(engine, "close"):
                engine.close()
        except AttuneError as error:
            why = str(error)
        yield stage, config.engine, time.perf_counter() - began, why


def devices() -> dict[str, str | None]:
    """Loudspeaker and microphone: None, or why there is none."""
    return {"loudspeaker": problem("output"), "microphone": problem("input")}
