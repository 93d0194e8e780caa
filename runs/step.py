"""One step of a run: `python runs/step.py LOG NAME COMMAND …` runs it, says how long it took and how much memory, and writes that
into LOG; a step that LOG knows is not run again. With $DRY_RUN the command line is checked and shown, nothing is run.

`python runs/step.py LOG --table` shows all steps so far.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MB = 1024 if sys.platform == "linux" else 1 << 20  # of ru_maxrss


def main(log: Path, name: str, command: list[str]) -> int:
    if os.environ.get("DRY_RUN"):
        print(f"{name}: {shlex.join(command)}", flush=True)
        return checked(command)
    if known := next((step for step in steps(log) if step["name"] == name), None):
        print(f"== {name}: done ({told(known)})", flush=True)
        return 0
    print(f"== {name}: {shlex.join(command)}", flush=True)
    began = time.monotonic()
    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # whoever ends this step ends what it runs
    try:
        code = child.wait()
    except KeyboardInterrupt:  # it got the signal, too, and says how to go on
        code = child.wait()
    step = {
        "name": name,
        "seconds": round(time.monotonic() - began, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / MB),  # of its largest process
    }
    if code:
        print(f"== {name}: ended with {code} after {told(step)}; the same line goes on", file=sys.stderr, flush=True)
        return code
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(step) + "\n")
    print(f"== {name}: {told(step)}", flush=True)
    return 0


def steps(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []


def told(step: dict[str, Any]) -> str:
    minutes, seconds = divmod(round(step["seconds"]), 60)
    return f"{minutes} min {seconds} s, {step['peak_mb']:,} MB"


def checked(command: list[str]) -> int:
    """Whether Attune takes this command line; training also says what it would take."""
    arguments = command[next(k for k, word in enumerate(command) if word in ("attune", "cli")) + 1 :]
    if arguments[0] == "train":
        return subprocess.run([sys.executable, "-m", "cli", *arguments, "--dry-run"]).returncode
    from cli import main as attune

    group = attune.make_context("attune", arguments[:1], resilient_parsing=True)
    found = attune.get_command(group, arguments[0])
    if found is None:
        print(f"attune has no {arguments[0]}", file=sys.stderr)
        return 2
    found.make_context(arguments[0], arguments[1:], parent=group)
    return 0


if __name__ == "__main__":
    file = Path(sys.argv[1])
    if sys.argv[2:] == ["--table"]:
        for one in steps(file):
            print(f"{one['name']:12} {told(one)}")
    else:
        sys.exit(main(file, sys.argv[2], sys.argv[3:]))
