"""How a student answers: the thinker writes, the talker speaks a few words behind it, and sound leaves as it is made.

Thinker and talker each keep their keys and values; the codec decodes chunk by chunk. Whoever takes the events one by one
holds the reins: nothing is computed before it is asked for, and `stop` is looked at before every step.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from e2e_model.at_work import Manner, Speaking, Stopped, Thinking
from e2e_model.encoder import CUES
from e2e_model.errors import ConfigProblem
from e2e_model.features import log_mel
from e2e_model.generate import device_of, prefill
from e2e_model.model import SpeechLM
from e2e_model.prompts import ALOUD, ANSWERING, HEARING, TASKS, ThinkForm
from e2e_model.respond import Audio, End, Ended, Event, Said, Text, Think
from e2e_model.think import FORMS, Piece, given_pieces, told
from e2e_model.tokenizer import BROKEN, Unit

CUES_BY = ("heads", "thinker")
USUAL = Manner()


@torch.inference_mode()  # as a decorator of a generator it holds while it computes, not while its taker does
def respond(
    lm: SpeechLM,
    samples: np.ndarray[Any, Any] | None,
    *,
    text: str | None = None,
    history: Sequence[Said] = (),
    task: str = "speech→speech",
    manner: Manner = USUAL,
) -> Iterator[Event]:
    """The student's answer to speech [N] at the configuration's rate, or to `text`, as it is made. Raises ConfigProblem."""
    _check(lm, samples, text, task, manner)
    thinking, speaking = None, None
    chance = torch.Generator().manual_seed(manner.seed)
    reason: Ended = "end"
    try:
        heard, pieces, thinking = _begin(lm, samples, text, history, task, manner, chance)
        think = heard
        if pieces is not None:
            shown = "".join(piece.text for piece in pieces if piece.known)
            think = told(lm.config.labels, heard, manner.think, shown + thinking.think(), given=bool(pieces))
        yield think
        if task in ALOUD:
            speaking = Speaking(lm, manner, chance, think.reply_emotion)
            ended = yield from _aloud(lm, thinking, speaking)
            reason = "end" if ended else "length"
        while (piece := thinking.more()) is not None:
            yield Text(piece)
        if thinking.cut:
            reason = "length"
    except Stopped:
        reason = "stopped"
    reply = lm.speller.text(thinking.reply) if thinking else ""
    steps = {"thinker": thinking.steps if thinking else 0, "talker": speaking.steps if speaking else 0}
    yield End(reason, reply.rstrip(BROKEN), steps)


@torch.inference_mode()
def speak(lm: SpeechLM, text: str, emotion: str | None, manner: Manner = USUAL) -> Iterator[Event]:
    """`text` as it stands, said in an emotion: for words that are not the thinker's to choose."""
    chance = torch.Generator().manual_seed(manner.seed)
    row = lm.prompter.row("speak", "none", text=text, reply=text, emotion=emotion)
    first, end = row.reply
    speaking = None
    try:
        if manner.stop():
            raise Stopped
        states, cached = prefill(lm, row, None)
        thinking = Thinking(lm, manner, chance, cached, states[-1], row.ids[first:end], list(states[first:end]), True)
        speaking = Speaking(lm, manner, chance, emotion)
        ended = yield from _aloud(lm, thinking, speaking)
        reason: Ended = "end" if ended else "length"
    except Stopped:
        reason = "stopped"
    yield End(reason, text, {"talker": speaking.steps if speaking else 0})


def _check(lm: SpeechLM, samples: np.ndarray[Any, Any] | None, text: str | None, task: str, manner: Manner) -> None:
    """Raises ConfigProblem."""
    for name, value, legal in (("task", task, TASKS), ("think", manner.think, FORMS), ("cues", manner.cues, CUES_BY)):
        if value not in legal:
            raise ConfigProblem(f"{name} {value!r}; legal are {', '.join(legal)}")
    least = lm.config.sample_rate // 40  # one window of the features
    if task in HEARING and (samples is None or len(samples) < least):
        raise ConfigProblem(
            f"task {task} hears speech, and got {0 if samples is None else len(samples)} samples; give it {least} or more"
        )
    if task not in HEARING and text is None:
        raise ConfigProblem(f"task {task} reads text, and got none; give it with text=")


def _aloud(lm: SpeechLM, thinking: Thinking, speaking: Speaking) -> Generator[Event, None, bool]:
    """Text and audio, interleaved; whether the talker ended by itself."""
    stream, rate = lm.codec.stream(), lm.codec.sample_rate
    frames: list[Tensor] = []
    most = int(lm.config.limits.speech_s * lm.codec.frame_rate)
    ended = False

    def sound(piece: Tensor) -> Iterator[Event]:
        if len(piece):
            yield Audio(piece.float().cpu().numpy(), rate)

    def made_of(frames: list[Tensor]) -> Tensor:
        if lm.talker.codes.levels is None:
            heard: Tensor = stream.push(torch.stack(frames, 1))
        else:
            heard = stream.push_levels(torch.stack(frames))
        return heard

    yield from _feel(lm, thinking, speaking)
    yield from _read(lm, thinking, speaking, beginning=True)
    if not thinking.reply:
        return True
    while speaking.frames < most:
        left = yield from _left(lm, thinking, speaking)
        made = speaking.write(may_read=left and speaking.how.order != "ratio", may_end=not left)
        if isinstance(made, str):
            ended = made == "end"
            if ended:
                break
            if speaking.how.order == "words":
                speaking.ask()
            yield from _read(lm, thinking, speaking)
            continue
        frames.append(made)
        if len(frames) == speaking.manner.chunk:
            yield from sound(made_of(frames))
            frames.clear()
        if speaking.how.order == "ratio" and speaking.since_read == speaking.how.write:
            yield from _read(lm, thinking, speaking)
    if frames:
        yield from sound(made_of(frames))
    yield from sound(stream.end())
    return ended


def _feel(lm: SpeechLM, thinking: Thinking, speaking: Speaking) -> Iterator[Event]:
    """Waits for the answer states that the emotion vector is the mean of."""
    wanted = lm.config.vector.states
    while len(thinking.states) < wanted and (piece := thinking.more()) is not None:
        yield Text(piece)
    states = thinking.states[:wanted] or [thinking.last]
    speaking.vector = lm.vector(torch.stack(states).float().mean(0, keepdim=True))


def _words(lm: SpeechLM, thinking: Thinking) -> list[list[Unit]]:
    """The words that are whole: the last one only when the reply is over."""
    words = lm.speller.words(thinking.reply)
    return words if thinking.over else words[:-1]


def _unread(lm: SpeechLM, thinking: Thinking, speaking: Speaking) -> bool:
    words = _words(lm, thinking)
    if speaking.how.order == "words":
        return speaking.words_read < len(words)
    return speaking.units_read < sum(map(len, words))


def _left(lm: SpeechLM, thinking: Thinking, speaking: Speaking) -> Generator[Event, None, bool]:
    """Whether there is text that the talker has not read; asks the thinker for some if need be."""
    while not (unread := _unread(lm, thinking, speaking)) and not thinking.over:
        if (piece := thinking.more()) is not None:
            yield Text(piece)
    return unread


def _read(lm: SpeechLM, thinking: Thinking, speaking: Speaking, beginning: bool = False) -> Iterator[Event]:
    """The talker's next portion of text."""
    if speaking.how.order == "words":
        wanted = speaking.words_read + (speaking.how.ahead + 1 if beginning else 1)
        while len(_words(lm, thinking)) < wanted and (piece := thinking.more()) is not None:
            yield Text(piece)
        words = _words(lm, thinking)[speaking.words_read : wanted]
        speaking.words_read += len(words)
        units = [unit for word in words for unit in word]
    elif speaking.how.order == "units":
        wanted = speaking.units_read + speaking.how.ahead + 1  # it, and what comes after it
        while sum(map(len, _words(lm, thinking))) < wanted and (piece := thinking.more()) is not None:
            yield Text(piece)
        known = [unit for word in _words(lm, thinking) for unit in word]
        speaking.read_next(known, thinking.states)
        return
    else:
        wanted = speaking.units_read + speaking.how.read
        while sum(map(len, _words(lm, thinking))) < wanted and (piece := thinking.more()) is not None:
            yield Text(piece)
        units = [unit for word in _words(lm, thinking) for unit in word][speaking.units_read : wanted]
        speaking.units_read += len(units)
        speaking.since_read = 0
    speaking.read(units, thinking.states)


def _begin(
    lm: SpeechLM,
    samples: np.ndarray[Any, Any] | None,
    text: str | None,
    history: Sequence[Said],
    task: str,
    manner: Manner,
    chance: torch.Generator,
) -> tuple[Think, list[Piece] | None, Thinking]:
    """Hears and reads. What was heard, what of the think is given (None: there is none), and the thinker before its word."""
    if manner.stop():
        raise Stopped
    think, audio = Think(heard=text), None
    if task in HEARING and samples is not None:
        think, audio = hear(lm, samples)
    form: ThinkForm = manner.think if task in ANSWERING else "none"
    believed = think.sure is None or think.sure >= (lm.least_sure or 0.0)
    pieces = given_pieces(think, form, manner.cues == "heads" or task not in HEARING, believed=believed)
    row = lm.prompter.row(
        task,
        form,
        speech=len(audio) if audio is not None else 0,
        text=None if task in HEARING else text,
        history=history,
        pieces=pieces,
    )
    if manner.stop():
        raise Stopped
    states, cached = prefill(lm, row, audio)
    return think, pieces, Thinking(lm, manner, chance, cached, states[-1])


def hear(lm: SpeechLM, samples: np.ndarray[Any, Any]) -> tuple[Think, Tensor | None]:
    """What the encoder tells by itself, and the adapter's states [A, H] if the thinker hears them."""
    device = device_of(lm)
    mel = torch.from_numpy(log_mel(samples, mels=lm.config.mels, sample_rate=lm.config.sample_rate)).to(device)
    beside = None
    if lm.emotion_frames is not None:
        beside = [torch.from_numpy(lm.emotion_frames(samples)).to(device)]
    _, ctc, cues, audio, _ = lm.listen([mel], None, beside)
    told = {name: cues[name][0].float() for name in CUES if name in lm.config.told}
    shares = {name: x.sigmoid() if name == "events" else x.softmax(-1) for name, x in told.items()}
    named = {
        name: dict(zip(getattr(lm.config.labels, name), share.tolist(), strict=True)) for name, share in shares.items()
    }
    best: dict[str, Any] = {name: max(p, key=lambda k: p[k]) for name, p in named.items() if name != "events"}
    if "events" in named:
        best["events"] = tuple(label for label, share in named["events"].items() if share > 0.5)
    return Think(
        heard=lm.words(ctc), sure=lm.sureness(ctc), probabilities=named, **best
    ), audio if lm.config.thinker.hears else None
