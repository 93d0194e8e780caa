"""F5-TTS: speech in the voice, and the emotion, of a reference clip (Chen et al. 2024, arXiv 2410.06885).

The clip carries the emotion, one clip for each in a voice bank (`voice_bank`); the library has no knob for how strong it is, so
`intensity` changes nothing here. Pace is the options' speed × the clip's × the reply's rate.

The library's own CFM.sample is called, one piece of text at a time, and not its `infer_process`: that one takes no seed, makes
all pieces in threads of a pool, where no scope of ours reaches them, and brings matplotlib and pydub. What it does around the
sampling is done here: the length of the speech by the bytes of the two texts, the reference at -20 dBFS or more.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import Field

from cascade.audio import Samples, Waveform
from cascade.cancel import CancelScope
from cascade.engines import Speech, sayable
from cascade.errors import EngineFailed, EngineUnavailable, InputError
from cascade.models import Checkpoint, checkpoint, described, locate
from cascade.native import NativeCalls
from cascade.needs import Device, Need, cuda_devices, device, extra, package
from cascade.tts.clip_check import MAX_S
from cascade.tts.emotions import NEUTRAL_DBFS
from cascade.tts.f5_files import VOCODER_FILES, voice_files, wanted
from cascade.tts.silence import trimmed
from cascade.tts.voice_bank import DEFAULT, Bank, BankName, Clip, add_line, bank_folder, load_bank
from cascade.turn import REPLY_EMOTIONS, EngineInfo, Record, ReplyEmotion

ENGINE = "f5"
SAMPLE_RATE, HOP = 24_000, 256
CLIP_DBFS = -20.0  # the library's: a softer clip is brought up to it
CLIP_TAIL_S = 0.05  # silence after the clip, as the library has it, so that no word runs into the speech
WINDOW_S = 22.0  # clip and speech together: what one piece may take, as the library has it
SHORT_BYTES, SHORT_SPEED = 10, 0.3  # the library's: a word or two gets time to spare; the silence it leaves is cut off
MARGIN_S, FADE_S, JOIN_S = 0.05, 0.005, 0.03  # silence left at the ends, fade there, cross-fade between pieces
HEADROOM = 0.98
SEEDS = 2**63
PACKAGES = {  # module → distribution
    "torch": "torch",
    "safetensors": "safetensors",
    "f5_tts": "f5-tts",
    "vocos": "vocos",
    "encodec": "encodec",
    "torchdiffeq": "torchdiffeq",
    "x_transformers": "x-transformers",
    "librosa": "librosa",
    "pypinyin": "pypinyin",
    "rjieba": "rjieba",
}

CLAUSE = re.compile(r"(?<=[;:,.!?…])\s+|(?<=[；：，。！？、])")


class Options(Record):
    """`voices`: a voice bank's name, or a folder. `nfe_steps`: steps of the flow; 16 is twice as fast and a little rougher.

    `cfg_strength`: how strictly it follows text and clip. `sway`: negative spends more steps on the beginning. `speed`: 1 = as
    the clips.
    """

    model: Checkpoint = "f5-tts-v1"
    vocoder: Checkpoint = "vocos-mel-24khz"
    device: Device = "auto"
    voices: BankName = DEFAULT
    nfe_steps: int = Field(default=32, ge=1, le=128)
    cfg_strength: float = Field(default=2.0, ge=0, le=10)
    sway: float = Field(default=-1.0, ge=-1, le=1)
    speed: float = Field(default=1.0, ge=0.5, le=2)


@dataclass(frozen=True, eq=False)
class _Voice:
    """A reference clip, ready: samples (T,) at 24 kHz, its text closed by punctuation, its speed."""

    samples: Samples
    text: str
    speed: float

    @property
    def bytes_per_frame(self) -> float:
        return len(self.text.encode()) / (len(self.samples) // HOP)

    def most_bytes(self, speed: float) -> int:
        """How long a piece of text may be, so that clip and speech stay within the window."""
        clip_s = len(self.samples) / SAMPLE_RATE
        return int(len(self.text.encode()) / clip_s * (WINDOW_S - clip_s) * speed)


class F5:
    def __init__(self, options: Options) -> None:
        from cascade.torch_tools import device_of, make_stoppable, quietly
        from cascade.tts.f5_checkpoint import vocoder, voice_model
        from cascade.tts.f5_library import library

        bank = _bank(options.voices)
        files, vocoder_folder = voice_files(options.model), locate(options.vocoder, VOCODER_FILES)
        self._options, self._device = options, device_of(options.device)
        self._voices = _voices(bank)
        found = library()
        with quietly():
            self._model = voice_model(found, files, self._device)
            self._vocoder = vocoder(found, vocoder_folder, self._device)
        make_stoppable(self._model.transformer)
        make_stoppable(self._vocoder)
        self._tokens = found.tokens
        self._calls = NativeCalls(ENGINE)
        self._shown = described(options, options.model, self._device) | {"vocoder": options.vocoder}
        self.info = self._info(bank, options.voices)

    def _info(self, bank: Bank, voices: str) -> EngineInfo:
        clips = {emotion: clip.wav.name for emotion, clip in bank.clips.items()}
        own = {"voices": voices, "clips": clips, "stand_ins": bank.stand_ins}
        return EngineInfo(name=ENGINE, version=version("f5-tts"), options={**self._shown, **own})

    def with_bank(self, bank: Bank) -> F5:
        """The same network with another voice. Raises EngineUnavailable: a clip that cannot be used."""
        other = copy.copy(self)
        other._voices, other.info = _voices(bank), self._info(bank, str(bank.folder))
        return other

    def speak(
        self, text: str, *, emotion: ReplyEmotion, intensity: float, rate: float, seed: int, cancel: CancelScope
    ) -> Speech:
        """One sentence at 24 kHz; F5 tells no word times. A long one is made in pieces, split between clauses.

        Raises InputError (nothing to say), EngineFailed, OutOfMemory, Cancelled.
        """
        voice = self._voices[emotion]
        speed = self._options.speed * voice.speed * rate
        pieces = split(sayable(text), voice.most_bytes(speed))

        def work() -> Speech:
            made = [self._said(piece, voice, speed, seed + place, cancel) for place, piece in enumerate(pieces)]
            return Speech(finished(made))

        # A step of the full model takes longer than a cancelled person should wait for a CPU: leave it to end by itself.
        return self._calls.run(work, cancel)

    def _said(self, text: str, voice: _Voice, speed: float, seed: int, cancel: CancelScope) -> Waveform:
        tokens = self._tokens([voice.text + text])
        own = self._tokens([text])[0]
        if not any(token.isalnum() and token in self._model.vocab_char_map for token in own):
            raise EngineFailed(
                f"{ENGINE}: the model's vocabulary has no letter of {text[:40]!r}; write it in its language"
            )
        size = len(text.encode())
        pace = min(speed, SHORT_SPEED) if size < SHORT_BYTES else speed
        frames = len(voice.samples) // HOP + int(size / voice.bytes_per_frame / pace)
        samples = self._sampled(voice, tokens, frames, seed, cancel)
        if not len(samples) or not np.isfinite(samples).all():
            raise EngineFailed(f"{ENGINE}: the model gave no number for {text[:40]!r}; get the checkpoint again")
        wave = trimmed(Waveform(samples, SAMPLE_RATE), MARGIN_S)
        if not len(wave.samples):
            raise EngineFailed(f"{ENGINE}: the model gave silence for {text[:40]!r}; try another clip")
        return wave

    def _sampled(self, voice: _Voice, tokens: list[list[str]], frames: int, seed: int, cancel: CancelScope) -> Samples:
        import torch

        from cascade.torch_tools import running
        from cascade.tts.f5_noise import noise_of

        options, clip_frames = self._options, len(voice.samples) // HOP
        clip = torch.from_numpy(voice.samples)[None].to(self._device)
        try:
            with running(ENGINE, cancel), noise_of(seed % SEEDS, self._device, until=self._model.transformer):
                mel, _ = self._model.sample(
                    cond=clip,
                    text=tokens,
                    duration=frames,
                    steps=options.nfe_steps,
                    cfg_strength=options.cfg_strength,
                    sway_sampling_coef=options.sway,
                )
                sound = self._vocoder.decode(mel[:, clip_frames:].float().transpose(1, 2))
        finally:
            self._model.transformer.clear_cache()  # a cancelled sampling leaves this text's embedding for the next
        samples: Samples = sound.squeeze().float().cpu().numpy()
        return samples


def _bank(name: str) -> Bank:
    try:
        return load_bank(bank_folder(name))
    except InputError as error:
        raise EngineUnavailable(str(error)) from error


def _voices(bank: Bank) -> dict[ReplyEmotion, _Voice]:
    """For every reply emotion its clip, or its stand-in's. Raises EngineUnavailable."""
    try:
        own = {emotion: _voice(clip) for emotion, clip in bank.clips.items()}
    except InputError as error:
        raise EngineUnavailable(str(error)) from error
    return {emotion: own[bank.served_by(emotion)] for emotion in REPLY_EMOTIONS}


def _voice(clip: Clip) -> _Voice:
    wave = trimmed(clip.wave(), 0.0)
    if wave.duration_s > MAX_S:
        raise InputError(f"{clip.wav}: {wave.duration_s:.1f} s of speech; F5-TTS reads at most {MAX_S:g} s: cut it")
    wave = wave.at_level(max(wave.level_dbfs, CLIP_DBFS))
    tail = np.zeros(round(CLIP_TAIL_S * SAMPLE_RATE), np.float32)
    return _Voice(np.concatenate([wave.samples, tail]), _closed(clip.text), clip.speed)


def _closed(text: str) -> str:
    """Ended by punctuation, and by a space after a letter of one byte: else the clip's last word runs on."""
    closed = text if text[-1] in ".!?…。！？" else text + "."
    return closed + " " if closed[-1].isascii() else closed


def split(text: str, most_bytes: int) -> list[str]:
    """Pieces of at most so many UTF-8 bytes, each as long as can be: between clauses, else words, else anywhere."""
    pieces: list[str] = []
    for clause in CLAUSE.split(text):
        for part in _parts(clause, most_bytes):
            joined = _together(pieces[-1], part) if pieces else part
            if pieces and len(joined.encode()) <= most_bytes:
                pieces[-1] = joined
            else:
                pieces.append(part)
    return [piece for piece in pieces if any(char.isalnum() for char in piece)]


def _parts(clause: str, most_bytes: int) -> list[str]:
    if len(clause.encode()) <= most_bytes:
        return [clause] if clause else []
    if " " in clause:
        return [part for word in clause.split() for part in _parts(word, most_bytes)]
    middle = len(clause) // 2
    if not middle:
        return [clause]
    return [*_parts(clause[:middle], most_bytes), *_parts(clause[middle:], most_bytes)]


def _together(left: str, right: str) -> str:
    return f"{left} {right}" if left[-1].isascii() else left + right


def finished(pieces: list[Waveform]) -> Waveform:
    """Pieces cross-faded into one, at the level of a calm reply, faded in and out at the ends. At least one piece."""
    samples = pieces[0].samples
    for piece in pieces[1:]:
        samples = _cross_faded(samples, piece.samples)
    wave = Waveform(samples, SAMPLE_RATE).at_level(NEUTRAL_DBFS)
    peak = float(np.abs(wave.samples).max())
    out = wave.samples * np.float32(min(1.0, HEADROOM / peak))
    ramp = np.linspace(0, 1, min(round(FADE_S * SAMPLE_RATE), len(out)), dtype=np.float32)
    out[: len(ramp)] *= ramp
    out[len(out) - len(ramp) :] *= ramp[::-1]
    return Waveform(out, SAMPLE_RATE)


def _cross_faded(left: Samples, right: Samples) -> Samples:
    width = min(round(JOIN_S * SAMPLE_RATE), len(left), len(right))
    ramp = np.linspace(0, 1, width, dtype=np.float32)
    overlap = left[len(left) - width :] * (1 - ramp) + right[:width] * ramp
    return np.concatenate([left[: len(left) - width], overlap, right[width:]])


def needs(options: Options) -> list[Need]:
    return [
        *(package(module, distribution, _installing()) for module, distribution in PACKAGES.items()),
        _model_need(options),
        checkpoint(options.vocoder, VOCODER_FILES),
        device(options.device),
        _bank_need(options),
    ]


def _installing() -> str:
    if cuda_devices():
        return extra("f5")
    return f"{extra('f5-cpu')} && pip install --no-deps -r {Path(__file__).with_name('f5-cpu.txt')}"


def _model_need(options: Options) -> Need:
    need = checkpoint(options.model, wanted(options.model))
    if need.fix:
        return need
    try:
        voice_files(options.model)
    except EngineUnavailable as error:
        return Need("checkpoint", need.name, str(error))
    return need


def _bank_need(options: Options) -> Need:
    folder = bank_folder(options.voices)
    shown = f"voices {options.voices}"
    try:
        load_bank(folder)
    except InputError as error:
        empty = not (folder / "bank.toml").exists()
        return Need("file", shown, add_line("neutral", folder) if empty else str(error))
    return Need("file", shown)


def load(options: Options) -> F5:
    return F5(options)
