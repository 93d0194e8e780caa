"""A language model's answer while it is being written: the thought first, then one sentence after another."""

from __future__ import annotations

from collections.abc import Iterator

from cascade.reasoning.answer import CLOSE, OPEN, SentenceSplitter, Unfit, spoken
from cascade.reasoning.tools import Call, call_in
from cascade.turn import Token


class Called(Exception):
    """The model wants to look something up before it answers."""

    def __init__(self, call: Call) -> None:
        super().__init__(call.tool)
        self.call = call


class Draft:
    """Reads no further than it is asked to. `raw`: what was read, up to the end of a tool call."""

    def __init__(self, tokens: Iterator[Token]) -> None:
        self._tokens = tokens
        self._reply: list[Token] = []  # from </think> on
        self._splitter = SentenceSplitter()
        self._whole: list[tuple[str, int]] = []
        self._ends = [0]  # where each sentence given out ends, in characters after </think>
        self._over = False
        self.raw = ""

    def think(self) -> str:
        """The text of the thought. An empty one before it, as chat templates write, is passed over. Raises Called, Unfit."""
        thought = ""
        for token in self._tokens:
            self.raw += token.text
            thought += token.text
            if call := call_in(thought.partition(CLOSE)[0]):
                self.raw = self.raw[: len(self.raw) - len(thought) + call.end]
                raise Called(call)
            head, closed, rest = thought.partition(CLOSE)
            text = head.replace(OPEN, "", 1) if head.lstrip().startswith(OPEN) else head
            if closed and text.strip():
                self._add(Token(text=rest))
                return text.strip()
            thought = rest if closed else thought
        raise Unfit(f"the thought is not ended by {CLOSE}" if self.raw.strip() else "it is empty")

    def next_sentence(self) -> str | None:
        """The next sentence as it is spoken; None at the end, where a sentence that breaks off is left out."""
        while True:
            while self._whole:
                sentence, end = self._whole.pop(0)
                self._ends.append(end)
                if line := spoken(sentence):
                    return line
            if self._over:
                return None
            self._read()

    def _read(self) -> None:
        token = next(self._tokens, None)
        if token is not None:
            self.raw += token.text
            return self._add(token)
        self._over = True
        rest, whole = self._splitter.end()
        if whole:
            self._whole.append((rest, sum(len(token.text) for token in self._reply)))

    def _add(self, token: Token) -> None:
        if token.text or token.id is not None:
            self._reply.append(token)
            self._whole += self._splitter.add(token.text)

    def refuse_last(self) -> None:
        """The sentence given out last is not spoken."""
        self._ends.pop()

    def reply_tokens(self) -> tuple[Token, ...]:
        """The tokens that wrote the sentences given out; together they are the raw reply up to there."""
        kept, length = [], 0
        for token in self._reply:
            if length >= self._ends[-1]:
                break
            kept.append(token)
            length += len(token.text)
        return tuple(kept)

    def close(self) -> None:
        """Stop the model."""
        close = getattr(self._tokens, "close", None)
        if close is not None:
            close()
