"""Which systems are compared, as one writes them on a command line: cascade[:cues=hidden], student[:think=none],
FOLDER[:vector=off]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cascade.errors import ConfigError, EngineUnavailable
from e2e_model import shipped
from graphs.comparison import SystemSpec

CASCADE = "cascade"
STUDENT = "student"  # the one that comes with Attune; one of one's own is named by its folder
KEYS: dict[str, dict[str, tuple[str, ...] | None]] = {
    "cascade": {"cues": ("heard", "hidden", "oracle"), "profile": None, "name": None},
    "student": {"think": ("tag", "language", "none"), "vector": ("on", "off"), "name": None},
}
USUAL = (CASCADE, f"{CASCADE}:cues=hidden", f"{CASCADE}:cues=oracle", STUDENT)


def parsed(text: str, *, profile: str, engines: tuple[str, ...]) -> SystemSpec:
    """One system. `profile`, `engines`: of cascades that name no profile of their own. Raises ConfigError."""
    who, options = _parts(text)
    kind = "cascade" if who == CASCADE else "student"
    for key, value in options.items():
        legal = KEYS[kind].get(key, ())
        if key not in KEYS[kind]:
            raise ConfigError(f"--system {text}: a {kind} has no {key!r}; legal: {', '.join(KEYS[kind])}")
        if legal is not None and value not in legal:
            raise ConfigError(f"--system {text}: {key} = {value!r}; legal: {', '.join(legal)}")
    return _cascade(text, options, profile, engines) if kind == "cascade" else _student(text, who, options)


def _parts(text: str) -> tuple[str, dict[str, str]]:
    """Before and after the last colon, where options follow it: a path may hold one, too."""
    who, colon, tail = text.rpartition(":")
    if not colon or "=" not in tail:
        return text, {}
    pairs = [part.partition("=") for part in tail.split(",") if part]
    bad = next((key for key, equals, value in pairs if not equals or not value), None)
    if bad is not None or not who:
        raise ConfigError(f"--system {text!r}: give cascade or a student's folder, then if wished :key=value,key=value")
    return who, {key.strip(): value.strip() for key, _, value in pairs}


def _cascade(text: str, options: dict[str, str], profile: str, engines: tuple[str, ...]) -> SystemSpec:
    from cascade.profiles import load_profile

    cues = options.get("cues", "heard")
    own = options.get("profile")
    chosen = load_profile(own or profile, () if own else engines)
    name = options.get("name") or _cascade_name(cues, own)
    known = (own or profile) if Path(own or profile).suffix == ".toml" else chosen.name
    return _made(text, name=name, kind="cascade", cues=cues, profile=known, engines=() if own else engines)


def _student(text: str, who: str, options: dict[str, str]) -> SystemSpec:
    folder = shipped.STUDENT if who == STUDENT else _folder(text, Path(who).expanduser())
    think, vector = options.get("think", "tag"), options.get("vector", "on") == "on"
    inside = folder.absolute()
    name = options.get("name") or _student_name(inside, think, vector)
    return _made(
        text, name=name, kind="student", model=str(inside), think=think, vector=vector, fingerprint=_fingerprint(folder)
    )


def _cascade_name(cues: str, profile: str | None) -> str:
    marks = [CASCADE, Path(profile).stem if profile else "", cues if cues != "heard" else ""]
    return "-".join(mark for mark in marks if mark)


def _student_name(folder: Path, think: str, vector: bool) -> str:
    """After its run's folder, and how it is set."""
    own = STUDENT if folder == shipped.STUDENT else folder.parent.name if folder.name == "student" else folder.name
    marks = ["" if think == "tag" else "no-think" if think == "none" else think, "" if vector else "no-vector"]
    return "-".join(mark for mark in (own, *marks) if mark)


def _made(text: str, **parts: Any) -> SystemSpec:
    from pydantic import ValidationError

    try:
        return SystemSpec(**parts)
    except ValidationError:
        raise ConfigError(
            f"--system {text}: {parts['name']!r} cannot be its name; give name=… of letters, digits, dots, + and dashes"
        ) from None


def _folder(text: str, folder: Path) -> Path:
    """A student's folder, or that of the run it lies in."""
    for place in (folder, folder / "student"):
        if (place / "student.json").is_file():
            return place
    raise ConfigError(
        f"--system {text}: {folder} holds no student (student.json); legal: {CASCADE}, {STUDENT}, or a student's folder"
    )


def _fingerprint(folder: Path) -> str:
    """Checksum of the student's card, which names those of all its files."""
    try:
        from e2e_model.checkpoint import read_card
        from e2e_model.errors import StudentError
    except ImportError as error:
        from cascade.needs import extra

        raise EngineUnavailable(f"a student needs {error.name}, which is not here: {extra('student')}") from error
    try:
        return str(read_card(folder)["sha256"])
    except StudentError as error:
        raise EngineUnavailable(str(error)) from error


def check_systems(specs: Sequence[SystemSpec]) -> None:
    """Before anything is done: no name twice, and every cascade can be had here. Raises ConfigError, EngineUnavailable."""
    from cascade.profiles import load_profile

    if not specs:
        raise ConfigError("no system to compare; give --system")
    names = [spec.name for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two systems are called {twice!r}; give one of them another name with --system …:name=…")
    for spec in specs:
        gaps = load_profile(spec.profile, spec.swaps).gaps() if spec.kind == "cascade" else []
        if gaps:
            stage, need = gaps[0]
            raise EngineUnavailable(f"{spec.name}: {stage} lacks {need.name}: {need.fix}")


ABOUT = {
    "heard": "the cascade, as one talks to it: recognizer and analyzers tell its reasoner what was said and how",
    "hidden": "the cascade without analyzers: it reads words alone, and shows what hearing how things are said is worth",
    "oracle": "the cascade told the true emotion, age, gender and events: the ceiling of what analyzers could give",
}


def about(spec: SystemSpec) -> str:
    """One sentence for a reader."""
    if spec.kind == "cascade":
        return ABOUT[spec.cues]
    how = {"tag": "thinking in tags", "language": "thinking in sentences", "none": "without a thought before the reply"}
    return f"an end-to-end student, {how[spec.think]}{'' if spec.vector else ', no emotion vector for its voice'}"


def typed(spec: SystemSpec, profile: str) -> str:
    """As one writes it beside --profile; a student's folder by its last parts, for a reader has it elsewhere."""
    if spec.kind == "cascade":
        who, usual = CASCADE, _cascade_name(spec.cues, spec.profile if spec.profile != profile else None)
        own = Path(spec.profile).name if spec.profile != profile else ""
        options = {"cues": spec.cues if spec.cues != "heard" else "", "profile": own}
    else:
        place = Path(spec.model or "")
        who = f"{place.parent.name}/{place.name}" if place.name == "student" else place.name
        who = STUDENT if place == shipped.STUDENT else who
        usual = _student_name(place, spec.think, spec.vector)
        options = {"think": spec.think if spec.think != "tag" else "", "vector": "" if spec.vector else "off"}
    options["name"] = spec.name if spec.name != usual else ""
    said = ",".join(f"{key}={value}" for key, value in options.items() if value)
    return f"{who}:{said}" if said else who
