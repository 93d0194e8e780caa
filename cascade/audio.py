"""Audio in and out: mono float32 with its sample rate, read strictly, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from cascade.errors import InputError
from cascade.turn import AudioRef

Samples = np.ndarray[tuple[int], np.dtype[np.float32]]

MIN_INPUT_S = 0.1  # shorter than any word
MAX_INPUT_S = 120.0  # a turn of conversation, not a lecture
SILENCE_DBFS = -70.0  # below the noise floor of any microphone that was open
SAMPLE_RATE = 16_000  # what recognizers and analyzers read


@dataclass(frozen=True, eq=False)
class Waveform:
    """Mono sound. samples: float32 (T,), full scale ±1; sample_rate in Hz."""

    samples: Samples
    sample_rate: int

    def __post_init__(self) -> None:
        shape, dtype = self.samples.shape, self.samples.dtype
        assert (len(shape), dtype.name) == (1, "float32"), f"not mono float32: {shape}, {dtype}"

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate

    @cached_property
    def level_dbfs(self) -> float:
        """Root mean square level in dB re full scale; -inf for digital silence."""
        rms = float(np.sqrt(np.mean(np.square(self.samples, dtype=np.float64)))) if len(self.samples) else 0.0
        return 20 * float(np.log10(rms)) if rms > 0 else float("-inf")

    @cached_property
    def sha256(self) -> str:
        """Of the samples and the rate: the same sound in another container has the same hash."""
        return hashlib.sha256(f"{self.sample_rate}:".encode() + self.samples.tobytes()).hexdigest()

    def checked(self) -> Waveform:
        """Itself, if an engine can read it. Raises InputError for no samples, NaN and infinity."""
        if not len(self.samples):
            raise InputError("the sound holds no samples; record it again")
        if not np.isfinite(self.samples).all():
            raise InputError("the sound holds samples that are NaN or infinite; export it again from its source")
        return self

    def resampled(self, sample_rate: int) -> Waveform:
        if sample_rate == self.sample_rate:
            return self
        out = soxr.resample(self.samples, self.sample_rate, sample_rate, quality="HQ")
        return Waveform(np.ascontiguousarray(out, dtype=np.float32), sample_rate)

    def at_level(self, level_dbfs: float) -> Waveform:
        """The same sound at another root mean square level; silence stays silence."""
        if not np.isfinite(self.level_dbfs):
            return self
        factor = np.float32(10 ** ((level_dbfs - self.level_dbfs) / 20))
        return Waveform((self.samples * factor).astype(np.float32), self.sample_rate)

    def pcm16(self) -> bytes:
        """Little-endian 16-bit PCM, clipped to full scale."""
        return np.round(np.clip(self.samples, -1, 1) * 32767).astype("<i2").tobytes()

    @staticmethod
    def from_pcm16(pcm: bytes, sample_rate: int) -> Waveform:
        whole = np.frombuffer(pcm, "<i2")
        return Waveform((whole / 32768).astype(np.float32), sample_rate)


def joined(parts: list[Waveform], gap_s: float = 0.0) -> Waveform:
    """One after another, `gap_s` seconds of silence between. All parts have one sample rate; at least one part."""
    rate = parts[0].sample_rate
    assert all(part.sample_rate == rate for part in parts)
    gap = np.zeros(round(gap_s * rate), np.float32)
    pieces: list[Samples] = []
    for part in parts:
        pieces += [gap, part.samples] if pieces else [part.samples]
    return Waveform(np.concatenate(pieces), rate)


def read_speech(path: str | Path, *, max_s: float = MAX_INPUT_S) -> Waveform:
    """Read one person's turn from any container libsndfile knows, mixed to mono, at its own rate.

    Raises InputError (one line) for: a missing file, a directory, no permission, an empty file, not audio, a truncated
    file, no samples, NaN or infinity, shorter than 0.1 s, longer than `max_s`, silence.
    """
    path = Path(path)
    _check_file(path)
    info = _open_info(path)
    _check_header(path, info, max_s)
    try:
        data, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise InputError(f"{path}: cannot be decoded ({_one_line(error)}); save it again as WAV or FLAC") from error
    if len(data) < info.frames:
        raise InputError(f"{path}: truncated: {len(data)} of {info.frames} samples are there; record or copy it again")
    if not np.isfinite(data).all():
        raise InputError(f"{path}: holds samples that are NaN or infinite; export it again from its source")
    wave = Waveform(np.ascontiguousarray(data.mean(axis=1), dtype=np.float32), rate)
    if wave.level_dbfs < SILENCE_DBFS:
        raise InputError(
            f"{path}: silence ({wave.level_dbfs:.0f} dBFS, speech is above {SILENCE_DBFS:.0f}); check the microphone"
        )
    return wave


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give one audio file")
    if not path.exists():
        raise InputError(f"{path}: no such file; give a path to a WAV, FLAC, OGG or MP3 file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty file (0 bytes)")
    missing = _missing_wav_bytes(path)
    if missing:
        raise InputError(
            f"{path}: truncated: its header promises {missing} bytes more than are there; record or copy it again"
        )


def _open_info(path: Path) -> Any:
    try:
        return soundfile.info(path)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(
            f"{path}: not audio that can be read ({_one_line(error)}); give WAV, FLAC, OGG or MP3"
        ) from error


def _check_header(path: Path, info: Any, max_s: float) -> None:
    duration_s = info.frames / info.samplerate if info.samplerate else 0.0
    if info.frames == 0:
        raise InputError(f"{path}: holds no samples")
    if duration_s < MIN_INPUT_S:
        raise InputError(
            f"{path}: {duration_s * 1000:.0f} ms is too short; a turn is at least {MIN_INPUT_S * 1000:.0f} ms"
        )
    if duration_s > max_s:
        raise InputError(
            f"{path}: {duration_s / 60:.1f} minutes is too long; a turn is at most {max_s / 60:.0f} minutes: cut it"
        )


def _missing_wav_bytes(path: Path) -> int:
    """How many bytes a RIFF file's data chunk promises beyond the end of the file; libsndfile forgives this silently.

    Sizes 0 and 2³²−1 are what a pipe writes that cannot seek back: not a promise.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return 0
        position = 12
        while position + 8 <= size:
            file.seek(position)
            chunk, length = file.read(4), int.from_bytes(file.read(4), "little")
            if chunk == b"data":
                promised = 0 if length in (0, 0xFFFFFFFF) else length
                return max(0, promised - (size - position - 8))
            position += 8 + length + length % 2
    return 0


def _one_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".").removeprefix("Error opening ") if str(error) else type(error).__name__


def write_wav(path: str | Path, wave: Waveform) -> None:
    """Write 16-bit PCM: to a temporary file first, so that no half file is ever seen under `path`. Raises InputError."""
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    try:
        with os.fdopen(handle, "wb") as file:
            soundfile.write(file, np.clip(wave.samples, -1, 1), wave.sample_rate, subtype="PCM_16", format="WAV")
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def check_writable(path: Path) -> None:
    """Raise InputError if `path` could not be written, before any work is done for it. Leaves nothing behind."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give a file to write")
    if path.suffix.lower() != ".wav":
        raise InputError(f"{path}: replies are written as WAV; give a name that ends in .wav")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def reference(path: Path, wave: Waveform, relative_to: Path | None = None) -> AudioRef:
    """The reference to keep in a record for a file that `wave` was written to or read from."""
    shown = path.relative_to(relative_to) if relative_to else path
    return AudioRef(
        path=str(shown),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        sample_rate=wave.sample_rate,
        duration_s=round(wave.duration_s, 6),
    )


def problems_of_ref(ref: AudioRef, folder: Path) -> list[str]:
    """What is wrong with the file behind a reference; empty when it is what the record says."""
    path = folder / ref.path
    if not path.is_file():
        return [f"{path}: no such file"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != ref.sha256:
        return [f"{path}: its content is not what was recorded (sha256 differs)"]
    info = soundfile.info(path)
    if info.samplerate != ref.sample_rate or abs(info.frames / info.samplerate - ref.duration_s) > 1e-3:
        seconds = info.frames / info.samplerate
        recorded = f"{ref.duration_s} s at {ref.sample_rate} Hz"
        return [f"{path}: {seconds:.3f} s at {info.samplerate} Hz, recorded as {recorded}"]
    return []
