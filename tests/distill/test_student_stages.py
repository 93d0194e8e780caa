"""Stages and the student: what trains, that packing changes nothing, and that a run goes on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import students
import torch
from dataset_samples import tone, usual_samples, write_dataset

from cascade.errors import InputError
from distill.teaching.dataset.facts import Facts
from distill.teaching.dataset.manifest import finished
from distill.training import loop
from distill.training.assemble import check_labels, fitted, mel_key, set_dropout, set_training
from distill.training.augment import Augment
from distill.training.data import Dataset, open_dataset
from distill.training.examples import Chance, Examples, rng_of
from distill.training.job import HELD_OUT
from distill.training.order import Order
from distill.training.prepared import Prepared, prepare
from distill.training.refine import RefineJob
from distill.training.run import run
from distill.training.stages import TABLE, StageName
from distill.training.student_job import StudentJob
from e2e_model.config import Config
from e2e_model.features import log_mel
from e2e_model.model import SpeechLM
from e2e_model.pronouncing import phones_of

STUDENT_STAGES: tuple[StageName, ...] = ("understand", "speak", "empathise", "refine")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    # Long enough for the CTC head to spell its words.
    long = [dataclasses.replace(one, user_speech=one.user_speech and tone(220, 1.6, 16_000)) for one in usual_samples()]
    write_dataset(folder, long, block=10)
    finished(folder, {"seed": 7}, Facts.of(folder))
    return open_dataset(folder)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def student(flavour: str, dataset: Dataset, places: Path) -> SpeechLM:
    """One that fits the dataset, not trained."""
    changes: dict[str, Any] = {"vector": {"size": 2, "space": "acoustic 1", "hidden": 16}, "told": ("emotion",)}
    if flavour == "nano":
        return students.nano(**changes)
    return students.base(places / flavour, flavour, **changes)


def features(lm: SpeechLM, dataset: Dataset, folder: Path) -> Prepared:
    mels = lm.config.mels
    return prepare(
        dataset,
        mel=lambda samples: log_mel(samples, mels=mels),
        sample_rate=16_000,
        mel_key=mel_key(lm.config),
        codec=lm.codec,
        folder=folder,
        progress=lambda done, of: None,
        heard=("user", "reply"),
    )


def job_of(name: StageName, lm: SpeechLM, dataset: Dataset, folder: Path, capacity: int = 1 << 16) -> StudentJob:
    kind = RefineJob if name == "refine" else StudentJob
    prepared = features(lm, dataset, folder)
    return kind(TABLE[name], lm, dataset, prepared, capacity=capacity, seed=0, chance=Chance())


def total(job: StudentJob, pack: Any, epoch: int = 0) -> torch.Tensor:
    torch.manual_seed(0)
    batch = job.prepare(job.batch(pack, epoch))
    sums = job.model(**batch.tensors)
    weighed = [sums[name] * weight / batch.counts[name] for name, weight in job.weights.items() if batch.counts[name]]
    return torch.stack(weighed).sum()


@pytest.mark.parametrize("flavour", ["nano", "base", "full"])
@pytest.mark.parametrize("name", STUDENT_STAGES)
def test_a_step_changes_all_that_trains_and_nothing_else(
    flavour: str, name: StageName, dataset: Dataset, places: Path, tmp_path: Path
) -> None:
    lm = student(flavour, dataset, places)
    set_training(lm, TABLE[name].from_zero if flavour == "nano" else TABLE[name].pretrained)
    job = job_of(name, lm, dataset, tmp_path)
    before = {key: parameter.detach().clone() for key, parameter in lm.named_parameters()}
    trains = {key for key, parameter in lm.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW([p for p in lm.parameters() if p.requires_grad], 1e-3, weight_decay=0.0)
    lm.train()
    for pack in job.packs(0):
        total(job, pack).backward()
    optimizer.step()
    changed = {key for key, parameter in lm.named_parameters() if not torch.equal(parameter, before[key])}
    assert changed == trains


@pytest.mark.parametrize("name", ["understand", "speak", "empathise"])
def test_packing_changes_no_sample_s_loss(name: StageName, dataset: Dataset, places: Path, tmp_path: Path) -> None:
    lm = student("nano", dataset, places)
    job = job_of(name, lm, dataset, tmp_path)
    (pack,) = job.packs(0)
    with torch.no_grad():
        together = job.batch(pack, 0)
        sums = job.model(**together.tensors)
        alone = [job.batch([item], 0) for item in pack]
        apart = [job.model(**one.tensors) for one in alone]
    for objective in job.weights:
        assert together.counts[objective] == pytest.approx(sum(one.counts[objective] for one in alone))
        assert float(sums[objective]) == pytest.approx(sum(float(one[objective]) for one in apart), rel=1e-5, abs=1e-4)


def test_the_same_item_is_the_same_whatever_lies_beside_it(dataset: Dataset, places: Path, tmp_path: Path) -> None:
    job = job_of("empathise", student("nano", dataset, places), dataset, tmp_path)
    (pack,) = job.packs(3)
    first = job.batch([pack[0]], 3).tensors
    again = job.batch([pack[0], *pack[2:]], 3).tensors
    other = job.batch([pack[0]], 4).tensors
    count = len(first["rows"].ids)
    assert again["rows"].ids[:count].tolist() == first["rows"].ids.tolist()
    if first["mels"]:
        assert torch.equal(first["mels"][0], again["mels"][0])
        assert not torch.equal(first["mels"][0], other["mels"][0])


def test_replies_are_listened_to_as_words_of_nobody(dataset: Dataset, places: Path, tmp_path: Path) -> None:
    """Their words and times are asked for, no cue of who says them; and what is held out is users alone."""
    lm = student("nano", dataset, places)
    job = job_of("understand", lm, dataset, tmp_path)
    batch = job.batch([("listening", 0)], 0)
    turn, targets = dataset.rows("train")[0], batch.tensors["targets"]
    assert targets["ctc"].tolist() == phones_of(turn.reply_text or "")
    assert batch.counts["transcript"] > 0
    assert all(batch.counts[name] == 0 for name in ("labels", "emotion", "emotion_kl", "age", "events"))
    own = job.batch([("understanding", 0)], 0)
    assert own.counts["emotion"] == 1
    lengths = len(batch.tensors["mels"][0]), len(own.tensors["mels"][0])
    assert lengths == pytest.approx((50, 160), rel=Augment().tempo, abs=1), "0.5 s of reply, 1.6 s of a user"
    assert {source for pack in job.packs(0) for source, _ in pack} == {"understanding", "listening"}
    assert {source for pack in job.held_out() for source, _ in pack} == {"understanding"}


def test_an_epoch_looks_through_the_rows_once_a_source(
    dataset: Dataset, places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once an item would be minutes an epoch of ten thousands of rows."""
    job, looked = job_of("empathise", student("nano", dataset, places), dataset, tmp_path), list[str]()
    look = job._items
    monkeypatch.setattr(job, "_items", lambda source, rows: looked.append(source) or look(source, rows))
    assert sum(map(len, job.packs(0))) > len(looked)
    assert sorted(looked) == sorted(job.stage.sources)


def test_true_vectors_give_way_to_predicted_ones(dataset: Dataset, places: Path, tmp_path: Path) -> None:
    job = job_of("empathise", student("nano", dataset, places), dataset, tmp_path)
    epochs = int(TABLE["empathise"].schedule.epochs or 0)
    shares = [job.true_share(epoch) for epoch in range(epochs + 1)]
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0.0
    assert job.true_share(-1) == 0.0


def test_a_label_that_is_not_known_is_in_no_text(dataset: Dataset, places: Path) -> None:
    lm = student("nano", dataset, places)
    turn = dataclasses.replace(dataset.rows("train")[0], user_emotion=None)
    makers = Examples(lm, Chance(thinks=("tag",), hole=0.0))
    example = makers.answer(turn, "speech→text", rng_of(0, 0, "dialogue", turn), 4, 1.0)
    text = lm.speller.text(example.row.ids)
    assert "<emotion><event>" in text
    assert "unknown" not in text
    hole = len(lm.speller.ids("unknown"))
    assert example.row.places[-1] == len(example.row.places) - 1 + 4 * hole  # emotion, age, gender, event


def test_words_without_sense_are_said_as_they_stand(dataset: Dataset, places: Path) -> None:
    lm = student("nano", dataset, places)
    turn, matters = dataset.rows("train")[0], ("candle", "harbor", "ladder")
    always = Examples(lm, Chance(as_heard=0.0, repeated=1.0), matters=matters)
    (example,) = always.of("writing", turn, rng_of(0, 0, "writing", turn), 0, 1.0)
    first, end = example.row.reply
    asked, said = lm.speller.text(example.row.ids[:first]), lm.speller.text(example.row.ids[first:end])
    assert set(said.split()) <= set(matters)
    assert said in asked
    assert sum(example.row.counts) > len(said.split()), "and each token of it counts"
    for maker in (dataclasses.replace(always, chance=always.chance.still()), dataclasses.replace(always, matters=())):
        (example,) = maker.of("writing", turn, rng_of(0, 0, "writing", turn), 0, 1.0)
        assert example.task.endswith("text")


@pytest.mark.parametrize("lost", ["emotion", "reply_emotion", "strategy"])
def test_a_lost_label_is_refused_by_name(lost: str, dataset: Dataset) -> None:
    config = Config.flavoured("nano").with_(labels={lost: ("other",)})
    with pytest.raises(InputError, match=rf"{lost} '\w+' is no label of this student"):
        check_labels(config, dataset)


def test_a_cue_with_one_label_teaches_nothing(dataset: Dataset) -> None:
    assert fitted(Config.flavoured("nano"), dataset).told == ("emotion",)


# A whole run.


class Killed(BaseException):
    """Stands for whatever ends a process at once."""


@pytest.fixture
def tiny(tmp_path: Path) -> Config:
    small = students.nano().config
    return small.with_(vector={"size": 0, "space": ""}, told=("emotion", "age", "gender", "events"))


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    students.fsq().save(tmp_path / "codec")
    return tmp_path / "codec"


def order_of(config: Config, dataset: Dataset, out: Path, codec: Path, **changes: Any) -> Order:
    steps = dict.fromkeys(STUDENT_STAGES, 3)
    given: dict[str, Any] = {"stages": STUDENT_STAGES, "steps": steps, "codec": codec, "capacity": 1024}
    return Order(config, (dataset.folder,), out, **given | changes)


def quiet(*_: Any) -> None:
    """Nobody listens."""


def curves(out: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(out.glob("*/curve.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            yield {"stage": path.parent.name, **{key: row[key] for key in ("split", "step", "total", "objectives")}}


def test_a_run_that_was_killed_goes_on_as_if_it_had_not(
    tiny: Config, codec: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(order_of(tiny, dataset, tmp_path / "whole", codec), quiet, quiet)
    keep = loop.Loop._keep  # pyright: ignore

    def killed(self: Any, step: Any, *rest: Any) -> Any:
        if (self.stage.name, step.number) == ("speak", 2):
            raise Killed
        return keep(self, step, *rest)

    monkeypatch.setattr(loop.Loop, "_keep", killed)
    with pytest.raises(Killed):
        run(order_of(tiny, dataset, tmp_path / "cut", codec), quiet, quiet)
    monkeypatch.undo()
    with pytest.raises(InputError, match="--resume goes on with it"):
        run(order_of(tiny, dataset, tmp_path / "cut", codec), quiet, quiet)
    run(order_of(tiny, dataset, tmp_path / "cut", codec, resume=True), quiet, quiet)
    whole, cut = list(curves(tmp_path / "whole")), list(curves(tmp_path / "cut"))
    assert [(one["stage"], one["split"], one["step"]) for one in cut] == [
        (one["stage"], one["split"], one["step"]) for one in whole
    ]
    for one, other in zip(whole, cut, strict=True):
        assert other["total"] == pytest.approx(one["total"], abs=1e-6)
    lm = SpeechLM.from_pretrained(tmp_path / "cut" / "student", device="cpu")
    assert lm.card["stages"] == list(STUDENT_STAGES)
    assert lm.card["dataset"] == dataset.sha256


def test_another_codec_is_refused_before_training(tiny: Config, codec: Path, dataset: Dataset, tmp_path: Path) -> None:
    run(order_of(tiny, dataset, tmp_path / "one", codec, stages=("understand",)), quiet, quiet)
    students.fsq(seed=1).save(tmp_path / "other")
    start = tmp_path / "one" / "student"
    with pytest.raises(InputError, match="tokens of another codec"):
        run(order_of(tiny, dataset, tmp_path / "two", tmp_path / "other", start=start), quiet, quiet)


def test_turns_that_no_dictionary_can_spell_are_counted(places: Path, tmp_path: Path) -> None:
    """They are not heard in training, and whoever trains is told so."""
    samples = usual_samples()
    first = next(k for k, one in enumerate(samples) if one.user_speech and one.scenario.split == "train")
    strange = samples[first].scenario.model_copy(update={"text": "My friend Xqzvwy moved away."})
    samples[first] = dataclasses.replace(samples[first], scenario=strange)
    write_dataset(tmp_path / "data", samples, block=10)
    finished(tmp_path / "data", {"seed": 7}, Facts.of(tmp_path / "data"))
    dataset = open_dataset(tmp_path / "data")
    lm = student("nano", dataset, places)
    assert job_of("understand", lm, dataset, tmp_path / "prepared").unspelt() == 1
    assert job_of("speak", lm, dataset, tmp_path / "prepared").unspelt() == 0


def test_frozen_parts_stay_and_take_their_rows_along(dataset: Dataset, places: Path, tmp_path: Path) -> None:
    stage = TABLE["speak"]
    assert stage.parts(pretrained=False, freeze=("thinker",)) == ("vector", "talker")
    lm = student("nano", dataset, places)
    set_training(lm, stage.parts(pretrained=False))
    assert {source for pack in job_of("speak", lm, dataset, tmp_path).packs(0) for source, _ in pack} == {
        "speaking",
        "writing",
    }
    set_training(lm, stage.parts(pretrained=False, freeze=("thinker",)))
    job = job_of("speak", lm, dataset, tmp_path)
    assert {source for pack in job.packs(0) for source, _ in pack} == {"speaking"}  # writing teaches the thinker alone
    set_training(lm, stage.parts(pretrained=False, freeze=("talker", "vector")))
    job = job_of("speak", lm, dataset, tmp_path)
    assert {source for pack in job.packs(0) for source, _ in pack} == {
        "writing"
    }  # a voice that is done needs none of it


def test_dropout_is_of_the_ears_while_they_learn(dataset: Dataset, places: Path) -> None:
    lm = student("nano", dataset, places)
    mel = torch.randn(80, lm.config.mels, generator=torch.Generator().manual_seed(0))

    def told() -> torch.Tensor:
        heard = lm.encoder([mel])
        ctc, cues = lm.heads(heard)
        return torch.cat([ctc.flatten(), *(one.flatten() for one in cues.values())])

    lm.train()
    usual = told()
    assert torch.equal(told(), usual)
    set_dropout(lm, 0.2)
    assert not torch.allclose(told(), usual)
    lm.eval()
    assert torch.equal(told(), usual)


def test_frames_and_thoughts_are_hidden_in_training_alone(dataset: Dataset, places: Path, tmp_path: Path) -> None:
    job = job_of("speak", student("nano", dataset, places), dataset, tmp_path)
    packs = job.packs(0)
    rows = [job.batch(pack, 0).tensors["written"] for pack in packs]
    assert 0.2 < float(torch.cat([row.frame_seen for row in rows]).float().mean()) < 0.9
    assert 0.1 < float(torch.cat([row.state_seen for row in rows]).float().mean()) < 0.9, "so are the thinker's states"
    held = [job.batch(pack, HELD_OUT).tensors["written"] for pack in job.held_out()]
    assert torch.cat([row.frame_seen for row in held]).all()
    assert torch.cat([row.state_seen for row in held]).all()
