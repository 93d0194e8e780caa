"""Voice banks: one voice's reference clips, one for each reply emotion, for engines that copy how a clip sounds.

A bank is a folder with `bank.toml` and its WAV files; it lies under the home folder (`voices/<name>`) or anywhere else.

    [neutral]
    wav = "neutral-1f3a9c02.wav"          # from the bank's folder
    text = "I will be there at nine."     # the words of the clip, all of them
    speed = 1.0                           # how fast to speak after it; 1 = as fast as the clip
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_args

from pydantic import AfterValidator, ValidationInfo

from cascade.audio import Waveform, read_speech, write_wav
from cascade.cancel import CancelScope
from cascade.engines import Recognizer
from cascade.errors import EngineError, InputError
from cascade.home import default_home, usual_home
from cascade.tts.clip_check import MAX_S, MAX_WER, Finding, check_clip
from cascade.turn import REPLY_EMOTIONS, ReplyEmotion

SAMPLE_RATE = 24_000  # of the clips kept: what F5-TTS reads
FILE = "bank.toml"
DEFAULT = "default"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SPEED = (0.5, 2.0)

# Whose clip serves an emotion that has none, the nearest first; neutral is the last for all. High arousal is never lent to an
# emotion of low arousal, nor a friendly voice to an unfriendly feeling or the other way round.
NEAREST: Mapping[ReplyEmotion, tuple[ReplyEmotion, ...]] = {
    "neutral": (),
    "joyful": ("happy",),
    "happy": ("joyful",),
    "comforting": ("sorry",),
    "sorry": ("comforting", "sad"),
    "sad": ("sorry", "comforting", "tearful"),
    "tearful": ("sad", "sorry", "comforting"),
    "afraid": ("tearful",),
    "angry": ("disgusted",),
    "disgusted": (),
    "surprised": (),
}


@dataclass(frozen=True)
class Clip:
    """wav: absolute path. text: its words. speed: how fast to speak after it, 1 = as the clip."""

    wav: Path
    text: str
    speed: float = 1.0

    def wave(self) -> Waveform:
        """At 24 kHz. Raises InputError: missing, not audio, silence, too long."""
        return read_speech(self.wav, max_s=MAX_S + 0.5).resampled(SAMPLE_RATE)


@dataclass(frozen=True)
class Bank:
    folder: Path
    clips: Mapping[ReplyEmotion, Clip]

    def served_by(self, emotion: ReplyEmotion) -> ReplyEmotion:
        """The emotion whose clip speaks this one: itself, or the nearest that the bank has. Raises InputError: no neutral."""
        if "neutral" not in self.clips:
            raise InputError(f"{self.folder}: the bank has no clip for neutral; do: {self.add_line('neutral')}")
        return next(near for near in (emotion, *NEAREST[emotion], "neutral") if near in self.clips)

    @property
    def stand_ins(self) -> dict[ReplyEmotion, ReplyEmotion]:
        """Each emotion without a clip → the one whose clip speaks it."""
        return {emotion: self.served_by(emotion) for emotion in REPLY_EMOTIONS if emotion not in self.clips}

    def add_line(self, emotion: ReplyEmotion) -> str:
        return add_line(emotion, self.folder)


def add_line(emotion: ReplyEmotion, folder: Path) -> str:
    """The command that adds a clip."""
    folder, usual = folder.absolute(), (usual_home() / "voices" / DEFAULT).absolute()
    bank = "" if folder == usual else f" --bank {shlex.quote(str(folder))}"
    return f"attune voices add {emotion} CLIP.wav --text 'its words'{bank}"


def bank_folder(name: str) -> Path:
    """Of a bank's name, in the home, or of a path (./…, ~/…, /…). Raises InputError: not safe as a folder's name."""
    if name.startswith((".", "/", "~")):
        return Path(name).expanduser().absolute()
    if not NAME.fullmatch(name):
        raise InputError(
            f"bank {name!r}: give a path that begins with ./, ~/ or /, or a name of 1 to 64 letters, digits, ., -, _"
        )
    return default_home() / "voices" / name


def _written(name: str, info: ValidationInfo) -> str:
    try:
        bank_folder(name)
    except InputError as error:
        raise ValueError(str(error)) from None
    if not name.startswith((".", "/", "~")):
        return name
    folder: Path = (info.context or {}).get("folder", Path())
    return str((folder / Path(name).expanduser()).absolute())


BankName = Annotated[
    str, AfterValidator(_written)
]  # an option that names a bank; a path is taken from the profile's folder


def load_bank(folder: Path) -> Bank:
    """A bank that has a neutral clip, all its files there. Raises InputError."""
    bank = read_bank(folder)
    bank.served_by("neutral")
    gone = next((clip.wav for clip in bank.clips.values() if not clip.wav.is_file()), None)
    if gone:
        raise InputError(f"{gone}: the bank names it and it is not there; add that clip again")
    return bank


def read_bank(folder: Path) -> Bank:
    """What bank.toml says; no clips where there is none. Raises InputError: not TOML, an emotion or a key that is not legal."""
    path = folder / FILE
    mend = "mend this file, or rename or delete it and add the clips again"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Bank(folder, {})
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {mend}") from error
    except ValueError as error:  # not UTF-8, not TOML
        raise InputError(f"{path}: is not TOML ({error}); {mend}") from error
    return Bank(folder, dict(_entry(path, name, table) for name, table in tables.items()))


def legal_emotion(name: str) -> ReplyEmotion:
    if name not in get_args(ReplyEmotion):
        raise InputError(f"{name!r} is no reply emotion; legal: {', '.join(REPLY_EMOTIONS)}")
    return cast(ReplyEmotion, name)


def _entry(path: Path, name: str, table: Any) -> tuple[ReplyEmotion, Clip]:
    try:
        return legal_emotion(name), _clip(path.parent, table)
    except InputError as error:
        raise InputError(f"{path}: [{repr(name)[1:-1]}]: {error}") from error


def _clip(folder: Path, table: Any) -> Clip:
    if not isinstance(table, dict):
        raise InputError("must be a table, with wav and text")
    unknown = sorted(set(table) - {"wav", "text", "speed"})
    if unknown:
        raise InputError(f"has no key {unknown[0]!r}; legal: wav, text, speed")
    wav, text, speed = table.get("wav"), table.get("text"), table.get("speed", 1.0)
    if not isinstance(wav, str) or not wav:
        raise InputError("needs wav, the clip's file")
    if not isinstance(text, str):
        raise InputError("needs text, the words of the clip")
    return Clip((folder / wav).absolute(), _text(text), _speed(speed))


def _text(text: str) -> str:
    line = " ".join(text.split())
    if not any(char.isalnum() for char in line):
        raise InputError(f"text {text!r} holds no word; give the words that are said in the clip")
    if not line.isprintable():
        raise InputError(f"text {line[:40]!r} holds characters that cannot be written; type it again")
    return line


def _speed(speed: Any) -> float:
    low, high = SPEED
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not low <= speed <= high:
        raise InputError(f"speed {speed!r} is not legal; give {low:g} to {high:g}, 1 = as fast as the clip")
    return float(speed)


def add_clip(folder: Path, emotion: str, wav: Path, text: str, speed: float = 1.0) -> Clip:
    """Copy a clip into the bank as 24 kHz mono WAV, in place of an earlier one of that emotion; bank.toml is written anew.

    The new sound lies under a name of its own before bank.toml names it, so that a failure at any moment leaves the earlier
    clip. Raises InputError: not a legal emotion, text or speed, not audio, a clip that cannot be used, cannot be written.
    """
    legal, clean, pace = legal_emotion(emotion), _text(text), _speed(speed)
    wave = read_speech(wav)
    bad = next((finding for finding in check_clip(wave, clean) if finding.unusable), None)
    if bad:
        raise InputError(f"{wav}: {bad.what}")
    bank = read_bank(folder)
    kept = wave.resampled(SAMPLE_RATE)
    clip = Clip(folder.absolute() / f"{legal}-{kept.sha256[:8]}.wav", clean, pace)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another place") from error
    write_wav(clip.wav, kept)
    clips = {**bank.clips, legal: clip}
    try:
        _write(folder / FILE, {name: clips[name] for name in REPLY_EMOTIONS if name in clips})
    except InputError:
        _forget(clip, bank.clips, folder)
        raise
    _forget(bank.clips.get(legal), clips, folder)
    return clip


def remove_clip(folder: Path, emotion: str) -> Clip:
    """Take a clip out of the bank; its file is deleted, too, if the bank's own and of no other emotion. What was removed.

    Raises InputError: not a legal emotion, none such in the bank, bank.toml cannot be read or written.
    """
    legal, bank = legal_emotion(emotion), read_bank(folder)
    if legal not in bank.clips:
        raise InputError(f"{folder}: the bank has no clip for {legal}; it has: {', '.join(bank.clips) or 'none'}")
    rest = {name: clip for name, clip in bank.clips.items() if name != legal}
    _write(folder / FILE, rest)
    _forget(bank.clips[legal], rest, folder)
    return bank.clips[legal]


def _write(path: Path, clips: Mapping[ReplyEmotion, Clip]) -> None:
    lines = []
    for emotion, clip in clips.items():
        inside = clip.wav.is_relative_to(path.parent.absolute())
        shown = str(clip.wav.relative_to(path.parent.absolute()) if inside else clip.wav)
        # A JSON string is a TOML string, too.
        wav, text = json.dumps(shown, ensure_ascii=False), json.dumps(clip.text, ensure_ascii=False)
        lines += [f"[{emotion}]", f"wav = {wav}", f"text = {text}", f"speed = {clip.speed:g}", ""]
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{FILE}.", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("\n".join(lines))
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def _forget(old: Clip | None, clips: Mapping[ReplyEmotion, Clip], folder: Path) -> None:
    """Delete a clip's sound, if it is the bank's own and none of `clips` uses it."""
    if old and old.wav.parent == folder.absolute() and all(clip.wav != old.wav for clip in clips.values()):
        with suppress(OSError):
            old.wav.unlink()


def listing(bank: Bank) -> list[str]:
    """A table: emotion, seconds, level, text; or whose clip is used instead."""
    lines = [f"{bank.folder}", f"  {'emotion':<11} {'seconds':>7} {'dBFS':>5} {'speed':>5}  text"]
    for emotion in REPLY_EMOTIONS:
        if emotion in bank.clips:
            clip = bank.clips[emotion]
            lines.append(f"  {emotion:<11} {_measures(clip)} {clip.speed:5.2f}  {clip.text}")
        elif "neutral" in bank.clips:
            lines.append(f"  {emotion:<11} {'':>7} {'':>5} {'':>5}  uses {bank.served_by(emotion)}")
        else:
            lines.append(f"  {emotion:<11} {'':>7} {'':>5} {'':>5}  none")
    return lines if "neutral" in bank.clips else [*lines, f"The bank needs neutral: {bank.add_line('neutral')}"]


def _measures(clip: Clip) -> str:
    try:
        wave = clip.wave()
    except InputError:
        return f"{'?':>7} {'?':>5}"
    return f"{wave.duration_s:7.1f} {wave.level_dbfs:5.0f}"


def examined(
    bank: Bank, recognizer: Recognizer | None = None, *, max_wer: float = MAX_WER, cancel: CancelScope | None = None
) -> tuple[list[str], bool]:
    """A line for each clip and finding, and whether all is well. Raises Cancelled."""
    lines, well = [], "neutral" in bank.clips
    if not well:
        lines.append(f"neutral: no clip, and it must have one; do: {bank.add_line('neutral')}")
    for emotion, clip in bank.clips.items():
        try:
            found = check_clip(clip.wave(), clip.text, recognizer=recognizer, max_wer=max_wer, cancel=cancel)
        except (InputError, EngineError) as error:
            found = [Finding(str(error), unusable=True)]
        well = well and not found
        lines += [f"{emotion}: {finding.what}" for finding in found] or [f"{emotion}: ok"]
    return lines, well
