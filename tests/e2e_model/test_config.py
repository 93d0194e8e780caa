"""The configuration: what is not legal is named in one line, and what was written is read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from e2e_model.config import FORMAT, Config
from e2e_model.errors import ConfigProblem

FLAVOURS = ("nano", "base", "full")


@pytest.mark.parametrize("name", FLAVOURS)
def test_flavours_load_and_come_back_from_json(name: str) -> None:
    config = Config.flavoured(name)
    assert config.flavour == name
    assert config.talker.model["hidden_size"] > 0
    assert Config.of(json.loads(json.dumps(config.plain())), "there") == config


def test_flavours_differ_in_what_they_start_from() -> None:
    nano, base, full = map(Config.flavoured, FLAVOURS)
    assert nano.encoder.source is None
    assert nano.thinker.source is None
    assert nano.thinker.lora is None
    assert nano.vocabulary > 0
    for config in (base, full):
        assert config.encoder.source
        assert config.thinker.source
        assert config.thinker.lora
        assert config.codec.kind == "mimi"
        assert config.vocabulary == 0
    assert [one.emotion_encoder.size > 0 for one in (nano, base, full)] == [False, False, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "here: unknown key 'colour'; legal are flavour, sample_rate,"),
        ({"talker": {"gait": "sum"}}, "here: talker: unknown key 'gait'; legal are"),
        (
            {"talker": {"gate": "none"}},
            "here: talker: gate: 'none' is not legal here; it must be 'gate', 'sum', 'hidden'",
        ),
        ({"mels": "80"}, "here: mels: '80' is not legal here; it must be a whole number"),
        ({"mels": True}, "here: mels: True is not legal here; it must be a whole number"),
        ({"encoder": {"window_s": "30"}}, "here: encoder: window_s: '30' is not legal here; it must be a number"),
        ({"encoder": {"padded": 1}}, "here: encoder: padded: 1 is not legal here; it must be true or false"),
        ({"encoder": {"source": 3}}, "here: encoder: source: 3 is not legal here; it must be text"),
        ({"encoder": []}, "here: encoder: [] is not legal here; it must be a table"),
        (
            {"thinker": {"lora": {"layers": "q"}}},
            "here: thinker: lora: layers: 'q' is not legal here; it must be a list",
        ),
        ({"told": ["age", 2]}, "here: told: 2 is not legal here; it must be text"),
        ({"format": FORMAT + 1, "colour": 1}, f"here: format {FORMAT + 1}; this Attune reads format {FORMAT}"),
    ],
)
def test_what_is_not_legal_is_named_in_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigProblem) as caught:
        Config.of({"flavour": "nano", **change}, "here")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_it_must_be_a_table_with_a_flavour() -> None:
    with pytest.raises(ConfigProblem, match="it must be a table"):
        Config.of([1], "here")
    with pytest.raises(ConfigProblem, match="flavour"):
        Config.of({}, "here")


def test_an_unknown_flavour_lists_those_there_are() -> None:
    with pytest.raises(
        ConfigProblem, match=r"^flavour 'nono' is not there; take base, full, nano, or the path of a \.toml"
    ):
        Config.flavoured("nono")


def test_a_flavour_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('mels = 128\n[talker]\ngate = "hidden"\n')
    mine = Config.flavoured(str(path))
    assert (mine.flavour, mine.mels, mine.talker.gate) == ("mine", 128, "hidden")
    path.write_text("mels = \n")
    with pytest.raises(ConfigProblem, match=r"mine\.toml: cannot be read"):
        Config.flavoured(str(path))


def test_with_changes_parts_and_nothing_else() -> None:
    nano = Config.flavoured("nano")
    changed = nano.with_(talker={"gate": "sum"}, mels=40)
    assert (changed.talker.gate, changed.mels) == ("sum", 40)
    assert changed.talker.model == nano.talker.model
    assert changed.with_(talker={"gate": "gate"}, mels=80) == nano
