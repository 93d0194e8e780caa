"""What engines rest on: seen without loading anything, and each gap with the line that mends it."""

from __future__ import annotations

import importlib.util
import logging
import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError

from cascade import needs
from cascade.cancel import CancelScope
from cascade.errors import Cancelled, EngineUnavailable
from cascade.models import MODELS, Checkpoint, checkpoint, download_line, locate
from cascade.torch_tools import check_pickle, device_of, make_stoppable, preserved, stopped_by


def test_a_package_is_named_with_its_version_and_its_absence_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needs.package("click", "click", "pip install click").name.startswith("click 8")
    assert needs.package("click", "click", "pip install click").fix is None
    assert needs.package("no_such_thing", "no-such-thing", "pip install it").fix == "pip install it"
    monkeypatch.setitem(sys.modules, "click", None)
    assert needs.package("click", "click", "pip install click").fix == "pip install click"


def test_looking_at_the_gpu_profile_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom cascade.profiles import load_profile\nload_profile('auto')\n"
        "print(*sorted(m for m in ('torch', 'transformers', 'funasr', 'f5_tts', 'faster_whisper') if m in sys.modules))"
    )
    root = Path(__file__).parents[2]
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []


@pytest.mark.parametrize(("devices", "built"), [(0, True), (0, False), (1, False), (1, True)])
def test_the_device_is_asked_of_the_driver_and_of_torch(
    monkeypatch: pytest.MonkeyPatch, devices: int, built: bool
) -> None:
    monkeypatch.setattr(needs, "cuda_devices", lambda: devices)
    monkeypatch.setattr(needs, "torch_has_cuda", lambda: built)
    assert (needs.device("cuda").fix is None) == (devices > 0 and built)
    assert (needs.device("cuda", by_torch=False).fix is None) == (devices > 0)
    assert needs.device("auto").fix is None
    assert needs.device("auto").name == ("cuda" if devices and built else "cpu")
    assert needs.device("cpu").name == "cpu"


def test_torch_and_its_version_file_agree() -> None:
    assert needs.torch_has_cuda() == (torch.version.cuda is not None)
    assert (needs.cuda_devices() > 0 and needs.torch_has_cuda()) == torch.cuda.is_available()


class Names(BaseModel):
    model: Checkpoint


def test_a_model_is_a_row_a_hub_name_or_a_folder_beside_the_profile(tmp_path: Path) -> None:
    def named(text: str) -> str:
        return Names.model_validate({"model": text}, context={"folder": tmp_path}).model

    assert named("qwen3-4b") == "qwen3-4b"
    assert named("someone/model@abc") == "someone/model@abc"
    assert named("./mine") == str(tmp_path / "mine")
    assert named("/models/x") == "/models/x"
    with pytest.raises(ValidationError, match="hub name"):
        named("qwen4")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_that_is_not_here_has_its_download_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.models._downloaded", lambda *_: None)
    model = MODELS[name]
    need = checkpoint(name, (model.marker,))
    assert need.fix == download_line(name)
    assert f"hf download {model.repo}" in need.fix
    assert f"--revision {model.revision}" in need.fix
    assert model.licence in need.fix
    with pytest.raises(EngineUnavailable, match="not on this machine"):
        locate(name, (model.marker,))


def test_the_hubs_cache_is_where_downloads_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["f5-tts-v1"]
    folder = tmp_path / f"models--{model.repo.replace('/', '--')}" / "snapshots" / model.revision
    (folder / "F5TTS_v1_Base").mkdir(parents=True)
    for file in model.include:
        (folder / file).write_text("x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert locate("f5-tts-v1", (model.marker, "F5TTS_v1_Base/*.safetensors")) == folder
    with pytest.raises(EngineUnavailable, match=r"holds no other\.bin"):
        locate("f5-tts-v1", (model.marker, "other.bin"))


def test_a_folder_that_is_not_there_or_not_whole_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="no such folder"):
        locate(str(tmp_path / "nowhere"), ("config.json",))
    with pytest.raises(EngineUnavailable, match=r"holds no config\.json"):
        locate(str(tmp_path), ("config.json",))
    (tmp_path / "config.json").write_text("{}")
    assert locate(str(tmp_path), ("config.json",)) == tmp_path


def test_cuda_that_is_not_there_is_one_line() -> None:
    if torch.cuda.is_available():
        assert device_of("auto").type == device_of("cuda").type == "cuda"
    else:
        assert device_of("auto").type == "cpu"
        with pytest.raises(EngineUnavailable, match="torch sees none"):
            device_of("cuda")
    assert device_of("cpu").type == "cpu"


def snapshot() -> list[Any]:
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        logging.root.level,
        list(logging.root.handlers),
        logging.root.manager.disable,
        logging.getLogger("attune.test").level,
        list(warnings.filters),
    ]


def test_what_a_library_does_to_the_process_is_undone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    monkeypatch.setenv("ATTUNE_TEST_KEPT", "1")
    before = snapshot()
    with preserved():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.set_num_threads(7)
        torch.set_default_dtype(torch.float64)
        logging.root.setLevel(5)
        logging.root.addHandler(logging.NullHandler())
        logging.disable(50)
        logging.getLogger("attune.test").setLevel(50)
        warnings.simplefilter("always")
        warnings.warn("dropped", stacklevel=1)
        os.environ["ATTUNE_TEST"] = "1"
        del os.environ["ATTUNE_TEST_KEPT"]
        print("dropped")
    assert snapshot() == before
    assert "ATTUNE_TEST" not in os.environ
    assert os.environ["ATTUNE_TEST_KEPT"] == "1"
    assert capsys.readouterr() == ("", "")


def test_it_is_undone_after_an_error_too() -> None:
    before = snapshot()

    def broken() -> None:
        with preserved():
            torch.manual_seed(2)
            logging.root.setLevel(5)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        broken()
    assert snapshot() == before


class Stack(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(5))
        self.ran: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            self.ran.append(i)
        return x


def test_a_stoppable_model_stops_between_two_layers() -> None:
    model, scope = Stack(), CancelScope()
    make_stoppable(model)
    model.layers[2].register_forward_hook(lambda *_: scope.cancel())
    with pytest.raises(Cancelled), stopped_by(scope):
        model(torch.zeros(1, 2))
    assert model.ran == [0, 1, 2]
    model(torch.zeros(1, 2))  # outside of a scope nothing stops it
    with pytest.raises(Cancelled), stopped_by(scope):
        raise AssertionError("a cancelled scope is not entered")


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    bad, touched = tmp_path / "model.pt", tmp_path / "touched"
    torch.save({"weights": Malice(touched)}, bad)
    with pytest.raises(EngineUnavailable, match="not a checkpoint of plain tensors") as caught:
        check_pickle(bad)
    assert "\n" not in str(caught.value)
    assert not touched.exists()
    bad.write_bytes(pickle.dumps(Malice(touched)))
    with pytest.raises(EngineUnavailable):
        check_pickle(bad)
    assert not touched.exists()
    bad.write_bytes(b"not a pickle")
    with pytest.raises(EngineUnavailable):
        check_pickle(bad)
    torch.save({"weights": torch.zeros(3)}, bad)
    check_pickle(bad)


def test_the_house_never_brings_torchaudio_to_a_cpu() -> None:
    """It would link CUDA and break every import of transformers."""
    if not torch.cuda.is_available():
        assert importlib.util.find_spec("torchaudio") is None
