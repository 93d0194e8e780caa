"""Label maps: every label of the published models has a meaning or is left out on purpose, and no probability is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints.emotion2vec import LABELS

from cascade.errors import ConfigError
from cascade.paralinguistics.label_maps import TARGETS, MapName, label_map
from cascade.turn import EMOTIONS, EVENT_KINDS

# The sounds of people among AudioSet's 527, in its order (indices 0 to 71 of its class list).
HUMAN_SOUNDS = """Speech|Male speech, man speaking|Female speech, woman speaking|Child speech, kid speaking|Conversation|
Narration, monologue|Babbling|Speech synthesizer|Shout|Bellow|Whoop|Yell|Battle cry|Children shouting|Screaming|Whispering|
Laughter|Baby laughter|Giggle|Snicker|Belly laugh|Chuckle, chortle|Crying, sobbing|Baby cry, infant cry|Whimper|Wail, moan|
Sigh|Singing|Choir|Yodeling|Chant|Mantra|Male singing|Female singing|Child singing|Synthetic singing|Rapping|Humming|Groan|
Grunt|Whistling|Breathing|Wheeze|Snoring|Gasp|Pant|Snort|Cough|Throat clearing|Sneeze|Sniff|Run|Shuffle|Walk, footsteps|
Chewing, mastication|Biting|Gargling|Stomach rumble|Burping, eructation|Hiccup|Fart|Hands|Finger snapping|Clapping|
Heart sounds, heartbeat|Heart murmur|Cheering|Applause|Chatter|Crowd|Hubbub, speech noise, speech babble|Children playing"""
HUMAN = tuple(name.strip() for name in HUMAN_SOUNDS.split("|"))


@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_legal(name: MapName) -> None:
    assert set(label_map(name).targets.values()) <= set(TARGETS[name])


def test_every_emotion_is_reached() -> None:
    assert {label_map("emotion2vec").target(label) for label in LABELS} == {*EMOTIONS, "unknown"}


@pytest.mark.parametrize(
    ("label", "meaning"),
    [("生气/angry", "angry"), ("其他/other", "other"), ("<unk>", "unknown"), ("吃惊/surprised", "surprised")],
)
def test_emotions_by_name(label: str, meaning: str) -> None:
    assert label_map("emotion2vec").target(label) == meaning


def test_no_mass_is_lost_or_renamed() -> None:
    shares = np.random.default_rng(1).dirichlet(np.ones(len(LABELS)))
    emotions, unknown = label_map("emotion2vec").gathered(dict(zip(LABELS, shares.tolist(), strict=True)))
    assert sum(emotions.values()) + unknown == pytest.approx(1.0, abs=1e-12)
    assert unknown == pytest.approx(shares[-1])
    assert emotions["other"] == pytest.approx(shares[5])


def test_a_foreign_label_is_told_not_guessed() -> None:
    known = label_map("emotion2vec")
    assert known.foreign([*LABELS, "愤怒/furious"]) == ["愤怒/furious"]
    with pytest.raises(KeyError):
        known.gathered({"furious": 1.0})


def test_each_human_sound_of_audioset_is_decided() -> None:
    assert len(HUMAN) == len(set(HUMAN)) == 72
    known = label_map("audioset")
    undecided = [label for label in HUMAN if label.casefold() not in {*known.targets, *known.ignored}]
    assert undecided == []


def test_audioset_map_names_only_labels_of_audioset() -> None:
    known = label_map("audioset")
    assert {*known.targets, *known.ignored} == {label.casefold() for label in HUMAN}


def test_every_kind_of_event_can_be_heard() -> None:
    assert {kind for label in HUMAN if (kind := label_map("audioset").target(label))} == set(EVENT_KINDS)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("Belly laugh", "laugh"),
        ("Chuckle,_chortle", "laugh"),
        ("Baby cry, infant cry", "cry"),
        ("Screaming", "scream"),
        ("Shout", None),
        ("Throat clearing", "throat_clearing"),
        ("Gasp", "other"),
        ("Breathing", None),
        ("Whimper", "cry"),
        ("Whimper (dog)", None),
        ("Dog", None),
        ("Music", None),
    ],
)
def test_events_by_name(label: str, kind: str | None) -> None:
    assert label_map("audioset").target(label) == kind


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[emotion2vec.labels]\nangry = "furious"', "maps 'angry' to 'furious'; legal: angry"),
        ('[emotion2vec.labels]\nAngry = "angry"\nangry = "sad"', "names 'angry' twice"),
        ('[emotion2vec]\nlabls = 1\n[emotion2vec.labels]\nangry = "angry"', "unknown key 'labls'"),
        ('[audioset.labels]\nSigh = "sigh"', "'emotion2vec'"),
        ("[emotion2vec", "Expected"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "maps.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        label_map("emotion2vec", tmp_path / "maps.toml")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
