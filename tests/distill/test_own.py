"""Turns that people bring: what is taken from them, and one line for each that cannot be."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fakes import tone

from cascade.audio import Waveform, write_wav
from cascade.errors import InputError
from distill.teaching.records import SPLITS, Labels, Scenario
from distill.teaching.scenarios.own import KNOWN_OF, own_scenarios
from distill.teaching.voices import cast_of

VOICES = {speaker.name: speaker for split in SPLITS for speaker in cast_of(split)}


def jsonl(folder: Path, *rows: Any) -> Path:
    path = folder / "turns.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def one(folder: Path, row: dict[str, Any], seed: int = 1) -> Scenario:
    scenarios, problems = own_scenarios(jsonl(folder, row), seed)
    assert problems == []
    assert len(scenarios) == 1
    return scenarios[0]


def problem(folder: Path, *rows: Any) -> str:
    """The one line about the last row; the others are good."""
    path = jsonl(folder, *rows)
    scenarios, problems = own_scenarios(path, 1)
    assert len(scenarios) == len(rows) - 1
    assert len(problems) == 1
    place, _, line = problems[0].partition(": ")
    assert place == f"{path}:{len(rows)}"
    assert "\n" not in line
    return line


def recording(path: Path, hz: float = 220.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = tone(0.5, hz)
    if path.suffix == ".wav":
        write_wav(path, wave)
    else:
        soundfile.write(path, wave.samples, wave.sample_rate)
    return path


# --- JSONL --------------------------------------------------------------------------------------------------


def test_a_line_of_text_becomes_a_turn_in_a_drawn_voice(tmp_path: Path) -> None:
    found = one(tmp_path, {"text": " I lost  my keys. ", "emotion": "sad", "gender": "female", "age": "elder"})
    voice = VOICES[found.voice or ""]
    assert voice in cast_of(found.split)
    assert found.text == "I lost my keys."
    assert found.labels == Labels(emotion="sad", gender="female", age="elder", events=())
    assert (voice.gender, voice.age) == ("female", "elder")
    assert (found.source, found.task, found.domain, found.index) == ("made", "dialogue", "own", 0)


def test_what_is_not_said_is_drawn_and_then_known(tmp_path: Path) -> None:
    found = one(tmp_path, {"text": "I lost my keys."})
    voice = VOICES[found.voice or ""]
    assert found.labels == Labels(emotion="neutral", gender=voice.gender, age=voice.age, events=())


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    voice = cast_of("test")[3]
    history = [{"said": "Hello.", "replied": "Hello, how are you?"}]
    row = {"text": "My sister is moving in.", "emotion": "angry", "age": voice.age, "gender": voice.gender, "events": [],
           "domain": "moving", "voice": voice.name, "split": "test", "history": history, "contrast": "sister"}  # fmt: skip
    found = one(tmp_path, row)
    assert (found.voice, found.split, found.domain, found.contrast) == (voice.name, "test", "moving", "sister")
    assert found.history[0].replied == "Hello, how are you?"


def test_a_voice_brings_its_split(tmp_path: Path) -> None:
    assert one(tmp_path, {"text": "Hello you.", "voice": cast_of("validation")[0].name}).split == "validation"


def test_a_recording_keeps_what_is_not_known_unknown(tmp_path: Path) -> None:
    path = recording(tmp_path / "clips" / "a.wav")
    found = one(tmp_path, {"recording": "clips/a.wav", "events": ["laugh"]})
    assert found.source == "recorded"
    assert found.recording == str(path)
    assert found.recording_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.text, found.voice) == (None, None)
    assert found.labels == Labels(events=("laugh",))


def test_empty_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    scenarios, problems = own_scenarios(jsonl(tmp_path, "", {"text": "One is here."}, "  ", "{"), 1)
    assert len(scenarios) == 1
    assert problems[0].startswith(f"{tmp_path / 'turns.jsonl'}:4: broken JSON")


def test_same_file_same_scenarios(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *({"text": f"This is sentence {n}.", "emotion": "happy"} for n in "abcdefgh"))
    assert own_scenarios(path, 1) == own_scenarios(path, 1)
    assert [s.seed for s in own_scenarios(path, 1)[0]] != [s.seed for s in own_scenarios(path, 2)[0]]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            '{"text": "I am',
            'broken JSON (Unterminated string starting at): \'{"text": "I am\'; legal: one object a line',
        ),
        ("[1, 2]", "'[1, 2]' is no object; legal: one object a line"),
        (
            {"text": "Hi you.", "emotoin": "sad"},
            "key 'emotoin' is not known; legal: text, emotion, age, gender, events",
        ),
        (
            {"text": "Hi you.", "emotion": "glad"},
            "emotion = 'glad'; legal: angry, disgusted, fearful, happy, neutral, sad",
        ),
        ({"text": "Hi you.", "age": "teen"}, "age = 'teen'; legal: child, adult, elder"),
        ({"text": "Hi you.", "gender": "x"}, "gender = 'x'; legal: female, male"),
        ({"text": "Hi you.", "split": "dev"}, "split = 'dev'; legal: train, validation, test"),
        ({"text": "Hi you.", "events": ["hiccup"]}, "events.0 = 'hiccup'; legal: laugh, cough, cry"),
        ({"text": "Hi you.", "events": "laugh"}, "events = 'laugh'; legal: a list"),
        ({"text": "Hi you.", "events": ["laugh", "cry"]}, "events = laugh+cry without a recording; legal: a recording"),
        ({"text": "Hi you.", "emotion": "other"}, "emotion = 'other' without a recording; legal: angry, disgusted"),
        ({"text": 5}, "text = '5'; legal: a string"),
        ({"text": "  "}, "text = '  '; legal: something in it"),
        ({"text": "?!"}, "text = '?!' has no word; legal: a sentence"),
        ({"emotion": "sad"}, "neither text nor recording; legal: one of them, or both"),
        ({"text": "Hi you.", "history": [{"said": "Hm."}]}, "legal: said and replied in each exchange"),
        ({"text": "Hi you.", "voice": "Bob"}, "voice = 'Bob' is not known; legal: train-"),
        ({"text": "Hi you.", "recording": "no.wav"}, "no.wav: no such file; give a path"),
        ({"recording": "a.wav", "voice": "Bob"}, "voice beside a recording; legal: speaker"),
        ({"text": "A  good turn"}, ":1; legal: each turn once"),
    ],
)
def test_a_line_that_cannot_be_used(tmp_path: Path, row: Any, line: str) -> None:
    assert line in problem(tmp_path, {"text": "A good turn."}, row)


@pytest.mark.parametrize("name", ["gender", "age", "split"])
def test_labels_that_are_not_the_voice_s(tmp_path: Path, name: str) -> None:
    voice = next(speaker for speaker in cast_of("train") if (speaker.gender, speaker.age) == ("female", "child"))
    wrong = {"gender": "male", "age": "elder", "split": "test"}[name]
    line = problem(tmp_path, {"text": "A good turn."}, {"text": "Hi you.", "voice": voice.name, name: wrong})
    assert line.startswith(f"{name} = {wrong!r}, but the voice {voice.name} is of {name}")


def test_recordings_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "empty.wav").touch()
    write_wav(tmp_path / "silence.wav", Waveform(np.zeros(16_000, np.float32), 16_000))
    for name, why in (("text", "not audio"), ("empty", "empty file"), ("silence", "silence")):
        assert why in problem(tmp_path, {"text": "A good turn."}, {"recording": f"{name}.wav"})


def test_one_recording_is_one_turn(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    assert "the same turn as" in problem(tmp_path, {"recording": "a.wav"}, {"recording": "b.wav", "emotion": "sad"})


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "no such file or folder; give a JSONL file or a folder of recordings"),
        (b"\n \n", "holds no turn; give a JSONL file"),
        (b'{"text": "fine then"}\n{"text": "caf\xe9"}', ":2: not UTF-8; save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_at_all(tmp_path: Path, content: bytes | None, line: str) -> None:
    path = tmp_path / "turns.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        own_scenarios(path, 1)
    assert line in str(raised.value)


# --- splits -------------------------------------------------------------------------------------------------


def many() -> list[dict[str, Any]]:
    """Some speakers say the same sentence, some sets have several tones."""
    tones = ("happy", "sad")
    return [
        {"text": f"Sentence {chr(97 + n // 26)}{chr(97 + n % 26)} is this.", "speaker": f"p{n // 2}", "emotion": tone_}
        for n in range(400)
        for tone_ in tones
    ]


def test_splits_share_no_speaker_and_no_wording(tmp_path: Path) -> None:
    rows = many()
    scenarios, problems = own_scenarios(jsonl(tmp_path, *rows), 1)
    assert problems == []
    for value in (lambda n: rows[n]["speaker"], lambda n: rows[n]["text"], lambda n: scenarios[n].voice):
        by_split = [{value(s.index) for s in scenarios if s.split == split} for split in SPLITS]  # type: ignore[no-untyped-call]
        assert all(by_split)
        assert not any(a & b for a, b in combinations(by_split, 2))
    held = sum(s.split != "train" for s in scenarios)
    assert held / len(scenarios) == pytest.approx(0.1, abs=0.06)


def test_the_split_does_not_hang_on_the_order_of_the_file(tmp_path: Path) -> None:
    rows = many()
    there, back = (own_scenarios(jsonl(tmp_path, *order), 1)[0] for order in (rows, rows[::-1]))
    assert {(s.text, s.split) for s in there} == {(s.text, s.split) for s in back}


def test_one_speaker_has_one_voice_and_a_contrast_set_too(tmp_path: Path) -> None:
    by_one = [{"text": f"{word} it is.", "speaker": "p"} for word in ("One", "Two", "Three")]
    in_set = [{"text": "They called.", "contrast": "c", "emotion": emotion} for emotion in ("happy", "sad", "angry")]
    scenarios, _ = own_scenarios(jsonl(tmp_path, *by_one, *in_set), 1)
    assert len({s.voice for s in scenarios[:3]}) == 1
    assert len({s.voice for s in scenarios[3:]}) == 1


def test_what_holds_most_together_is_trained_on(tmp_path: Path) -> None:
    for name in "abcdefghijklmnopqrstuvwxyz":
        rows = [{"text": f"Sentence {n} of {name}.", "speaker": name} for n in ("one", "two")]
        assert {s.split for s in own_scenarios(jsonl(tmp_path, *rows), 1)[0]} == {"train"}


def test_what_the_owner_asks_for_holds_for_all_that_is_tied_to_it(tmp_path: Path) -> None:
    same = {"text": "One it is."}
    rows = [{**same, "speaker": "p"}, {**same, "speaker": "q", "split": "test"}, {"text": "Two.", "speaker": "p"}]
    assert {s.split for s in own_scenarios(jsonl(tmp_path, *rows), 1)[0]} == {"test"}


def test_what_cannot_be_kept_apart_is_told(tmp_path: Path) -> None:
    tested, trained = ({"text": f"It is for {split}.", "speaker": "p", "split": split} for split in ("test", "train"))
    line = problem(tmp_path, tested, trained)
    assert line.startswith(f"split = 'train', but {tmp_path / 'turns.jsonl'}:1 is in 'test'")
    assert line.endswith("legal: one split for both")


# --- folders ------------------------------------------------------------------------------------------------


def test_a_folder_without_labels(tmp_path: Path) -> None:
    names = ("b.flac", "a.wav", "deep/c.ogg", "d.mp3")
    for number, name in enumerate(names):
        recording(tmp_path / name, 200.0 + 40 * number)
    (tmp_path / "notes.txt").write_text("no audio")
    scenarios, problems = own_scenarios(tmp_path, 1)
    assert problems == []
    assert [Path(s.recording or "").relative_to(tmp_path).as_posix() for s in scenarios] == sorted(names)
    assert all(s.labels == Labels() and s.text is None and s.source == "recorded" for s in scenarios)


def test_a_folder_with_a_csv(tmp_path: Path) -> None:
    for number, name in enumerate(("a.wav", "b.wav", "c.wav")):
        recording(tmp_path / name, 200.0 + 40 * number)
    (tmp_path / "labels.csv").write_text(
        "path,text,emotion,age,gender,events,speaker,split\n"
        'b.wav,"So, it is over.",sad,,female,sigh+cry,p1,test\na.wav,,,,,none,,\n'
    )
    scenarios, problems = own_scenarios(tmp_path, 1)
    assert problems == []
    assert [Path(s.recording or "").name for s in scenarios] == ["b.wav", "a.wav", "c.wav"]
    first, second, third = scenarios
    assert (first.text, first.split) == ("So, it is over.", "test")
    assert first.labels == Labels(emotion="sad", gender="female", events=("sigh", "cry"))
    assert second.labels == Labels(events=())
    assert third.labels == Labels()


def test_a_folder_with_jsonl_labels(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav")
    (tmp_path / "labels.jsonl").write_text(
        '{"path": "a.wav", "text": "So it is.", "events": ["laugh"]}\n{"text": "x"}\nnonsense\n'
    )
    scenarios, problems = own_scenarios(tmp_path, 1)
    assert [(s.text, s.labels.events) for s in scenarios] == [("So it is.", ("laugh",))]
    assert problems[0].startswith(f"{tmp_path / 'labels.jsonl'}:2: no path; legal:")
    assert problems[1].startswith(f"{tmp_path / 'labels.jsonl'}:3: broken JSON")


def test_labels_of_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav")
    (tmp_path / "labels.csv").write_text("path,emotion\nno.wav,sad\na.wav,glad\na.wav\n")
    scenarios, problems = own_scenarios(tmp_path, 1)
    assert scenarios == [], "a recording whose label is wrong is not taken without it"
    place = tmp_path / "labels.csv"
    assert problems[0].startswith(f"{place}:2: {tmp_path / 'no.wav'}: no such file")
    assert problems[1].startswith(f"{place}:3: emotion = 'glad'; legal: angry")
    assert problems[2].startswith(f"{place}:4: not 2 cells")


def test_a_bad_recording_of_a_folder_is_named_once(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav")
    (tmp_path / "b.wav").touch()
    scenarios, problems = own_scenarios(tmp_path, 1)
    assert len(scenarios) == 1
    assert problems[0].count("b.wav") == 1
    assert problems[0].startswith(str(tmp_path / "b.wav"))


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({}, "holds no turn"),
        ({"labels.csv": "path,feeling\n"}, "labels.csv:1: column 'feeling' is not known; legal: path, text, emotion"),
        ({"labels.csv": "text,emotion\n"}, "labels.csv:1: no column path; legal: path, text"),
        ({"labels.csv": 'path,text\n"a.wav,x\n'}, "not CSV"),
        ({"labels.csv": "path\n", "labels.jsonl": ""}, "has labels.csv and labels.jsonl; keep one of them"),
    ],
)
def test_a_folder_that_cannot_be_used_at_all(tmp_path: Path, files: dict[str, str], line: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as raised:
        own_scenarios(tmp_path, 1)
    assert line in str(raised.value)


def test_the_labels_of_the_readme_are_taken(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (labels,) = re.findall(r"```text\n(path,.*?)```", readme, re.S)
    (tmp_path / "labels.csv").write_text(labels)
    recording(tmp_path / "ann" / "job.wav")
    (found,), problems = own_scenarios(tmp_path, 0)
    assert problems == []
    assert labels.splitlines()[0].split(",") == ["path", *KNOWN_OF]
    assert (found.text, found.speaker, found.split) == ("I lost my job yesterday.", "ann", "train")
    assert found.labels == Labels(emotion="sad", age="adult", gender="female", events=("sigh",))
