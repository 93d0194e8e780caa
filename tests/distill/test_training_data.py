"""A dataset opened to train from: what it hands out, and what it refuses before any training starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import full_sample, sample, talker_sample, usual_samples, write_dataset

from cascade.errors import InputError
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished
from distill.teaching.records import SPLITS, Sample
from distill.training import data
from distill.training.data import Dataset, open_dataset, open_datasets


def made(folder: Path, samples: list[Sample], *, block: int = 5) -> Path:
    write_dataset(folder, samples, block=block)
    finished(folder, {"seed": 7}, Facts.of(folder))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("data"), usual_samples())


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_rows_come_by_split_without_the_rejected(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert {split: len(dataset.rows(split)) for split in ("train", "validation", "test")} == {
        "train": 9,
        "validation": 7,
        "test": 8,
    }
    assert {row.split for row in dataset.rows("validation")} == {"validation"}
    assert len({row.id for row in dataset.all_rows()}) == 24
    assert dataset.sha256 == json.loads((folder / "manifest.json").read_text())["dataset_sha256"]


def test_several_datasets_are_one(folder: Path, tmp_path: Path) -> None:
    other = made(tmp_path, [one for one in usual_samples() if one.scenario.split != "test"])
    one, two = open_dataset(folder), open_dataset(other)
    both = open_datasets([folder, other])
    for split in SPLITS:
        assert [row.id.partition("/")[::2] for row in both.rows(split)] == [
            (dataset.sha256, row.id) for dataset in (one, two) for row in dataset.rows(split)
        ]
    assert both.sha256 == f"{one.sha256}+{two.sha256}"
    assert str(both) == f"{folder}, {other}"
    for row in both.all_rows():
        of, own = (two, one)[row.id.startswith(one.sha256)], row.id.partition("/")[2]
        same = next(each for each in of.all_rows() if each.id == own)
        assert (row.user_text, row.reply_text, row.template) == (same.user_text, same.reply_text, same.template)
        for whose in ("user", "reply"):
            there, here = of.audio(same, whose), both.audio(row, whose)
            assert (there is None) == (here is None)
            assert there is None or here is None or np.array_equal(there[0], here[0])
    assert type(open_datasets([folder])) is Dataset
    with pytest.raises(InputError, match=f"holds the rows of {folder}, which is given, too; give each dataset once"):
        open_datasets([folder, other, folder])


def test_a_row_says_what_the_dataset_says(folder: Path) -> None:
    row = open_dataset(folder).rows("train")[0]
    assert (row.id, row.task, row.source, row.template, row.contrast) == (
        "made-00000000",
        "dialogue",
        "made",
        "template-0",
        "set-0",
    )
    assert (row.user_text, row.heard_text) == ("Well, that was thing number 0.", "well that was")
    assert (row.user_emotion, row.user_age, row.user_gender, row.user_events) == ("sad", "adult", "female", ())
    assert row.emotion_posterior == pytest.approx((0, 0, 0, 0.2, 0, 0.6, 0, 0))
    assert row.gender_posterior == (0.75, 0.25)
    assert (row.age_posterior, row.heard_events) == (None, None)  # not measured is not a distribution
    assert row.reply_words == (("That", 0.0, 0.25),)
    assert row.user_words == (("So", 0.05, 0.2),)
    assert row.reply_vector is not None
    assert row.reply_vector.tolist() == [0.25, -1.5]
    assert (row.worst_text, row.worst_empathy, row.empathy) == ("I see.", 0.2, 0.8)
    assert (row.user_duration_s, row.reply_duration_s, row.reply_tokens) == (0.4, 0.5, 0)


def test_a_text_for_the_talker_has_no_person(folder: Path) -> None:
    row = next(row for row in open_dataset(folder).all_rows() if row.task == "speak")
    assert row.reply_text
    assert row.reply_emotion == "joyful"
    assert (row.user_text, row.user_emotion, row.user_events, row.emotion_posterior, row.strategy) == (None,) * 5


def test_history_events_and_alternatives(tmp_path: Path) -> None:
    index = full_sample().scenario.index
    samples = [full_sample(index), sample(0), sample(3)]
    keep = [Sample(**{**one.__dict__, "rejected": ()}) for one in samples]
    dataset = open_dataset(made(tmp_path, keep))
    row = next(row for row in dataset.all_rows() if row.history)
    assert (row.history[0].said, row.history[0].replied) == ("hi", "hello")
    assert (row.user_events, row.heard_events) == (("sigh",), {"sigh": 0.5})
    assert row.reply_tokens == 1
    top = dataset.top_logprobs(row)
    assert top is not None
    assert (top.texts, top.ids.tolist(), top.top_texts) == (("That",), [5], (("That", "This"),))
    assert top.top_ids.tolist() == [[5, -1]]
    assert top.top_logprobs.tolist() == [[pytest.approx(-0.1), -2.5]]
    assert dataset.top_logprobs(dataset.rows("train")[0]) is None


def test_alternatives_of_unlike_number_are_filled_up() -> None:
    def token(text: str, *logprobs: float) -> dict[str, Any]:
        return {
            "token": text,
            "id": 1,
            "top": [{"token": f"{text}{k}", "id": k, "logprob": p} for k, p in enumerate(logprobs)],
        }

    top = data._top_logprobs([token("a", -0.5), token("b", -0.25, -2.0), token("c")])
    assert top.top_ids.tolist() == [[0, -1], [0, 1], [-1, -1]]
    assert top.top_logprobs.tolist() == [[-0.5, -np.inf], [-0.25, -2.0], [-np.inf, -np.inf]]
    assert top.top_texts == (("a0", ""), ("b0", "b1"), ("", ""))


def test_sound_is_the_row_s_own_in_any_order(tmp_path: Path) -> None:
    samples = {one.scenario.id: one for one in usual_samples(90)}
    dataset = open_dataset(made(tmp_path, list(samples.values()), block=90))  # more rows than one row group
    rows = dataset.all_rows()
    for place in np.random.default_rng(0).permutation(len(rows)):
        row = rows[place]
        for whose, speech in (("user", samples[row.id].user_speech), ("reply", samples[row.id].reply_speech)):
            sound = dataset.audio(row, whose)  # type: ignore[arg-type]
            if speech is None:
                assert sound is None
                continue
            assert sound is not None
            assert sound[1] == speech.sample_rate
            assert np.array_equal(sound[0], speech.samples)
            assert sound[0].dtype == np.float32


# --- refusals


def refused(folder: Path, verify: bool | None = None) -> str:
    with pytest.raises(InputError) as raised:
        open_dataset(folder, verify=verify)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "none")
    write_dataset(tmp_path, usual_samples())
    assert "no finished dataset is here" in refused(tmp_path)


def test_another_schema(tmp_path: Path) -> None:
    made(tmp_path, usual_samples())
    edited(tmp_path, lambda manifest: manifest.update(schema_version=1))
    assert "schema version 1; this Attune reads version 2" in refused(tmp_path)


@pytest.mark.parametrize(("split", "first"), [("train", 3), ("validation", 0)])
def test_no_rows_to_train_or_validate_on(tmp_path: Path, split: str, first: int) -> None:
    made(tmp_path, [sample(first), sample(6)])
    assert f"split {split}" in refused(tmp_path)
    assert "attune teach --turns" in refused(tmp_path)


def test_a_changed_shard(tmp_path: Path) -> None:
    made(tmp_path, usual_samples())
    shard = sorted((tmp_path / "train").glob("*.parquet"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert "content is not what the manifest says" in refused(tmp_path, verify=False)
    middle = len(whole) // 2
    shard.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert f"{shard}: its content is not what the manifest says (sha256 differs)" in refused(tmp_path)
    shard.unlink()
    assert "cannot be read" in refused(tmp_path)


def test_large_sets_are_hashed_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, usual_samples())
    edited(tmp_path, lambda manifest: [entry.update(sha256="0" * 64) for entry in manifest["files"]])
    assert "sha256 differs" in refused(tmp_path)
    monkeypatch.setattr(data, "CHEAP_BYTES", 0)
    assert open_dataset(tmp_path).rows("train")
    assert "sha256 differs" in refused(tmp_path, verify=True)


def test_an_extra_shard(tmp_path: Path) -> None:
    made(tmp_path, usual_samples())
    write_dataset(tmp_path, [sample(99)])
    assert "not in the manifest" in refused(tmp_path)
    (tmp_path / "train" / "part-00019.parquet").unlink()
    (tmp_path / "notes.txt").write_text("mine")  # no matter of training's
    assert open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("column", "legal"),
    [
        ("user_emotion", ("happy", "angry")),
        ("reply_emotion", ("neutral",)),
        ("strategy", ("ask",)),
        ("user_age", ("child",)),
    ],
)
def test_a_label_that_attune_does_not_know(
    folder: Path, monkeypatch: pytest.MonkeyPatch, column: str, legal: tuple[str, ...]
) -> None:
    monkeypatch.setitem(data.LEGAL, column, legal)
    message = refused(folder)
    assert f"{column} is " in message
    assert f"none of {', '.join(legal)}" in message


def test_a_posterior_over_other_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data.POSTERIORS, "gender_posterior", ("female", "male", "other"))  # type: ignore[misc]
    assert "gender_posterior is no distribution over female, male, other" in refused(folder)


@pytest.mark.parametrize("values", [(0.5, 0.6), (-0.1, 0.5), (0.5, None), (0.5,)])
def test_what_is_no_posterior(values: tuple[float | None, ...]) -> None:
    assert not data._is_posterior(values, 2)
    assert data._is_posterior((0.0, 0.0), 2)  # “cannot tell” alone


def test_damaged_sound_is_named(folder: Path) -> None:
    dataset = open_dataset(folder)
    row = dataset.rows("train")[0]

    class Broken:
        def as_py(self) -> dict[str, bytes]:
            return {"bytes": b"fLaC nothing"}

    dataset._held["user_audio"] = data._Held(row.shard, range(1), [Broken()])
    with pytest.raises(InputError, match=f"row {row.id}: its user_audio cannot be decoded"):
        dataset.audio(row, "user")


def test_talker_rows_alone_are_rows_to_train_on(tmp_path: Path) -> None:
    dataset = open_dataset(made(tmp_path, [talker_sample(0), talker_sample(3)]))
    assert [row.task for row in dataset.rows("train")] == ["speak"]
