"""The gates between a turn and a training target. Each rejection begins with its gate's name."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from cascade.asr.words import word_error_rate, words_of
from cascade.audio import Waveform
from cascade.turn import Cues, Emotion, Failure, Transcript
from distill.teaching.records import Sample
from distill.teaching.settings import USER_WER, USUAL_USER_WER, Gates

GATES = (
    "failed", "user_length", "user_silence", "user_clipping", "user_wer", "user_emotion", "reply_length", "reply_silence",
    "reply_clipping", "clarify", "reply_wer", "reply_emotion", "empathy", "unsafe", "critic",
)  # fmt: skip
FRAME_S = 0.02
SILENT_DB = 40.0  # under the loudest frame
CLIPPED = 0.999
# How a request begins that a program may have to decline, or to answer about itself; a question mark says it anywhere.
REQUEST = re.compile(
    r"(?:(?:and|but|hey|hello|hi|oh|okay|so|well|please|attune) )*(?:who|whose|what|which|when|where|why|how|am|is|are|was|were"
    r"|do|does|did|can|could|will|would|may|should|have|has|tell|play|sing|say|repeat|read|set|start|stop|search|google|look"
    r"|turn|call|order|book|translate|spell|remind|pardon)\b"
)


def user_word_error(text: str | None, heard: Transcript | None) -> float | None:
    return word_error_rate(text, heard.text) if text and words_of(text) and heard is not None else None


def user_agreement(asked: Emotion | None, heard: Cues) -> float | None:
    """The probability that the analyzer gave to the emotion asked for; None: not asked, or it cannot tell."""
    if asked is None or heard.emotion is None or not heard.emotion.probabilities:
        return None
    return heard.emotion.probabilities.get(asked, 0.0)


def verdict(sample: Sample, gates: Gates, failures: tuple[Failure, ...] = ()) -> tuple[str, ...]:
    """Every reason against a row, empty when there is none."""
    if failures:
        return tuple(f"failed: {failure.stage} {failure.kind}: {failure.message}" for failure in failures)
    return (*_of_sound("user", sample.user_speech, gates.user_s, gates), *_of_user(sample, gates),
            *_of_sound("reply", sample.reply_speech, gates.reply_s, gates), *_of_strategy(sample, gates),
            *_of_reply(sample, gates))  # fmt: skip


def _of_sound(whose: str, wave: Waveform | None, length_s: tuple[float, float], gates: Gates) -> Iterator[str]:
    if wave is None:
        return
    low, high = length_s
    if not low <= wave.duration_s <= high:
        yield f"{whose}_length: {wave.duration_s:.1f} s, wanted {low:g} to {high:g}"
    if (share := silence_share(wave)) > gates.max_silence_share:
        yield f"{whose}_silence: {share:.0%} of it, at most {gates.max_silence_share:.0%}"
    clipped = float(np.mean(np.abs(wave.samples) >= CLIPPED)) if len(wave.samples) else 0.0
    if clipped > gates.max_clipped_share:
        yield f"{whose}_clipping: {clipped:.1%} of the samples at full scale, at most {gates.max_clipped_share:.1%}"


def silence_share(wave: Waveform) -> float:
    """Share of 20 ms frames more than 40 dB under the loudest; 1 where nothing is heard."""
    size = max(1, round(FRAME_S * wave.sample_rate))
    count = len(wave.samples) // size
    if not count:
        return 1.0
    power = np.mean(np.square(wave.samples[: count * size].reshape(count, size), dtype=np.float64), axis=1)
    return float(np.mean(power < power.max() * 10 ** (-SILENT_DB / 10))) if power.max() > 0 else 1.0


def _of_user(sample: Sample, gates: Gates) -> Iterator[str]:
    if sample.user_wer is not None and sample.transcript is not None:
        usual = USER_WER.get(sample.transcript.engine, USUAL_USER_WER)
        limit = usual if gates.max_user_wer is None else gates.max_user_wer
        if sample.user_wer > limit:
            yield f"user_wer: {sample.user_wer:.2f}, at most {limit:g}"
    asked, heard = sample.scenario.labels.emotion, sample.cues.emotion
    if gates.user_emotion_best and sample.user_emotion_agreement is not None and heard and heard.best != asked:
        yield f"user_emotion: sounds {heard.best}, asked for {asked}"


def _of_strategy(sample: Sample, gates: Gates) -> Iterator[str]:
    """Words that nobody wrote down are no proof that the user asked for something: they may be misheard."""
    asks = sample.thought is not None and sample.thought.strategy == "clarify"
    if not sample.scenario.followed and not asks:
        yield "clarify: the reply takes up words that nobody could follow"
    if not asks or not gates.clarify_requests_only or not sample.scenario.followed:
        return
    if sample.scenario.text is None:
        yield "clarify: the reply asks again or declines, and what was said is not known"
    elif not is_request(sample.scenario.text):
        yield "clarify: the reply asks again or declines, and nothing was asked for"


def is_request(text: str) -> bool:
    """A question, or something that the machine shall do."""
    return "?" in text or any(REQUEST.match(" ".join(words_of(part))) for part in re.split(r"[.!;]", text))


def _of_reply(sample: Sample, gates: Gates) -> Iterator[str]:
    scores = sample.scores
    if scores is None:
        return
    if gates.max_reply_wer is not None and scores.reply_wer is not None and scores.reply_wer > gates.max_reply_wer:
        yield f"reply_wer: {scores.reply_wer:.2f}, at most {gates.max_reply_wer:g}"
    if scores.emotion_agreement is not None and scores.emotion_agreement < gates.min_reply_emotion:
        yield f"reply_emotion: {scores.emotion_agreement:.2f} likely to be taken as meant, at least {gates.min_reply_emotion:g}"
    if sample.scenario.followed and scores.empathy is not None and scores.empathy < gates.min_empathy:
        yield f"empathy: {scores.empathy:.2f} by the rubric, at least {gates.min_empathy:g}"
    for complaint in scores.complaints:
        if complaint.startswith("hard to understand"):
            yield f"reply_wer: {complaint}"
        elif complaint.startswith("unsafe"):
            yield complaint
        elif not complaint.startswith("little empathy"):  # the gate of the same name has said it
            yield f"critic: {complaint}"
