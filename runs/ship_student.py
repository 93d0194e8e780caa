"""Put a trained student into the package: `python runs/ship_student.py RUN/student … [--codec RUN]`, weights in 16 bits.

Of several, of which one learnt on from another, the mean of their weights (model soups, arXiv 2203.05482).

The card (README.md) that lies there stays; its figures are for whoever ships another student to write anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from e2e_model.codec import load_codec
from e2e_model.model import SpeechLM
from e2e_model.shipped import STUDENT
from e2e_model.spelling import NGram
from e2e_model.word_search import WordSearch

MOST_MB = 25.0


def mean_of(several: list[SpeechLM]) -> SpeechLM:
    """The first, with the mean of all weights. Raises SystemExit: students of another shape."""
    first, *others = several
    if any(lm.config != first.config for lm in others):
        raise SystemExit("these students are not of one kind; give some of which one learnt on from another")
    with torch.no_grad():
        for same in zip(*(lm.parameters() for lm in several), strict=True):
            same[0].copy_(torch.stack([one.float() for one in same]).mean(0))
    return first


def with_sentences(lm: SpeechLM, most: int) -> SpeechLM:
    """The same, whose ears read words by the latest so many sentences of those they know: their text takes room, too."""
    if isinstance(lm.spelling, WordSearch):
        ngram, lexicon = lm.spelling.ngram, lm.spelling.lexicon
        lm.learn_words(NGram.of(ngram.lines()[-most:], units=ngram.units, order=ngram.order), lexicon)
    return lm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", type=Path, nargs="+")
    parser.add_argument("--codec", type=Path, help="a run whose codec decodes the same tokens better")
    parser.add_argument("--sentences", type=int, default=68_000, help="of the ears' n-gram, the latest, at most")
    parser.add_argument("--to", type=Path, default=STUDENT)
    asked = parser.parse_args()
    lm = mean_of([SpeechLM.from_pretrained(folder, device="cpu") for folder in asked.students])
    lm = with_sentences(lm, asked.sentences)
    if asked.codec:
        codec = load_codec(asked.codec / "codec" / "weights")
        if codec.tokens_fingerprint() != lm.codec.tokens_fingerprint():
            raise SystemExit(f"{asked.codec}: another codec's tokens; take one that went on from this student's")
        lm.use_codec(codec)
    card = asked.to / "README.md"
    about = card.read_text(encoding="utf-8") if card.is_file() else None
    lm.save_pretrained(asked.to, half=True)
    if about is not None:
        card.write_text(about, encoding="utf-8")
    size = sum(path.stat().st_size for path in asked.to.rglob("*") if path.is_file()) / 1e6
    print(
        f"{asked.to}: {size:.1f} MB, {sum(p.numel() for p in (*lm.parameters(), *lm.codec.parameters())) / 1e6:.2f} M parameters"
    )
    if size > MOST_MB:
        raise SystemExit(f"that is more than {MOST_MB:g} MB: too much to ship")


if __name__ == "__main__":
    main()
