"""Whether a person on this machine gives their conversations to teach a model: asked once, remembered, withdrawn at any time.

`consent.json` in the home folder knows the person by a random number that stands for nothing else. One consent that was
withdrawn stays listed there until what it gave is deleted in every place it went to.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from cascade.errors import InputError
from cascade.turn import Record

FILE = "consent.json"
LOCAL = "this machine"  # the spool in the home folder
HISTORY = 8  # earlier exchanges that go with a turn: as many as a reasoner looks back upon
TEXT_VERSION = 1  # of QUESTION: what was agreed to under another one does not cover this one
PURPOSE = "training and judging speech models that answer with empathy"
QUESTION = """May Attune keep what you say here, to teach a model?

  Kept     of each spoken turn: the recording of your voice, the words heard in it, how you seemed to feel, your age and
           gender as guessed; up to {history} turns before it as text, typed ones too; the reply and its sound
  Never    words of crisis that were recognized and the {history} turns after them; turns that failed
  Where    {place}
  For      {purpose};
           whoever runs `attune teach --from-stream` there makes a dataset of it
  Name     a random number in place of your name; your voice, and names you say, may still be recognized
  Withdraw `attune consent withdraw`: what waits is deleted at once, your rows of a dataset when it is next added to, or
           with --dataset at once; copies and models made before then are not changed by it
"""
ContributorId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Consent(Record):
    """What one person agreed to. `places`: LOCAL or streams' URLs without passwords, where turns may go."""

    contributor: ContributorId
    given_at: datetime
    purpose: str
    text_version: int
    places: tuple[str, ...]

    def covers(self, place: str) -> bool:
        return self.text_version == TEXT_VERSION and place in self.places


class _Kept(Record):
    """The file. `unsettled`: withdrawn, with the places where it is not deleted yet."""

    consent: Consent | None = None
    unsettled: tuple[Consent, ...] = ()


def question(place: str, home: Path) -> str:
    """The whole text to be agreed to, for turns that go to `place`."""
    where = f"{home / 'contributed'}, on this machine" if place == LOCAL else f"the Redis stream at {place}"
    return QUESTION.format(history=HISTORY, place=where, purpose=PURPOSE)


def consent_of(home: Path) -> Consent | None:
    """The consent that stands. Raises InputError when its file is damaged."""
    return _read(home).consent


def give(home: Path, place: str = LOCAL) -> Consent:
    """Agree to the present text, for one more place. Raises InputError."""

    def change(kept: _Kept) -> _Kept:
        old = kept.consent
        places = (*(old.places if old else ()), place)
        consent = Consent(
            contributor=old.contributor if old else secrets.token_hex(16),
            given_at=old.given_at if old and old.text_version == TEXT_VERSION else datetime.now(UTC),
            purpose=PURPOSE,
            text_version=TEXT_VERSION,
            places=tuple(dict.fromkeys(places)),
        )
        return kept.model_copy(update={"consent": consent})

    consent = _changed(home, change).consent
    assert consent is not None, "it was just written"
    return consent


def withdraw(home: Path) -> tuple[Consent, ...]:
    """End the consent that stands. All that is withdrawn and not yet deleted everywhere. Raises InputError."""

    def change(kept: _Kept) -> _Kept:
        return _Kept(unsettled=(*kept.unsettled, *([kept.consent] if kept.consent else [])))

    return _changed(home, change).unsettled


def unsettled(home: Path) -> tuple[Consent, ...]:
    """What was withdrawn and is not yet deleted everywhere. Raises InputError."""
    return _read(home).unsettled


def settle(home: Path, contributor: str, place: str) -> None:
    """What a withdrawn contributor gave is deleted at `place`. Raises InputError."""

    def change(kept: _Kept) -> _Kept:
        left = []
        for consent in kept.unsettled:
            if consent.contributor == contributor:
                consent = consent.model_copy(update={"places": tuple(p for p in consent.places if p != place)})
            left += [consent] if consent.places else []
        return kept.model_copy(update={"unsettled": tuple(left)})

    _changed(home, change)


def _changed(home: Path, change: Callable[[_Kept], _Kept]) -> _Kept:
    """Read, change, write, while no other process does."""
    path = home / FILE
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / f".{FILE}.lock"):
            kept = change(_read(home))
            part = path.with_name(f".{FILE}.part")
            part.write_text(kept.model_dump_json(indent=2) + "\n", encoding="utf-8")
            os.chmod(part, 0o600)
            os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --home") from error
    return kept


def _read(home: Path) -> _Kept:
    path = home / FILE
    try:
        return _Kept.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _Kept()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); choose another --home") from error
    except ValidationError as error:
        raise InputError(
            f"{path}: not a record of consent that can be read ({error.errors()[0]['msg']}); mend it: deleting it would "
            "forget under which number you gave"
        ) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within it no other process holds this lock; the system lets it go when the process dies. Raises OSError."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
