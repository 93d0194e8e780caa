"""What a language model thinks of a reply, on the two scales of the field.

Emotion score 1–5 after Emotion Omni (arXiv 2508.18655, its "Emotion GPT score") and 0–100 per task after EChat-eval
(OSUM-EChat, arXiv 2508.09600). Like theirs, the judge reads the transcript, the labels heard, the reply's text and the emotion
of its voice; it hears no sound. The papers' own prompts are not public; these are Attune's. A model that judges its own replies
flatters them, so the judge is named with each opinion.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from cascade.cancel import CancelScope
from cascade.engines import LanguageModel, Message
from cascade.errors import EngineFailed
from cascade.turn import Cues, Opinion, Turn

PROMPTS = Path(__file__).with_name("prompts")
MAX_TOKENS = 160
Task = Literal["emotion", "age", "gender", "event", "several"]
IN_WORDS: dict[Task, str] = {
    "emotion": "the person's emotion",
    "age": "the person's age",
    "gender": "the person's gender",
    "event": "the sounds beside the words (laughing, coughing, sighing …)",
    "several": "the person's emotion, age, gender and the sounds beside the words, together",
}


@dataclass(frozen=True)
class Scale:
    name: Literal["emotion_1_5", "task_0_100"]
    low: float
    high: float


EMOTION, TASK = Scale("emotion_1_5", 1, 5), Scale("task_0_100", 0, 100)


def task_of(cues: Cues) -> Task | None:
    """Which of EChat-eval's five tasks a turn poses: what is known of its voice; None when nothing is."""
    named: dict[Task, bool] = {
        "emotion": cues.emotion is not None and cues.emotion.label not in (None, "neutral"),
        "age": cues.age is not None and cues.age.label in ("child", "elder"),
        "gender": cues.gender is not None and cues.gender.label is not None,
        "event": cues.events is not None and bool(cues.events.events),
    }
    posed = [task for task, known in named.items() if known]
    if len(posed) > 1 and posed != ["emotion", "gender"]:
        return "several"
    return posed[0] if posed else None


def opinion(
    judge: LanguageModel,
    turn: Turn,
    scale: Scale,
    *,
    task: Task | None,
    repeats: int,
    temperature: float,
    cancel: CancelScope,
) -> Opinion:
    """Ask `repeats` times with seeds of their own, so that the spread shows how sure the judge is.

    An answer that cannot be read is asked for once more. Raises EngineFailed when one still cannot, Cancelled.
    """
    messages = [Message("system", _instructions(scale, task)), Message("user", _case(turn))]
    answers = [_asked(judge, messages, scale, 2 * (turn.seed + k), temperature, cancel) for k in range(repeats)]
    scores = tuple(score for score, _ in answers)
    return Opinion(
        scale=scale.name,
        task=task if scale is TASK else None,
        score=round(fmean(scores), 3),
        scores=scores,
        reason=answers[0][1],
        judge=_name_of(judge),
    )


def _name_of(judge: LanguageModel) -> str:
    """Engine and model, for a score says little without who gave it."""
    model = judge.info.options.get("model")
    return f"{judge.info.name} {model}" if model else judge.info.name


def _asked(
    judge: LanguageModel, messages: Sequence[Message], scale: Scale, seed: int, temperature: float, cancel: CancelScope
) -> tuple[float, str]:
    problem = ""
    for retry in range(2):
        stream = judge.stream(
            messages, max_tokens=MAX_TOKENS, temperature=temperature, seed=seed + retry, top_logprobs=0, cancel=cancel
        )
        text = "".join(token.text for token in stream)
        try:
            return parsed(text, scale)
        except ValueError as error:
            problem = str(error)
    raise EngineFailed(f"the judge {judge.info.name} did not answer as asked: {problem}")


def parsed(text: str, scale: Scale) -> tuple[float, str]:
    """Score and reason of one JSON object, and nothing around it but a thought. Raises ValueError, in one line."""
    bare = re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.S).strip()
    shown = repr(bare[:60])
    try:
        answer = json.loads(bare)
    except json.JSONDecodeError:
        raise ValueError(f"{shown} is not one JSON object") from None
    if not isinstance(answer, dict) or set(answer) != {"score", "reason"}:
        raise ValueError(f"{shown} has not the keys score and reason alone")
    score, reason = answer["score"], answer["reason"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not scale.low <= score <= scale.high:
        raise ValueError(f"score {score!r} is not a number from {scale.low:g} to {scale.high:g}")
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError("the reason is empty")
    return float(score), " ".join(reason.split())


def _instructions(scale: Scale, task: Task | None) -> str:
    text = _file(scale.name)
    if task is not None:
        text = text.replace("{task}", IN_WORDS[task])
    form = _file("answer").replace("{low}", f"{scale.low:g}").replace("{high}", f"{scale.high:g}")
    return f"{text}\n{form}"


def _file(name: str) -> str:
    return (PROMPTS / f"{name}.txt").read_text(encoding="utf-8")


def _case(turn: Turn) -> str:
    assert turn.reply is not None
    cues = turn.cues
    events = cues.events.events if cues.events else None
    heard = {
        "emotion": cues.emotion.label if cues.emotion else None,
        "age": cues.age.label if cues.age else None,
        "gender": cues.gender.label if cues.gender else None,
        "sounds beside the words": "+".join(e.kind for e in events) or "none" if events is not None else None,
    }
    lines = [f"{name}: {value or 'unknown'}" for name, value in heard.items()]
    return "\n".join(
        [
            "PERSON",
            f"words: {turn.transcript.text if turn.transcript else ''}",
            *lines,
            "",
            "REPLY",
            f"words: {turn.reply.text}",
            f"emotion of its voice: {turn.reply.emotion}",
        ]
    )
