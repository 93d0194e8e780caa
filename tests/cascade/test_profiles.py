from __future__ import annotations

from pathlib import Path

import pytest

from cascade.engines import ENGINES, engine_module, load_engine
from cascade.errors import ConfigError
from cascade.needs import Need
from cascade.profiles import load_profile
from cascade.turn import STAGES

EMBEDDED = (Path(__file__).parents[2] / "cascade" / "profiles" / "embedded.toml").read_text()


def test_every_stage_of_the_embedded_profile_has_a_known_engine() -> None:
    profile = load_profile("embedded")
    assert set(profile.stages) == set(STAGES) == set(ENGINES)
    for stage, config in profile.stages.items():
        assert config.engine in ENGINES[stage]
        assert config.deadline_s > 0


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, rows in ENGINES.items() for name in rows])
def test_every_engine_in_the_table_has_its_parts(stage: str, name: str) -> None:
    module = engine_module(stage, name)  # type: ignore[arg-type]
    assert module.Options().model_config["frozen"]
    assert module.Options().model_config["extra"] == "forbid"
    assert callable(module.load)
    assert all(need.fix is None or "\n" not in need.fix for need in module.needs(module.Options()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[asr]", "[ears]"), ["ears", "legal", "asr", "judging"]),
        (('engine = "pocketsphinx"', 'engine = "siri"'), ["siri", "legal", "pocketsphinx"]),
        (
            ('engine = "pocketsphinx"', 'engine = "pocketsphinx"\nbeam = 3'),
            ["beam", "legal", "engine", "deadline_s", "dither"],
        ),
        (('engine = "pocketsphinx"', 'engine = "pocketsphinx"\ndither = "maybe"'), ["dither", "maybe", "auto"]),
        (
            ('engine = "pocketsphinx"', 'engine = "pocketsphinx"\nlanguage_model = "nowhere.txt"'),
            ["[asr] language_model", "no such file", "nowhere.txt"],
        ),
        *(
            (("deadline_s = 5.0", f"deadline_s = {wrong}"), ["deadline_s", shown, "a finite number of seconds above 0"])
            for wrong, shown in (("-1", "-1"), ("0", "0"), ("nan", "nan"), ("inf", "inf"), ("1" * 400, "111"))
        ),
        (('engine = "pocketsphinx"', "engine = 3"), ["[asr]", "engine"]),
        (("[asr]", "[asr"), ["TOML"]),
        (("deadline_s = 5.0", f"deadline_s = {'1' * 5000}"), ["TOML"]),
    ],
)
def test_a_bad_profile_says_what_is_legal(tmp_path: Path, change: tuple[str, str], words: list[str]) -> None:
    path = tmp_path / "mine.toml"
    assert change[0] in EMBEDDED
    path.write_text(EMBEDDED.replace(*change, 1))
    with pytest.raises(ConfigError) as caught:
        load_profile(str(path))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_files_are_sought_beside_the_profile_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("hello there")
    profile = tmp_path / "mine.toml"
    profile.write_text(
        EMBEDDED.replace('engine = "pocketsphinx"', 'engine = "pocketsphinx"\nlanguage_model = "words.txt"')
    )
    assert load_profile(str(profile)).stages["asr"].options == {"language_model": tmp_path / "words.txt"}


def test_unknown_profiles_and_swaps_say_what_is_legal() -> None:
    with pytest.raises(ConfigError, match="embedded"):
        load_profile("nope")
    with pytest.raises(ConfigError, match=r"is a folder; legal: auto, embedded, gpu, or the path of a TOML file"):
        load_profile(str(Path(__file__).parent))
    with pytest.raises(ConfigError, match="legal: espeak, flite, f5"):
        load_profile("embedded", ["tts=robot"])
    with pytest.raises(ConfigError, match="stage=name"):
        load_profile("embedded", ["tts"])
    assert load_profile("embedded", ["emotion=unknown"]).stages["emotion"].engine == "unknown"


def test_auto_takes_gpu_only_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    gap, there = Need("device", "cuda", "buy one"), Need("device", "cuda")
    monkeypatch.setattr("cascade.profiles.needs", lambda stage, *_: [gap] if stage in ("asr", "tts") else [there])
    profile = load_profile("auto")
    assert profile.name == "embedded"
    assert (
        profile.note == "embedded, for gpu is not whole here (asr lacks cuda and 1 more: attune doctor --profile gpu)"
    )
    monkeypatch.setattr("cascade.profiles.needs", lambda *_: [there])
    profile = load_profile("auto")
    assert profile.name == "gpu"
    assert profile.note == "gpu: everything it needs is here"
    assert load_profile().name == "gpu", "auto is the default"


def test_auto_applies_swaps_before_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    gap = Need("file", "voices", "add some")
    monkeypatch.setattr("cascade.profiles.needs", lambda stage, name, _: [gap] if name == "f5" else [])
    assert load_profile("auto").name == "embedded"
    swapped = load_profile("auto", ["tts=espeak"])
    assert (swapped.name, swapped.stages["tts"].engine) == ("gpu", "espeak")


def test_a_named_profile_is_never_exchanged_for_another() -> None:
    assert load_profile("gpu").name == "gpu"
    assert load_profile("gpu").note == ""


def test_the_unknown_analyzer_says_nothing_and_why() -> None:
    from fakes import tone

    from cascade.cancel import CancelScope

    cues = load_engine("events", "unknown", {}).analyze(tone(), baseline=None, cancel=CancelScope())
    assert cues.events.events is None
    assert cues.events.reason
