"""Profiles: which engine serves which stage. A profile is a TOML file, by name from this folder or by path.

`auto` is no file: it takes gpu where that is whole on this machine and embedded elsewhere, and says which and why.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cascade.engines import load_engine, needs, parse_options, spec
from cascade.errors import ConfigError
from cascade.needs import Need, by_weight
from cascade.turn import STAGES, EngineInfo, Stage

FOLDER = Path(__file__).parent
AUTO = "auto"
DEFAULT = AUTO
DEADLINE_S = 60.0
FINITE = sys.float_info.max


@dataclass(frozen=True)
class StageConfig:
    """One stage's table. `deadline_s`: how long a turn waits for it (for tts: for each sentence)."""

    engine: str
    deadline_s: float = DEADLINE_S
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """`folder`: from where the files that its options name are sought. `note`: why `auto` took it, in one line."""

    name: str
    stages: dict[Stage, StageConfig]
    folder: Path = FOLDER
    note: str = ""

    def needs(self) -> dict[Stage, Sequence[Need]]:
        """What each stage's engine rests on, and what of that is missing here. Nothing is loaded."""
        found = {}
        for stage, config in self.stages.items():
            options = parse_options(stage, config.engine, config.options, self.folder)
            found[stage] = needs(stage, config.engine, options)
        return found

    def gaps(self) -> list[tuple[Stage, Need]]:
        """What is missing, the weightiest first."""
        found = [(stage, need) for stage, needed in self.needs().items() for need in needed if need.fix]
        return sorted(found, key=lambda gap: by_weight(gap[1]))


def names() -> list[str]:
    """The profiles that ship; `auto` chooses among them."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_profile(name: str = DEFAULT, swaps: Iterable[str] = ()) -> Profile:
    """Read and check a profile, then apply `stage=engine` swaps. Raises ConfigError, EngineUnavailable (module missing).

    A swapped stage takes the engine's own default options: those in the file were another engine's.
    """
    swaps = tuple(swaps)
    return _automatic(swaps) if name == AUTO else _named(name, swaps)


def _automatic(swaps: tuple[str, ...]) -> Profile:
    gpu = _named("gpu", swaps)
    gaps = gpu.gaps()
    if not gaps:
        return replace(gpu, note="gpu: everything it needs is here")
    stage, need = gaps[0]
    more = f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
    lacks = f"{stage} lacks {need.name}{more}"
    note = f"embedded, for gpu is not whole here ({lacks}: attune doctor --profile gpu)"
    return replace(_named("embedded", swaps), note=note)


def _named(name: str, swaps: tuple[str, ...]) -> Profile:
    path = FOLDER / f"{name}.toml" if name in names() else Path(name)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "is not known"
        raise ConfigError(
            f"profile {name!r} {problem}; legal: {AUTO}, {', '.join(names())}, or the path of a TOML file"
        )
    profile = Profile(path.stem, _stages(path), path.parent)
    for swap in swaps:
        profile = _swapped(profile, swap)
    return replace(profile, stages={s: _checked(s, config, path.parent) for s, config in profile.stages.items()})


def _checked(stage: Stage, config: StageConfig, folder: Path) -> StageConfig:
    options = parse_options(stage, config.engine, config.options, folder)
    return replace(config, options=options.model_dump(exclude_unset=True))


def _stages(path: Path) -> dict[Stage, StageConfig]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # not UTF-8, not TOML
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    unknown = sorted(set(tables) - set(STAGES))
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]!r} is not a stage; legal: {', '.join(STAGES)}")
    absent = [stage for stage in STAGES if stage not in tables]
    if absent:
        raise ConfigError(f"{path}: no table for {', '.join(absent)}; each stage needs one, with `engine = …`")
    return {stage: _stage(path, stage, tables[stage]) for stage in STAGES}


def _stage(path: Path, stage: Stage, table: Any) -> StageConfig:
    if not isinstance(table, dict) or not isinstance(table.get("engine"), str):
        raise ConfigError(f'{path}: [{stage}] needs `engine = "…"`')
    options = dict(table)
    engine, deadline_s = options.pop("engine"), options.pop("deadline_s", DEADLINE_S)
    spec(stage, engine)
    if isinstance(deadline_s, bool) or not isinstance(deadline_s, int | float) or not 0 < deadline_s <= FINITE:
        raise ConfigError(f"{path}: [{stage}] deadline_s = {deadline_s!r}; give a finite number of seconds above 0")
    return StageConfig(engine, float(deadline_s), options)


def _swapped(profile: Profile, swap: str) -> Profile:
    stage, equals, engine = swap.partition("=")
    if not equals or stage not in STAGES:
        raise ConfigError(f"--engine {swap!r}: give stage=name with a stage of {', '.join(STAGES)}")
    spec(stage, engine)
    return replace(profile, stages={**profile.stages, stage: StageConfig(engine)})


@dataclass(frozen=True)
class Engines:
    """A profile's engines, loaded."""

    profile: Profile
    loaded: dict[Stage, Any]

    @classmethod
    def load(cls, profile: Profile) -> Engines:
        """Load all of them. Raises EngineUnavailable or ConfigError for the first that cannot be: nothing falls back silently."""
        return cls(profile, {s: load_engine(s, c.engine, c.options) for s, c in profile.stages.items()})

    def __getitem__(self, stage: Stage) -> Any:
        return self.loaded[stage]

    def deadline_s(self, stage: Stage) -> float:
        return self.profile.stages[stage].deadline_s

    @property
    def infos(self) -> dict[Stage, EngineInfo]:
        return {stage: engine.info for stage, engine in self.loaded.items()}

    def close(self) -> None:
        for engine in self.loaded.values():
            if hasattr(engine, "close"):
                engine.close()
