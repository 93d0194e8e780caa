"""The embedded judge: hears the reply again, and reads it against what was said and how."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from cascade.asr.words import word_error_rate, words_of
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Ears, Prompt
from cascade.needs import Need
from cascade.reasoning.critic import complaints, empathy
from cascade.turn import Cues, EngineInfo, Exchange, Record, ReplyEmotion, Scores, Transcript, Turn

# Which of the analyzer's emotions a reply emotion may be taken for. It has no word for comfort: calm or low is right.
SOUNDS_LIKE: dict[ReplyEmotion, tuple[str, ...]] = {
    "joyful": ("happy", "surprised"),
    "happy": ("happy",),
    "surprised": ("surprised", "happy"),
    "angry": ("angry",),
    "disgusted": ("disgusted", "angry"),
    "afraid": ("fearful",),
    "sad": ("sad",),
    "tearful": ("sad", "fearful"),
    "sorry": ("sad", "neutral"),
    "comforting": ("neutral", "sad"),
    "neutral": ("neutral",),
}


class Options(Record):
    """Limits of the gate. A reply beyond one of them is said again, with the reason."""

    max_reply_wer: float = Field(default=0.6, ge=0)  # a recognizer this small mishears good synthetic speech, too
    min_empathy: float = Field(default=0.5, ge=0, le=1)


class Listener:
    def __init__(self, options: Options) -> None:
        self.info = EngineInfo(name="listener", version="1", options=options.model_dump(exclude_defaults=True))
        self._options = options

    def judge(
        self, turn: Turn, speech: Waveform, *, ears: Ears, history: Sequence[Exchange], cancel: CancelScope
    ) -> Scores:
        assert turn.reply is not None
        heard = ears.recognizer.transcribe(speech, cancel=cancel) if ears.recognizer else None
        cues = ears.emotion.analyze(speech, baseline=None, cancel=cancel)
        cancel.check()
        prompt = Prompt(turn.transcript or Transcript(text="", engine="none"), turn.cues, history)
        wer = word_error_rate(turn.reply.text, heard.text) if heard and words_of(turn.reply.text) else None
        score = empathy(prompt, turn.reply)
        return Scores(
            listen_back=heard.text if heard else None,
            reply_wer=wer,
            emotion_agreement=agreement(turn.reply.emotion, cues),
            empathy=score,
            complaints=(*complaints(prompt, turn.reply), *self._limits(wer, score)),
            unmeasured=() if heard else ("reply_wer: this reply was not listened to",),
            engine=self.info.name,
        )

    def _limits(self, wer: float | None, score: float) -> list[str]:
        found = []
        if wer is not None and wer > self._options.max_reply_wer:
            found.append(f"hard to understand: word error rate {wer:.2f} when listened to")
        if score < self._options.min_empathy:
            found.append(f"little empathy: {score:.2f} by the rubric")
        return found


def agreement(emotion: ReplyEmotion, cues: Cues) -> float | None:
    """Probability that the reply's voice is taken for its emotion; None when the analyzer cannot tell."""
    if cues.emotion is None or not cues.emotion.probabilities:
        return None
    return min(1.0, sum(cues.emotion.probabilities.get(label, 0.0) for label in SOUNDS_LIKE[emotion]))


def needs(options: Options) -> list[Need]:
    return []


def load(options: Options) -> Listener:
    return Listener(options)
