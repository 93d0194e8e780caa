"""Text ↔ tokens ↔ spelling units: the thinker's tokenizer, the CTC head's units, and what the talker reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from e2e_model.errors import CheckpointProblem
from e2e_model.lexicon import LENGTHS, LETTER, PAUSES, PHONES
from e2e_model.pronouncing import pronounced
from e2e_model.think import CLOSE, MARKS, OPEN, spoken_words

START, STOP = "<|im_start|>", "<|im_end|>"
PAD = "<|pad|>"
# The smallest chat format: roles between marks, as Qwen's.
TEMPLATE = (
    "{% for message in messages %}" + START + "{{ message['role'] }}\n{{ message['content'] }}" + STOP + "\n"
    "{% endfor %}{% if add_generation_prompt %}" + START + "assistant\n{% endif %}"
)
CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789'.,?!;:-"  # what a talker reads and CTC spells; all else is left out
FIRST_PHONE = len(CHARACTERS)  # behind them, where a talker reads phones


def train_tokenizer(texts: Iterable[str], size: int) -> Any:
    """A byte-level BPE tokenizer of `size` tokens for texts like these, with the marks of chat and think."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = [PAD, START, STOP, OPEN, CLOSE, *MARKS]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=STOP, pad_token=PAD)  # type: ignore[no-untyped-call]
    made.chat_template = TEMPLATE
    return made


BROKEN = "\ufffd"  # what a decoder puts in the place of bytes that are no whole character
LONGEST_CHARACTER = 4  # bytes in UTF-8, each of them a token at worst


@dataclass(frozen=True)
class Unit:
    """What the talker reads: `id` of a character or token, which belongs to the reply's token number `token`."""

    id: int
    token: int


@dataclass(frozen=True, eq=False)
class Speller:
    """A tokenizer with what hangs on it. ctc, units: as in the configuration."""

    tokenizer: Any
    ctc: Literal["tokens", "characters", "phones"]
    units: Literal["tokens", "characters", "phones"]

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """What stands for more than its letters: ends of turns, marks of the think; the longest first."""
        known = {*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab(), *MARKS, OPEN, CLOSE}
        return tuple(sorted(known, key=lambda mark: (-len(mark), mark)))

    def unmarked(self, text: str) -> str:
        """A person's words: whatever they type ends no turn and begins no think."""
        for mark in self.marks:
            text = text.replace(mark, " ")
        return text

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @property
    def stop(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def size(self) -> int:
        return len(self.tokenizer)

    # CTC: unit k of the head is k + 1, 0 is the blank.

    @property
    def ctc_size(self) -> int:
        return {"tokens": self.size, "characters": len(CHARACTERS), "phones": len(PHONES)}[self.ctc]

    def ctc_ids(self, text: str) -> list[int]:
        """What the CTC head shall spell of these words. Phones are not in their letters: see Lexicon."""
        assert self.ctc != "phones"
        words = spoken_words(text)
        if self.ctc == "tokens":
            return [i + 1 for i in self.ids(" " + words)] if words else []
        return [CHARACTERS.index(c) + 1 for c in words]

    def ctc_text(self, path: Sequence[int]) -> str:
        """Words of the CTC head's best path: repeats are one, blanks fall out."""
        return self.ctc_words([i for k, i in enumerate(path) if i and (k == 0 or path[k - 1] != i)])

    def ctc_words(self, units: Sequence[int]) -> str:
        """What these units of the CTC head spell."""
        assert self.ctc != "phones"
        if self.ctc == "tokens":
            return spoken_words(self.text([i - 1 for i in units]))
        return spoken_words("".join(CHARACTERS[i - 1] for i in units))

    # The talker's units.

    @property
    def unit_size(self) -> int:
        sizes = {"tokens": self.size, "characters": len(CHARACTERS), "phones": len(CHARACTERS) + len(PHONES)}
        return sizes[self.units]

    @cached_property
    def _pieces(self) -> dict[int, str]:
        return {}

    def piece(self, token: int) -> str:
        """The text of one token; BROKEN stands for bytes that are no whole character."""
        if token not in self._pieces:
            self._pieces[token] = self.text([token])
        return self._pieces[token]

    def spelt(self, reply: Sequence[int]) -> Iterator[tuple[list[int], str]]:
        """The reply's text, each stretch with the places of its tokens: one, but where a character is spread over several."""
        places: list[int] = []
        for place, token in enumerate(reply):
            places.append(place)
            text = self.piece(token) if len(places) == 1 else self.text([reply[k] for k in places])
            if not text.endswith(BROKEN) or len(places) == LONGEST_CHARACTER:
                yield places, text.replace(BROKEN, "")
                places = []

    def words(self, reply: Sequence[int], by_letters: Callable[[], bool] = lambda: False) -> list[list[Unit]]:
        """The reply's tokens as words of units; a word begins at a space.

        by_letters: asked for each word whose phones are known, whether its letters shall be read all the same: what no
        dictionary has is read so.
        """
        words: list[list[Unit]] = []
        begun = False
        for places, text in self.spelt(reply):
            for k, char in enumerate(text.lower().replace("’", "'")):
                if char.isspace() or not words:
                    if words and not begun:
                        words.pop()
                    words.append([])
                    begun = False
                begun = begun or not char.isspace()
                if self.units == "tokens":
                    if k == 0 or not words[-1]:
                        words[-1] += [Unit(reply[place], place) for place in places]
                elif char in CHARACTERS:
                    words[-1].append(Unit(CHARACTERS.index(char), places[-1]))
        words = words if begun or not words else words[:-1]
        return [_sounded(word, by_letters) for word in words] if self.units == "phones" else words

    def length(self, unit: Unit) -> float:
        """How long it usually lasts, in milliseconds."""
        if self.units == "tokens":
            return LETTER * max(1, len(self.piece(unit.id)))
        if unit.id >= FIRST_PHONE:
            return LENGTHS[PHONES[unit.id - FIRST_PHONE]]
        return PAUSES.get(CHARACTERS[unit.id], LETTER)

    def word_texts(self, reply: Sequence[int]) -> list[str]:
        """The same words as text."""
        return "".join(text for _, text in self.spelt(reply)).split()

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


def _sounded(word: list[Unit], by_letters: Callable[[], bool]) -> list[Unit]:
    """A word's letters as its phones, each beside the token that it lies in; marks stay."""
    sounded: list[Unit] = []
    for found in re.finditer(r"[a-z0-9']+|[^a-z0-9']", "".join(CHARACTERS[unit.id] for unit in word)):
        letters = word[found.start() : found.end()]
        several = pronounced(found.group()) or pronounced(found.group().strip("'"))
        if several and not by_letters():
            phones = several[0]
            places = (letters[k * len(letters) // len(phones)].token for k in range(len(phones)))
            sounded += [Unit(FIRST_PHONE + phone - 1, place) for phone, place in zip(phones, places, strict=True)]
        else:
            sounded += letters
    return sounded


def load_tokenizer(source: str | Path, name: str) -> Any:
    """A tokenizer from a folder. Raises CheckpointProblem."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except Exception as error:  # whatever a library makes of files that do not fit
        raise CheckpointProblem(f"{source}: no tokenizer of {name} can be read ({type(error).__name__})") from error
