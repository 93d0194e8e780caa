"""attune train: one line for what cannot be, nothing begun; and a small student from the command line to an answer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from dataset_samples import usual_samples, write_dataset
from safetensors.torch import load_file
from torch import Tensor, nn

from cli import main
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished
from distill.training.assemble import with_ears
from e2e_model import SpeechLM
from e2e_model.codec import load_codec
from e2e_model.model import PARTS

SMALL = """
vocabulary = 400
[encoder]
stack = 2
ctc = "tokens"
[encoder.model]
d_model = 32
encoder_layers = 1
encoder_attention_heads = 2
encoder_ffn_dim = 32
[adapter]
hidden = 16
stack = 2
[thinker.model]
model_type = "qwen3"
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 2
head_dim = 16
intermediate_size = 32
tie_word_embeddings = true
[talker.model]
model_type = "qwen3"
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 2
head_dim = 16
intermediate_size = 32
[limits]
think_tokens = 8
reply_tokens = 8
speech_s = 1.0
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, usual_samples(), block=10)
    finished(folder, {"seed": 7}, Facts.of(folder))
    return folder


@pytest.fixture
def flavour(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def train(*options: str | Path) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, options)])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--flavour", "huge"], "flavour 'huge' is not there; take base, full, nano"),
        (["--stages", "speak,sing"], "stage 'sing': choose all, or some of codec, understand"),
        (["--steps", "speak=none"], "--steps speak=none: give stage=N"),
        (["--stages", "speak"], "codec: this run has none yet"),
        (["--emotion-encoder", "x"], "the flavour nano has none"),
        (["--flavour", "base", "--thinker", "/nowhere"], "/nowhere: no configuration of the thinker can be read"),
        (["--codec", "/nowhere"], "/nowhere"),
        (["--from", "/nowhere", "--stages", "speak"], "/nowhere"),
        (
            ["--stages", "refine", "--freeze", "thinker", "--freeze", "vector", "--freeze", "adapter"],
            "refine would learn nothing",
        ),
    ],
)
def test_what_cannot_be_is_one_line(options: list[str], line: str, data: Path, tmp_path: Path) -> None:
    shown = train("--data", data, "-o", tmp_path / "run", *options)
    assert shown.exit_code == 2, shown.output
    assert line in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "student").exists()


def test_no_dataset(tmp_path: Path) -> None:
    shown = train("-o", tmp_path / "run")
    assert shown.exit_code == 2
    assert "--data is missing: give a folder that attune teach made" in shown.stderr
    shown = train("-o", tmp_path / "run", "--resume")
    assert shown.exit_code == 2
    assert "no run is here to go on with; leave --resume out to begin one" in shown.stderr
    shown = train("--data", tmp_path / "none", "-o", tmp_path / "run")
    assert shown.exit_code == 2
    assert "attune teach" in shown.stderr
    assert not (tmp_path / "run").exists()


def test_a_dry_run_begins_nothing(flavour: Path, data: Path, tmp_path: Path) -> None:
    shown = train("--flavour", flavour, "--data", data, "-o", tmp_path / "run", "--dry-run", "--dtype", "float32")
    assert shown.exit_code == 0, shown.output
    for word in ("encoder", "thinker", "talker", "understand", "refine"):
        assert word in shown.stdout
    assert not (tmp_path / "run").exists()


def test_from_a_dataset_to_an_answer(flavour: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    steps = [f"--steps={stage}=2" for stage in ("codec", "understand", "speak", "empathise", "refine")]
    shown = train("--flavour", flavour, "--data", data, "-o", run, *steps, "--dtype", "float32")
    assert shown.exit_code == 0, shown.output
    assert f"attune chat --model {run / 'student'}" in shown.stdout
    for stage in ("codec", "understand", "speak", "empathise", "refine"):
        lines = [json.loads(line) for line in (run / stage / "curve.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    assert (run / "curves.png").stat().st_size > 10_000
    again = train("-o", run, "--resume")
    assert again.exit_code == 0, again.output
    assert again.stderr.count(": done") == 5
    other = train("-o", run, "--resume", "--seed", "1")
    assert other.exit_code == 2
    assert "holds another run (seed = 0, now 1)" in other.stderr
    other = train("-o", run, "--resume", "--steps", "codec=3")
    assert other.exit_code == 2
    assert "holds another run (steps.codec = 2, now 3)" in other.stderr


def test_ears_and_voice_learn_apart_and_are_put_together(flavour: Path, data: Path, tmp_path: Path) -> None:
    same = ["--flavour", flavour, "--data", data, "--dtype", "float32"]
    ears, voice, both = (tmp_path / name for name in ("ears", "voice", "both"))
    shown = train(*same, "-o", ears, "--stages", "understand", "--steps", "understand=2")
    assert shown.exit_code == 0, shown.output
    assert not list((ears / "prepared").glob("codes-*")), "ears need no codec, and no tokens of it"
    assert (
        train(*same, "-o", voice, "--stages", "codec,speak", "--steps", "codec=1", "--steps", "speak=2").exit_code == 0
    )
    shown = train("--data", data, "-o", both, "--from", voice, "--ears", ears, "--stages", "empathise",
                  "--steps", "empathise=1", "--dtype", "float32")  # fmt: skip
    assert shown.exit_code == 0, shown.output
    theirs = {name: SpeechLM.from_pretrained(folder / "student") for name, folder in (("ears", ears), ("voice", voice))}
    made = with_ears(SpeechLM.from_pretrained(voice / "student"), ears / "student")

    def same_as(part: str, whose: str) -> bool:
        pairs = zip(made.part_parameters(part), theirs[whose].part_parameters(part), strict=True)
        return all(torch.equal(a, b) for (_, a), (_, b) in pairs)

    assert {part: same_as(part, "ears") for part in PARTS} == {
        part: part in ("encoder", "heads", "adapter") for part in PARTS
    }
    assert {part: same_as(part, "voice") for part in PARTS} == {
        part: part not in ("encoder", "heads") for part in PARTS
    }


def test_a_new_thinker_takes_a_voice_that_another_student_has_learnt(flavour: Path, data: Path, tmp_path: Path) -> None:
    same = ["--flavour", flavour, "--data", data, "--dtype", "float32"]
    old, new = tmp_path / "old", tmp_path / "new"
    shown = train(*same, "-o", old, "--stages", "codec,speak", "--steps", "codec=1", "--steps", "speak=2")
    assert shown.exit_code == 0, shown.output
    shown = train(*same, "-o", new, "--seed", 7, "--voice", old, "--stages", "speak", "--steps", "speak=2",
                  "--freeze", "talker", "--freeze", "vector")  # fmt: skip
    assert shown.exit_code == 0, shown.output
    theirs, ours = (SpeechLM.from_pretrained(run / "student") for run in (old, new))

    def same_part(part: str) -> bool:
        pairs = zip(ours.part_parameters(part), theirs.part_parameters(part), strict=True)
        return all(torch.equal(a, b) for (_, a), (_, b) in pairs)

    assert same_part("talker")
    assert not same_part("thinker")
    assert not same_part("encoder")
    assert torch.equal(ours.vector.mean, theirs.vector.mean)
    assert ours.codec.fingerprint() == theirs.codec.fingerprint()


def test_a_voice_that_does_not_fit_is_one_line(flavour: Path, data: Path, tmp_path: Path) -> None:
    same = ["--data", data, "--stages", "codec,speak", "--steps", "codec=1", "--steps", "speak=1", "--dtype", "float32"]
    assert train(*same, "--flavour", flavour, "-o", tmp_path / "voice").exit_code == 0
    shown = train(*same, "--flavour", flavour, "-o", tmp_path / "run", "--voice", tmp_path / "voice", "--gate", "sum")
    assert shown.exit_code == 2
    assert len(shown.stderr.strip().splitlines()) == 1
    assert "not this student's talker" in shown.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--from", "--ears", "--voice"])
def test_a_student_that_is_not_there_is_one_line_before_anything_starts(
    option: str, flavour: Path, data: Path, tmp_path: Path
) -> None:
    asked = ["--data", data, "-o", tmp_path / "run", option, tmp_path / "nobody"]
    asked += [] if option == "--from" else ["--flavour", flavour]
    for more in ([], ["--dry-run"]):
        shown = train(*asked, *more)
        assert shown.exit_code == 2
        assert len(shown.stderr.strip().splitlines()) == 1
        assert "no student is here" in shown.stderr
        assert not (tmp_path / "run").exists()


def test_what_a_student_brings_is_not_made_again(flavour: Path, data: Path, tmp_path: Path) -> None:
    same = ["--data", data, "--dtype", "float32"]
    voice, run = tmp_path / "voice", tmp_path / "run"
    stages = ["--stages", "codec,speak", "--steps", "codec=1", "--steps", "speak=1"]
    assert train(*same, "--flavour", flavour, *stages, "-o", voice).exit_code == 0
    plan = train(*same, "--flavour", flavour, *stages, "-o", run, "--voice", voice, "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert sum(line.startswith("codec ") for line in plan.stdout.splitlines()) == 1, "a part, and no stage"
    shown = train(*same, *stages, "-o", run, "--from", voice)
    assert shown.exit_code == 0, shown.output
    assert "codec: left out" in shown.stderr
    assert not (run / "codec").exists()
    shown = train(*same, *stages, "-o", tmp_path / "twice", "--from", voice, "--voice", voice)
    assert shown.exit_code == 2
    assert "leave --voice out" in shown.stderr
    other = tmp_path / "other"
    assert train(*same, "--flavour", flavour, *stages, "-o", other, "--seed", 5).exit_code == 0
    shown = train(*same, "--flavour", flavour, "--stages", "speak", "-o", tmp_path / "mixed",
                  "--voice", voice, "--codec", other)  # fmt: skip
    assert shown.exit_code == 2
    assert "leave --codec out" in shown.stderr
    assert not (tmp_path / "mixed").exists()


def test_a_student_that_learns_on_may_learn_more_gently(flavour: Path, data: Path, tmp_path: Path) -> None:
    same = ["--flavour", flavour, "--data", data, "--dtype", "float32", "--stages", "understand",
            "--steps", "understand=1"]  # fmt: skip

    def rate(name: str, *more: object) -> float:
        assert train(*same, "-o", tmp_path / name, *more).exit_code == 0
        lines = map(json.loads, (tmp_path / name / "understand" / "curve.jsonl").read_text().splitlines())
        return next(line["rate"] for line in lines if line["split"] == "train")

    assert rate("gently", "--rate", "0.25") == pytest.approx(0.25 * rate("usual"))
    assert "--rate" in train(*same, "-o", tmp_path / "not", "--rate", "0").stderr


def test_which_weights_of_a_stage_are_kept_is_chosen(flavour: Path, data: Path, tmp_path: Path) -> None:
    same = ["--flavour", flavour, "--data", data, "--dtype", "float32", "--stages", "understand",
            "--steps", "understand=3", "--ema", "0.9"]  # fmt: skip

    def kept(name: str, *more: object) -> dict[str, Tensor]:
        shown = train(*same, "-o", tmp_path / name, *more)
        assert shown.exit_code == 0, shown.output
        return load_file(tmp_path / name / "student" / "model.safetensors")

    last = kept("last", "--keep", "last")
    means = load_file(tmp_path / "last" / "understand" / "last" / "mean.safetensors")
    learnt = {name.removeprefix("lm."): value for name, value in means.items() if name.startswith("lm.encoder.")}
    assert learnt
    assert all(torch.equal(last[name], value) for name, value in learnt.items())
    found = train(
        "--data", data, "-o", tmp_path / "last", "--resume", "--keep", "best", *same[4:], "--flavour", flavour
    )
    assert found.exit_code == 2
    assert "keep" in found.stderr
    assert "--ema" in train(*same, "-o", tmp_path / "not", "--ema", "1").stderr


def learning(part: nn.Module) -> str:
    return f"{sum(one.numel() for one in part.parameters()):,}"


def test_a_decoder_learns_on_from_what_a_voice_expects(
    flavour: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.training.decoder_job.CROP_S", 0.2)
    flavour.write_text(
        SMALL.replace("[talker.model]", "[talker]\ncode_levels = true\n[talker.model]"), encoding="utf-8"
    )
    same = ["--flavour", flavour, "--data", data, "--dtype", "float32"]
    voice, run = tmp_path / "voice", tmp_path / "run"
    stages = ["--stages", "codec,speak", "--steps", "codec=1", "--steps", "speak=1"]
    assert train(*same, *stages, "-o", voice).exit_code == 0
    decoder = ["--stages", "codec", "--steps", "codec=2", "--voice", voice]
    planned = train(*same, *decoder, "-o", run, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert not run.exists()
    shown = train(*same, *decoder, "-o", run)
    assert shown.exit_code == 0, shown.output
    before, after = (load_codec(folder / "codec" / "weights") for folder in (voice, run))
    assert re.search(rf"codec +codec +{learning(after.decoder)} +2 ", planned.output), planned.output
    assert before.tokens_fingerprint() == after.tokens_fingerprint()
    assert before.fingerprint() != after.fingerprint()
    assert list((run / "codec" / "samples").glob("*/*.wav"))
    flavour.write_text(SMALL, encoding="utf-8")
    assert train(*same, *stages, "-o", tmp_path / "plain").exit_code == 0
    shown = train(*same, *decoder[:-1], tmp_path / "plain", "-o", tmp_path / "not")
    assert shown.exit_code == 2
    assert "knows nothing of its codec's levels" in shown.stderr
    assert not (tmp_path / "not").exists()


def test_a_codec_goes_on_decoding_better_and_its_tokens_stay(flavour: Path, data: Path, tmp_path: Path) -> None:
    same = ["--flavour", flavour, "--data", data, "--dtype", "float32"]
    first, more, voice = (tmp_path / name for name in ("first", "more", "voice"))
    assert train(*same, "-o", first, "--stages", "codec", "--steps", "codec=1").exit_code == 0
    assert train(*same, "-o", voice, "--stages", "speak", "--steps", "speak=1", "--codec", first).exit_code == 0
    decoder = ["-o", more, "--stages", "codec", "--steps", "codec=2", "--codec", first]
    planned = train(*same, *decoder, "--dry-run")
    assert planned.exit_code == 0, planned.output
    shown = train(*same, *decoder)
    assert shown.exit_code == 0, shown.output
    before, after = (load_codec(run / "codec" / "weights") for run in (first, more))
    assert re.search(rf"codec +codec +{learning(after.decoder)} +2 ", planned.output), planned.output
    assert before.tokens_fingerprint() == after.tokens_fingerprint()
    assert before.fingerprint() != after.fingerprint()
    shown = train(
        "--data",
        data,
        "-o",
        tmp_path / "run",
        "--from",
        voice,
        "--codec",
        more,
        "--stages",
        "speak",
        "--steps",
        "speak=1",
    )
    assert shown.exit_code == 0, shown.output
    assert SpeechLM.from_pretrained(tmp_path / "run" / "student").codec.fingerprint() == after.fingerprint()


def test_ears_that_do_not_fit_are_one_line(flavour: Path, data: Path, tmp_path: Path) -> None:
    same = ["--data", data, "--stages", "understand", "--steps", "understand=1", "--dtype", "float32"]
    assert train(*same, "--flavour", flavour, "-o", tmp_path / "ears").exit_code == 0
    flavour.write_text(SMALL.replace("encoder_ffn_dim = 32", "encoder_ffn_dim = 48"), encoding="utf-8")
    shown = train(*same, "--flavour", flavour, "-o", tmp_path / "run", "--ears", tmp_path / "ears")
    assert shown.exit_code == 2
    assert "not this student's encoder" in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1


def test_without_torch_it_is_one_line(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nfrom cli import main\n"
        f"main(['train', '--data', {str(data)!r}, '-o', {str(tmp_path / 'run')!r}])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert shown.returncode == 2
    assert "[train]'" in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1


def test_a_student_given_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    shown = train("--data", data, "-o", tmp_path / "run", "--from", tmp_path, "--gate", "sum")
    assert shown.exit_code == 2
    assert "--gate: a student given with --from stays as it is" in shown.stderr


@pytest.mark.parametrize(
    "wrong", [('model_type = "qwen3"', 'model_type = "qwen9"'), ("num_attention_heads = 2", "num_attention_heads = 3")]
)
def test_a_flavour_of_which_no_network_can_be_made(
    wrong: tuple[str, str], data: Path, flavour: Path, tmp_path: Path
) -> None:
    flavour.write_text(SMALL.replace(*wrong), encoding="utf-8")
    shown = train("--flavour", flavour, "--data", data, "-o", tmp_path / "run", "--steps", "codec=1")
    assert shown.exit_code == 2, shown.output
    assert "[thinker.model]" in shown.stderr
    assert not (tmp_path / "run").exists()


def test_what_was_refused_can_be_mended_in_the_same_folder(flavour: Path, data: Path, tmp_path: Path) -> None:
    run, wanted = tmp_path / "run", ["--stages", "speak", "--steps", "speak=1", "--dtype", "float32"]
    assert train("--flavour", flavour, "--data", data, "-o", run, *wanted).exit_code == 2
    assert not run.exists()
    resumed = train("--flavour", flavour, "--data", data, "-o", run, "--resume", *wanted)
    assert resumed.exit_code == 2
    made = train(
        "--flavour", flavour, "--data", data, "-o", tmp_path / "one", "--stages", "codec", "--steps", "codec=1"
    )
    assert made.exit_code == 0, made.output
    assert f"attune train --codec {tmp_path / 'one'}" in made.stdout
    shown = train("--flavour", flavour, "--data", data, "-o", run, "--codec", tmp_path / "one", *wanted)
    assert shown.exit_code == 0, shown.output
