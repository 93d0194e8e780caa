"""A student as a folder: what is loaded is what was saved, and nothing that was cut, changed or added is loaded at all."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.llm import make_random_llm
from safetensors.torch import load_file, save_file
from students import SENTENCES, base, fsq, nano, noise
from torch import Tensor

from e2e_model import SpeechLM
from e2e_model.build import merge_lora
from e2e_model.errors import CheckpointProblem, ConfigProblem
from e2e_model.lexicon import PHONES, Lexicon
from e2e_model.respond import Audio
from e2e_model.spelling import NGram

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def lm() -> SpeechLM:
    made = nano()
    made.card["commit"] = "abc"
    made.vector.mean.add_(1.0)
    made.vector.deviation.mul_(2.0)
    return made


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> SpeechLM:
    """Low-rank adapters on a language model of its own."""
    return base(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def saved(lm: SpeechLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "student"
    lm.save_pretrained(folder, dataset="d")
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "student"))


def loaded(folder: Path, **sources: str) -> SpeechLM:
    return SpeechLM.from_pretrained(folder, device="cpu", **sources)


def outputs(lm: SpeechLM) -> list[Any]:
    events = lm.respond(noise(0.8), 16_000, temperature=1.0, speech_temperature=1.0)
    return [event.samples.tolist() if isinstance(event, Audio) else event for event in events]


def same_weights(one: SpeechLM, other: SpeechLM) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def logits(lm: SpeechLM) -> Tensor:
    with torch.no_grad():
        ids = torch.tensor([lm.speller.ids(SENTENCES[0])])
        return lm.token_logits(lm.thinker.base_model(input_ids=ids).last_hidden_state[0])


# What is loaded is what was saved.


def test_loaded_is_what_was_saved_bit_for_bit(lm: SpeechLM, saved: Path) -> None:
    again = loaded(saved)
    same_weights(lm, again)
    assert again.config == lm.config
    assert again.card == {"commit": "abc", "dataset": "d"}
    assert again.codec.fingerprint() == lm.codec.fingerprint()
    assert again.speller.tokenizer.get_vocab() == lm.speller.tokenizer.get_vocab()
    assert not again.training
    assert outputs(again) == outputs(lm)


def test_saved_again_it_is_the_same_to_the_byte(lm: SpeechLM, saved: Path, tmp_path: Path) -> None:
    lm.save_pretrained(tmp_path / "again", dataset="d")
    for path in sorted(saved.rglob("*")):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(saved)).read_bytes() == path.read_bytes(), path


def test_saving_takes_the_place_of_what_was_there(lm: SpeechLM, saved: Path, copied: Path) -> None:
    (copied / "old.txt").write_text("left over")
    nano(seed=5).save_pretrained(copied)
    assert not (copied / "old.txt").exists()
    assert [path.name for path in copied.parent.iterdir()] == ["student"]
    with pytest.raises(AssertionError):
        same_weights(loaded(copied), lm)


def test_a_save_that_fails_leaves_what_was_there(lm: SpeechLM, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(type(lm.codec), "save", full)
    with pytest.raises(OSError, match="no space"):
        nano(seed=5).save_pretrained(copied)
    monkeypatch.undo()
    same_weights(loaded(copied), lm)


def test_half_is_half_as_large_and_close(lm: SpeechLM, saved: Path, tmp_path: Path) -> None:
    lm.save_pretrained(tmp_path / "half", half=True)
    size, whole = ((folder / WEIGHTS).stat().st_size for folder in (tmp_path / "half", saved))
    assert size < 0.55 * whole
    again = loaded(tmp_path / "half")
    assert {tensor.dtype for tensor in again.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(logits(again), logits(lm), atol=2e-2, rtol=0)
    assert not torch.equal(logits(again), logits(lm))


def test_without_a_network_or_sources_a_whole_student_loads(adapted: SpeechLM, tmp_path: Path) -> None:
    adapted.save_pretrained(tmp_path / "whole")
    config = json.loads((tmp_path / "whole" / "student.json").read_text())["config"]
    for part in ("encoder", "thinker", "codec"):
        assert Path(config[part]["source"]).is_absolute()
    moved = loaded(tmp_path / "whole", encoder="nowhere", thinker="nowhere")
    same_weights(adapted, moved)
    assert outputs(moved) == outputs(adapted)


# Low-rank adapters.


def test_adapters_alone_leave_the_base_out(adapted: SpeechLM, tmp_path: Path) -> None:
    adapted.save_pretrained(tmp_path / "whole")
    adapted.save_pretrained(tmp_path / "own", whole=False)
    own, whole = (load_file(tmp_path / name / WEIGHTS) for name in ("own", "whole"))
    left_out = set(whole) - set(own)
    assert left_out == {name for name in whole if name.startswith("thinker.") and "lora_" not in name}
    assert len(left_out) > 10
    assert sum("lora_" in name for name in own) == 2 * 2 * 7  # A and B of seven layers in two blocks
    again = loaded(tmp_path / "own")
    same_weights(adapted, again)
    assert again.config == adapted.config
    assert outputs(again) == outputs(adapted)


def test_adapters_that_are_frozen_for_a_stage_are_saved(adapted: SpeechLM, tmp_path: Path) -> None:
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    adapted.requires_grad_(False)
    try:
        adapted.save_pretrained(tmp_path / "own", whole=False)
    finally:
        for name, parameter in adapted.named_parameters():
            parameter.requires_grad_(name in trained)
    same_weights(adapted, loaded(tmp_path / "own"))


def test_the_base_may_be_elsewhere_but_must_be_the_same(adapted: SpeechLM, tmp_path: Path) -> None:
    adapted.save_pretrained(tmp_path / "own", whole=False)
    source = Path(str(adapted.config.thinker.source))
    there = shutil.copytree(source, tmp_path / "there")
    same_weights(adapted, loaded(tmp_path / "own", thinker=str(there), encoder="nowhere"))
    weights = load_file(there / WEIGHTS)
    weights["model.layers.1.mlp.up_proj.weight"] += 0.01
    save_file(weights, there / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointProblem, match=r"there: not the language model that .*own was trained on"):
        loaded(tmp_path / "own", thinker=str(there))
    larger = make_random_llm(tmp_path / "larger", texts=SENTENCES, hidden_size=48)
    with pytest.raises(CheckpointProblem, match="larger: not the language model"):
        loaded(tmp_path / "own", thinker=str(larger))
    with pytest.raises(CheckpointProblem, match="nowhere"):
        loaded(tmp_path / "own", thinker=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigProblem, match="source of 'codec'; encoder and thinker have one"):
        loaded(tmp_path / "own", codec="x")


def test_a_thinker_from_zero_is_always_whole(lm: SpeechLM, saved: Path, tmp_path: Path) -> None:
    lm.save_pretrained(tmp_path / "own", whole=False, dataset="d")
    assert (tmp_path / "own" / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    same_weights(lm, loaded(tmp_path / "own"))


def test_merged_adapters_are_gone_and_do_the_same(tmp_path: Path) -> None:
    lm = base(tmp_path)
    before = logits(lm)
    merged = merge_lora(lm)
    assert merged is lm
    assert not any("lora" in name or "base_layer" in name for name in lm.state_dict())
    torch.testing.assert_close(logits(lm), before, atol=1e-5, rtol=1e-5)
    assert lm.config.thinker.lora is None
    lm.save_pretrained(tmp_path / "merged", whole=False)  # there is no base to leave out any more
    again = loaded(tmp_path / "merged")
    same_weights(lm, again)
    assert torch.equal(logits(again), logits(lm))


def test_adapters_do_something(adapted: SpeechLM) -> None:
    before = logits(adapted)
    module = adapted.thinker.get_submodule("model.layers.0.mlp.up_proj")
    module.enable_adapters(False)
    try:
        assert (logits(adapted) - before).abs().max() > 1e-4
    finally:
        module.enable_adapters(True)


# What was cut, changed or added.


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("harm", [_flipped, _cut, Path.unlink], ids=["changed", "cut", "missing"])
def test_each_file_is_refused_by_its_name(copied: Path, harm: Callable[[Path], None]) -> None:
    names = files_of(copied)
    assert set(names) >= {
        "student.json",
        WEIGHTS,
        "codec/codec.json",
        "codec/codec.safetensors",
        "tokenizer/tokenizer.json",
    }
    for name in names:
        before = (copied / name).read_bytes()
        harm(copied / name)
        with pytest.raises(CheckpointProblem) as caught:
            loaded(copied)
        assert str(copied) in str(caught.value)
        assert Path(name).name in str(caught.value)
        assert "\n" not in str(caught.value)
        (copied / name).write_bytes(before)
    loaded(copied)


class Opened(Exception):
    pass


def _open() -> None:
    raise Opened("a pickle was opened")


class Trap:
    def __reduce__(self) -> Any:
        return _open, ()


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "codec/codec.pt",
        "tokenizer/added_tokens.json",
        "tokenizer/tokenization_mine.py",
        "model.pt",
    ],
)
def test_a_file_that_was_added_is_refused_and_never_opened(copied: Path, name: str) -> None:
    (copied / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointProblem, match=f"{name}: does not belong to this student; take it away"):
        loaded(copied)


@pytest.mark.parametrize("name", [WEIGHTS, "codec/codec.safetensors", "codec/codec.json", "tokenizer/tokenizer.json"])
def test_a_pickle_in_the_place_of_a_file_is_never_opened(copied: Path, name: str) -> None:
    (copied / name).write_bytes(pickle.dumps(Trap()))
    rewritten(copied, lambda card: card["files"].update({name: sha256(copied / name)}))  # even with its checksum right
    with pytest.raises(CheckpointProblem) as caught:
        loaded(copied)
    assert str(copied) in str(caught.value)


def test_readme_and_hidden_files_are_nobodys_business(copied: Path) -> None:
    (copied / "README.md").write_text("A student.")
    (copied / ".gitattributes").write_text("*")
    (copied / ".cache").mkdir()
    (copied / ".cache" / "x").write_text("*")
    loaded(copied)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """student.json as if it had been written so."""
    card = json.loads((folder / "student.json").read_text())
    change(card)
    card.pop("sha256", None)
    card["sha256"] = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
    (folder / "student.json").write_text(json.dumps(card))


def test_what_the_card_says_may_not_be_changed(copied: Path) -> None:
    text = (copied / "student.json").read_text()
    assert '"states": 5' in text
    (copied / "student.json").write_text(text.replace('"states": 5', '"states": 4'))
    with pytest.raises(CheckpointProblem, match=r"student\.json: was changed"):
        loaded(copied)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda card: card["config"].update(format=99), r"student\.json: format 99; this Attune reads format 1"),
        (lambda card: card["config"].update(colour=1), r"student\.json: unknown key 'colour'"),
        (lambda card: card.pop("codec"), r"student\.json: not a student's card"),
        (lambda card: card.update(files=[]), r"does not belong to this student|not a student's card"),
        (lambda card: card.update(codec="0" * 64), "codec: another codec than the student was trained with"),
        (lambda card: card["files"].update({"../x": "0"}), r"\.\./x"),
    ],
)
def test_a_card_of_another_make_is_refused(copied: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    (copied.parent / "x").write_text("x")
    rewritten(copied, change)
    with pytest.raises((CheckpointProblem, ConfigProblem), match=said):
        loaded(copied)


def test_another_codec_in_its_place_is_refused(copied: Path) -> None:
    shutil.rmtree(copied / "codec")
    fsq(seed=9).save(copied / "codec")
    names = ["codec/codec.json", "codec/codec.safetensors"]
    rewritten(copied, lambda card: card["files"].update({name: sha256(copied / name) for name in names}))
    with pytest.raises(CheckpointProblem, match="codec: another codec than the student was trained with"):
        loaded(copied)


@pytest.mark.parametrize("harm", ["missing", "more", "shape"])
def test_weights_that_do_not_fit_are_named(copied: Path, harm: str) -> None:
    weights = load_file(copied / WEIGHTS)
    name = "adapter.fall.bias"
    if harm == "missing":
        del weights[name]
    elif harm == "more":
        name = "adapter.extra"
        weights[name] = torch.zeros(1)
    else:
        weights[name] = torch.zeros(3)
    save_file(weights, copied / WEIGHTS)
    rewritten(copied, lambda card: card["files"].update({WEIGHTS: sha256(copied / WEIGHTS)}))
    with pytest.raises(CheckpointProblem, match=f"{WEIGHTS}: {name} (is missing|belongs to no part|has the shape)"):
        loaded(copied)


def test_where_there_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(CheckpointProblem, match=f"^{tmp_path}: no student is here"):
        loaded(tmp_path)
    (tmp_path / "student.json").write_text("[]")
    with pytest.raises(CheckpointProblem, match=r"student\.json: not a student's card"):
        loaded(tmp_path)
    (tmp_path / "student.json").write_bytes(b"\x80")
    with pytest.raises(CheckpointProblem, match=r"student\.json: cannot be read"):
        loaded(tmp_path)


def test_words_and_how_they_sound_are_kept(tmp_path: Path) -> None:
    lm = nano()
    lexicon = Lexicon({"a": ((3,),), "job": ((19, 1, 7), (19, 25, 7))})
    states = torch.full((4, len(PHONES) + 1), -5.0)
    states[range(4), [0, 19, 1, 7]] = 5.0
    assert lm.words(states) == "", "phones alone are no words"
    lm.learn_words(NGram.of([[1, 2], [2]], units=3, order=2), lexicon)
    lm.save_pretrained(tmp_path / "student")
    again = loaded(tmp_path / "student")
    assert lm.words(states) == again.words(states) == "job"
    assert again.least_sure is None
    lm.least_sure = 0.5
    lm.save_pretrained(tmp_path / "student")
    assert loaded(tmp_path / "student").least_sure == 0.5
    kept = load_file(tmp_path / "student/words.safetensors")
    assert kept["text"].tolist() == [1, 2, 0, 2, 0]
    lm.learn_words(NGram.of([[3]], units=4, order=2), lexicon)
    lm.save_pretrained(tmp_path / "odd")
    with pytest.raises(CheckpointProblem, match=r"words\.safetensors: not in the 2 units or words"):
        loaded(tmp_path / "odd")
