"""What people look at: the card and the page say what the rows say, and hold nothing that could break out."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import soundfile
import yaml
from dataset_samples import full_sample, sample, talker_sample, usual_samples, write_dataset

from cascade.turn import EngineInfo
from distill.teaching.dataset import card, page
from distill.teaching.dataset.columns import COLUMNS
from distill.teaching.dataset.facts import Facts, Histogram
from distill.teaching.dataset.manifest import finished, problems_of
from distill.teaching.dataset.rows import row_of
from distill.teaching.records import Sample

SETTINGS = {"profile": "embedded", "settings": {"seed": 7}}
NASTY = '<script>alert(1)</script> | `x` & "quoted"\n---\nend'


def facts_of(samples: list[Sample]) -> Facts:
    facts = Facts()
    for one in samples:
        facts.add(row_of(one), "rejected" if one.rejected else one.scenario.split)
    return facts


@pytest.fixture(scope="module")
def facts() -> Facts:
    return facts_of(usual_samples())


# --- facts


def test_facts_do_not_depend_on_the_order_of_rows(facts: Facts) -> None:
    backwards = facts_of(usual_samples()[::-1])
    assert card.card_of(SETTINGS, backwards) == card.card_of(SETTINGS, facts)
    assert page.page_of(SETTINGS, backwards) == page.page_of(SETTINGS, facts)


def test_the_sums(facts: Facts) -> None:
    assert (facts.turns, facts.kept) == (30, 24)
    assert facts.hours("user") == pytest.approx(20 * 0.4 / 3600)
    assert facts.by_label("user_emotion")["sad"] == {"train": 2, "validation": 3, "test": 1, "rejected": 2}
    assert "unknown" not in facts.by_label("user_emotion"), "rows for the talker have no user"
    assert facts.answers["celebrate", "happy"] == 7
    assert facts.distinct_texts == 10
    assert facts.engines()["tts", "espeak", "1.52"] == 30


def test_contrast_sets_count_pairs_of_tones() -> None:
    same = {"labels": sample(0).scenario.labels}
    whole = [sample(index) for index in range(3)]  # three tones, three answers
    as_one = [sample(3), sample(4, parts={k: getattr(sample(3), k) for k in ("thought", "reply")})]
    no_pair = [sample(6), sample(7, **same), sample(9), talker_sample(10, contrast="set-3")]
    assert facts_of([*whole, *as_one, *no_pair]).contrasts.counts() == {
        "sets": 2, "sets_differ": 1, "sets_all_differ": 1, "pairs": 4, "pairs_differ": 3,
    }  # fmt: skip


def test_memory_holds_few_examples_and_sets() -> None:
    facts = Facts()
    rows = [row_of(sample(index)) for index in range(150)]
    for row in rows:
        facts.add(row, "train")
    assert {kind: len(kept) for kind, kept in facts.examples.kept.items()} == {
        ("good", "sad"): 2, ("good", "happy"): 2, ("good", "angry"): 2,
    }  # fmt: skip
    assert len(facts.contrasts.shown()) == 10
    assert len(facts.contrasts._shown) == facts.contrasts.KEPT
    assert all(len(tones) == 3 for tones in facts.contrasts.shown())


def test_quantiles_are_as_fine_as_the_bins() -> None:
    values = Histogram(0.5)
    for value in (0.1, 0.6, 0.7, 3.9):
        values.add(value)
    assert [values.quantile(share) for share in (0.25, 0.5, 1.0)] == [0.0, 0.5, 3.5]


# --- the card


def front_matter(text: str) -> dict[str, Any]:
    head = re.match(r"---\n(.*?)\n---\n", text, re.S)
    assert head
    return dict(yaml.safe_load(head.group(1)))


def test_the_card_is_what_load_dataset_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    folder = tmp_path / "data"
    write_dataset(folder, usual_samples())
    facts = Facts.of(folder)
    card.write(folder, SETTINGS, facts)
    page.write(folder, SETTINGS, facts)
    finished(folder, SETTINGS, facts)
    assert problems_of(folder) == []
    rows = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in rows.items()} == {"train": 9, "validation": 7, "test": 8}
    rejected = load_dataset(str(folder), "rejected", cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in rejected.items()} == {"rejected": 6}


def test_the_code_of_the_card_runs_without_torchcodec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
    folder = tmp_path / "data"
    write_dataset(folder, [sample(3), talker_sample(4), sample(6), sample(5, rejected=("empathy: low",))])
    card.write(folder, SETTINGS, Facts.of(folder))
    blocks = re.findall(r"```python\n(.*?)```", (folder / card.CARD).read_text(), re.S)
    assert len(blocks) == 2
    found: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("path/to/this/folder", str(folder)), found)
    assert found["row"]["user_text"] == sample(3).scenario.text
    assert found["rate"] == 22_050
    assert len(found["samples"]) == 11_025
    assert soundfile.info(io.BytesIO(found["row"]["user_audio"]["bytes"])).samplerate == 16_000
    assert found["rejected"]["rejected"][0]["rejected"] == ["empathy: low"]
    with pytest.raises(ImportError, match="torchcodec"):  # what the casts are for
        datasets.load_dataset(str(folder))["validation"][0]


@pytest.mark.parametrize("samples", [[], [sample(0, rejected=("empathy: low",))]], ids=["empty", "all rejected"])
def test_without_a_row_that_passed_nothing_loads(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    write_dataset(folder, samples)
    facts = Facts.of(folder)
    card.write(folder, SETTINGS, facts)
    finished(folder, SETTINGS, facts)
    assert "**No row passed the gates" in (folder / card.CARD).read_text()
    with pytest.raises(datasets.exceptions.DataFilesNotFoundError):
        datasets.load_dataset(str(folder))


def test_what_has_no_rows_is_not_promised() -> None:
    train = {"config_name": "default", "data_files": [{"split": "train", "path": "train/*.parquet"}]}
    rejected = {"config_name": "rejected", "data_files": [{"split": "rejected", "path": "rejected/*.parquet"}]}
    good = card.card_of(SETTINGS, facts_of([sample(0)]))
    assert front_matter(good)["configs"] == [train]
    assert "rejected/*" not in good
    both = facts_of([sample(0), sample(1, rejected=("empathy: low",))])
    assert front_matter(card.card_of(SETTINGS, both))["configs"] == [train, rejected]


def test_the_card_tells_counts_gates_engines_and_columns(facts: Facts) -> None:
    text = card.card_of(SETTINGS, facts)
    assert "**24 rows** passed the gates of 30 made (80.0%)" in text
    assert "| sad | 2 | 3 | 1 | 2 |" in text
    assert "| empathy | 6 | 20.0% | 0 | 0.10 by the rubric, at least 0.5 |" in text
    assert "| tts | espeak | 1.52 | GPL-3.0 (process), MIT | 30 |" in text
    assert '"profile": "embedded"' in text
    assert [column.name for column in COLUMNS if f"| `{column.name}` | " not in text] == []
    assert facts.dataset_sha256 in text


def test_limits_are_those_of_these_rows(facts: Facts) -> None:
    text = card.card_of(SETTINGS, facts)
    for said in (
        "rule-based",
        "PocketSphinx mishears",
        "No vocal events",
        "`age_posterior` is null",
        "Users are simulated",
    ):
        assert said in text
    other = {"asr": EngineInfo(name="faster_whisper", version="1"), "tts": EngineInfo(name="f5", version="1")}
    heard = full_sample()
    rich = sample(1, parts={"engines": other, "cues": heard.cues}, labels=heard.scenario.labels, source="live")
    text = card.card_of(SETTINGS, facts_of([rich]))
    for said in ("rule-based", "PocketSphinx", "No vocal events", "`age_posterior` is null", "simulated"):
        assert said not in text.partition("## Known limits")[2].partition("## Columns")[0]
    assert "consent that can be withdrawn" in text


@pytest.mark.parametrize(
    ("engine", "changes", "licence"),
    [
        ("espeak", {}, "apache-2.0"),
        ("f5", {}, "cc-by-nc-4.0"),
        ("wav2vec2", {}, "cc-by-nc-sa-4.0"),
        ("openai", {}, "other"),
        ("somebodys", {}, "other"),
        ("espeak", {"source": "live"}, "other"),
        ("espeak", {"source": "recorded"}, "other"),
    ],
)
def test_the_licence_is_that_of_the_strictest_part(engine: str, changes: dict[str, str], licence: str) -> None:
    made = sample(0, parts={"engines": {"any": EngineInfo(name=engine, version="1")}}, **changes)
    head = front_matter(card.card_of(SETTINGS, facts_of([made])))
    assert head["license"] == licence
    assert ("license_name" in head) == (licence == "other")


def test_leaks_are_told_and_only_then(facts: Facts) -> None:
    leaking = facts_of([sample(0), sample(3, voice="voice-0")])
    line = "speaker 'voice-0' is in train and in validation"
    assert f"**Leaks between splits: 1**, for example: {line}." in card.card_of(SETTINGS, leaking)
    assert line in read(page.page_of(SETTINGS, leaking)).text.replace("&#x27;", "'")
    assert "No two splits share" in card.card_of(SETTINGS, facts)
    assert "Leaks" not in read(page.page_of(SETTINGS, facts)).text


def test_words_do_not_break_the_cards_tables() -> None:
    text = card.card_of(SETTINGS, facts_of([sample(0, domain=NASTY, rejected=(f"critic: {NASTY}",))]))
    cell = '&lt;script>alert(1)&lt;/script> \\| `x` & "quoted" --- end'
    assert f"| {cell} | 0 | 0 | 0 | 1 |" in text
    assert "<script>" not in text


# --- the page


class Reader(HTMLParser):
    """Fails on tags that are not closed in order; keeps attributes that could load something."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_needs_nothing_else(facts: Facts) -> None:
    text = page.page_of(SETTINGS, facts)
    reader = read(text)
    assert {"script", "link", "iframe", "img"} & set(reader.seen) == set()
    assert reader.sources
    assert all(source.startswith("data:audio/mpeg;base64,") for source in reader.sources)
    assert re.findall(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text) == []


def test_each_chart_is_well_formed(facts: Facts) -> None:
    charts = re.findall(r"<svg.*?</svg>", page.page_of(SETTINGS, facts), re.S)
    assert len(charts) == 4, "two of durations, two of pitch"
    space = "{http://www.w3.org/2000/svg}"
    for chart in charts:
        root = ElementTree.fromstring(chart)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        boxes = [{key: float(value) for key, value in rect.attrib.items()} for rect in root.iter(f"{space}rect")]
        assert boxes
        assert all(0 <= box["x"] <= box["x"] + box["width"] <= width for box in boxes)
        assert all(0 <= box["y"] <= box["y"] + box["height"] <= height for box in boxes)


def test_the_page_says_what_the_rows_say(facts: Facts) -> None:
    text = read(page.page_of(SETTINGS, facts)).text
    for said in (
        "24 of 30 rows passed",
        "6 (20.0%)",
        "That sounds like a lot",
        "celebrate",
        "Known limits",
        "heard: “well that was”",
    ):
        assert said in text
    assert "in 100.0% the replies differ" in text


def test_its_sounds_are_those_of_the_rows() -> None:
    text = page.page_of(SETTINGS, facts_of([sample(0)]))
    sounds = [base64.b64decode(data) for data in re.findall(r"audio/mpeg;base64,([^\"]+)", text)]
    lengths = [(info.samplerate, info.duration) for info in (soundfile.info(io.BytesIO(sound)) for sound in sounds)]
    assert [rate for rate, _ in lengths] == [16_000, 22_050]
    assert [length for _, length in lengths] == pytest.approx([0.4, 0.5], abs=0.15)


def test_the_page_stays_small(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    every = page.page_of(SETTINGS, facts).count("<audio")
    monkeypatch.setattr(page, "MAX_SOUND_BYTES", 20_000)
    text = page.page_of(SETTINGS, facts)
    assert 0 < text.count("<audio") < every
    assert sum(map(len, re.findall(r"base64,([^\"]+)", text))) <= 20_000 * 4 / 3 + 100


def test_all_words_are_escaped() -> None:
    nasty = [
        sample(0, text=NASTY, domain=NASTY),
        sample(1, text=NASTY, rejected=(f"{NASTY}: {NASTY}",)),
        sample(2, text=NASTY, voice=NASTY),
        full_sample(3),
    ]
    text = page.page_of({NASTY: NASTY}, facts_of(nasty))
    assert "script" not in read(text).seen
    assert "<script>" not in text


def test_nothing_made_is_a_page_too() -> None:
    reader = read(page.page_of(SETTINGS, Facts()))
    assert "0 of 0 rows passed" in reader.text
    assert "configs" in front_matter(card.card_of(SETTINGS, Facts()))
