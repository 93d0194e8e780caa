"""What can go wrong with a student, as one tree. Each message is one line: what came, what is legal, what to do.

StudentError
├── ConfigProblem        a configuration that names no student that can be built
└── CheckpointProblem    a folder that holds no student, or one that was cut, changed, or made for other parts
"""

from __future__ import annotations


class StudentError(Exception):
    """Something a user can act on; `str()` is one line."""


class ConfigProblem(StudentError):
    """A configuration that is not legal."""


class CheckpointProblem(StudentError):
    """A folder of weights that cannot be used."""
