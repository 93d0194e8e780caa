"""Words and how they are pronounced: what a CTC head that hears phones needs to read words.

Phones are the 39 of ARPABET as the CMU Pronouncing Dictionary writes them, without stress.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from e2e_model.errors import CheckpointProblem

# fmt: off
PHONES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G",
    "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P",
    "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)
# fmt: on
NUMBERS = {phone: number for number, phone in enumerate(PHONES, start=1)}  # 0 is CTC's blank

# How long they last, in milliseconds: least squares over 41,000 words of Flite's rms, of whose lengths it explains .89 of the
# variance. Where a word begins and ends is known; how its phones share it is guessed from these.
# fmt: off
LENGTHS = dict(zip(PHONES, (
    68, 89, 40, 99, 197, 149, 121, 125, 93, 58, 47, 107, 124, 149, 102,
    72, 25, 107, 181, 91, 127, 112, 94, 130, 123, 241, 112,
    59, 157, 169, 87, 117, 29, 84, 106, 112, 84, 137, 65,
), strict=True))
# fmt: on
PAUSES = {" ": 39, ".": 728, "?": 651, "!": 534, ";": 398, ":": 398, ",": 157, "-": 139}
LETTER = 80

Pronunciation = tuple[int, ...]


class Lexicon(Mapping[str, tuple[Pronunciation, ...]]):
    """Word → its pronunciations, the usual one first. Words are numbered from 1 in the order given."""

    def __init__(self, entries: Mapping[str, tuple[Pronunciation, ...]]) -> None:
        self._entries = dict(entries)
        self.words = tuple(self._entries)
        self._numbers = {word: number for number, word in enumerate(self.words, start=1)}

    def __getitem__(self, word: str) -> tuple[Pronunciation, ...]:
        return self._entries[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def numbers(self, text: str) -> list[int]:
        """Of the words of a text; one that is not here is left out."""
        return [self._numbers[word] for word in text.split() if word in self._numbers]

    def save(self, path: Path) -> None:
        """A word and its phones a line, once for each pronunciation."""
        lines = [
            " ".join([word, *(PHONES[phone - 1] for phone in one)]) for word, several in self.items() for one in several
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """Raises CheckpointProblem."""
        entries: dict[str, tuple[Pronunciation, ...]] = {}
        try:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                word, *phones = line.split()
                if not phones:
                    raise CheckpointProblem(f"{path}, line {number}: {line!r}; a word and its phones must stand there")
                entries[word] = (*entries.get(word, ()), tuple(NUMBERS[phone] for phone in phones))
        except KeyError as error:
            raise CheckpointProblem(f"{path}, line {number}: {error} is no phone; legal: {' '.join(PHONES)}") from error
        except (OSError, ValueError) as error:
            raise CheckpointProblem(f"{path}: no lexicon can be read ({error})") from error
        return cls(entries)
