"""Rows: every column there and back, null where nothing is known, and a digest that sees each change and nothing else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from dataset_samples import full_sample, sample, talker_sample, tone

from cascade.audio import Waveform
from cascade.errors import InputError
from cascade.turn import EMOTIONS, Cues, EmotionCue
from distill.teaching.dataset.columns import COLUMNS, schema
from distill.teaching.dataset.rows import digest_of, digest_of_row, row_of, table_of
from distill.teaching.records import Labels, Sample, Scenario

NEVER_NULL = {"id", "index", "split", "task", "source", "domain", "template", "seed", "history", "engines", "rejected",
              "schema_version"}  # fmt: skip


def one_row(given: Sample) -> dict[str, Any]:
    (row,) = table_of(given).to_pylist()
    return dict(row)


def bare() -> Sample:
    """A recording without its words, of which nothing became anything."""
    about = Scenario(index=3, split="test", source="recorded", domain="own", template="own", text=None)
    return Sample(about, rejected=("failed: user speech: no such file",))


def test_every_column_comes_back_through_parquet() -> None:
    table = table_of(full_sample())
    file = io.BytesIO()
    pq.write_table(table, file)
    back = pq.read_table(io.BytesIO(file.getvalue()))
    assert back.equals(table)
    (row,) = back.to_pylist()
    assert [name for name, value in row.items() if value is None] == []
    made = row_of(full_sample())
    assert set(made) == {column.name for column in COLUMNS}, "row_of and the columns name the same"
    assert {name: row[name] for name in made} == made  # float32 holds these values exactly


def test_what_is_not_known_is_null() -> None:
    row = one_row(bare())
    assert {name for name, value in row.items() if value is not None} == NEVER_NULL
    assert (row["history"], row["rejected"]) == ([], ["failed: user speech: no such file"])


def test_a_recording_has_no_intensity_that_was_asked_for() -> None:
    asked, known = sample(0), sample(0, source="recorded", voice=None)
    assert (one_row(asked)["user_intensity"], one_row(known)["user_intensity"]) == (0.7, None)


def test_no_events_on_purpose_is_not_unknown() -> None:
    assert one_row(sample(0))["user_events"] == []
    assert one_row(sample(0, labels=Labels(emotion="sad")))["user_events"] is None


def test_the_posterior_follows_the_emotions_and_leaves_out_what_cannot_be_told() -> None:
    posterior = one_row(sample(0))["emotion_posterior"]
    told = dict(zip(EMOTIONS, posterior, strict=True))
    assert told["sad"] == pytest.approx(0.6)
    assert told["happy"] == pytest.approx(0.2)
    assert sum(posterior) == pytest.approx(0.8)


def test_the_label_is_heard_only_where_it_is_sure() -> None:
    assert one_row(sample(0))["heard_emotion"] == "sad"
    cues = Cues(emotion=EmotionCue(probabilities={"sad": 0.6, "happy": 0.4}, threshold=0.9, engine="acoustic"))
    row = one_row(sample(0, parts={"cues": cues}))
    assert row["heard_emotion"] is None
    assert row["emotion_posterior"] is not None


def test_a_talkers_text_is_the_reply_and_no_user_said_it() -> None:
    row = one_row(talker_sample(0))
    assert (row["user_text"], row["user_audio"], row["user_intensity"]) == (None, None, None)
    assert (row["reply_text"], row["reply_emotion"]) == ("Well, that was thing number 0.", "joyful")
    assert (row["reply_intensity"], row["reply_rate"], row["speaker"]) == (0.9, None, None)


def test_sound_of_16_bits_is_kept_exactly_at_its_own_rate() -> None:
    row = one_row(sample(1))
    for name, wave in (("user_audio", tone(201, 0.4, 16_000)), ("reply_audio", tone(301, 0.5, 22_050))):
        samples, rate = soundfile.read(io.BytesIO(row[name]["bytes"]), dtype="float32")
        assert rate == wave.sample_rate
        assert np.array_equal(samples, wave.samples)
    assert (row["user_audio"]["path"], row["reply_audio"]["path"]) == ("00000001-user.flac", "00000001-reply.flac")


def test_louder_than_full_scale_is_clipped_and_does_not_wrap() -> None:
    loud = Waveform(np.array([2.0, -2.0, 1.0, 0.0] * 100, np.float32), 16_000)
    row = one_row(sample(0, parts={"user_speech": loud}))
    samples, _ = soundfile.read(io.BytesIO(row["user_audio"]["bytes"]), dtype="int16")
    assert samples[:4].tolist() == [32767, -32768, 32767, 0]


def test_a_measure_that_is_no_number_is_null() -> None:
    assert one_row(sample(0, parts={"user_wer": float("inf")}))["user_wer"] is None


# --- digests


def test_the_digest_does_not_see_parquet_or_the_cut_into_tables() -> None:
    tables = [table_of(sample(index)) for index in range(4)]
    apart = [digest for table in tables for digest in digest_of(table)]
    file = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), file, row_group_size=3, compression="gzip", version="1.0")
    again = pq.read_table(io.BytesIO(file.getvalue()))
    assert digest_of(again) == apart
    shuffled = again.select(list(reversed(again.column_names))).replace_schema_metadata({})
    assert digest_of(shuffled) == apart
    assert len(set(apart)) == 4


def test_the_digest_sees_the_sound_and_not_its_encoding() -> None:
    row = one_row(full_sample())
    samples, rate = soundfile.read(io.BytesIO(row["user_audio"]["bytes"]), dtype="int16")
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16", compression_level=0.0)
    other = row | {"user_audio": row["user_audio"] | {"bytes": file.getvalue()}}
    assert other["user_audio"] != row["user_audio"]
    assert digest_of_row(other) == digest_of_row(row)
    samples[100] += 1
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    assert digest_of_row(row | {"user_audio": row["user_audio"] | {"bytes": file.getvalue()}}) != digest_of_row(row)


@pytest.mark.parametrize("name", [column.name for column in COLUMNS])
def test_the_digest_sees_a_change_of_any_column(name: str) -> None:
    row = one_row(full_sample())
    assert digest_of_row(row | {name: None}) != digest_of_row(row)
    assert digest_of_row(row | {name: _touched(row[name])}) != digest_of_row(row)


def _touched(value: Any) -> Any:
    """The smallest change."""
    match value:
        case str():
            return value + " "
        case {"path": path}:
            return value | {"path": path + "x"}
        case dict():
            key = next(iter(value))
            return value | {key: _touched(value[key])}
        case list():
            return [_touched(value[0]), *value[1:]]
        case float():
            return float(np.nextafter(value, 9.0))
        case None:
            return 0
        case _:
            return value + 1


def test_the_same_sample_gives_the_same_row() -> None:
    assert table_of(full_sample()).equals(table_of(full_sample()))
    assert digest_of(table_of(sample(5))) == digest_of(table_of(sample(5)))


def test_a_damaged_sound_is_one_line() -> None:
    row = one_row(sample(0))
    with pytest.raises(InputError, match="row made-00000000: its reply_audio cannot be decoded"):
        digest_of_row(row | {"reply_audio": {"bytes": b"fLaC, no more", "path": "x"}})


def test_the_schema_tells_hugging_face_which_columns_are_sound() -> None:
    from datasets import Audio, Features, List, Value

    features = Features.from_arrow_schema(schema())
    assert isinstance(features["user_audio"], Audio)
    assert isinstance(features["reply_audio"], Audio)
    assert features["reply_vector"] == List(Value("float32"))
    assert features["history"] == List({name: Value("string") for name in ("said", "emotion", "strategy", "replied",
                                                                            "reply_emotion", "topic")})  # fmt: skip
    assert features.arrow_schema.equals(schema(), check_metadata=False), "datasets and Attune agree on every type"
