"""The student that comes with Attune: small, whole, described, and it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from students import nano

import cli
from cascade.audio import Waveform, read_speech, write_wav
from cascade.turn import Turn
from e2e_model import SpeechLM
from e2e_model.lexicon import Lexicon
from e2e_model.respond import Audio, End
from e2e_model.shipped import STUDENT
from e2e_model.spelling import NGram
from e2e_model.word_search import WordSearch
from runs.ship_student import mean_of, with_sentences

MOST_MB = 25.0


@pytest.fixture(scope="module")
def lm() -> Iterator[SpeechLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield SpeechLM.from_pretrained(STUDENT, device="cpu")
    torch.set_num_threads(threads)


def test_it_is_small_and_says_where_it_comes_from() -> None:
    size = sum(path.stat().st_size for path in STUDENT.rglob("*") if path.is_file())
    assert size <= MOST_MB * 1e6
    card = json.loads((STUDENT / "student.json").read_text(encoding="utf-8"))["card"]
    assert {"dataset", "commit", "stages", "flavour", "seed"} <= set(card)
    about = (STUDENT / "README.md").read_text(encoding="utf-8")
    for heading in ("## Data", "## Recipe", "## Figures", "## Limits"):
        assert heading in about
    assert card["dataset"][:12] in about


def test_what_ships_reads_words_by_the_latest_sentences() -> None:
    lm = nano()
    lexicon = Lexicon({"hi": ((1,),), "you": ((2,), (3,))})
    lm.learn_words(NGram.of([(1,), (2,), (1, 2)], units=3, order=2), lexicon)
    for most, left in ((9, [(1,), (2,), (1, 2)]), (2, [(2,), (1, 2)])):
        spelling = with_sentences(lm, most).spelling
        assert isinstance(spelling, WordSearch)
        assert spelling.ngram.lines() == left
        assert spelling.lexicon is lexicon


def test_what_ships_may_be_the_mean_of_several() -> None:
    one, other = nano(), nano()
    before = [weight.clone() for weight in one.parameters()]
    with torch.no_grad():
        for weight in other.parameters():
            weight += 1
    assert mean_of([one, other]) is one
    for was, now in zip(before, one.parameters(), strict=True):
        torch.testing.assert_close(now.data, was + 0.5)
    with pytest.raises(SystemExit, match="not of one kind"):
        mean_of([one, nano(told=("emotion",))])


@pytest.mark.parametrize("emotion", ["comforting", "joyful"])
def test_it_says_what_it_is_given_and_stops(lm: SpeechLM, emotion: str) -> None:
    parts, reason = [], ""
    for event in lm.speak("That is wonderful news, and I am glad for you!", emotion, seed=0):
        if isinstance(event, Audio):
            parts.append(event.samples)
        elif isinstance(event, End):
            reason = event.reason
    wave = np.concatenate(parts)
    assert reason == "end"
    assert 1.0 < len(wave) / lm.codec.sample_rate < 10.0
    assert Waveform(wave, lm.codec.sample_rate).level_dbfs > -40


def test_ask_student_answers_a_spoken_sentence(spoken_sentence: Any, tmp_path: Path) -> None:
    write_wav(tmp_path / "in.wav", spoken_sentence)
    shown = CliRunner().invoke(
        cli.main, ["ask", str(tmp_path / "in.wav"), "--student", "-o", str(tmp_path / "out.wav"), "--json"]
    )
    assert shown.exit_code == 0, shown.output
    turn = Turn.model_validate_json(shown.stdout)
    assert turn.reply is not None
    assert turn.reply.text
    assert turn.thought is not None
    assert turn.transcript is not None
    assert read_speech(tmp_path / "out.wav").duration_s > 0.5
