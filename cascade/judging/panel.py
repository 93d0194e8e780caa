"""The gpu profile's judge: what the listener measures, with the speech's predicted quality and a language model's opinions.

It listens with the profile's own recognizer (Whisper) and emotion analyzer (emotion2vec).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Ears, LanguageModel
from cascade.errors import EngineError
from cascade.judging import listener, quality
from cascade.judging.opinions import EMOTION, TASK, opinion, task_of
from cascade.needs import Need
from cascade.reasoning import crisis, openai
from cascade.turn import EngineInfo, Exchange, Opinion, Record, Scores, Turn


class Options(Record):
    """`opinions`: who gives them: the reasoner's own model, which flatters itself; another by `endpoint`; or nobody.

    `repeats`: how often each question is asked. `endpoint`: options of reasoning=openai.
    """

    max_reply_wer: float = Field(default=0.3, ge=0)  # Whisper mishears little: what it misses, a person may, too
    min_empathy: float = Field(default=0.5, ge=0, le=1)
    min_quality: float = Field(default=2.0, ge=1, le=5)  # DNSMOS below which speech is tiring to hear
    opinions: Literal["reasoner", "endpoint", "none"] = "none"
    endpoint: openai.Options | None = None
    repeats: int = Field(default=3, ge=1, le=10)
    temperature: float = Field(default=0.7, ge=0, le=2)

    @model_validator(mode="after")
    def _endpoint_is_given(self) -> Self:
        if (self.opinions == "endpoint") != (self.endpoint is not None):
            raise ValueError('opinions = "endpoint" and a table [judging.endpoint] go together')
        return self


class Panel:
    def __init__(self, options: Options) -> None:
        self.info = EngineInfo(
            name="panel", version="1", options=options.model_dump(mode="json", exclude_defaults=True)
        )
        self._options = options
        self._listener = listener.load(
            listener.Options(max_reply_wer=options.max_reply_wer, min_empathy=options.min_empathy)
        )
        self._quality = quality.SpeechQuality()
        self._endpoint = openai.language_model(options.endpoint) if options.endpoint else None

    def judge(
        self, turn: Turn, speech: Waveform, *, ears: Ears, history: Sequence[Exchange], cancel: CancelScope
    ) -> Scores:
        scores = self._listener.judge(turn, speech, ears=ears, history=history, cancel=cancel)
        mos = self._quality.score(speech, cancel=cancel)
        given, lacking = self._opinions(turn, ears.language_model, cancel)
        complaints = scores.complaints
        if mos < self._options.min_quality:
            complaints = (
                *complaints,
                f"poor sound: DNSMOS {mos:.2f}, at least {self._options.min_quality:g} is wanted",
            )
        return scores.model_copy(
            update={
                "speech_quality": mos,
                "opinions": given,
                "unmeasured": (*scores.unmeasured, *lacking),
                "complaints": complaints,
                "engine": self.info.name,
            }
        )

    def _opinions(
        self, turn: Turn, thinker: LanguageModel | None, cancel: CancelScope
    ) -> tuple[tuple[Opinion, ...], tuple[str, ...]]:
        """A judge that fails leaves its scale unmeasured, with the reason: the other scores stand."""
        if self._options.opinions == "none":
            return (), ()
        if in_crisis(turn):
            return (), ("opinions: words of crisis are shown to no language model",)
        judge = self._endpoint if self._options.opinions == "endpoint" else thinker
        if judge is None:
            return (), ("opinions: the profile's reasoner is no language model; name another by [judging] endpoint",)
        task = task_of(turn.cues)
        given, lacking = [], []
        for scale in (EMOTION, TASK):
            if scale is TASK and task is None:
                lacking.append("task_0_100: the voice told nothing that a reply could take into account")
                continue
            try:
                repeats, temperature = self._options.repeats, self._options.temperature
                given.append(
                    opinion(judge, turn, scale, task=task, repeats=repeats, temperature=temperature, cancel=cancel)
                )
            except EngineError as error:
                lacking.append(f"{scale.name}: {error}")
        return tuple(given), tuple(lacking)


def in_crisis(turn: Turn) -> bool:
    """Whether a turn is shown to no language model: words of crisis, or an answer that takes them for such."""
    said = turn.transcript.text if turn.transcript else ""
    careful = turn.thought is not None and turn.thought.strategy == "care"
    return careful or crisis.detect(said) is not None


def needs(options: Options) -> list[Need]:
    return [*quality.needs(), *(openai.needs(options.endpoint) if options.endpoint else [])]


def load(options: Options) -> Panel:
    return Panel(options)
