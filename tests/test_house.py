"""The walls: imports run one way, the front door is light, and the README shows the house that stands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cascade", "graphs", "distill", "e2e_model")
MAY_IMPORT = {
    "cli": {"cli", "distill", "graphs", "cascade", "e2e_model"},
    "distill": {"distill", "graphs", "cascade", "e2e_model"},
    "graphs": {"graphs", "cascade", "e2e_model"},
    "cascade": {"cascade"},
    "e2e_model": {"e2e_model"},
}
SOURCES = [ROOT / "cli.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]


def imported(source: str) -> set[str]:
    """Top-level names of all imports, lazy ones too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours = imported(path.read_text()) & {*PACKAGES, "cli"}
    assert ours <= MAY_IMPORT[room], f"{room} may not import {ours - MAY_IMPORT[room]}"


def test_the_check_sees_a_wrong_import() -> None:
    assert imported("def f():\n    from graphs.teacher import x\n") == {"graphs"}


def test_the_front_door_is_light() -> None:
    code = "import sys, cli; print(*sorted(m for m in ('torch', 'transformers', 'langgraph', 'numpy') if m in sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []


def test_the_embedded_profile_needs_no_torch() -> None:
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'sklearn', 'scipy'): sys.modules[name] = None\n"
        "from cascade.profiles import Engines, load_profile\n"
        "engines = Engines.load(load_profile('embedded')); print(len(engines.loaded)); engines.close()"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "8"


def test_the_readme_shows_the_tree_that_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    tree = re.search(r"```text\n(cli\.py.*?)```", readme, re.S)
    assert tree, "README has no tree"
    for line in tree.group(1).splitlines():
        name = line.split()[0]
        assert (ROOT / name).exists(), f"README names {name}, which is not there"
    shown = {line.split()[0].rstrip("/") for line in tree.group(1).splitlines()}
    rooms = {f"{package}" for package in PACKAGES} | {
        str(path.relative_to(ROOT))
        for path in (ROOT / "cascade").iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert rooms <= shown, f"README leaves out {rooms - shown}"


def test_the_readme_names_every_model_with_its_licence() -> None:
    from cascade.models import MODELS

    readme = (ROOT / "README.md").read_text()
    for model in MODELS.values():
        assert model.repo in readme
        assert model.licence.split(" (")[0] in readme
