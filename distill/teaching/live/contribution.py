"""A turn as it is given away: which may be given, how it waits on disk, and how it is read back, with nothing taken on trust.

The spool, `contributed/` in the home folder, holds a folder for each turn: `turn.json` (a Letter), `user.wav`, `reply.wav`.
Turns for a stream wait there until it has them; turns given on this machine, until `attune teach --from-stream` takes them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import soundfile
from pydantic import Field, ValidationError, model_validator

from cascade.audio import MAX_INPUT_S, Waveform
from cascade.errors import InputError, one_line
from cascade.turn import AudioRef, Exchange, Record, Turn
from distill.teaching.live.consent import HISTORY, LOCAL, ContributorId

FOLDER = "contributed"
WITHDRAWN = ".withdrawn"
LETTER, USER, REPLY = "turn.json", "user.wav", "reply.wav"
TURN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # safe as a folder's name
MAX_LETTER_BYTES = 4 << 20
MAX_SOUND_BYTES = 32 << 20  # two minutes at 96 kHz and 16 bit: 23 MB
SAMPLE_RATES = range(8_000, 96_001)


class Letter(Record):
    """What goes with the two sounds of a turn. `place`: where its contributor lets it go; `history`: oldest first."""

    contributor: ContributorId
    place: str = LOCAL
    turn: Turn
    history: tuple[Exchange, ...] = Field(default=(), max_length=HISTORY)

    @model_validator(mode="after")
    def _may_be_given(self) -> Self:
        if not TURN_ID.fullmatch(self.turn.id):
            raise ValueError(f"turn id {self.turn.id[:70]!r} is not 1 to 64 letters, digits, dashes, underscores")
        if why := refusal(self.turn, self.history):
            raise ValueError(why)
        return self

    @property
    def sounds(self) -> tuple[AudioRef, AudioRef]:
        """Of the person, of the reply."""
        assert self.turn.user_audio is not None, "a turn that may be given is spoken"
        assert self.turn.reply_audio is not None, "a turn that may be given has a reply"
        return self.turn.user_audio, self.turn.reply_audio


@dataclass(frozen=True, eq=False)
class Contribution:
    """One turn as it was given. `entry`: where its source has it."""

    entry: str
    letter: Letter
    user_speech: Waveform
    reply_speech: Waveform


@dataclass(frozen=True)
class Unreadable:
    """Something in a source that is no contribution, and why."""

    entry: str
    reason: str


def refusal(turn: Turn, history: Sequence[Exchange]) -> str | None:
    """Why a turn is not given, or None. A reply that was stopped may be: the gates judge it."""
    cared = [turn.thought, *history]
    if any(said is not None and said.strategy == "care" for said in cared):
        return "words of crisis are never contributed, nor what follows them"
    if turn.source != "speech":
        return "typed: there is no voice in it"
    if turn.failures:
        return f"{turn.failures[0].stage} {turn.failures[0].kind}"
    if any(part is None for part in (turn.transcript, turn.thought, turn.reply, turn.user_audio, turn.reply_audio)):
        return "not whole"
    return None


def opened(entry: str, letter: bytes, sounds: tuple[bytes, bytes]) -> Contribution:
    """What came in, checked part by part. `letter`: JSON. Raises InputError: why it cannot be used."""
    if len(letter) > MAX_LETTER_BYTES:
        raise InputError(f"its record has {len(letter)} bytes, at most {MAX_LETTER_BYTES} are read")
    try:
        read = Letter.model_validate_json(letter)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, first['loc'])) or 'turn'}: {first['msg']}") from None
    user, reply = (_decoded(data, ref) for data, ref in zip(sounds, read.sounds, strict=True))
    return Contribution(entry, read, user, reply)


def _decoded(data: bytes, ref: AudioRef) -> Waveform:
    if len(data) > MAX_SOUND_BYTES:
        raise InputError(f"{ref.path}: {len(data)} bytes of sound, at most {MAX_SOUND_BYTES} are read")
    if ref.duration_s > MAX_INPUT_S or ref.sample_rate not in SAMPLE_RATES:
        raise InputError(f"{ref.path}: {ref.duration_s:.0f} s at {ref.sample_rate} Hz is more than a turn")
    frames = round(ref.duration_s * ref.sample_rate)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            kind = (file.channels, file.samplerate)
            samples = file.read(frames=frames + 1, dtype="float32")  # one more shows that there is more
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise InputError(f"{ref.path}: not sound that can be read ({one_line(error)})") from None
    if kind != (1, ref.sample_rate) or len(samples) != frames:
        heard = f"{kind[0]} channels, {kind[1]} Hz, {len(samples)} samples"
        raise InputError(f"{ref.path}: {heard}; its record says 1, {ref.sample_rate}, {frames}")
    return Waveform(np.ascontiguousarray(samples), ref.sample_rate).checked()


class Spool:
    """Turns that wait on disk, each whole or not there. Several processes may use one at a time."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER

    def put(self, letter: Letter, session_folder: Path) -> None:
        """Keep a turn with copies of its sounds. Raises InputError (sound that is not the record's), OSError."""
        sounds = [_as_recorded(session_folder / ref.path, ref) for ref in letter.sounds]
        document = letter.model_dump_json().encode()
        if len(document) > MAX_LETTER_BYTES:
            raise InputError(f"turn {letter.turn.id}: its record has {len(document)} bytes, at most {MAX_LETTER_BYTES}")
        place = self.folder / letter.turn.id
        if place.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{letter.turn.id}."))
        try:
            for name, content in zip((LETTER, USER, REPLY), (document, *sounds), strict=True):
                (part / name).write_bytes(content)
            part.rename(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def entries(self) -> list[str]:
        """Names of the turns that wait, in a fixed order."""
        try:
            return sorted(name for name in os.listdir(self.folder) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def contents(self, entry: str) -> tuple[bytes, tuple[bytes, bytes]]:
        """The letter, as JSON, and the WAV files of the person and of the reply.

        Raises InputError; FileNotFoundError when another process has taken the turn away.
        """
        sounds = self._bytes(entry, USER, MAX_SOUND_BYTES), self._bytes(entry, REPLY, MAX_SOUND_BYTES)
        return self._bytes(entry, LETTER, MAX_LETTER_BYTES), sounds

    def letter(self, entry: str) -> Letter:
        """Raises as `contents`."""
        try:
            return Letter.model_validate_json(self._bytes(entry, LETTER, MAX_LETTER_BYTES))
        except ValidationError as error:
            raise InputError(f"{self.folder / entry / LETTER}: {error.errors()[0]['msg']}") from None

    def _bytes(self, entry: str, name: str, limit: int) -> bytes:
        path = self.folder / entry / name
        try:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except OSError as error:
            if not path.parent.exists():
                raise FileNotFoundError(path) from error
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        if len(content) > limit:
            raise InputError(f"{path}: more than {limit} bytes")
        return content

    def remove(self, entries: Iterable[str]) -> None:
        """They go as one: no other process sees half a turn. Raises OSError."""
        for entry in entries:
            gone = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{entry}."))
            try:
                (self.folder / entry).rename(gone / "gone")
            except FileNotFoundError:
                pass  # another process was first
            finally:
                shutil.rmtree(gone)

    def waiting(self, place: str) -> int:
        """Turns that go to `place`: LOCAL or a stream."""
        return sum(self._letter(entry, "place") == place for entry in self.entries())

    def withdraw(self, contributor: str) -> int:
        """Delete what a contributor gave, and take nothing more of theirs. How many turns waited. Raises OSError."""
        (self.folder / WITHDRAWN).mkdir(parents=True, exist_ok=True)
        (self.folder / WITHDRAWN / contributor).touch()
        theirs = [entry for entry in self.entries() if self._letter(entry, "contributor") in (contributor, None)]
        self.remove(theirs)
        for left in self.folder.glob(".*"):  # of a process that died while it put or removed a turn
            if left.name != WITHDRAWN:
                shutil.rmtree(left, ignore_errors=True)
        return len(theirs)

    def withdrawn(self) -> set[str]:
        """Contributors of this machine who withdrew."""
        try:
            return set(os.listdir(self.folder / WITHDRAWN))
        except FileNotFoundError:
            return set()

    def _letter(self, entry: str, field: str) -> str | None:
        """None: it cannot be read."""
        try:
            return str(getattr(self.letter(entry), field))
        except (InputError, FileNotFoundError):
            return None


def _as_recorded(path: Path, ref: AudioRef) -> bytes:
    """Raises InputError unless the file is what the record says."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != ref.sha256:
        raise InputError(f"{path}: its content is not what was recorded (sha256 differs)")
    if len(content) > MAX_SOUND_BYTES or ref.duration_s > MAX_INPUT_S:
        raise InputError(f"{path}: {ref.duration_s:.0f} s is too long to give; a turn is at most {MAX_INPUT_S:.0f} s")
    return content
