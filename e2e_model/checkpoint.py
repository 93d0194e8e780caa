"""A student as a folder: weights as safetensors, configuration, tokenizer, codec, and where it comes from.

student.json is written last and holds the checksum of every file, its own content among them: a folder that was cut or
changed is refused by the name of the file. Nothing in it is ever executed. A student with low-rank adapters may be saved
without the weights below them (`whole=False`): it then needs the thinker's source to be loaded, and no other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e2e_model.build import build
from e2e_model.codec import load_codec
from e2e_model.config import Config
from e2e_model.errors import CheckpointProblem, ConfigProblem
from e2e_model.lexicon import Lexicon
from e2e_model.model import SpeechLM
from e2e_model.spelling import NGram
from e2e_model.tokenizer import load_tokenizer
from e2e_model.word_search import WordSearch

CARD = "student.json"
WEIGHTS = "model.safetensors"
WORDS = "words.safetensors"  # what people say in the training data, in units of the CTC head or words of the lexicon
LEXICON = "lexicon.txt"


def save_student(
    lm: SpeechLM, folder: Path, *, card: Mapping[str, Any] | None = None, whole: bool = True, half: bool = False
) -> None:
    """Write it beside, then in place of what was there. half: weights in 16 bits, to ship."""
    from safetensors.torch import save_file

    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    whole = whole or not _on_a_base(lm)
    kept = own_weights(lm, whole)
    save_file({k: v.detach().cpu().contiguous().to(_kind(v, half)) for k, v in kept.items()}, beside / WEIGHTS)
    lm.speller.save(beside / "tokenizer")
    lm.codec.save(beside / "codec", half=half)
    if lm.spelling is not None:
        text = torch.from_numpy(lm.spelling.ngram.text)
        if isinstance(lm.spelling, WordSearch):
            lm.spelling.lexicon.save(beside / LEXICON)
        words = {"text": text.to(torch.int16 if lm.spelling.ngram.units < 1 << 15 else torch.int32)}
        if lm.least_sure is not None:
            words["least_sure"] = torch.tensor([lm.least_sure])
        save_file(words, beside / WORDS)
    files = {str(path.relative_to(beside)): _sha256(path) for path in sorted(beside.rglob("*")) if path.is_file()}
    about = {
        "config": lm.config.plain(),
        "whole": whole,
        "codec": load_codec(beside / "codec").fingerprint(),
        "base": None if whole else base_fingerprint(lm),
        "card": {**lm.card, **(card or {})},
        "files": files,
    }
    about["sha256"] = _own_sha256(about)
    (beside / CARD).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(beside, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_student(folder: str | Path, *, device: str = "cpu", sources: Mapping[str, str] | None = None) -> SpeechLM:
    """sources: other places of the pretrained parts ("encoder", "thinker") than it was made from.

    Raises CheckpointProblem, ConfigProblem.
    """
    folder = Path(folder)
    card = read_card(folder)
    _check_files(folder, card)
    config = Config.of(card["config"], str(folder / CARD))
    if unknown := sorted(set(sources or {}) - {"encoder", "thinker"}):
        raise ConfigProblem(f"source of {unknown[0]!r}; encoder and thinker have one")
    config = config.with_(**{part: {"source": place} for part, place in (sources or {}).items()})
    tokenizer = load_tokenizer(folder / "tokenizer", "the student")
    codec = load_codec(folder / "codec")
    if codec.fingerprint() != card["codec"]:
        raise CheckpointProblem(f"{folder / 'codec'}: another codec than the student was trained with")
    whole = bool(card["whole"])
    lm = build(config.with_(encoder={"source": None}), codec, tokenizer, pretrained=not whole)  # encoders are saved
    lm.config = config
    if not whole and base_fingerprint(lm) != card["base"]:
        raise CheckpointProblem(
            f"{config.thinker.source}: not the language model that {folder} was trained on; give its place as thinker="
        )
    _fill(lm, _weights(folder / WEIGHTS), folder, whole=whole)
    if WORDS in card["files"]:
        words = _weights(folder / WORDS)
        text = words["text"].numpy()
        lexicon = Lexicon.read(folder / LEXICON) if config.encoder.ctc == "phones" else None
        units = (lm.speller.ctc_size if lexicon is None else len(lexicon)) + 1
        if len(text) == 0 or text.min() < 0 or text.max() >= units:
            raise CheckpointProblem(
                f"{folder / WORDS}: not in the {units - 1} units or words of this student; save it again"
            )
        lm.learn_words(NGram(text, units=units, order=config.spelling.order), lexicon)
        lm.least_sure = float(words["least_sure"]) if "least_sure" in words else None
    lm.card = dict(card["card"])
    lm.codec.to(device)
    return lm.to(device).eval()


def read_card(folder: Path) -> dict[str, Any]:
    """student.json, checked for its form."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointProblem(
            f"{folder}: no student is here (no {CARD}); give the folder that `attune train` made, RUN/student"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointProblem(f"{folder / CARD}: cannot be read; get the folder again") from error
    if not (isinstance(card, dict) and {"config", "whole", "codec", "base", "card", "files", "sha256"} <= set(card)):
        raise CheckpointProblem(f"{folder / CARD}: not a student's card; get the folder again")
    if card["sha256"] != _own_sha256(card):
        raise CheckpointProblem(f"{folder / CARD}: was changed (its checksum is another); get the folder again")
    return card


def own_weights(lm: SpeechLM, whole: bool) -> dict[str, Tensor]:
    """All that is not tied to something else, nor known beforehand (the places of an encoder from zero); where not whole,
    without what lies below the thinker's adapters."""
    state = lm.state_dict()
    if lm.config.encoder.source is None:
        del state["encoder.embed_positions.weight"]  # sinusoids
    tied = set(lm.thinker.all_tied_weights_keys) if hasattr(lm.thinker, "all_tied_weights_keys") else set()
    kept = {name: x for name, x in state.items() if name.removeprefix("thinker.") not in tied}
    return kept if whole else {name: x for name, x in kept.items() if not _of_base(name)}


def _on_a_base(lm: SpeechLM) -> bool:
    """Whether the thinker is adapters on weights that are to be had elsewhere."""
    return lm.config.thinker.lora is not None and lm.config.thinker.source is not None


def _of_base(name: str) -> bool:
    return name.startswith("thinker.") and "lora_" not in name


def base_fingerprint(lm: SpeechLM) -> str:
    """sha256 over names, shapes and up to 4096 values each of the weights below the thinker's adapters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(lm.state_dict().items()):
        if _of_base(name):
            values = tensor.detach().flatten()
            some = values[:: max(1, len(values) // 4096)].float().cpu().contiguous()
            digest.update(f"{name} {list(tensor.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def _kind(tensor: Tensor, half: bool) -> torch.dtype:
    return torch.float16 if half and tensor.is_floating_point() else tensor.dtype


def _weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointProblem(f"{path}: cannot be read as weights; get the folder again") from error


def _fill(lm: SpeechLM, weights: dict[str, Tensor], folder: Path, *, whole: bool) -> None:
    """Every weight that was saved goes in, and none that should have been is missing."""
    wanted = own_weights(lm, whole)
    for name in sorted(set(wanted) ^ set(weights)):
        what = "is missing" if name in wanted else "belongs to no part of it"
        raise CheckpointProblem(f"{folder / WEIGHTS}: {name} {what}; get the folder again")
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointProblem(
                f"{folder / WEIGHTS}: {name} has the shape {list(tensor.shape)}, its configuration says "
                f"{list(wanted[name].shape)}; get the folder again"
            )
    lm.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in weights.items()}, strict=False)


def _check_files(folder: Path, card: Mapping[str, Any]) -> None:
    """Each file is as it was written, and no other is there for a library to find (hidden ones and a README apart)."""
    here = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for name in sorted(here - set(card["files"]) - {CARD, "README.md"}):
        if not any(part.startswith(".") for part in Path(name).parts):
            raise CheckpointProblem(f"{folder / name}: does not belong to this student; take it away")
    for name, sha256 in card["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointProblem(f"{path}: is missing; get the folder again")
        if _sha256(path) != sha256:
            raise CheckpointProblem(
                f"{path}: was cut or changed (its checksum is not the card's); get the folder again"
            )


def _own_sha256(card: Mapping[str, Any]) -> str:
    text = json.dumps({name: value for name, value in card.items() if name != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
