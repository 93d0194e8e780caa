"""Words by Whisper, through faster-whisper (MIT) on CTranslate2: one utterance of a turn, or many at once for teaching.

Decoding is beam search at temperature 0 alone. The library's fallback samples at higher temperatures, from generators that each
of CTranslate2's threads seeds once: with it the same sound would not give the same words. For the same reason nothing is carried
from one 30-second window to the next: a loop of repeated words, which the fallback would have broken, ends with its window.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import Field

from cascade.asr.whisper_checkpoint import (
    FILES,
    ComputeType,
    cuda_or_cpu,
    device_of,
    loaded,
)
from cascade.audio import SAMPLE_RATE, Samples, Waveform
from cascade.cancel import CancelScope
from cascade.errors import AttuneError, Cancelled, ConfigError, EngineFailed, OutOfMemory, is_out_of_memory, one_line
from cascade.models import Checkpoint, checkpoint, described, locate
from cascade.native import NativeCalls
from cascade.needs import Device, Need, extra, package
from cascade.turn import EngineInfo, Record, Transcript, Word

if TYPE_CHECKING:
    from faster_whisper.transcribe import Segment

Item = TypeVar("Item")

WINDOW_S = 30  # what Whisper hears at once
# Utterances of a batch lie this far apart in the library's time line. It shortens a long word after a pause of over 2.8 s
# (4 × 0.7 s): behind 3 s of nothing each utterance is treated so, whoever its neighbours are.
SLOT_S = WINDOW_S + 3
FRAMES_PER_S = 100  # of the library's time line
# Whisper's own rule for nothing said: no speech is likelier than the one, and the tokens' mean log probability below the other.
NO_SPEECH, UNLIKELY = 0.6, -1.0
LANGUAGE_SURE = 0.5  # probability from which a detected language is told


class Options(Record):
    """`language`: Whisper's code, as en; none: detected for each utterance. `hotwords`: names and terms to expect.

    `vad`: leave out what Silero VAD hears no speech in. `max_new_tokens`: of each 30 s window; none: Whisper's limit.
    `batch_size`: utterances decoded together in teaching. `compute_type`: auto is float16 on CUDA, int8 on the CPU.
    """

    model: Checkpoint = "whisper-large-v3"
    device: Device = "auto"
    compute_type: ComputeType = "auto"
    language: str | None = None
    beam_size: int = Field(default=5, ge=1, le=20)
    vad: bool = True
    hotwords: str | None = None
    max_new_tokens: int | None = Field(default=None, ge=1, le=224)
    batch_size: int = Field(default=16, ge=1, le=256)
    cpu_threads: int = Field(default=1, ge=1, le=64)


@dataclass(frozen=True, eq=False)
class _Utterance:
    """Its speech at 16 kHz, pauses of 2 s and more cut out; `spans`: where that was, in samples of the whole."""

    samples: Samples
    spans: list[dict[str, int]]
    duration_s: float


class FasterWhisper:
    """Probabilities of words are the mean of their tokens'; the confidence of a transcript is the mean of its words'."""

    def __init__(self, options: Options) -> None:
        folder, device = locate(options.model, FILES), device_of(options.device)
        self._options = options
        self._model = loaded(folder, device, options.compute_type, options.cpu_threads)
        if options.language is not None and options.language not in self._model.supported_languages:
            legal = ", ".join(sorted(self._model.supported_languages))
            raise ConfigError(f"[asr] language = {options.language!r}: this model knows {legal}")
        self._calls = NativeCalls("faster-whisper")
        self.info = EngineInfo(
            name="faster_whisper",
            version=version("faster-whisper"),
            options=described(options, options.model, device) | {"compute_type": self._model.model.compute_type},
        )

    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        """Words of one utterance of any length. `text` is empty and `confidence` 0 when no speech is heard in it.

        Raises OutOfMemory, EngineFailed, Cancelled.
        """
        return self._calls.run(lambda: self._alone(self._utterance(speech), cancel), cancel)

    def transcribe_many(self, speeches: Sequence[Waveform], *, cancel: CancelScope) -> list[Transcript]:
        """The transcripts of many utterances, in their order; those of at most 30 s are decoded `batch_size` at once.

        A batch that does not fit into memory is tried again at half its size. Raises OutOfMemory when a single one does not
        fit, EngineFailed, Cancelled.
        """
        return self._calls.run(lambda: self._many(speeches, cancel), cancel)

    def _many(self, speeches: Sequence[Waveform], cancel: CancelScope) -> list[Transcript]:
        utterances = []
        for speech in speeches:
            cancel.check()
            utterances.append(self._utterance(speech))
        found: dict[int, Transcript] = {}
        short = [index for index, one in enumerate(utterances) if 0 < len(one.samples) <= WINDOW_S * SAMPLE_RATE]
        short.sort(key=lambda index: len(utterances[index].samples))  # a batch lasts as long as its longest
        at, size = 0, self._options.batch_size
        while at < len(short):
            cancel.check()
            members = short[at : at + size]
            try:
                found |= zip(members, self._batch([utterances[index] for index in members], cancel), strict=True)
                at += len(members)
            except OutOfMemory:
                if len(members) == 1:
                    raise
                size = len(members) // 2
        for index in range(len(utterances)):
            if index not in found:
                found[index] = self._alone(utterances[index], cancel)
        return [found[index] for index in range(len(utterances))]

    def _utterance(self, speech: Waveform) -> _Utterance:
        wave = speech.checked().resampled(SAMPLE_RATE)
        spans = [{"start": 0, "end": len(wave.samples)}]
        if self._options.vad:
            with self._library(batch=1):
                spans = _speech_spans(wave)
        parts = [wave.samples[span["start"] : span["end"]] for span in spans]
        return _Utterance(np.concatenate([np.zeros(0, np.float32), *parts]), spans, speech.duration_s)

    def _alone(self, utterance: _Utterance, cancel: CancelScope) -> Transcript:
        if not len(utterance.samples):
            return self._transcript(utterance, [], None)
        with self._library(batch=1):
            cancel.check()
            [(language, probability)] = self._languages([utterance.samples[: WINDOW_S * SAMPLE_RATE]])
            cancel.check()
            segments, _ = self._model.transcribe(utterance.samples, language=language, **self._decoding())
            said = list(_checked(segments, cancel))
        return self._transcript(utterance, said, language if probability >= LANGUAGE_SURE else None)

    def _batch(self, utterances: list[_Utterance], cancel: CancelScope) -> list[Transcript]:
        """Decoded together, those of each language: a batch of the library's has one."""
        said: list[list[Segment]] = [[] for _ in utterances]
        with self._library(batch=len(utterances)):
            languages = self._languages([utterance.samples for utterance in utterances])
            order = sorted(range(len(utterances)), key=lambda index: languages[index][0])
            for language, group in groupby(order, key=lambda index: languages[index][0]):
                members = list(group)
                segments = self._decoded([utterances[index].samples for index in members], language)
                for member, segment in _checked(segments, cancel):
                    said[members[member]].append(segment)
        told = [language if probability >= LANGUAGE_SURE else None for language, probability in languages]
        return [self._transcript(*each) for each in zip(utterances, said, told, strict=True)]

    def _decoded(self, clips: list[Samples], language: str) -> Iterator[tuple[int, Segment]]:
        """Each segment with the number of its clip, and its times from the clip's beginning.

        The library batches the clips of one long recording. Each lies in a slot of its own there, whose beginning, a whole
        second, comes back as the segment's `seek`, in frames. The first slot stays empty, so that all have 3 s before them.
        """
        from faster_whisper import BatchedInferencePipeline

        slot = SLOT_S * SAMPLE_RATE
        whole = np.zeros(slot * (len(clips) + 1), np.float32)
        bounds = []
        for number, clip in enumerate(clips, start=1):
            start, end = slot * number, slot * number + len(clip)
            whole[start:end] = clip
            # Half a sample more: the library cuts the product of seconds and rate down to a whole number.
            bounds.append({"start": (start + 0.5) / SAMPLE_RATE, "end": (end + 0.5) / SAMPLE_RATE})
        segments, _ = BatchedInferencePipeline(self._model).transcribe(
            whole,
            language=language,
            clip_timestamps=bounds,
            batch_size=len(clips),
            without_timestamps=False,
            **self._decoding(),
        )
        for segment in segments:
            number = segment.seek // (SLOT_S * FRAMES_PER_S)
            for word in segment.words or ():
                word.start -= number * SLOT_S
                word.end -= number * SLOT_S
            yield number - 1, segment

    def _decoding(self) -> dict[str, Any]:
        return {
            "beam_size": self._options.beam_size,
            "temperature": 0.0,
            "condition_on_previous_text": False,
            "word_timestamps": True,
            "hotwords": self._options.hotwords,
            "max_new_tokens": self._options.max_new_tokens,
        }

    def _languages(self, clips: list[Samples]) -> list[tuple[str, float]]:
        """Code and probability of each clip's language; given or the only one: 1. At most 30 s each."""
        from faster_whisper.audio import pad_or_trim

        if self._options.language or not self._model.model.is_multilingual:
            return [(self._options.language or "en", 1.0)] * len(clips)
        # As the library cuts them for decoding, so that the encoder's output serves both.
        features = np.stack([pad_or_trim(self._model.feature_extractor(clip)[..., :-1]) for clip in clips])
        answers = self._model.model.detect_language(self._model.encode(features))
        return [(answer[0][0].strip("<|>"), float(answer[0][1])) for answer in answers]

    def _transcript(self, utterance: _Utterance, segments: Iterable[Segment], language: str | None) -> Transcript:
        said = [segment for segment in segments if segment.text.strip() and not _is_silence(segment)]
        words = _words(utterance, said)
        text = " ".join("".join(segment.text for segment in said).split())
        confidence = sum(word.probability for word in words) / len(words) if words else None
        return Transcript(
            text=text,
            language=language if text else self._options.language,
            words=words,
            confidence=min(confidence, 1.0) if confidence is not None else None if text else 0.0,
            engine=self.info.name,
        )

    @contextlib.contextmanager
    def _library(self, *, batch: int) -> Iterator[None]:
        """The library's errors as Attune's; what it heard is not kept."""
        try:
            yield
        except (AttuneError, Cancelled):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                advice = 'take compute_type = "int8_float16" or "int8", a smaller model, or free the device'
                raise OutOfMemory(f"faster_whisper: out of memory with a batch of {batch}; {advice}") from error
            raise EngineFailed(f"faster_whisper: {one_line(error)}") from error
        finally:
            self._model.forget()


def _checked(items: Iterable[Item], cancel: CancelScope) -> Iterator[Item]:
    """The library works as it is iterated."""
    for item in items:
        cancel.check()
        yield item


def _speech_spans(wave: Waveform) -> list[dict[str, int]]:
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    if not len(wave.samples):
        return []
    spans: list[dict[str, int]] = get_speech_timestamps(wave.samples, VadOptions())
    return spans


def _is_silence(segment: Segment) -> bool:
    """As the library judges it for one utterance; in batches it leaves that to the caller."""
    return bool(segment.no_speech_prob > NO_SPEECH and segment.avg_logprob <= UNLIKELY)


def _words(utterance: _Utterance, segments: Iterable[Segment]) -> tuple[Word, ...]:
    """Words with times of the whole utterance. Raises EngineFailed for a probability or time that is none."""
    from faster_whisper.vad import SpeechTimestampsMap

    original, out = SpeechTimestampsMap(utterance.spans, SAMPLE_RATE), []
    for word in (word for segment in segments for word in segment.words or () if word.word.strip()):
        if not np.isfinite([word.start, word.end, word.probability]).all():
            raise EngineFailed(f"faster_whisper: the word {word.word!r} has no number for its time or probability")
        span = original.get_chunk_index(max(0.0, (word.start + word.end) / 2))
        start_s, end_s = (float(original.get_original_time(time, span)) for time in (word.start, word.end))
        start_s = min(max(start_s, 0.0), utterance.duration_s)
        end_s = min(max(end_s, start_s), utterance.duration_s)
        probability = min(max(float(word.probability), 0.0), 1.0)
        out.append(Word(text=word.word.strip(), start_s=start_s, end_s=end_s, probability=probability))
    return tuple(out)


def needs(options: Options) -> list[Need]:
    return [
        package("faster_whisper", "faster-whisper", extra("whisper")),
        package("ctranslate2", "ctranslate2", extra("whisper")),
        checkpoint(options.model, FILES),
        cuda_or_cpu(options.device),
    ]


def load(options: Options) -> FasterWhisper:
    """Raises EngineUnavailable, ConfigError."""
    return FasterWhisper(options)
