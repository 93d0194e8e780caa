"""What a run shows: its pace from when it began, and that it is alive while no row comes."""

from __future__ import annotations

import time

import pytest

from distill.teaching import progress
from distill.teaching.progress import Progress
from distill.teaching.worker import Made


def made(index: int, *rejected: str) -> Made:
    return Made(index, b"", rejected, 0.1, "w", {}, {})


def test_the_pace_counts_from_the_beginning_and_not_from_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress(50, 10)
    assert shown.line() == "10 of 50 turns, 0 s so far"
    now = 160.0
    for index in range(4):  # they come at once, as a worker gives them
        shown.add(made(index, *(["user_wer: 1.00"] if index else [])))
    assert shown.line() == "14 of 50 turns, kept 25%, 4 a minute, 9 min 00 s left, 1 min 00 s so far"
    now = 220.0  # nothing came since
    assert "2 a minute, 18 min 00 s left" in shown.line()


def test_it_speaks_at_once_and_while_nothing_comes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S_IN_A_LOG", 0.01)
    with Progress(5, 0):
        assert capsys.readouterr().err.startswith("0 of 5 turns, 0 s so far\n")
        deadline = time.monotonic() + 30
        while not (told := capsys.readouterr().err):
            assert time.monotonic() < deadline, "it was silent"
            time.sleep(0.01)
    assert told.startswith("0 of 5 turns, 0 s so far\n")
    assert capsys.readouterr().err.endswith("so far\n")
