"""What can go wrong, as one tree. Each message is one line: what came, what is legal, what to do.

AttuneError
├── InputError           the caller's audio, text or file cannot be used
├── ConfigError          a profile, an option or an engine name is not legal
└── EngineError          an engine could not do its work
    ├── EngineUnavailable    a package, a library or a checkpoint is missing
    ├── EngineFailed         it raised, died, or gave back something that is not legal
    │   └── OutOfMemory      it ran out of memory: worth another, smaller try
    └── EngineTimeout        it did not answer before its deadline
Cancelled                the person stopped the turn: not an error
"""

from __future__ import annotations


class AttuneError(Exception):
    """Something a user can act on; `str()` is one line."""


class InputError(AttuneError):
    """Audio, text or a file that cannot be used."""


class ConfigError(AttuneError):
    """A profile, option or engine name that is not legal."""


class EngineError(AttuneError):
    """An engine could not do its work."""


class EngineUnavailable(EngineError):
    """A package, library or checkpoint is missing; the message says what to install or where to put it."""


class EngineFailed(EngineError):
    """An engine raised, died, or returned something illegal."""


class OutOfMemory(EngineFailed):
    """An engine ran out of memory."""


class EngineTimeout(EngineError):
    """An engine did not answer before its deadline."""


class Cancelled(Exception):
    """The person stopped the turn."""


FULL = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "alloc_failed",
)  # as torch, CUDA and systems say it


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library's error means that it wanted more memory than there is."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in FULL)


def one_line(error: BaseException, length: int = 120) -> str:
    """A library's message as a part of one of ours; its type's name if it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
