"""The manifest's checksums, the dataset's hash, and leaks between splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_samples import sample, talker_sample, usual_samples, write_dataset

from cascade.errors import InputError
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.leaks import leaks_of
from distill.teaching.dataset.manifest import Manifest, finished, licence_of, problems_of, read_manifest
from distill.teaching.records import Labels, Sample

SETTINGS = {"seed": 7}


def dataset(folder: Path, samples: list[Sample], *, block: int = 5) -> Manifest:
    write_dataset(folder, samples, block=block)
    (folder / "plan.jsonl").write_text("{}\n")
    return finished(folder, SETTINGS, Facts.of(folder))


def test_it_lists_every_file_and_counts_the_rows(tmp_path: Path) -> None:
    made = dataset(tmp_path, usual_samples())
    assert made == read_manifest(tmp_path)
    assert made.rows == {"train": 9, "validation": 7, "test": 8, "rejected": 6}
    shards = [entry for entry in made.files if entry.split]
    assert sum(entry.rows or 0 for entry in shards) == 30
    assert {entry.path for entry in made.files} == {
        "plan.jsonl",
        *(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*.parquet")),
    }
    assert (made.yields["empathy"].rejected, made.yields["empathy"].alone) == (6, 0)
    assert made.yields["user_wer"].reason == "0.97, at most 0.95"
    assert made.counts["task"]["speak"] == {"train": 2, "test": 1, "validation": 1}
    assert made.settings == SETTINGS
    assert {(engine.name, engine.licence) for engine in made.engines} == {
        ("pocketsphinx", "BSD-2-Clause"),
        ("counsellor", "Apache-2.0"),
        ("espeak", "GPL-3.0 (process), MIT"),
    }


def test_hours_are_of_rows_that_passed(tmp_path: Path) -> None:
    made = dataset(tmp_path, [sample(0), sample(1), sample(2, rejected=("empathy: low",))])
    assert made.hours == {"user": round(2 * 0.4 / 3600, 4), "reply": round(2 * 0.5 / 3600, 4)}


def test_the_hash_does_not_depend_on_shards_or_order(tmp_path: Path) -> None:
    samples = usual_samples()
    hashes = {
        dataset(tmp_path / str(block), given, block=block).dataset_sha256
        for block, given in ((5, samples), (30, samples), (1, samples[::-1]))
    }
    assert len(hashes) == 1


def _other_words(samples: list[Sample]) -> list[Sample]:
    return [*samples[:3], sample(3, text="Well, that was something else."), *samples[4:]]


def _one_less(samples: list[Sample]) -> list[Sample]:
    return samples[:-1]


def _rejected(samples: list[Sample]) -> list[Sample]:
    return [*samples[:3], sample(3, rejected=("empathy: low",)), *samples[4:]]


@pytest.mark.parametrize("change", [_other_words, _one_less, _rejected])
def test_the_hash_sees_any_change(tmp_path: Path, change: Callable[[list[Sample]], list[Sample]]) -> None:
    samples = usual_samples()
    assert dataset(tmp_path / "a", samples).dataset_sha256 != dataset(tmp_path / "b", change(samples)).dataset_sha256


def test_the_hash_is_over_digests_in_split_and_index_order(tmp_path: Path) -> None:
    import hashlib

    from distill.teaching.dataset.rows import digest_of, table_of

    train, other, rejected = sample(0), sample(3), sample(1, rejected=("empathy: low",))
    made = dataset(tmp_path, [rejected, other, train])
    digests = "".join(digest_of(table_of(one))[0] for one in (train, other, rejected))
    assert made.dataset_sha256 == hashlib.sha256(bytes.fromhex(digests)).hexdigest()


def test_a_row_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", [sample(0), sample(1)], block=1)
    shard = tmp_path / "a" / "train" / "part-00000.parquet"
    (tmp_path / "a" / "rejected").mkdir()
    (tmp_path / "a" / "rejected" / "part-00009.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(InputError, match="row made-00000000 is there twice"):
        finished(tmp_path / "a", SETTINGS, Facts.of(tmp_path / "a"))
    assert not (tmp_path / "a" / "manifest.json").exists()


def test_the_same_number_from_another_source_is_another_row(tmp_path: Path) -> None:
    made = dataset(tmp_path, [sample(0), sample(0, source="live", voice=None, contributor="c1")])
    assert made.rows["train"] == 2


# --- checksums


def test_nothing_is_wrong_with_what_was_just_made(tmp_path: Path) -> None:
    dataset(tmp_path, usual_samples(6))
    (tmp_path / ".lock").touch()
    assert problems_of(tmp_path) == []


def test_each_kind_of_damage_is_told(tmp_path: Path) -> None:
    dataset(tmp_path, usual_samples(6))
    (tmp_path / "plan.jsonl").unlink()
    shard = tmp_path / "train" / "part-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[50] ^= 1
    shard.write_bytes(content)
    extra = tmp_path / "test" / "part-00099.parquet"
    extra.parent.mkdir(exist_ok=True)
    extra.write_bytes(b"x")
    assert problems_of(tmp_path) == [
        f"{tmp_path}/plan.jsonl: missing; the manifest lists it",
        f"{extra}: not in the manifest",
        f"{shard}: its content is not what the manifest says (sha256 differs)",
    ]


def test_without_a_manifest_the_dataset_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read .* no finished dataset is here"):
        problems_of(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"attune": "9"}))
    with pytest.raises(InputError, match="not a manifest of this Attune \\(schema_version: Field required\\)"):
        problems_of(tmp_path)


def test_an_engine_outside_the_table_has_no_licence_made_up() -> None:
    assert licence_of("somebodys") == "not known to Attune"


# --- leaks


def test_splits_that_share_nothing_have_no_leaks(tmp_path: Path) -> None:
    write_dataset(tmp_path, usual_samples())
    assert leaks_of(tmp_path) == []


@pytest.mark.parametrize(
    ("planted", "line"),
    [
        ({"voice": "voice-0"}, "speaker 'voice-0' is in train and in validation"),
        ({"template": "template-0"}, "template 'template-0' is in train and in validation"),
        ({"contrast": "set-0"}, "contrast 'set-0' is in train and in validation"),
        (
            {"text": "WELL that  was thing number 0!"},
            "text 'well that was thing number 0' is in train and in validation",
        ),
    ],
)
def test_a_planted_leak_is_found(tmp_path: Path, planted: dict[str, str], line: str) -> None:
    samples = usual_samples(9)
    samples[3] = sample(3, **planted)
    made = dataset(tmp_path, samples)
    assert leaks_of(tmp_path) == [line]
    assert made.leaks == (line,)


def test_a_recording_or_contributor_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    theirs = {"source": "recorded", "voice": None, "template": "own", "contrast": None, "recording_sha256": "a" * 64}
    live = {"source": "live", "voice": None, "template": "live", "contrast": None, "contributor": "c1"}
    write_dataset(tmp_path, [sample(0, **theirs), sample(3, **theirs), sample(6, **live), sample(9, **live)])
    assert leaks_of(tmp_path) == [
        f"recording_sha256 '{'a' * 64}' is in train and in validation",
        "speaker 'c1' is in train and in test",
    ]


def test_a_talkers_text_leaks_by_its_words(tmp_path: Path) -> None:
    first, second = talker_sample(0), talker_sample(3, text="well, that was thing number 0", template="other")
    write_dataset(tmp_path, [first, second])
    assert leaks_of(tmp_path) == ["text 'well that was thing number 0' is in train and in validation"]


def test_a_row_in_anothers_folder_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path, [sample(0)])
    (tmp_path / "train").rename(tmp_path / "test")
    assert leaks_of(tmp_path) == ["made-00000000 belongs to train and lies in test"]


def test_rejected_rows_leak_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path, [sample(0), sample(3, voice="voice-0", rejected=("empathy: low",))])
    assert leaks_of(tmp_path) == []


def test_unknown_is_shared_by_all_and_leaks_nothing(tmp_path: Path) -> None:
    unknown = {"source": "recorded", "voice": None, "contrast": None, "text": None, "labels": Labels(emotion="sad")}
    write_dataset(tmp_path, [sample(index, **unknown) for index in (0, 3, 6)])
    assert leaks_of(tmp_path) == []
