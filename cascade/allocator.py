"""The program's memory allocator, set for Whisper on a CPU."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process; whether that could be done (it takes glibc).

    The layers of CTranslate2's Whisper take and free blocks of up to hundreds of megabytes. glibc gives each back to the system,
    which has to clear it again when it is wanted next, a tenth of a second later: a third of the time. Process-wide, so it is
    the program's choice and not an engine's; the price is that memory once used is not given back before the program ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_ARENA_MAX, 1))
    return all(mallopt(parameter, value) == 1 for parameter, value in wanted)
