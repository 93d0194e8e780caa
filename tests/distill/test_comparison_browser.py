"""The report in a real browser, without a screen: it plays, filters, traces its numbers, collects votes, and reaches nowhere."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comparison_example as example
import pytest

from distill.comparison.page import write_page
from distill.comparison.report import shown
from distill.comparison.votes import read_votes

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'attune[browser]'")
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = os.environ.get("ATTUNE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on PATH, and ATTUNE_CHROMIUM names none")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path)
        yield started
        started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    example.make(folder)
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def comparison(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    return found


class Opened:
    """A page, with all it asked for and complained of."""

    def __init__(self, browser: Any, run: Path, state: str = "", **settings: Any) -> None:
        self.context = browser.new_context(reduced_motion="reduce", **settings)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.address = (run / "comparison.html").as_uri()
        self.page.goto(self.address + state)

    def _dismiss(self, dialog: Any) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def items(self) -> list[str]:
        """The items that the list shows, in its order."""
        found: list[str] = self.page.eval_on_selector_all(
            ".item", "all => all.map(one => one.ariaLabelledByElements[0].id.slice(6))"
        )
        return found

    def until(self, condition: str) -> None:
        """Wait for it; asked from outside, since the page's own policy forbids to evaluate texts."""
        end = time.monotonic() + PATIENCE_S
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(20)

    def close(self) -> None:
        """Nothing was complained of, and nothing was asked for but the page and its own sounds."""
        self.context.close()
        assert self.complaints == []
        assert {url for url in self.asked if not url.startswith("blob:")} == {self.address}


@pytest.fixture
def opened(browser: Any, run: Path) -> Iterator[Opened]:
    made = Opened(browser, run)
    yield made
    made.close()


# --- numbers


def expected(comparison: dict[str, Any], state: dict[str, str]) -> list[str]:
    """The items behind a number, told from comparison.json by itself."""
    return [row["item"]["id"] for row in comparison["rows"] if behind(row, state)]


def behind(row: dict[str, Any], state: dict[str, str]) -> bool:
    item, answer = row["item"], row["answers"].get(state.get("system", ""), {})
    if state.get("task", item["task"]) != item["task"]:
        return False
    if "failed" in state:
        return row["answers"][state["failed"]]["reply"] is None
    if (
        "vs" in state
        and state["measure"]
        not in row["answers"][state["vs"]]["values"] | row["answers"][state["vs"]]["timings"]["values"]
    ):
        return False
    if "measure" in state:
        values = answer["values"] | answer["timings"]["values"]
        return state["measure"] in values or state["measure"] in ("parameters", "peak_memory_mb")
    if "stage" in state:
        return bool(answer["timings"]["runs"])
    cue = answer.get("cues", {}).get(state.get("cue"))
    true = item["labels"].get(state.get("cue"))
    if "truth" in state:
        told = (cue or {}).get("label") or "unknown"
        return (true, told) == (state["truth"], state["told"]) and f"{state['cue']}_accuracy" in answer["values"]
    if "sure" in state:
        low, high = map(float, state["sure"].split("-"))
        return bool(true and cue) and low < cue["confidence"] <= high
    return True


def test_every_number_shows_exactly_its_items(opened: Opened, comparison: dict[str, Any]) -> None:
    links = opened.page.eval_on_selector_all(
        "#report a[href*='=']:not(#list a)",
        """all => all.map(one => one.getAttribute('href')).map(href => {
            history.replaceState(null, '', href);
            state = readHash();
            const found = criteria(), rows = chosenRows(found);
            showTrace(found, rows);
            const wrong = document.querySelector('#trace .bad')?.textContent ?? '';
            return [Object.fromEntries(new URLSearchParams(href.slice(1))), rows.map(row => row.item.id), wrong];
        })""",
    )
    tried = [(state, shown) for state, shown, _ in links if "at" not in state and "view" not in state]
    assert len(tried) > 120
    for state, items in tried:
        assert items == expected(comparison, state), state
    assert {wrong for *_, wrong in links} == {""}, "no number says that it found other items than it counts"
    assert any(0 < len(items) < 12 for _, items in tried)


def test_a_click_leads_to_the_items_with_their_own_values_and_back(opened: Opened, comparison: dict[str, Any]) -> None:
    page = opened.page
    number = page.locator("#report .summary a[href='#measure=transcript_wer&system=nano']")
    number.click()
    assert page.url.endswith("#measure=transcript_wer&system=nano")
    assert page.evaluate("document.activeElement.id") == "items"
    figure = next(
        one
        for one in comparison["figures"]
        if (one["measure"], one["system"], one["task"]) == ("transcript_wer", "nano", "all")
    )
    trace = page.inner_text("#trace")
    assert f"figures[{comparison['figures'].index(figure)}]" in trace
    assert f"from the {figure['items']} items shown" in trace
    assert trace.count(shown(figure["value"], "ratio")) == 2, "the number, and the same made anew from its items"
    own = page.locator(".item").first.locator(".answer.traced .own").inner_text()
    top, bottom = comparison["rows"][0]["answers"]["nano"]["values"]["transcript_wer"]
    assert own == f"Transcript WER: {top / bottom:.2f} ({top} of {bottom})"
    page.get_by_role("button", name="← Back").click()
    opened.until("location.hash === ''")
    assert len(opened.items()) == 12
    assert page.evaluate("document.activeElement.textContent") == number.inner_text()


def test_an_address_that_was_shared_shows_the_same(browser: Any, run: Path) -> None:
    state = "#cue=emotion&system=nano&truth=fearful&told=unknown&sort=transcript_wer"
    made = Opened(browser, run, state)
    assert made.items() == ["several-0001"]
    assert "confusions[" in made.page.inner_text("#trace")
    assert made.page.input_value("[name=sort]") == "transcript_wer"
    made.close()


# --- filters


@pytest.mark.parametrize(
    ("name", "value", "items"),
    [
        ("task", "event", ["event-0001", "event-0002"]),
        ("emotion", "angry", ["contrast-0002"]),
        ("failed", "nano", ["several-0001"]),
        ("failed", "cascade", ["event-0002"]),
        ("failed", "cascade-hidden", []),
    ],
)
def test_filters(name: str, value: str, items: list[str], opened: Opened) -> None:
    opened.page.select_option(f"[name={name}]", value)
    assert opened.items() == items
    assert opened.page.inner_text("#count") == f"{len(items)} of 12 items"
    assert f"{name}={value}" in opened.page.url


def test_disagreement_search_and_order(opened: Opened, comparison: dict[str, Any]) -> None:
    page = opened.page
    page.select_option("[name=differ]", "emotion_accuracy")
    differing = [
        row["item"]["id"]
        for row in comparison["rows"]
        if len(
            {
                tuple(a["values"]["emotion_accuracy"])
                for a in row["answers"].values()
                if "emotion_accuracy" in a["values"]
            }
        )
        > 1
    ]
    assert opened.items() == differing
    assert 0 < len(differing) < 8
    page.select_option("[name=differ]", "")
    page.fill("[name=q]", "FRIDAY")
    assert opened.items() == ["emotion-0002"]
    page.fill("[name=q]", "")
    page.select_option("[name=sort]", "first_sound_s")
    page.select_option("[name=by]", "nano")
    page.check("[name=down]")
    assert opened.items()[0] == "instruction-0001"
    assert opened.items()[-1] == "several-0001", "what has no value comes last"


def test_many_items_come_page_by_page(browser: Any, run: Path, tmp_path: Path, comparison: dict[str, Any]) -> None:
    many = json.loads(json.dumps(comparison))
    many["rows"] = [json.loads(json.dumps(row)) for row in comparison["rows"] * 3]
    for at, row in enumerate(many["rows"]):
        row["item"]["id"] = f"emotion-{at:04d}"
    example.write(tmp_path, many)
    write_page(tmp_path)
    made = Opened(browser, tmp_path)
    assert made.items() == [f"emotion-{at:04d}" for at in range(12)]
    made.page.get_by_role("link", name="Later").click()
    made.page.get_by_role("link", name="Later").click()
    made.until("location.hash.includes('page=3')")
    assert made.items() == [f"emotion-{at:04d}" for at in range(24, 36)]
    assert made.page.inner_text("#count") == "36 of 36 items, page 3 of 3"
    made.close()


# --- to hear


def test_sounds_load_and_play(opened: Opened, comparison: dict[str, Any]) -> None:
    page = opened.page
    assert page.locator("audio").count() == 0, "none is decoded before it is asked for"
    page.get_by_role("button", name="Play the person in emotion-0001").click()
    page.get_by_role("button", name="Play reply of nano to emotion-0001").click()
    opened.until("[...document.querySelectorAll('audio')].every(one => one.readyState >= 2 && one.duration > 0)")
    lengths = page.eval_on_selector_all("audio", "all => all.map(one => one.duration)")
    assert lengths[0] == pytest.approx(comparison["rows"][0]["item"]["audio"]["duration_s"], abs=0.15)
    opened.until("document.querySelectorAll('audio')[1].currentTime > 0.05")
    assert page.evaluate("document.querySelectorAll('audio')[0].paused"), "one voice at a time"
    opened.until("document.querySelectorAll('audio')[1].ended")


def test_by_keyboard_alone(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the items"
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('href') ?? document.activeElement.name ?? ''"))
        if page.evaluate("document.activeElement.className") == "play":
            break
    links = page.eval_on_selector_all(
        "#report a:not(#list a)",
        "all => all.filter(one => one.checkVisibility()).map(one => one.getAttribute('href'))",
    )
    assert set(links) <= reached, "every number can be reached"
    assert {"task", "emotion", "failed", "differ", "sort", "by", "down", "q"} <= reached
    style = "const s = getComputedStyle(document.activeElement); s.outlineStyle + s.outlineWidth"
    assert page.evaluate(f"(() => {{ {style.replace('; s.', '; return s.')} }})()") == "solid2px", (
        "where one is can be seen"
    )
    page.keyboard.press("Enter")
    opened.until("document.activeElement.tagName === 'AUDIO' && document.activeElement.duration > 0")
    page.locator(".summary a[href='#measure=empathy&system=nano']").focus()
    page.keyboard.press("Enter")
    opened.until("document.activeElement.id === 'items'")
    assert len(opened.items()) == 11


# --- blind


def begin(page: Any, name: str, *systems: str) -> None:
    page.fill("[name=listener]", name)
    for field, system in zip(("first", "second"), systems, strict=False):
        page.select_option(f"[name={field}]", system)
    page.keyboard.press("Enter") if not systems else page.get_by_role("button", name="Begin").click()
    page.wait_for_selector("#left-sound")


def test_blind_votes_are_saved_and_survive(browser: Any, run: Path, comparison: dict[str, Any]) -> None:
    made = Opened(browser, run, "#view=blind", accept_downloads=True)
    page = made.page
    begin(page, "Anna Ö", "cascade", "nano")
    seen = page.evaluate("document.body.innerText")
    assert not any(name in seen for name in example.SYSTEMS), "who made which is not told"
    made.until("[...document.querySelectorAll('audio')].every(one => one.duration > 0)")
    for key, sound in (("1", "left-sound"), ("2", "right-sound"), ("Space", "person-sound")):
        page.keyboard.press(key)
        made.until(f"document.getElementById('{sound}').currentTime > 0")
    for key in ("a", "b", "t", "a", "u"):
        page.keyboard.press(key)
    assert "3 of 10 voted on as Anna Ö" in page.inner_text("#blind")
    page.reload()
    assert page.input_value("[name=listener]") == "Anna Ö"
    begin(page, "Anna Ö", "cascade", "nano")
    assert "3 of 10 voted on as Anna Ö" in page.inner_text("#blind"), "it goes on where it stopped"
    page.keyboard.press("b")
    with page.expect_download() as waiting:
        page.keyboard.press("s")
    assert waiting.value.suggested_filename == "votes-Anna-Ö.json"
    path = run / "votes-anna.json"
    waiting.value.save_as(path)
    made.close()
    told = json.loads(path.read_text(encoding="utf-8"))
    assert [vote["choice"] for vote in told["votes"]] == ["left", "right", "tie", "right"]
    assert len({vote["item"] for vote in told["votes"]}) == 4
    [pair] = read_votes([path], comparison)["pairs"]
    assert pair["a_wins"] + pair["b_wins"] == 3
    assert pair["ties"] == 1
    left = [told["votes"][0]["left"], told["votes"][1]["right"], told["votes"][3]["right"]]
    assert pair["a_wins"] == left.count("cascade"), "a vote for the left is one for the system that was heard there"


def test_items_and_sides_are_drawn_for_each_listener(opened: Opened) -> None:
    def order_of(listener: str) -> list[list[str]]:
        said = "name => drawn(name, []).map(one => [one.row.item.id, one.left, one.right])"
        found: list[list[str]] = opened.page.evaluate(said, listener)
        return found

    anna, ben = order_of("anna"), order_of("ben")
    assert order_of("anna") == anna
    assert [item for item, *_ in anna] != [item for item, *_ in ben]
    assert sorted(item for item, *_ in anna) == sorted(item for item, *_ in ben)
    assert {left for _, left, _ in anna + ben} == set(example.SYSTEMS)
    assert {tuple(sorted(pair)) for _, *pair in anna} > {("cascade", "nano")}, "pairs are drawn, too"


def test_what_is_written_is_no_key(browser: Any, run: Path) -> None:
    made = Opened(browser, run, "#view=blind")
    begin(made.page, "tabs")
    assert "0 of 12 voted on as tabs" in made.page.inner_text("#blind")
    made.page.get_by_role("button", name="A fits better").click()
    made.page.keyboard.press("Escape")
    made.page.wait_for_selector("#summary")
    made.page.keyboard.press("a")
    made.close()


# --- anywhere


def test_nothing_nasty_comes_to_life(browser: Any, tmp_path: Path) -> None:
    example.write(tmp_path, example.spoilt(example.make(tmp_path)))
    write_page(tmp_path)
    made = Opened(browser, tmp_path)
    assert len(made.items()) == 12
    made.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert made.page.locator("img").count() == 0
    assert example.NASTY.split("|")[0].strip() in made.page.inner_text(".item .reply >> nth=0")
    assert (
        made.page.evaluate("document.scripts.length")
        == made.page.locator("#data, script:not([type]), script[id^=sound-]").count()
    )
    made.page.goto(made.address + "#measure=<img src=x onerror=alert(1)>&system=nano&q=<b>&votes=<i> x&view=")
    assert made.page.locator("img, #trace i").count() == 0
    made.close()


def test_narrow_and_dark(browser: Any, run: Path) -> None:
    made = Opened(browser, run, viewport={"width": 360, "height": 740})
    for state in ("", "#measure=empathy&system=nano", "#view=blind"):
        made.page.evaluate("state => { location.hash = state; }", state)
        for scheme in ("light", "dark"):
            made.page.emulate_media(color_scheme=scheme)
            assert made.page.evaluate("document.documentElement.scrollWidth") == 360
            said = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            paper, ink = made.page.evaluate(said)
            assert (luminance(paper) < luminance(ink)) == (scheme == "dark")
    begin(made.page, "Anna")
    assert made.page.evaluate("document.documentElement.scrollWidth") == 360
    made.close()


def luminance(colour: str) -> int:
    return sum(int(part) for part in colour.strip("rgb()").split(",")[:3])
