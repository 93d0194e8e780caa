"""What stands before the think and the reply: the task in words, the way to think, earlier turns, the speech's place.

The task is told in the system's turn, as a sentence: one model does all of them, chosen at run time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from e2e_model.respond import Said
from e2e_model.think import CLOSE, OPEN, Piece
from e2e_model.tokenizer import Speller

Task = Literal[
    "speech→speech",
    "speech→text",
    "text→speech",
    "text→text",
    "speak",
    "asr",
    "emotion",
    "age",
    "gender",
    "event",
    "labels",
]
TASKS: tuple[Task, ...] = get_args(Task)
ThinkForm = Literal["tag", "language", "none"]

ASKED: Mapping[str, str] = {
    "speech→speech": "Listen and answer aloud.",
    "speech→text": "Listen and answer in writing.",
    "text→speech": "Read and answer aloud.",
    "text→text": "Read and answer in writing.",
    "speak": "Say this aloud.",
    "asr": "Write down what is said.",
    "emotion": "Which emotion do you hear?",
    "age": "Which age do you hear?",
    "gender": "Which gender do you hear?",
    "event": "Which vocal events do you hear?",
    "labels": "Which age, gender, emotion and vocal events do you hear?",
}
THINKING: Mapping[ThinkForm, str] = {"tag": " Think in tags.", "language": " Think in words.", "none": ""}
ANSWERING = ("speech→speech", "speech→text", "text→speech", "text→text")  # tasks in which a think may come first
HEARING = ("speech→speech", "speech→text", "asr", "emotion", "age", "gender", "event", "labels")
ALOUD = ("speech→speech", "text→speech", "speak")
SPEECH = "\ufffc"  # stands where the speech's states go: the sign for an object within text


@dataclass(frozen=True)
class Row:
    """One sample as the thinker sees it. A: states of the speech.

    ids: tokens [T], the speech's places left out; before: tokens that stand before the speech; speech: A; places: of all
    T + A states in the order they are seen; counts: which of the T tokens the loss asks for; reply: first and end of the
    reply among the T tokens, its stop left out.
    """

    ids: list[int]
    before: int
    speech: int
    places: list[int]
    counts: list[bool]
    reply: tuple[int, int]


@dataclass(frozen=True)
class Prompter:
    """Renders tasks in a tokenizer's own chat format."""

    speller: Speller

    def prompt(
        self, task: str, think: ThinkForm, text: str | None, history: Sequence[Said] = (), emotion: str | None = None
    ) -> tuple[list[int], list[int]]:
        """Tokens before and after the speech; all are before it where the task hears none. emotion: to say it in."""
        asked = ASKED[task] + (THINKING[think] if task in ANSWERING else "")
        asked += f" Sound {emotion}." if emotion and task == "speak" else ""
        turns = [{"role": "system", "content": asked}]
        for said in history:
            earlier = (("user", said.user), ("assistant", said.reply))
            turns += [{"role": role, "content": self._words(words)} for role, words in earlier]
        turns.append({"role": "user", "content": SPEECH if text is None else self._words(text)})
        shown = self.speller.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before, _, after = shown.rpartition(SPEECH) if text is None else (shown, "", "")  # the last one is ours
        return self.speller.ids(before), self.speller.ids(after)

    def _words(self, text: str) -> str:
        """A person's or an earlier reply's: nothing in it stands for more than its letters."""
        return self.speller.unmarked(text).replace(SPEECH, "")

    def row(
        self,
        task: str,
        think: ThinkForm,
        *,
        speech: int = 0,
        text: str | None = None,
        history: Sequence[Said] = (),
        pieces: Sequence[Piece] | None = None,
        reply: str | Sequence[int] | None = None,
        given: bool = False,
        asks_reply: bool = True,
        emotion: str | None = None,
    ) -> Row:
        """One sample. pieces: the think; None: none, and no reply either if `reply` is None (a prompt to go on from).

        reply: as text or as tokens. given: pieces that the heads can tell count in no loss. asks_reply: whether the reply
        counts in the loss.
        """
        before, after = self.prompt(task, think, text, history, emotion)
        ids, counts, holes = before + after, [False] * (len(before) + len(after)), [0] * (len(before) + len(after))

        def add(text: str | Sequence[int], asked: bool, known: bool = True) -> None:
            tokens = self.speller.ids(text) if isinstance(text, str) else text
            if not known:  # a hole: nothing but the places after it tell of it
                hole = len(tokens)
                pending.append(hole)
                return
            for token in tokens:
                ids.append(token)
                counts.append(asked and not pending)  # what follows a hole is not to be told from what stood before it
                holes.append(pending.pop() if pending else 0)

        pending: list[int] = []
        if pieces is not None:
            add(OPEN, False)
            for piece in pieces:
                add(piece.text, not (given and piece.given), piece.known)
                if len(pending) > 1:
                    pending[:] = [sum(pending)]
            if reply is not None:  # a think that breaks off where the thinker would go on does not teach to end there
                add(CLOSE, not (pieces and pieces[-1].given))
        first = len(ids)
        if reply is not None:
            add(reply, asks_reply)
        end = len(ids)
        if reply is not None:
            ids.append(self.speller.stop)
            counts.append(asks_reply)
            holes.append(0)
        places: list[int] = []
        at = 0
        for k, hole in enumerate(holes):
            if k == len(before):
                places += range(at, at + speech)
                at += speech
            at += hole
            places.append(at)
            at += 1
        if len(before) == len(ids):
            places += range(at, at + speech)
        return Row(ids, len(before), speech, places, counts, (first, end))
