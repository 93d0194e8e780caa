"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cascade.errors import InputError, one_line

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under `path` only when all of it is on the disk. Makes the folder. Raises InputError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise InputError(_unwritable(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _unwritable(path: Path, error: OSError) -> str:
    if error.errno in FULL:
        return f"{path}: no space left on the disk; free some and go on with --resume; nothing made so far is lost"
    why = error.strerror or one_line(error)
    return f"{path}: cannot be written ({why}); mend that and go on with --resume; nothing made so far is lost"
