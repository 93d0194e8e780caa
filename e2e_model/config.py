"""The student's configuration: nested, frozen, written as TOML (flavours) or JSON (checkpoints); an unknown key is an error.

A flavour differs from another in these values alone: nano, base and full are the same classes.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from e2e_model.errors import ConfigProblem

FLAVOURS = Path(__file__).with_name("flavours")
FORMAT = 1  # of the checkpoints


@dataclass(frozen=True)
class Part:
    """A network of transformers' own: `model`, its configuration (with model_type), and `source`, the folder or hub name
    whose pretrained weights it starts from; none: from zero."""

    model: dict[str, Any] = field(default_factory=dict)
    source: str | None = None


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al., arXiv 2106.09685) on the named layers; the weights below them stay as they are."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    layers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Encoder(Part):
    """Speech encoder. window_s: it reads at most so much at once; padded: short speech is filled up to a window with
    silence, as Whisper was trained; jitter_positions: in training, speech begins at any of its places; stack: so many frames
    of the log-mel are read as one, for states at 50 / stack Hz."""

    window_s: float = 30.0
    padded: bool = False
    jitter_positions: bool = False
    stack: int = 1
    ctc: Literal["tokens", "characters", "phones"] = "characters"  # what the CTC head spells


@dataclass(frozen=True)
class EmotionEncoder:
    """emotion2vec's frames beside the encoder's. source: its folder; size 0: there is none."""

    source: str | None = None
    size: int = 0


@dataclass(frozen=True)
class Adapter:
    """From the encoder's states to the thinker: `stack` of them become one (4 of 50 Hz: 12.5 Hz)."""

    stack: int = 4
    hidden: int = 512


@dataclass(frozen=True)
class Thinker(Part):
    """The language model. hears: the adapter's states stand in its prompt; lora: train adapters only."""

    hears: bool = True
    lora: Lora | None = None


@dataclass(frozen=True)
class Vector:
    """The continuous emotion vector (Emotion Omni, arXiv 2508.18655), from the mean of the first `states` answer states."""

    size: int = 0  # 0: of what the dataset holds, filled in when training begins
    space: str = ""  # whose features these are
    states: int = 5
    hidden: int = 256


@dataclass(frozen=True)
class Talker(Part):
    """The speech decoder. units: what it reads (phones: of words that the dictionary has, characters of all else); order
    "units": it asks for each unit itself when it comes to speak it, seen with `ahead` units on either side; "words": it asks for
    the next word, `ahead` words before it speaks them; "ratio": `read` units, then `write` frames, in turn. gate: how hidden
    state and text become one."""

    units: Literal["characters", "tokens", "phones"] = "characters"
    order: Literal["units", "words", "ratio"] = "words"
    ahead: int = 2
    read: int = 5
    write: int = 15
    gate: Literal["gate", "sum", "hidden"] = "gate"
    code_rank: int = 0  # of the table of codes, in and out; 0: as wide as the decoder
    code_levels: bool = False  # codes share what their levels have in common, if the codec's have levels
    depth: dict[str, Any] | None = (
        None  # a small causal model over a frame's codebooks; None: there is one codebook only
    )


@dataclass(frozen=True)
class Codec:
    """Which codec: kind and, for a pretrained one, its folder; `codebooks` of its codebooks are spoken."""

    kind: Literal["fsq", "mimi"] = "fsq"
    source: str | None = None
    codebooks: int = 1


@dataclass(frozen=True)
class Labels:
    """What the student can tell and how it can speak, in the order of its outputs. A lost label is another student."""

    emotion: tuple[str, ...] = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised", "other")
    age: tuple[str, ...] = ("child", "adult", "elder")
    gender: tuple[str, ...] = ("female", "male")
    events: tuple[str, ...] = ("laugh", "cough", "cry", "scream", "sigh", "throat_clearing", "sneeze", "other")
    strategy: tuple[str, ...] = ("reflect", "validate", "ask", "encourage", "suggest", "celebrate", "clarify", "care")
    reply_emotion: tuple[str, ...] = (
        "joyful",
        "sorry",
        "happy",
        "angry",
        "surprised",
        "disgusted",
        "sad",
        "afraid",
        "tearful",
        "comforting",
        "neutral",
    )


@dataclass(frozen=True)
class Spelling:
    """How the CTC head's words are read: by its best path (order 0), or by a beam search with an n-gram of the training words
    (spelling.py; of phones, through a lexicon: word_search.py). order, weight: of the n-gram over units, or words; bonus: of
    each unit, or word, in nats."""

    order: int = 0
    weight: float = 0.5
    bonus: float = 4.5
    beam: int = 16


@dataclass(frozen=True)
class Limits:
    """Where a part that does not end is stopped."""

    think_tokens: int = 96
    reply_tokens: int = 160
    speech_s: float = 30.0


@dataclass(frozen=True)
class Config:
    """One student, whole. sample_rate, mels: of the log-mel features, Whisper's (25 ms windows every 10 ms)."""

    flavour: str
    sample_rate: int = 16_000
    mels: int = 80
    vocabulary: int = 0  # tokens of a tokenizer trained on the data; 0: the thinker's source brings its own
    encoder: Encoder = Encoder()
    emotion_encoder: EmotionEncoder = EmotionEncoder()
    adapter: Adapter = Adapter()
    thinker: Thinker = Thinker()
    vector: Vector = Vector()
    talker: Talker = Talker()
    codec: Codec = Codec()
    labels: Labels = Labels()
    spelling: Spelling = Spelling()
    limits: Limits = Limits()
    told: tuple[str, ...] = ("emotion", "age", "gender", "events")  # cues whose labels the training data held
    format: int = FORMAT

    @classmethod
    def flavoured(cls, name: str) -> Self:
        """A flavour by its name, or by the path of a TOML file. Raises ConfigProblem."""
        path = Path(name) if name.endswith(".toml") else FLAVOURS / f"{name}.toml"
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            known = ", ".join(sorted(file.stem for file in FLAVOURS.glob("*.toml")))
            raise ConfigProblem(f"flavour {name!r} is not there; take {known}, or the path of a .toml file") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigProblem(f"{path}: cannot be read ({error})") from error
        return cls.of({"flavour": path.stem, **data}, str(path))

    @classmethod
    def of(cls, data: Any, where: str) -> Self:
        """From plain values. Raises ConfigProblem, which names the key and the legal ones."""
        written = data.get("format", FORMAT) if isinstance(data, Mapping) else FORMAT
        if written != FORMAT:  # before its keys: another format has others
            raise ConfigProblem(f"{where}: format {written!r}; this Attune reads format {FORMAT}")
        return typing.cast(Self, _read(cls, data, where))

    def plain(self) -> dict[str, Any]:
        """As JSON writes it."""
        return typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))

    def with_(self, **parts: Mapping[str, Any] | Any) -> Self:
        """A copy with some values of its parts replaced: `with_(talker={"gate": "sum"})`."""
        changed: dict[str, Any] = {}
        for name, value in parts.items():
            part = getattr(self, name)
            nested = isinstance(value, Mapping) and dataclasses.is_dataclass(part)
            changed[name] = dataclasses.replace(part, **value) if nested else value
        return dataclasses.replace(self, **changed)


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`, checked."""
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _read(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        return _legal(value, value in args, where, ", ".join(map(repr, args)))
    if origin is tuple:
        _legal(value, isinstance(value, list | tuple), where, "a list")
        return tuple(_read(args[0], item, where) for item in value)
    if origin is dict:
        return dict(_legal(value, isinstance(value, Mapping), where, "a table"))
    if kind is float:
        return float(_legal(value, isinstance(value, int | float) and not isinstance(value, bool), where, "a number"))
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    return _legal(value, right, where, {int: "a whole number", str: "text", bool: "true or false"}[kind])


def _read_record(kind: Any, value: Any, where: str) -> Any:
    _legal(value, isinstance(value, Mapping), where, "a table")
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(value) - set(hints)):
        raise ConfigProblem(f"{where}: unknown key {unknown[0]!r}; legal are {', '.join(hints)}")
    try:
        return kind(**{key: _read(hints[key], item, f"{where}: {key}") for key, item in value.items()})
    except TypeError as error:
        raise ConfigProblem(f"{where}: {error}") from error


def _legal(value: Any, right: bool, where: str, legal: str) -> Any:
    if not right:
        raise ConfigProblem(f"{where}: {value!r} is not legal here; it must be {legal}")
    return value
