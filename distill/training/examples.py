"""Dataset row → what the student reads, writes, hears and says, with all the chance of one epoch."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from distill.teaching.scenarios.plan import VARIED
from distill.training.augment import Augment
from distill.training.data import Row as Turn
from distill.training.swaps import swapped
from e2e_model.model import SpeechLM
from e2e_model.prompts import Row, ThinkForm
from e2e_model.respond import Said
from e2e_model.rows import Spoken, spoken
from e2e_model.think import Piece, language_pieces, spoken_words, tag_pieces

LABEL_TASKS = ("emotion", "age", "gender", "event", "labels")
HEARD_ONLY = ("understanding", "listening")  # sources that are not answered
WORDS_REPEATED = (3, 13)
Rng = np.random.Generator
Kind = Literal["reply", "transcript", "labels"]  # what the tokens after the think are


@dataclass(frozen=True)
class Chance:
    """What is left to chance in training, and the ablations. thinks: forms that may be asked for, one at random (with "none"
    among them thinking can be skipped). given: how often the tag's cues are told by the heads, so that writing them counts in
    no loss; wrong_word, no_word: how often such a word is misheard or missed at worst (strange_word: misheard, where the user is
    not to be followed); as_heard: how often a turn on paper is answered by what heads might have heard of it, by a thinker from
    zero; hole: how often a label is hidden; told: how often the talker is told the reply's emotion by name; vector: how often by
    the vector."""

    thinks: tuple[ThinkForm, ...] = ("tag", "tag", "tag", "language", "none")
    given: float = 0.8
    wrong_word: float = 0.2
    no_word: float = 0.15
    strange_word: float = 0.3
    as_heard: float = 0.5
    hole: float = 0.05
    told: float = 0.7
    vector: float = 0.8
    letters: float = (
        0.1  # how often a word is read in letters by a talker that reads phones: unknown words have no others
    )
    unseen: float = 0.8  # how often, at worst, a talker that reads unit by unit does not see a frame that it wrote
    unthought: float = (
        0.5  # how often it sees none of the thinker's states, which tell it phrases that it knows by heart
    )
    swapped: float = 0.5  # how often a turn on paper is about other things, by a thinker from zero
    repeated: float = 0.2  # how often there are words without sense in its place, to be said as they stand
    augment: Augment = field(default_factory=Augment)
    shift: bool = True  # speech may begin at any of the encoder's places, if it is one that learns them

    def still(self) -> Chance:
        """For what is held out: the first form of think, everything told."""
        return replace(
            self, thinks=self.thinks[:1], given=1.0 if self.given else 0.0, wrong_word=0, no_word=0, strange_word=0, hole=0,
            unseen=0, unthought=0, swapped=0, repeated=0, told=1.0 if self.told else 0.0, vector=1.0 if self.vector else 0.0,
            letters=0, augment=Augment.none(), shift=False,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Example:
    """One row of the thinker and what belongs to it. utterance: hears speech; spoken: is spoken aloud."""

    turn: Turn
    task: str
    row: Row
    kind: Kind
    hears: bool
    spoken: Spoken | None = None
    vector_on: bool = False
    use_true: bool = False
    felt: bool = False  # has a reply whose voice the emotion head can learn


@dataclass(frozen=True)
class Examples:
    """Makes examples for one student. words: of the training split, to mishear; codes: by row, None before there is a codec;
    matters: what a turn may be about instead (swaps.py); writes: whether anything learns from what the thinker writes of speech;
    else that is left out."""

    lm: SpeechLM
    chance: Chance
    codes: Any = None
    words: Sequence[str] = field(default_factory=tuple)
    matters: Sequence[str] = field(default_factory=tuple)
    writes: bool = True

    def of(self, source: str, turn: Turn, rng: Rng, speech: int, true_share: float) -> list[Example]:
        """The examples of one item. speech: the adapter's states of its utterance; true_share: how often the talker gets the
        true vector."""
        if source in HEARD_ONLY and not self.writes:
            return []
        if source == "understanding":
            task = LABEL_TASKS[int(rng.integers(len(LABEL_TASKS)))]
            return [self.transcript(turn, speech), *self.labels(turn, task, speech)]
        if source == "listening":
            return [self.transcript(turn, speech)]
        if source == "writing":
            from_zero = self.lm.config.thinker.source is None  # one that has read a library can say a word again
            heard = bool(from_zero and rng.random() < self.chance.as_heard)
            if from_zero and self.matters and rng.random() < self.chance.repeated:
                return [self.repeated(turn, rng)]
            if from_zero and rng.random() < self.chance.swapped:
                turn = swapped(turn, self.matters, rng)
            return [self.answer(turn, "speech→text" if heard else "text→text", rng, 0, true_share)]
        if source == "speaking":
            return [self.said(turn, rng, true_share)]
        return [self.answer(turn, "speech→speech", rng, speech, true_share)]

    def transcript(self, turn: Turn, speech: int) -> Example:
        text = spoken_words(turn.user_text or "")
        return Example(turn, "asr", self._row("asr", speech=speech, reply=text), "transcript", True)

    def labels(self, turn: Turn, task: str, speech: int) -> list[Example]:
        """One label, or all, in the tag's form; nothing where none is known."""
        cues = cues_of(turn, self.lm.config.told)
        asked = {"emotion": cues["emotion"], "age": cues["age"], "gender": cues["gender"], "event": cues["events"]}
        if task != "labels":
            asked = {task: asked[task]}
        marks = {"emotion": "<emotion>", "age": "<age>", "gender": "<gender>", "event": "<event>"}
        told = [f"{marks[k]}{_one(v)}" for k, v in asked.items() if v is not None]
        if len(told) < len(asked) and (task != "labels" or not told):
            return []
        return [Example(turn, task, self._row(task, speech=speech, reply="".join(told)), "labels", True)]

    def answer(self, turn: Turn, task: str, rng: Rng, speech: int, true_share: float) -> Example:
        """The dialogue: think and reply. Of speech that is not there (`speech` 0) the heads' words and cues are given."""
        hears = task.startswith("speech")
        form = self.chance.thinks[int(rng.integers(len(self.chance.thinks)))]
        if hears and not speech:
            form = "tag"  # nothing else tells what was said
        given = bool(rng.random() < self.chance.given) or not (hears and speech)
        row = self.lm.prompter.row(
            task,
            form,
            speech=speech if hears and self.lm.config.thinker.hears else 0,
            text=None if hears else turn.user_text,
            history=history_of(turn),
            pieces=self.pieces(turn, form, given and hears, hears, rng),
            reply=turn.reply_text,
            given=given,
        )
        aloud = task.endswith("→speech") and self.codes is not None
        told = turn.reply_emotion if form == "tag" else None
        return self._voiced(Example(turn, task, row, "reply", hears), aloud, rng, told, true_share)

    def pieces(self, turn: Turn, form: str, misheard: bool, hears: bool, rng: Rng) -> list[Piece] | None:
        """The think, with what a recognizer would get wrong, where it is given by one."""
        if form == "none":
            return None
        if form == "language":
            return (
                language_pieces(turn.think_language, turn.strategy, turn.reply_emotion) if turn.think_language else None
            )
        words = spoken_words(turn.user_text or "").split()
        if misheard:
            words = self._misheard(words, rng, strange=turn.domain == VARIED)
        # Whoever reads hears no voice: half the time nothing is told of it, half the time a teacher's labels are.
        blind = not hears and rng.random() < 0.5
        cues = {
            name: None if blind or rng.random() < self.chance.hole else value
            for name, value in cues_of(turn, self.lm.config.told).items()
        }
        return tag_pieces(" ".join(words), cues, turn.strategy, turn.reply_emotion)

    def _misheard(self, words: list[str], rng: Rng, *, strange: bool) -> list[str]:
        """`strange`: of a matter that the student will never hear right, which it learns to say."""
        heard, level = [], rng.random()  # some are heard well, some badly
        no_word, wrong_word = level * self.chance.no_word, level * self.chance.wrong_word
        wrong_word = max(wrong_word, self.chance.strange_word) if strange else wrong_word
        for word in words:
            lot = rng.random()
            if lot < no_word:
                continue
            wrong = lot < no_word + wrong_word and len(self.words) > 0
            heard.append(self.words[int(rng.integers(len(self.words)))] if wrong else word)
        return heard

    def _unseen(self, frames: int, rng: Rng) -> frozenset[int]:
        """Whoever copies the last frame needs no text, and stumbles over a wrong one: so the talker learns to do without (as
        Tacotron's dropout on what it hears of itself, arXiv 1703.10135). Some replies are seen well, some badly."""
        lots = rng.random(frames) < rng.random() * self.chance.unseen
        return frozenset(np.flatnonzero(lots).tolist())

    def said(self, turn: Turn, rng: Rng, true_share: float) -> Example:
        """The reply's text, to be spoken as it stands."""
        told = turn.reply_emotion if rng.random() < self.chance.told else None
        row = self._row("speak", text=turn.reply_text, reply=turn.reply_text, asks_reply=False, emotion=told)
        return self._voiced(
            Example(turn, "speak", row, "reply", False), self.codes is not None, rng, turn.reply_emotion, true_share
        )

    def repeated(self, turn: Turn, rng: Rng) -> Example:
        """Words that nobody says together, to be said as they stand: whoever shall say a word back must learn to look it up."""
        count = int(rng.integers(*WORDS_REPEATED))
        text = " ".join(self.matters[place] for place in rng.integers(len(self.matters), size=count))
        return Example(turn, "speak", self._row("speak", text=text, reply=text), "reply", False)

    def _row(self, task: str, **parts: Any) -> Row:
        if parts.get("speech") and not self.lm.config.thinker.hears:
            parts["speech"] = 0
        return self.lm.prompter.row(task, "none", **parts)

    def _voiced(self, example: Example, aloud: bool, rng: Rng, emotion: str | None, true_share: float) -> Example:
        turn, names = example.turn, self.lm.config.labels.reply_emotion
        felt = turn.reply_vector is not None
        tells, on = rng.random() < self.chance.told, felt and rng.random() < self.chance.vector
        true = on and rng.random() < true_share
        made = None
        if aloud:
            first, end = example.row.reply
            made = spoken(
                self.lm.speller,
                example.row.ids[first:end],
                self.codes(turn),
                self.lm.config.talker,
                emotion=names.index(emotion) if tells and emotion in names else len(names),
                timed=turn.reply_words,
                frame_rate=self.lm.codec.frame_rate,
                by_letters=lambda: rng.random() < self.chance.letters,
            )
            if self.lm.config.talker.order == "units":
                thought = bool(rng.random() >= self.chance.unthought)
                made = replace(made, unseen=self._unseen(made.codes.shape[1], rng), thought_seen=thought)
        return replace(example, spoken=made, vector_on=bool(on), use_true=bool(true), felt=felt)


def cues_of(turn: Turn, told: Sequence[str]) -> dict[str, Any]:
    """What is known of the voice; None where not known, or where this dataset cannot teach it."""
    cues = {
        "emotion": turn.user_emotion,
        "age": turn.user_age,
        "gender": turn.user_gender,
        "events": turn.user_events,
    }
    return {name: value if name in told else None for name, value in cues.items()}


def history_of(turn: Turn) -> list[Said]:
    return [Said(exchange.said, exchange.replied) for exchange in turn.history]


def rng_of(seed: int, epoch: int, source: str, turn: Turn) -> Rng:
    """All chance of one item in one epoch, whatever lies beside it; epoch −1: held out."""
    return np.random.default_rng([seed, epoch + 1, zlib.crc32(f"{source} {turn.id}".encode())])


def _one(value: Any) -> str:
    return value if isinstance(value, str) else "+".join(value) or "none"
