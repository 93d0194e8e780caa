"""Thinker and talker at work on one reply: each keeps its keys and values, and makes one step when it is asked to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from e2e_model.generate import Cached, device_of, sampled, thrice
from e2e_model.model import SpeechLM
from e2e_model.prompts import ThinkForm
from e2e_model.think import CLOSE
from e2e_model.tokenizer import BROKEN, Unit


class Stopped(Exception):
    """The person stopped the reply."""


@dataclass(frozen=True)
class Manner:
    """How to answer. think: its form; cues: who writes what the tag think heard, the encoder's heads (in one pass) or the
    thinker; vector: whether the emotion vector moves the voice; temperature: of the thinker's words (0: the likeliest);
    speech_temperature: of the codec tokens; chunk: frames that leave at once."""

    think: ThinkForm = "tag"
    cues: str = "heads"
    vector: bool = True
    temperature: float = 0.0
    speech_temperature: float = 0.3
    chunk: int = 12
    seed: int = 0
    stop: Callable[[], bool] = lambda: False


@dataclass
class Thinking:
    """The thinker at work: what it has written, and its state at each token of the reply."""

    lm: SpeechLM
    manner: Manner
    chance: torch.Generator
    row: Cached
    last: Tensor  # [H] the state that the next token is written from
    reply: list[int] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)  # [H] each
    over: bool = False
    cut: bool = False  # it ran into the limit
    steps: int = 0

    def write(self) -> int:
        """The next token, and the state it leads to."""
        if self.manner.stop():
            raise Stopped
        logits = self.lm.token_logits(self.last[None])[0]
        if stale := thrice(self.reply):
            logits[list(stale)] = -torch.inf
        token = sampled(logits, self.manner.temperature, self.chance)
        self.steps += 1
        self.push([token])
        return token

    def push(self, tokens: Sequence[int]) -> Tensor:
        if not tokens:
            return self.last[None][:0]
        ids = torch.tensor(list(tokens), device=self.last.device)
        states = self.row.push(self.lm.tokens(ids))
        self.last = states[-1]
        return states

    def think(self) -> str:
        """Writes until the think is closed; its text."""
        written: list[int] = []
        for _ in range(self.lm.config.limits.think_tokens):
            token = self.write()
            if token == self.lm.speller.stop:  # no reply came yet
                break
            written.append(token)
            text = self.lm.speller.text(written)
            if CLOSE in text:
                return text.split(CLOSE)[0]
        self.push(self.lm.speller.ids(CLOSE))
        return self.lm.speller.text(written)

    def more(self) -> str | None:
        """The next piece of the reply; None when it is over."""
        if self.over:
            return None
        token = self.write()
        self.cut = token != self.lm.speller.stop and len(self.reply) >= self.lm.config.limits.reply_tokens
        if token == self.lm.speller.stop or self.cut:
            self.over = True
            return None
        self.reply.append(token)
        self.states.append(self.last)
        # As far as whole characters go: one may be spread over several tokens.
        before, now = self.lm.speller.text(self.reply[:-1]), self.lm.speller.text(self.reply)
        return now[len(before.rstrip(BROKEN)) :].rstrip(BROKEN)


class Speaking:
    """The talker at work: reads words as they are there, writes frames."""

    def __init__(self, lm: SpeechLM, manner: Manner, chance: torch.Generator, emotion: str | None) -> None:
        names = lm.config.labels.reply_emotion
        self.lm, self.manner, self.chance = lm, manner, chance
        self.talker, self.how = lm.talker, lm.config.talker
        self.row = Cached(lm.talker.decoder)
        told = torch.tensor([names.index(emotion) if emotion in names else len(names)], device=device_of(lm))
        self.last = self.row.push(self.talker.emotions(told))[-1]
        self.vector: Tensor | None = None  # [1, V]
        self.words_read = self.units_read = self.since_read = self.frames = self.steps = 0
        self._stay()
        self.near: list[Tensor] = []  # [1, D] each: the units as they are without their neighbours
        self.at: Tensor | None = None  # [1, D] the unit that is spoken, with its neighbours

    def read(self, units: Sequence[Unit], states: Sequence[Tensor]) -> None:
        """Units with the thinker's states [H] of the tokens they belong to."""
        if units:
            self.last = self.row.push(self._embedded(units, states))[-1]

    def read_next(self, known: Sequence[Unit], states: Sequence[Tensor]) -> None:
        """The next of all units as far as they are known, which is as far as this one's neighbours."""
        beside = self.talker.beside
        assert beside is not None, "this talker reads its units one by one"
        if self.units_read == len(known):
            return
        until = self.units_read + beside.reach + 1
        if new := known[len(self.near) : until]:
            self.near += [unit[None] for unit in self._embedded(new, states)]
        first = max(0, self.units_read - beside.reach)
        near = torch.cat(self.near[first:until])
        made = beside(near, near.new_zeros(len(near), dtype=torch.long))
        self.at = made[self.units_read - first][None]
        self.last = self.row.push(self.at)[-1]
        self.units_read += 1
        self.since_read = 0

    def _embedded(self, units: Sequence[Unit], states: Sequence[Tensor]) -> Tensor:
        """[U, D]."""
        assert self.vector is not None, "the vector comes before the first unit"
        ids = torch.tensor([unit.id for unit in units], device=self.last.device)
        hidden = torch.stack([states[unit.token] for unit in units])
        wanted = self.manner.vector and self.lm.config.vector.size > 0  # no data: the head has learnt nothing
        on = torch.full((len(units),), wanted, device=ids.device)
        return self.talker.embed_units(ids, hidden, self.vector.expand(len(units), -1), on)

    def ask(self) -> None:
        """The place of a READ."""
        code = torch.tensor([self.talker.read], device=self.last.device)
        self.last = self.row.push(self.talker.codes(code))[-1]

    def write(self, *, may_read: bool, may_end: bool) -> Tensor | str:
        """The next frame, or "read", or "end". A frame is its codes [K]; where codes have levels, those to be expected of it
        [K · places]: the talker goes on from the codes, but what lies between two levels sounds better than either."""
        if self.manner.stop():
            raise Stopped
        logits = self.talker.logits(self.last[None])[0].float()
        if not may_read:
            logits[self.talker.read] = -torch.inf
        if not may_end:
            logits[self.talker.end] = -torch.inf
        code = self.chosen(logits)
        self.steps += 1
        if code == self.talker.read:
            return "read"
        return "end" if code == self.talker.end else self._frame(code, logits[: self.talker.codebook_size])

    def chosen(self, logits: Tensor) -> int:
        """A code, READ or END. Going on is one outcome against a thousand codes: a low temperature would choose it whenever it is
        the likeliest of all, long before it is likelier than all codes together, and speech would be hurried. So it is chosen by
        itself: when it is as likely as not that the talker would have gone on by now (temperature 0), or by chance."""
        # Only one of the two may be legal: the text has more, or is over.
        going = next((code for code in (self.talker.read, self.talker.end) if logits[code] > -torch.inf), None)
        if going is not None:
            self.staying *= 1 - float(logits.softmax(-1)[going])
            if self.staying <= self.until:
                self._stay()
                return going
        return self.code(logits[: self.talker.codebook_size])

    def code(self, logits: Tensor) -> int:
        """One of [codes]. The likeliest of a thousand codes, none of which is likely, may be far from what most of them are near:
        of codes that have levels each level is taken at the middle of its shares (temperature 0), or around it by chance."""
        levels, temperature = self.talker.codes.levels, self.manner.speech_temperature
        if levels is None:
            return sampled(logits, temperature, self.chance)
        lots = torch.rand(len(levels.counts), generator=self.chance)
        return levels.at(logits.softmax(-1), 0.5 + (lots - 0.5) * min(1.0, temperature))

    def _stay(self) -> None:
        lot = float(torch.rand((), generator=self.chance))
        self.staying, self.until = 1.0, 0.5 + (lot - 0.5) * min(1.0, self.manner.speech_temperature)

    def _frame(self, code: int, logits: Tensor) -> Tensor:
        codes, told = torch.tensor([[code]], device=self.last.device), [logits]
        if self.talker.depth is not None:
            hidden, first = self.last[None], self.talker.codes(codes[:, 0])
            for _ in range(self.talker.codebooks - 1):
                told.append(self.talker.depth.logits(hidden, first, codes[:, 1:])[-1][0])
                book = self.code(told[-1])
                codes = torch.cat([codes, torch.tensor([[book]], device=codes.device)], 1)
        frame = self.talker.embed_frames(codes)
        self.since_read += 1
        if self.talker.beside is not None and self.at is not None:
            frame = frame + self.talker.beside.at(self.at, codes.new_tensor([self.since_read]))
        self.last = self.row.push(frame)[-1]
        self.frames += 1
        levels = self.talker.codes.levels
        return codes[0] if levels is None else torch.cat([levels.mean(x.softmax(-1)) for x in told])
