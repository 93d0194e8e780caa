"""The report of a comparison: every number is a link, every sound is carried once, no text becomes markup, votes are counted."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import comparison_example as example
import pytest

from cascade.errors import InputError
from distill.comparison.markdown import markdown
from distill.comparison.page import write_page
from distill.comparison.report import Report, fingerprint, interval, shown
from distill.comparison.sentences import sentences
from distill.comparison.votes import read_votes


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag == "script"
        if self._open:
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self._open:
            about, text = self.scripts[-1]
            self.scripts[-1] = (about, text + data)

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(next(text for about, text in self.scripts if about.get("id") == "data"))
        return found

    def links(self) -> list[str]:
        return [about["href"] or "" for tag, about in self.tags if tag == "a"]


@pytest.fixture
def comparison(tmp_path: Path) -> dict[str, Any]:
    return example.make(tmp_path)


def page_of(run: Path, **options: Any) -> Parsed:
    return Parsed(write_page(run, **options).read_text(encoding="utf-8"))


# --- the page


def test_the_page_needs_nothing_else_and_lets_only_its_own_scripts_run(
    tmp_path: Path, comparison: dict[str, Any]
) -> None:
    page = page_of(tmp_path)
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "object", "base")]
    assert not [about for _, about in page.tags if "src" in about or any(name.startswith("on") for name in about)]
    assert all(target.startswith("#") for target in page.links())
    policy = next(about["content"] for _, about in page.tags if about.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    run = [text for about, text in page.scripts if "type" not in about]
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run} == allowed
    assert len(run) == 3


def test_the_same_run_gives_the_same_page(tmp_path: Path, comparison: dict[str, Any]) -> None:
    first = write_page(tmp_path).read_bytes()
    assert write_page(tmp_path).read_bytes() == first


def test_no_text_becomes_markup(tmp_path: Path, comparison: dict[str, Any]) -> None:
    plain = page_of(tmp_path)
    example.write(tmp_path, example.spoilt(comparison))
    page = page_of(tmp_path)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert page.data["comparison"] == example.spoilt(comparison)
    assert len(page.scripts) == len(plain.scripts)


def test_every_number_leads_to_its_items(tmp_path: Path, comparison: dict[str, Any]) -> None:
    links = page_of(tmp_path).links()
    for figure in comparison["figures"] + comparison["timings"]["figures"]:
        if (figure["measure"], figure["task"]) == ("contrast_fit", "contrast"):
            continue  # the only task that has it: its figure is that of all
        task = "" if figure["task"] == "all" else f"&task={figure['task']}"
        wanted = f"#measure={figure['measure']}&system={figure['system']}{task}"
        if figure["measure"] == "emotion_ece":
            wanted = f"#cue=emotion&system={figure['system']}&sure=0-1"
        assert wanted in links
    for one in comparison["confusions"]:
        for truth, row in one["counts"].items():
            for told in row:
                assert f"#cue={one['cue']}&system={one['system']}&truth={truth}&told={told}" in links
    bins = [(one, found) for one in comparison["calibration"] for found in one["bins"] if found["count"]]
    for one, found in bins:
        assert f"#cue=emotion&system={one['system']}&sure={found['low']:g}-{found['high']:g}" in links
    assert len(bins) == sum("&sure=" in target and "sure=0-1" not in target for target in links)
    for system, stages in comparison["timings"]["stages"].items():
        assert {f"#stage={stage}&system={system}" for stage in stages} <= set(links)


def test_winners_are_marked_with_more_than_colour(tmp_path: Path, comparison: dict[str, Any]) -> None:
    text = write_page(tmp_path).read_text(encoding="utf-8")
    summary = text[text.index('id="summary"') : text.index('id="latency"')]
    row = next(row for row in summary.split("<tr>") if "Empathy (rubric)" in row)
    cells = row.split("<td")[1:]
    assert ["★" in cell for cell in cells] == [True, False, False]
    assert ["▼" in cell for cell in cells] == [False, True, False]
    assert "not measured: speechmos is not installed" in summary


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda run: (run / "comparison.json").unlink(), "cannot be read"),
        (lambda run: (run / "comparison.json").write_text("{"), "broken JSON"),
        (lambda run: (run / "comparison.json").write_text("[]"), "schema None"),
        (lambda run: (run / "comparison.json").write_text('{"schema": 2}'), "schema 2; this Attune reads schema 1"),
        (lambda run: (run / "comparison.json").write_text('{"schema": 1}'), "items, systems, .* is missing"),
    ],
)
def test_what_is_no_comparison_is_refused_in_one_line(
    spoil: Callable[[Path], object], says: str, tmp_path: Path, comparison: dict[str, Any]
) -> None:
    spoil(tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        write_page(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "comparison.html").exists()


def test_numbers_that_are_none_are_refused(tmp_path: Path, comparison: dict[str, Any]) -> None:
    comparison["rows"][0]["answers"]["nano"]["values"]["empathy"] = [float("nan"), 1]
    example.write(tmp_path, comparison)
    with pytest.raises(InputError, match=r"comparison\.json"):
        write_page(tmp_path)


# --- its sounds


def test_the_same_sound_is_carried_once(tmp_path: Path, comparison: dict[str, Any]) -> None:
    page = page_of(tmp_path)
    carried = [text for about, text in page.scripts if str(about.get("id")).startswith("sound-")]
    files = [*tmp_path.glob("items/*.wav"), *tmp_path.glob("answers/*/*.wav")]
    assert len(carried) == len({file.read_bytes() for file in files}) < len(files)
    assert set(page.data["sounds"]) == {str(file.relative_to(tmp_path)) for file in files}
    assert all(base64.b64decode(text)[:2] in (b"\xff\xf3", b"\xff\xfb", b"ID") for text in carried)
    number, seconds = page.data["sounds"]["items/emotion-0001.wav"]
    assert (number, seconds) == (0, 0.5)


def test_over_the_limit_whole_sets_are_left_out_evenly(tmp_path: Path, comparison: dict[str, Any]) -> None:
    whole = page_of(tmp_path)
    full = sum(len(base64.b64decode(text)) for about, text in whole.scripts if "sound-" in str(about.get("id")))
    page = page_of(tmp_path, max_sound_mb=full / 2e6)
    sounds, here = page.data["sounds"], []
    for row in comparison["rows"]:
        paths = [f"items/{row['item']['id']}.wav", *(one["audio"] for one in row["answers"].values() if one["audio"])]
        kept = {isinstance(sounds[path], list) for path in paths}
        assert not isinstance(sounds[paths[0]], list) or kept == {True}
        here.append(isinstance(sounds[paths[0]], list))
    assert 3 <= sum(here) <= 9
    assert any(here[:6])
    assert any(here[6:]), "evenly, not the first ones"
    assert here[7] == here[8], "both of a contrast pair, or none"
    carried = [base64.b64decode(text) for about, text in page.scripts if "sound-" in str(about.get("id"))]
    assert sum(map(len, carried)) <= full / 2
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "are left out, evenly over the items" in text
    assert all(isinstance(one, str) for one in page_of(tmp_path, max_sound_mb=0).data["sounds"].values())


def test_a_sound_that_is_lost_is_told(tmp_path: Path, comparison: dict[str, Any]) -> None:
    (tmp_path / "items/emotion-0001.wav").unlink()
    (tmp_path / "items/emotion-0002.wav").write_bytes(b"no sound")
    page = page_of(tmp_path)
    assert page.data["sounds"]["items/emotion-0001.wav"].startswith("cannot be read")
    assert page.data["sounds"]["items/emotion-0002.wav"].startswith("cannot be read")
    assert " 2 of 46 cannot be read." in (tmp_path / "comparison.html").read_text(encoding="utf-8")


# --- figures in words


def test_the_sentences_say_what_the_figures_say(comparison: dict[str, Any]) -> None:
    said = [
        "".join(part if isinstance(part, str) else part[0] for part in one) for one in sentences(Report(comparison))
    ]
    assert said == [
        "cascade-hidden against cascade. No significant difference: transcript WER. Lost: empathy (rubric) "
        "(0.52 instead of 0.66) and contrast accuracy (0.0 % instead of 75.0 %).",
        "nano against cascade. No significant difference: transcript WER, age heard, empathy (rubric) and contrast "
        "accuracy. Lost: emotion heard (37.5 % instead of 62.5 %). Saved: first sound (0.25 s instead of 0.76 s), parameters "
        "(1.2 M instead of 15.6 M) and peak memory (180 MB instead of 412 MB).",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [(0.214, "share", "21.4 %"), (0.214, "ratio", "0.21"), (3.971, "score", "3.97"), (0.8249, "s", "0.82 s"),
     (1412.4, "MB", "1,412 MB"), (15_638_363, "count", "15.6 M"), (5.25, "count", "5.2"), (7, "count", "7"),
     (0.01234, "J", "0.0123 J")],
)  # fmt: skip
def test_values_in_their_units(value: float, unit: str, said: str) -> None:
    assert shown(value, unit) == said


def test_an_interval_without_its_unit(comparison: dict[str, Any]) -> None:
    found = Report(comparison).figure("contrast_fit", "cascade")
    assert found is not None
    assert interval(found, "share") == "67.0–83.0"
    assert interval(found.model_copy(update={"low": None}), "share") == ""


def test_markdown_for_a_readme(comparison: dict[str, Any]) -> None:
    told = markdown(comparison)
    lines = told.splitlines()
    assert lines[:3] == ["```sh", comparison["command"], "```"]
    row = next(line for line in lines if line.startswith("| Contrast accuracy"))
    assert row.split(" | ")[:2] == ["| Contrast accuracy (higher is better; 4 items)", "**75.0 %** (67.0–83.0)"]
    assert row.endswith(" | 0.0 % ▼ (0.0–8.0) | **75.0 %** (67.0–83.0) |")
    assert "Of these items 0 of 12 sentences are in the training split of tiny." in lines
    assert "| answers that failed | 1 of 12 | 0 of 12 | 1 of 12 |" in lines
    assert "- Speech quality: speechmos is not installed: pip install 'attune[judge]'" in lines
    assert any(line.startswith("| several | 0.90 | 0.50 | –") for line in lines)
    widths = {line.count("|") for line in markdown(example.spoilt(comparison)).splitlines() if line.startswith("| ")}
    assert "<img" not in markdown(example.spoilt(comparison)).split("```")[2]
    assert len(widths) == 2, "what stands in a cell breaks no row"


# --- votes


def votes_of(
    run: Path,
    comparison: dict[str, Any],
    name: str,
    votes: list[tuple[str, str, str, str]],
    changes: dict[str, Any] | None = None,
) -> Path:
    """(item, left, right, choice) each, a second apart."""
    told = {
        "version": 1, "comparison": fingerprint(comparison), "listener": name,
        "votes": [{"item": item, "left": left, "right": right, "choice": choice, "time": f"2026-01-02T03:04:{at:02d}.5Z"}
                  for at, (item, left, right, choice) in enumerate(votes)],
    }  # fmt: skip
    path = run / f"votes-{name}.json"
    path.write_text(json.dumps(told | (changes or {})), encoding="utf-8")
    return path


def test_votes_are_counted_each_listener_once(tmp_path: Path, comparison: dict[str, Any]) -> None:
    anna = [
        ("emotion-0001", "nano", "cascade", "left"),
        ("emotion-0001", "cascade", "nano", "left"),  # changed her mind
        ("emotion-0002", "nano", "cascade", "right"),
        ("age-0001", "nano", "cascade", "tie"),
        ("age-0001", "nano", "cascade-hidden", "left"),
    ]
    files = [
        votes_of(tmp_path, comparison, "anna", anna),
        votes_of(tmp_path, comparison, "ben", [("emotion-0001", "cascade", "nano", "right")]),
        tmp_path / "votes-anna.json",  # the same file again
    ]
    found = read_votes(files, comparison)
    first, second = found["pairs"]
    assert (first["a"], first["b"], first["a_wins"], first["b_wins"], first["ties"]) == ("cascade", "nano", 2, 1, 1)
    assert first["share_a"] == 2.5 / 4
    assert first["low"] <= first["share_a"] <= first["high"]
    assert first["by_item"] == {"emotion-0001": [1, 1, 0], "emotion-0002": [1, 0, 0], "age-0001": [0, 0, 1]}
    assert (second["a"], second["b_wins"], second["low"]) == ("cascade-hidden", 1, None)
    comparison["votes"] = found
    example.write(tmp_path, comparison)
    assert "#votes=cascade+nano&won=tie" in page_of(tmp_path).links()
    assert read_votes(files, comparison) == found, "votes in the report leave what was judged as it was"


@pytest.mark.parametrize(
    ("votes", "changes", "says"),
    [
        ([], {"comparison": "0" * 64}, "votes on another comparison"),
        ([], {"version": 2}, "version"),
        ([("emotion-0001", "nano", "nobody", "left")], {}, "legal are two of cascade, cascade-hidden, nano"),
        ([("emotion-0001", "nano", "nano", "left")], {}, "legal are two of"),
        ([("emotion-0099", "nano", "cascade", "left")], {}, "emotion-0099"),
        ([("emotion-0001", "nano", "cascade", "both")], {}, "votes.0.choice"),
        ([], {"votes": None}, "votes"),
    ],
)
def test_votes_that_cannot_be_counted_are_refused_by_name(
    votes: list[tuple[str, str, str, str]],
    changes: dict[str, Any],
    says: str,
    tmp_path: Path,
    comparison: dict[str, Any],
) -> None:
    path = votes_of(tmp_path, comparison, "anna", votes, changes)
    with pytest.raises(InputError, match=f"votes-anna.json: .*{says}"):
        read_votes([path], comparison)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_file_that_holds_no_votes_is_refused(content: bytes, tmp_path: Path, comparison: dict[str, Any]) -> None:
    path = tmp_path / "votes-anna.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"votes-anna.json: .* give a file that the page saved"):
        read_votes([path], comparison)


def test_what_was_judged_is_the_same_until_an_answer_changes(tmp_path: Path, comparison: dict[str, Any]) -> None:
    before = fingerprint(comparison)
    comparison["timings"] = {}
    comparison["command"] = "another"
    assert fingerprint(comparison) == before
    comparison["rows"][0]["answers"]["nano"]["reply"] = "Oh."
    assert fingerprint(comparison) != before
