"""Models that are downloaded: which, under what licence, how large, at which revision; and where they lie on this machine.

Nothing is downloaded in passing: a model that is not here is one line that says how to get it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from cascade.errors import EngineUnavailable
from cascade.needs import Need
from cascade.turn import Record


@dataclass(frozen=True)
class Model:
    """One row. `licence` is that of the weights; `include`: the files wanted of a repository that holds more; `marker`: a file
    whose presence shows that it was downloaded.
    """

    repo: str
    revision: str
    licence: str
    size_gb: float
    about: str
    include: tuple[str, ...] = ()
    marker: str = "config.json"


MODELS: dict[str, Model] = {
    "whisper-large-v3": Model(
        "Systran/faster-whisper-large-v3",
        "edaa852ec7e145841d8ffdb056a99866b5f0a478",
        "MIT",
        3.1,
        "speech recognition, 99 languages",
    ),
    "emotion2vec-plus-base": Model(
        "emotion2vec/emotion2vec_plus_base",
        "main",
        "its authors' model licence",
        0.4,
        "nine emotions, 768-d feature",
        marker="config.yaml",
    ),
    "age-gender-6": Model(
        "audeering/wav2vec2-large-robust-6-ft-age-gender",
        "a681b720dafd12b9dd7b6d13fb437c7b6b197fd3",
        "CC-BY-NC-SA-4.0 (not for commerce)",
        0.4,
        "age in years, gender, child",
    ),
    "ast-audioset": Model(
        "MIT/ast-finetuned-audioset-10-10-0.4593",
        "f826b80d28226b62986cc218e5cec390b1096902",
        "BSD-3-Clause",
        0.4,
        "527 sounds of AudioSet",
    ),
    "qwen3-4b": Model(
        "Qwen/Qwen3-4B", "1cfa9a7208912126459214e8b04321603b3df60c", "Apache-2.0", 8.1, "language model, 4 billion"
    ),
    "qwen3-8b": Model(
        "Qwen/Qwen3-8B", "b968826d9c46dd6066d109eabc6255188de91218", "Apache-2.0", 16.4, "language model, 8 billion"
    ),
    "f5-tts-v1": Model(
        "SWivid/F5-TTS",
        "84e5a410d9cead4de2f847e7c9369a6440bdfaca",
        "CC-BY-NC-4.0 (not for commerce)",
        1.4,
        "speech in the voice of a reference clip",
        include=("F5TTS_v1_Base/model_1250000.safetensors", "F5TTS_v1_Base/vocab.txt"),
        marker="F5TTS_v1_Base/vocab.txt",
    ),
    "vocos-mel-24khz": Model(
        "charactr/vocos-mel-24khz",
        "0feb3fdd929bcd6649e0e7c5a688cf7dd012ef21",
        "MIT",
        0.06,
        "F5-TTS's vocoder",
        marker="config.yaml",
    ),
}


def _written(name: str, info: ValidationInfo) -> str:
    """A path is made absolute, from the profile's own folder; a row's name or `owner/name[@revision]` stays."""
    if name in MODELS:
        return name
    if name.startswith((".", "/", "~")):
        folder: Path = (info.context or {}).get("folder", Path())
        return str((folder / Path(name).expanduser()).absolute())
    if name.count("/") == 1:
        return name
    raise ValueError(f"give one of {', '.join(MODELS)}; a hub name owner/name[@revision]; or a folder: ./…, ~/…, /…")


Checkpoint = Annotated[str, AfterValidator(_written)]  # an option that names a model


def model_of(name: str) -> Model:
    """The row of a name, or one made for a hub name of the user's own."""
    if name in MODELS:
        return MODELS[name]
    repo, _, revision = name.partition("@")
    return Model(repo, revision or "main", "see its model card", 0.0, "of your choice")


def described(options: Record, name: str, device: object) -> dict[str, Any]:
    """The options to keep in EngineInfo: what was set, and in any case the device, the model and its revision."""
    shown = options.model_dump(mode="json", exclude_defaults=True)
    revision = "local" if Path(name).is_absolute() else model_of(name).revision
    return {**shown, "device": str(device), "model": name, "revision": revision}


def download_line(name: str) -> str:
    model = model_of(name)
    size = f"  # {model.size_gb:g} GB, {model.licence}" if model.size_gb else ""
    return " ".join(["hf download", model.repo, *model.include, "--revision", model.revision]) + size


def locate(name: str, files: Sequence[str]) -> Path:
    """The folder that holds a model; `files`: names or patterns that must be in it.

    Raises EngineUnavailable: no such folder, not downloaded, or a file of it is missing.
    """
    folder = Path(name) if Path(name).is_absolute() else _downloaded(name, files)
    if folder is None:
        raise EngineUnavailable(f"model {name} is not on this machine: {download_line(name)}")
    if not folder.is_dir():
        raise EngineUnavailable(f"{folder}: no such folder; give a model's folder or one of {', '.join(MODELS)}")
    for file in files:
        if not any(folder.glob(file)):
            raise EngineUnavailable(f"{folder}: holds no {file}; the model is not whole: download or convert it again")
    return folder


def _downloaded(name: str, files: Sequence[str]) -> Path | None:
    """Where the hub's cache keeps it; None if it was never downloaded at this revision."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # an engine whose package is missing: what it could load is not looked for
        return None
    model = model_of(name)
    plain = next(file for file in files if "*" not in file)
    found = try_to_load_from_cache(model.repo, plain, revision=model.revision)
    return Path(found).parents[plain.count("/")] if isinstance(found, str) else None


def checkpoint(name: str, files: Sequence[str]) -> Need:
    """`locate` as a need."""
    model = model_of(name)
    shown = name if Path(name).is_absolute() else f"{model.repo}@{model.revision[:7]}"
    try:
        locate(name, files)
    except EngineUnavailable as error:
        text = str(error)
        return Need("checkpoint", shown, download_line(name) if "hf download" in text else text)
    return Need("checkpoint", shown)
