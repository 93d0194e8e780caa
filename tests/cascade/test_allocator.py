"""The allocator keeps what was freed: looked at in a process of its own, for it cannot be undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource
import numpy as np
from cascade.allocator import keep_freed_memory
assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(100_000_000, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
def test_a_large_block_is_cleared_by_the_system_once() -> None:
    root = Path(__file__).parents[2]
    shown = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True, check=True)
    assert int(shown.stdout) < 100, "the system cleared the block anew, hundreds of pages or more"
