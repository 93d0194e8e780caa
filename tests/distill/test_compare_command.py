"""A whole comparison over stand-in processes: same seed, same JSON; an interrupted one goes on; bad input is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import students
from checkpoints import server
from click.testing import CliRunner

from cascade.errors import InputError
from cli import main
from distill.comparison.attune_eval import build
from distill.comparison.run import Order, Settings, compare
from distill.comparison.systems import parsed, typed
from graphs import comparison
from graphs.comparison import SystemSpec

TURNS = (
    {"text": "They moved the meeting to Thursday.", "emotion": "sad", "contrast": "meeting"},
    {"text": "They moved the meeting to Thursday.", "emotion": "happy", "contrast": "meeting"},
    {"text": "The soup was cold again.", "emotion": "angry", "gender": "female"},
)


def nothing(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("items")
    own = folder / "own.jsonl"
    own.write_text("\n".join(json.dumps(turn) for turn in TURNS))
    return build(folder / "set", None, 0, own=own).folder


@pytest.fixture
def order(tmp_path: Path, items: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    """Two stand-ins, of which the second dies on one item."""
    monkeypatch.setattr(comparison, "WORKER", Path(__file__).parents[1] / "dying_worker.py")
    specs = (
        SystemSpec(name="one", kind="student", model="/standin"),
        SystemSpec(name="other", kind="student", model="/standin", fingerprint="dies:own-0003"),
    )
    settings = Settings(systems=specs, items=str(items), paced=1, rounds=1, scored=1)
    return Order(settings, tmp_path / "run", jobs=2, command="attune compare")


def steady(value: Any) -> Any:
    """Without what may differ from run to run."""
    if isinstance(value, dict):
        return {key: steady(one) for key, one in value.items() if key != "timings"}
    return [steady(one) for one in value] if isinstance(value, list) else value


def test_a_whole_comparison_interrupted_resumed_and_made_again(order: Order, tmp_path: Path) -> None:
    steps: list[str] = []

    def stop(what: str, done: int, of: int) -> None:
        steps.append(what)
        if what == "measuring" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(order, nothing, stop)
    assert not (order.out / "comparison.json").exists()
    before_s = float((order.out / "seconds").read_text())
    kept = {path: path.stat().st_mtime_ns for path in (order.out / "answers").rglob("own-*.*")}
    with pytest.raises(InputError, match="holds a run already; --resume"):
        compare(order, nothing, nothing)
    page = compare(replace(order, resume=True), nothing, nothing)
    assert {path: path.stat().st_mtime_ns for path in (order.out / "answers").rglob("own-*.*")} == kept
    found = json.loads((order.out / "comparison.json").read_text())
    assert found["timings"]["wall_s"] >= before_s > 0, "with the time before it was interrupted"
    again = compare(replace(order, out=tmp_path / "again", jobs=1), nothing, nothing)
    assert steady(found) == steady(json.loads((again.parent / "comparison.json").read_text()))
    assert page.stat().st_size > 10_000
    assert "| one " in (order.out / "comparison.md").read_text()

    other = next(one for one in found["systems"] if one["name"] == "other")
    assert (other["answered"], other["failed"]) == (2, 1)
    answers = {row["item"]["id"]: row["answers"]["other"] for row in found["rows"]}
    assert "died" in answers["own-0003"]["failures"][0]
    assert answers["own-0003"]["values"]["answered"] == [0.0, 1.0]
    figures = {(one["measure"], one["task"], one["system"]): one for one in found["figures"]}
    assert figures["answered", "all", "other"]["value"] == pytest.approx(2 / 3)
    assert figures["contrast_fit", "all", "one"]["value"] == 0.5, "the same words to both tones"
    for (measure, task, system), figure in figures.items():
        rows = [row for row in found["rows"] if task in ("all", row["item"]["task"])]
        values = [v for row in rows if (v := row["answers"][system]["values"].get(measure))]
        if values:  # each number is what its items say
            assert figure["value"] == pytest.approx(sum(n for n, _ in values) / sum(d for _, d in values), rel=1e-5)
            assert figure["items"] == len(values)


def test_a_language_model_judges_every_reply_as_often_as_asked(
    order: Order, items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER", json.dumps({"score": 4, "reason": "It meets the sadness."}))
    with server.serving() as url:
        asked = ["--items", str(items), "--paced", "0", "--scored", "0", "--judge-url", url, "--judge-model", "m"]
        monkeypatch.setattr("distill.comparison.systems.parsed", lambda *_, **__: order.settings.systems[0])
        shown = CliRunner().invoke(
            main, ["compare", "-o", str(order.out), "--system", "one", *asked, "--judge-repeats", "2"]
        )
    assert shown.exit_code == 0, shown.output
    found = json.loads((order.out / "comparison.json").read_text())
    figures = {one["measure"]: one for one in found["figures"] if one["task"] == "all"}
    assert (figures["judge_emotion"]["value"], figures["judge_emotion"]["items"]) == (4.0, 3)
    note = found["rows"][0]["answers"]["one"]["notes"]["judge_emotion"]
    assert "openai m" in note
    assert "It meets the sadness." in note
    assert "Emotion score" in shown.output


def test_other_items_than_it_began_with_are_refused(order: Order, tmp_path: Path) -> None:
    def stop(what: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(order, nothing, stop)
    (order.out / "items.sha256").write_text("0" * 64)
    with pytest.raises(InputError, match="not the items that this run began with"):
        compare(replace(order, resume=True), nothing, nothing)
    settings = order.settings.model_copy(update={"seed": 5})
    with pytest.raises(InputError, match=r"holds another run \(seed = 0, now 5\)"):
        compare(replace(order, settings=settings, resume=True), nothing, nothing)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--system", "cascade:cues=some"], "cues = 'some'; legal: heard, hidden, oracle"),
        (["--system", "cascade:tone=x"], "a cascade has no 'tone'; legal: cues, profile, name"),
        (["--system", "nowhere"], "holds no student (student.json); legal: cascade, student, or a student's folder"),
        (["--system", "cascade", "--system", "cascade"], "two systems are called 'cascade'"),
        (["--system", "cascade:name=../up"], "cannot be its name"),
        (["--items", "nowhere"], "legal: trial, tiny, small, full, or the folder of a set of items"),
        (["--learnt-from", "."], "holds no dataset (manifest.json); give a folder that attune teach made"),
        (["--votes", __file__], "broken JSON"),
        (["--judge-url", "http://localhost:1/v1"], "--judge-url and --judge-model go together"),
        (["--profile", "embeded"], "profile 'embeded' is not known"),
        (["--system", "cascade:profile=gpu"], "lacks"),
        (["--resume"], "no run is here to go on with"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    shown = CliRunner().invoke(main, ["compare", "-o", str(tmp_path / "run"), *arguments])
    assert shown.exit_code == 2
    assert said in shown.output
    assert shown.output.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_own_recordings_go_with_a_size(tmp_path: Path, items: Path) -> None:
    own = str(items.parent / "own.jsonl")
    given = ["compare", "-o", str(tmp_path / "run"), "--own", own, "--items", str(items)]
    shown = CliRunner().invoke(main, given)
    assert shown.exit_code == 2
    assert "--own adds recordings to a size of Attune-eval" in shown.output
    (tmp_path / "bad.jsonl").write_text('{"emotion": "joyful"}')
    shown = CliRunner().invoke(main, ["compare", "-o", str(tmp_path / "run"), "--own", str(tmp_path / "bad.jsonl")])
    assert shown.exit_code == 2
    assert "bad.jsonl:1" in shown.output
    assert not (tmp_path / "run").exists(), "what is refused leaves nothing behind"


def test_an_empty_set_is_refused(tmp_path: Path, items: Path) -> None:
    (tmp_path / "empty").mkdir()
    shown = CliRunner().invoke(main, ["compare", "-o", str(tmp_path / "run"), "--items", str(tmp_path / "empty")])
    assert shown.exit_code == 2
    assert "or the folder of a set of items (RUN/items of an earlier run)" in shown.output
    assert "Traceback" not in shown.output


def test_the_command_shown_makes_the_same_systems(tmp_path: Path) -> None:
    """What a reader of the report types gives the systems that were compared."""
    student = students.nano()
    student.save_pretrained(tmp_path / "mine" / "student")
    texts = ("cascade", "cascade:cues=hidden", "cascade:cues=oracle,name=ceiling", "mine", "mine:think=none,vector=off")
    made = [parsed(text.replace("mine", str(tmp_path / "mine")), profile="embedded", engines=()) for text in texts]
    assert [spec.name for spec in made] == ["cascade", "cascade-hidden", "ceiling", "mine", "mine-no-think-no-vector"]
    shown = [typed(spec, "embedded") for spec in made]
    assert shown == [
        "cascade", "cascade:cues=hidden", "cascade:cues=oracle,name=ceiling", "mine/student",
        "mine/student:think=none,vector=off",
    ]  # fmt: skip
    again = [parsed(text.replace("mine", str(tmp_path / "mine")), profile="embedded", engines=()) for text in shown]
    assert again == made
