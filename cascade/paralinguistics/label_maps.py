"""What a model's own labels mean in Attune's label sets. The maps are data (label_maps.toml); nothing falls to a default."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from cascade.errors import ConfigError
from cascade.turn import AGES, EMOTIONS, EVENT_KINDS, GENDERS

MAPS = Path(__file__).with_name("label_maps.toml")
UNKNOWN = "unknown"

MapName = Literal["emotion2vec", "gender_head", "age_from_gender_head", "audioset"]
TARGETS: dict[MapName, tuple[str, ...]] = {
    "emotion2vec": (*EMOTIONS, UNKNOWN),
    "gender_head": (*GENDERS, UNKNOWN),
    "age_from_gender_head": (*AGES, UNKNOWN),
    "audioset": EVENT_KINDS,
}


@dataclass(frozen=True)
class LabelMap:
    """`targets`: a model's label (plain form) → a label of Attune's or "unknown". `ignored`: labels left out on purpose."""

    targets: Mapping[str, str]
    ignored: frozenset[str] = frozenset()
    others_are_ignored: bool = False

    def target(self, label: str) -> str | None:
        """What a label means; None when it is ignored. Raises KeyError when the map does not know it."""
        name = plain(label)
        if name in self.targets:
            return self.targets[name]
        if name in self.ignored or self.others_are_ignored:
            return None
        raise KeyError(label)

    def foreign(self, labels: Iterable[str]) -> list[str]:
        """Those labels that the map does not know."""
        if self.others_are_ignored:
            return []
        return [label for label in labels if plain(label) not in self.targets and plain(label) not in self.ignored]

    def gathered(self, probabilities: Mapping[str, float]) -> tuple[dict[str, float], float]:
        """The mass of each of Attune's labels, and that of unknown. Without ignored labels the sum is kept. Raises KeyError."""
        mass: dict[str, float] = {}
        for label, probability in probabilities.items():
            target = self.target(label)
            if target is not None:
                mass[target] = mass.get(target, 0.0) + probability
        unknown = mass.pop(UNKNOWN, 0.0)
        return mass, unknown


def plain(label: str) -> str:
    """A label's name as the maps write it: the part behind a slash ("生气/angry"), in small letters, no underscores."""
    return label.rpartition("/")[2].replace("_", " ").strip().casefold()


@cache
def label_map(name: MapName, path: Path = MAPS) -> LabelMap:
    """One map of the file. Raises ConfigError: not TOML, no such table, a target outside its label set, a label twice."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))[name]
        return _checked(table, TARGETS[name])
    except (OSError, tomllib.TOMLDecodeError, KeyError, ValueError) as error:
        raise ConfigError(f"{path}: [{name}] {error}; install Attune again, or mend the file") from error


def _checked(table: dict[str, Any], legal: tuple[str, ...]) -> LabelMap:
    extra = set(table) - {"labels", "ignored", "others_are_ignored"}
    if extra:
        raise ValueError(f"has the unknown key {min(extra)!r}")
    for label, target in table["labels"].items():
        if target not in legal:
            raise ValueError(f"maps {label!r} to {target!r}; legal: {', '.join(legal)}")
    names = [plain(label) for label in (*table["labels"], *table.get("ignored", ()))]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {twice[0]!r} twice")
    return LabelMap(
        targets={plain(label): target for label, target in table["labels"].items()},
        ignored=frozenset(plain(label) for label in table.get("ignored", ())),
        others_are_ignored=bool(table.get("others_are_ignored", False)),
    )
