"""Consent: asked once for each place, remembered, withdrawn, and never kept under a name."""

from __future__ import annotations

import stat
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result
from live_turns import ANN, spooled

import cli
from cascade.errors import InputError
from distill.teaching.live import consent as consents
from distill.teaching.live.commands import consent
from distill.teaching.live.consent import LOCAL, consent_of, give, question, settle, unsettled, withdraw

STREAM = "redis://example.org:6379/0"


def test_it_is_remembered_and_stands_for_its_place_alone(tmp_path: Path) -> None:
    assert consent_of(tmp_path) is None
    given = give(tmp_path)
    assert consent_of(tmp_path) == given
    assert given.covers(LOCAL)
    assert not given.covers(STREAM)
    both = give(tmp_path, STREAM)
    assert both.contributor == given.contributor
    assert both.given_at == given.given_at
    assert both.places == (LOCAL, STREAM)


def test_another_text_must_be_agreed_to_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(tmp_path, STREAM)
    monkeypatch.setattr(consents, "TEXT_VERSION", consents.TEXT_VERSION + 1)
    old = consent_of(tmp_path)
    assert old is not None
    assert not old.covers(STREAM)


def test_who_gives_again_is_somebody_else(tmp_path: Path) -> None:
    first = give(tmp_path)
    assert withdraw(tmp_path) == (first,)
    assert consent_of(tmp_path) is None
    assert give(tmp_path).contributor != first.contributor
    assert unsettled(tmp_path) == (first,)


def test_what_is_withdrawn_is_listed_until_each_place_is_settled(tmp_path: Path) -> None:
    give(tmp_path)
    given = give(tmp_path, STREAM)
    withdraw(tmp_path)
    settle(tmp_path, given.contributor, LOCAL)
    assert [one.places for one in unsettled(tmp_path)] == [(STREAM,)]
    settle(tmp_path, given.contributor, STREAM)
    assert unsettled(tmp_path) == ()


def test_places_given_at_once_are_all_kept(tmp_path: Path) -> None:
    threads = [Thread(target=give, args=(tmp_path, f"unix:///run/{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = consent_of(tmp_path)
    assert kept is not None
    assert len(kept.places) == 8


def test_the_file_is_the_persons_alone_and_a_damaged_one_is_one_line(tmp_path: Path) -> None:
    give(tmp_path)
    file = tmp_path / "consent.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text('{"consent": {"contributor": "Ann"}}')
    with pytest.raises(InputError, match=r"consent\.json: not a record of consent") as caught:
        consent_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_question_says_what_where_what_for_and_how_to_take_it_back(tmp_path: Path) -> None:
    text = question(STREAM, tmp_path)
    for part in (
        "recording of your voice",
        "words",
        "reply and its sound",
        STREAM,
        consents.PURPOSE,
        "consent withdraw",
    ):
        assert part in text
    assert str(tmp_path / "contributed") in question(LOCAL, tmp_path)


# --- the commands


def run(home: Path, *arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(consent, [*arguments, "--home", str(home)], input=typed)


def test_a_person_can_give_look_and_take_back(tmp_path: Path) -> None:
    assert "You give nothing" in run(tmp_path, "show").output
    no = run(tmp_path, "give", typed="n\n")
    assert no.exit_code == 1
    assert not (tmp_path / "consent.json").exists()  # a no is not kept
    assert "You are contributor" in run(tmp_path, "give", typed="y\n").output
    assert "agreed to this already" in run(tmp_path, "give").output
    assert LOCAL in run(tmp_path, "show").output
    gone = run(tmp_path, "withdraw")
    assert gone.exit_code == 0
    assert "Your consent is withdrawn" in gone.output
    assert "No consent stands" in run(tmp_path, "withdraw").output


def test_a_withdrawal_whose_stream_is_away_says_so_and_is_not_forgotten(tmp_path: Path) -> None:
    away = f"unix://{tmp_path}/nobody"
    given = give(tmp_path, away)
    spooled(tmp_path, given.contributor, 2, away)
    shown = run(tmp_path, "withdraw")
    assert shown.exit_code == 1
    assert "2 turns that waited here" in shown.output
    assert "not deleted: Redis at" in shown.output
    assert "not yet deleted in" in run(tmp_path, "show").output


def test_a_bad_url_is_no_place_to_give_to(tmp_path: Path) -> None:
    shown = run(tmp_path, "give", "--stream", "http://example.org", "--yes")
    assert "no Redis URL" in str(shown.exception)
    assert consent_of(tmp_path) is None


def test_nobody_elses_turns_are_deleted(tmp_path: Path) -> None:
    give(tmp_path)
    spool = spooled(tmp_path, ANN, 1, LOCAL)
    run(tmp_path, "withdraw")
    assert spool.entries() == ["sa-0"]


def test_where_nobody_can_answer_it_says_how_to_agree(tmp_path: Path) -> None:
    asked = CliRunner().invoke(cli.main, ["consent", "give", "--home", str(tmp_path)], input="")
    assert asked.exit_code == 2
    (line,) = [line for line in asked.stderr.splitlines() if line.startswith("attune: ")]
    assert line.endswith("to agree without being asked: --yes")
    assert consent_of(tmp_path) is None
