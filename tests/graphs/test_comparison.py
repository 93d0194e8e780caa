"""The runner of a comparison: each system in its own process, a failure is an answer, and nothing is asked twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import tone

from cascade.audio import write_wav
from cascade.errors import EngineUnavailable
from cascade.turn import Cues, EmotionCue
from graphs import comparison
from graphs.comparison import (
    Case,
    SystemSpec,
    answer_all,
    pace_all,
    read_about,
    read_answers,
    read_pace,
    read_taken,
    running,
)
from graphs.resources import descendants, usage

SPEC = SystemSpec(name="standin", kind="student", model="/nowhere")


def nothing(what: str, done: int, of: int) -> None:
    pass


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str], Case]:
    wav = tmp_path / "in.wav"
    write_wav(wav, tone(0.6))
    return lambda id: Case(id=id, wav=str(wav))


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "WORKER", Path(__file__).parents[1] / "dying_worker.py")


@pytest.mark.usefixtures("dying")
def test_a_system_that_dies_or_breaks_on_one_case_answers_the_others(
    tmp_path: Path, case: Callable[[str], Case]
) -> None:
    cases = [case(id) for id in ("fine-0001", "dies-0001", "fine-0002", "breaks-0001", "fine-0003")]
    answer_all(SPEC, cases, tmp_path, seed=3, jobs=1, progress=nothing)
    found = read_answers(tmp_path, "standin", [one.id for one in cases])
    assert [found[f"fine-000{n}"].turn.reply.text for n in (1, 2, 3)] == ["I hear you, 3."] * 3  # type: ignore[union-attr]
    assert "died" in found["dies-0001"].crashed
    assert found["breaks-0001"].crashed == "ValueError: nobody thought of this"
    assert found["dies-0001"].turn is found["breaks-0001"].turn is None
    sound = tmp_path / "answers" / "standin" / found["fine-0001"].turn.reply_audio.path  # type: ignore[union-attr]
    assert sound.name == "fine-0001.wav"
    assert sound.is_file()
    assert read_about(tmp_path, "standin").engines["reasoning"].name == "student"


@pytest.mark.usefixtures("dying")
def test_what_is_answered_is_not_asked_again(tmp_path: Path, case: Callable[[str], Case]) -> None:
    cases = [case("fine-0001"), case("fine-0002")]
    told: list[tuple[str, int, int]] = []
    answer_all(SPEC, cases[:1], tmp_path, seed=0, jobs=2, progress=nothing)
    before = (tmp_path / "answers" / "standin" / "fine-0001.json").read_bytes()
    answer_all(SPEC, cases, tmp_path, seed=1, jobs=2, progress=lambda *one: told.append(one))
    assert told == [("standin", 2, 2)]
    assert (tmp_path / "answers" / "standin" / "fine-0001.json").read_bytes() == before
    answer_all(SPEC, cases, tmp_path, seed=1, jobs=2, progress=lambda *one: told.append(one))
    assert len(told) == 1


@pytest.mark.usefixtures("dying")
def test_an_interrupted_run_leaves_whole_answers_and_goes_on(tmp_path: Path, case: Callable[[str], Case]) -> None:
    cases = [case(f"fine-000{n}") for n in range(4)]

    def stop(what: str, done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_all(SPEC, cases, tmp_path, seed=0, jobs=1, progress=stop)
    folder = tmp_path / "answers" / "standin"
    assert sorted(path.name for path in folder.glob("*.json")) == ["fine-0000.json", "fine-0001.json"]
    assert all(json.loads(path.read_text())["turn"] for path in folder.glob("*.json"))
    answer_all(SPEC, cases, tmp_path, seed=0, jobs=1, progress=nothing)
    assert len(read_answers(tmp_path, "standin", [one.id for one in cases])) == 4
    assert not list(folder.glob(".turn-*"))


@pytest.mark.usefixtures("dying")
def test_speed_is_measured_in_rounds_over_all_systems(tmp_path: Path, case: Callable[[str], Case]) -> None:
    specs = [SPEC, SPEC.model_copy(update={"name": "other"})]
    cases = [case("fine-0001"), case("dies-0001")]
    order: list[str] = []
    pace_all(specs, cases, tmp_path, seed=0, rounds=2, progress=lambda what, done, of: order.append(what.split(",")[0]))
    assert order == ["standin", "standin", "other", "other"] * 2
    pace = read_pace(tmp_path, "other", "fine-0001")
    assert len(pace.runs) == 2
    assert all(run.first_sound_s is not None and 0 < run.first_sound_s <= run.total_s for run in pace.runs)
    assert pace.reply_s > 0
    assert (read_taken(tmp_path, "other").peak_memory_mb or 0) > 10
    assert read_taken(tmp_path, "nobody").peak_memory_mb is None
    assert [run.total_s for run in read_pace(tmp_path, "other", "dies-0001").runs] == [0.0, 0.0]


def test_a_cascade_hears_nothing_or_everything_as_its_spec_says(tmp_path: Path, case: Callable[[str], Case]) -> None:
    truth = Cues(emotion=EmotionCue(probabilities={"sad": 1.0}, engine="truth"))
    told = case("fine-0001").model_copy(update={"truth": truth})
    labels = {}
    for cues in ("hidden", "oracle"):
        spec = SystemSpec(name=cues, kind="cascade", cues=cues)
        with running(spec, tmp_path / cues) as system:
            turn = system.answer(told, 0)[0].turn
            assert turn is not None
            labels[cues] = turn.cues.emotion.label if turn.cues.emotion else None
    assert labels == {"hidden": None, "oracle": "sad"}


def test_a_system_that_cannot_be_loaded_says_so_in_one_line(tmp_path: Path, case: Callable[[str], Case]) -> None:
    with pytest.raises(EngineUnavailable, match=r"standin: .*nowhere") as caught:
        answer_all(SPEC, [case("fine-0001")], tmp_path, seed=0, jobs=2, progress=nothing)
    assert "\n" not in str(caught.value)


def test_what_a_process_and_its_children_take() -> None:
    used = usage(os.getpid())
    assert used.cpu_s is not None
    assert used.cpu_s > 0
    assert used.peak_memory_mb is not None
    assert used.peak_memory_mb > 10
    assert os.getpid() in descendants(os.getppid())


def test_the_same_recognizer_need_not_listen_twice(tmp_path: Path, case: Callable[[str], Case]) -> None:
    """What one cascade heard counts for the next one, and is not heard anew; a system of other ears listens itself."""
    one, other = (SystemSpec(name=name, kind="cascade", cues=cues) for name, cues in (("a", "heard"), ("b", "hidden")))
    cases = [case("fine-0001")]
    answer_all(one, cases, tmp_path, seed=0, jobs=1, progress=nothing)
    path = tmp_path / "answers" / "a" / "fine-0001.json"
    kept = json.loads(path.read_text())
    kept["turn"]["transcript"]["text"] = "words that nobody said"
    path.write_text(json.dumps(kept))
    answer_all(other, cases, tmp_path, seed=0, jobs=1, progress=nothing, earlier=["a"])
    turn = read_answers(tmp_path, "b", ["fine-0001"])["fine-0001"].turn
    assert turn is not None
    assert turn.transcript is not None
    assert turn.transcript.text == "words that nobody said"
    about = tmp_path / "answers" / "a" / "system.json"
    told = json.loads(about.read_text())
    told["engines"]["asr"]["options"] = {"dither": "off"}
    about.write_text(json.dumps(told))
    third = other.model_copy(update={"name": "c"})
    answer_all(third, cases, tmp_path, seed=0, jobs=1, progress=nothing, earlier=["a"])
    heard = read_answers(tmp_path, "c", ["fine-0001"])["fine-0001"].turn
    assert heard is not None
    assert heard.transcript is None or heard.transcript.text != "words that nobody said"
