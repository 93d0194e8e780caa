"""What replies are heard and read with: the same ears, networks and judge for every system.

The embedded ears expect what a counsellor may say: PocketSphinx with a language model of sentences that the embedded reasoner
writes to the grammar's training split, so to none of the items, and with noise under all speech alike. They halve the word error
of replies in that manner, and mishear others more often: of eight replies each, .20 and .63, where the generic model has .53
and .43. The share of a reply's sentences that they expect word for word is noted. Ears of other profiles expect nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

from cascade.asr.words import words_of
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Analyzer, Prompt, Recognizer, load_engine
from cascade.judging import quality
from cascade.profiles import StageConfig, load_profile
from cascade.reasoning import counsellor, openai
from cascade.reasoning.language import sentences
from cascade.turn import Transcript
from distill.comparison.judges import ReplyJudge, judge_at
from distill.teaching.make import known_cues
from distill.teaching.scenarios.plan import PlanOptions, planned

POCKETSPHINX = "pocketsphinx"
SCENARIOS, SEED = 800, 6006  # turns that the embedded ears' language model answers
NO_JUDGE = "no judge was named: give an OpenAI-compatible endpoint with --judge-url and --judge-model"
NO_UTMOS = "no engine here reads UTMOS22's published weights (utmos22_strong, a fairseq wav2vec 2.0); DNSMOS is measured instead"


class Scorer(Protocol):
    def score(self, speech: Waveform, cancel: CancelScope) -> float: ...


@dataclass(frozen=True)
class Tools:
    """None, and absent from `quality`: not to be had; `unmeasured` says why.

    `expected`: sentences that the ears expect, as `spoken_form` has them; `quality`: predictors of opinion scores, by measure;
    `reference`: the reference system's reply to an item, for likeness of voice.
    """

    ears: Recognizer | None = None
    emotion: Analyzer | None = None
    expected: frozenset[str] = frozenset()
    quality: Mapping[str, Scorer] = field(default_factory=dict)
    judge: ReplyJudge | None = None
    reference: Callable[[str], Waveform | None] = lambda _: None
    cancel: CancelScope = field(default_factory=CancelScope)


@contextmanager
def open_tools(
    *,
    profile: str = "embedded",
    judge: openai.Options | None = None,
    repeats: int = 3,
    reference: Callable[[str], Waveform | None] = lambda _: None,
) -> Iterator[Tools]:
    """`profile`: whose recognizer and emotion analyzer listen. Raises EngineUnavailable, ConfigError."""
    stages = load_profile(profile).stages
    with ExitStack() as cleanup:
        ears, expected = _ears(stages["asr"], cleanup)
        yield Tools(
            ears=ears,
            emotion=load_engine("emotion", stages["emotion"].engine, stages["emotion"].options),
            expected=expected,
            quality={} if _lacks_dnsmos() else {"speech_quality": quality.SpeechQuality()},
            judge=judge_at(judge, repeats=repeats) if judge else None,
            reference=reference,
        )


def unmeasured(judge: openai.Options | None) -> dict[str, str]:
    """Measures that cannot be had here, each with the reason and what would give it."""
    found = {"naturalness": NO_UTMOS}
    if why := _lacks_dnsmos():
        found["speech_quality"] = why
    return found if judge else found | dict.fromkeys(("judge_emotion", "judge_task"), NO_JUDGE)


def _lacks_dnsmos() -> str:
    gap = next((need for need in quality.needs() if need.fix), None)
    return f"DNSMOS needs {gap.name}: {gap.fix}" if gap else ""


# --- ears


def _ears(stage: StageConfig, cleanup: ExitStack) -> tuple[Recognizer, frozenset[str]]:
    if stage.engine != POCKETSPHINX:
        recognizer: Recognizer = load_engine("asr", stage.engine, stage.options)
        return recognizer, frozenset()
    expected = sentences_expected()
    folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="attune-ears-")))
    lines = folder / "expected.txt"
    lines.write_text("\n".join(expected), encoding="utf-8")
    engine = load_engine("asr", POCKETSPHINX, {**stage.options, "language_model": str(lines), "dither": "on"})
    cleanup.callback(engine.close)
    return engine, frozenset(map(spoken_form, expected))


@cache
def sentences_expected(count: int = SCENARIOS, seed: int = SEED) -> tuple[str, ...]:
    """Sentences that the counsellor writes to turns of the training split, told the true words and tone; the same every time."""
    engine, cancel = counsellor.load(counsellor.Options()), CancelScope()
    found: dict[str, None] = {}
    for scenario in planned(PlanOptions(turns=count, seed=seed, speak_share=0, validation_share=0, test_share=0)):
        assert scenario.text is not None, "the grammar's turns have words"
        prompt = Prompt(
            Transcript(text=scenario.text, engine="given"),
            known_cues(scenario.labels, 1.0),
            scenario.history,
            seed=scenario.seed,
        )
        found |= dict.fromkeys(line for line in engine.respond(prompt, cancel=cancel) if isinstance(line, str))
    return tuple(found)


def spoken_form(sentence: str) -> str:
    return " ".join(words_of(sentence))


def verbatim_share(text: str, expected: frozenset[str]) -> float:
    """Share of a reply's sentences that the ears expect word for word."""
    lines = [spoken_form(line) for line in sentences(text)]
    return sum(line in expected for line in lines) / len(lines) if lines else 0.0
