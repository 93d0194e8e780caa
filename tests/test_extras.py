"""Each extra can be left out: its engines say in one line what to install, and every other engine still loads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from checkpoints.everything import Checkpoints

from cascade.engines import ENGINES

ROOT = Path(__file__).parents[1]
# What an extra brings, and the engines that cannot do without it.
EXTRAS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "whisper": (("faster_whisper", "ctranslate2"), {"faster_whisper"}),
    "emotion2vec": (("funasr",), {"emotion2vec"}),
    "torch": (("torch", "transformers"), {"emotion2vec", "wav2vec2", "audio_tagger", "transformers", "f5"}),
    "openai": (("openai",), {"openai"}),
    "judge": (("speechmos",), {"panel"}),
    "f5": (("f5_tts", "vocos"), {"f5"}),
}
# The child blocks the modules, then loads every engine and tells how that went.
CHILD = """
import json, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
from cascade.engines import load_engine
from cascade.errors import EngineUnavailable
told = {}
for stage, name, options in json.loads(sys.argv[2]):
    try:
        engine = load_engine(stage, name, options)
        if hasattr(engine, "close"):
            engine.close()
        told[name] = None
    except EngineUnavailable as error:
        told[name] = str(error)
print(json.dumps(told))
"""


def loaded_without(modules: tuple[str, ...], wanted: list[tuple[str, str, dict[str, Any]]]) -> dict[str, str | None]:
    command = [sys.executable, "-W", "ignore", "-c", CHILD, ",".join(modules), json.dumps(wanted)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(shown.stdout.splitlines()[-1])


@pytest.mark.parametrize("extra", EXTRAS)
def test_without_an_extra_its_engines_say_what_to_install_and_the_others_load(
    extra: str, checkpoints: Checkpoints
) -> None:
    modules, lost = EXTRAS[extra]
    wanted = []
    for stage, rows in ENGINES.items():
        for name in rows:
            options = checkpoints.options(stage, name) | ({"model": "m"} if name == "openai" else {})
            wanted.append((stage, name, options))
    told = loaded_without(modules, [row for row in wanted if row[1] not in ("flite", "openai") or row[1] in lost])
    assert {name for name, why in told.items() if why} == lost
    for name in lost:
        why = told[name]
        assert why is not None
        assert "\n" not in why
        assert "pip install" in why, why
        named = re.search(r"pip install -e '?[^\s']*\[([\w-]+)\]", why)
        assert named, why
        assert (
            named.group(1) in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        )


def test_every_extra_that_the_table_names_is_one_that_can_be_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {row.extra for rows in ENGINES.values() for row in rows.values() if row.extra}
    assert named <= set(extras)
    assert set(extras["gpu"][0].removeprefix("attune[").removesuffix("]").split(",")) >= named
    cpu = set(extras["cpu"][0].removeprefix("attune[").removesuffix("]").split(","))
    assert cpu >= named - {"f5"} | {"f5-cpu"}


COMMANDS: dict[str, tuple[str, list[str]]] = {
    "teach": ("pyarrow", ["--turns", "2"]),
    "live": ("redis", ["--from-stream", "redis://localhost:1/0", "--once"]),
    "ray": ("ray", ["--turns", "2", "--ray", "auto"]),
}


@pytest.mark.parametrize("extra", COMMANDS)
def test_teaching_without_its_extra_is_one_line_and_makes_nothing(extra: str, tmp_path: Path) -> None:
    module, options = COMMANDS[extra]
    code = f"import sys; sys.modules[{module!r}] = None\nimport cli\ncli.main()"
    command = [sys.executable, "-c", code, "teach", "--profile", "embedded", "-o", str(tmp_path / "d"), *options]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 2
    (line,) = [line for line in shown.stderr.splitlines() if line.startswith("attune: ")]
    assert f"pip install -e '.[{extra}]'" in line
    assert not (tmp_path / "d").exists()
