"""A student for a dataset: its tokenizer, the space of its emotion vector, what its labels can teach, and its codec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from cascade.errors import InputError
from distill.training.data import Dataset, Row
from e2e_model.build import build
from e2e_model.codec import FsqCodec, FsqConfig, load_codec
from e2e_model.config import Config
from e2e_model.encoder import CUES
from e2e_model.errors import ConfigProblem
from e2e_model.lexicon import Lexicon
from e2e_model.model import SpeechLM
from e2e_model.prompts import ASKED, THINKING, Prompter
from e2e_model.pronouncing import lexicon_of
from e2e_model.spelling import NGram
from e2e_model.think import spoken_words, tag_pieces
from e2e_model.tokenizer import train_tokenizer
from e2e_model.word_search import WordSearch

LEAST_LABELS = 2  # a cue with fewer different labels teaches nothing


def fitted(config: Config, dataset: Dataset) -> Config:
    """The configuration for this dataset. Raises InputError: labels that this student has lost."""
    rows = dataset.rows("train")
    check_labels(config, dataset)
    spaces = {row.vector_space for row in rows if row.reply_vector is not None}
    if len(spaces) > 1:
        names = ", ".join(sorted(map(str, spaces)))
        raise InputError(f"{dataset}: reply vectors of {len(spaces)} spaces ({names}); train on a dataset with one")
    size = next((len(row.reply_vector) for row in rows if row.reply_vector is not None), 0)
    told = [name for name in CUES if len(labels_of(rows, name)) >= LEAST_LABELS]
    return config.with_(vector={"size": size, "space": next(iter(spaces), None) or ""}, told=tuple(told))


def labels_of(rows: list[Row], cue: str) -> set[str]:
    """The different labels of a cue that are there."""
    if cue == "events":
        known = [row.user_events for row in rows if row.user_events is not None]
        return {event for events in known for event in events or ("none",)}
    return {value for row in rows if (value := getattr(row, f"user_{cue}"))}


def check_labels(config: Config, dataset: Dataset) -> None:
    """Every label of the dataset has its output in the student. Raises InputError."""
    rows = [*dataset.rows("train"), *dataset.rows("validation")]
    held = {name: labels_of(rows, name) - {"none"} for name in CUES}
    held["strategy"] = {row.strategy for row in rows if row.strategy}
    held["reply_emotion"] = {row.reply_emotion for row in rows if row.reply_emotion}
    for name, labels in held.items():
        if lost := sorted(labels - set(getattr(config.labels, name))):
            raise InputError(
                f"{dataset}: {name} {lost[0]!r} is no label of this student, which has "
                f"{', '.join(getattr(config.labels, name))}; take a configuration that has it"
            )


def texts_of(rows: list[Row]) -> Iterator[str]:
    """What a tokenizer of this dataset's own must be able to write well."""
    yield from ASKED.values()
    yield from THINKING.values()
    for row in rows:
        if row.user_text:
            heard = spoken_words(row.user_text)
            cues = {
                "emotion": row.user_emotion,
                "age": row.user_age,
                "gender": row.user_gender,
                "events": row.user_events,
            }
            yield row.user_text
            yield "".join(piece.text for piece in tag_pieces(heard, cues, row.strategy, row.reply_emotion))
        for text in (row.reply_text, row.think_language, row.worst_text):
            if text:
                yield text


def new_codec(config: Config, seed: int) -> FsqCodec:
    """Attune's own, as it is before it has learnt anything."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FsqCodec(FsqConfig(codebooks=config.codec.codebooks))


def codec_to_train(config: Config, seed: int, folder: Path | None) -> FsqCodec:
    """A new one, or that of a folder, which learns on to decode: its encoder stays, and so do its tokens. Raises
    ConfigProblem: of another kind; CheckpointProblem.
    """
    if folder is None:
        return new_codec(config, seed)
    codec = load_codec(folder)
    if not isinstance(codec, FsqCodec):
        raise ConfigProblem(f"{folder}: a {codec.kind} codec is taken as it is; leave out the stage codec")
    codec.encoder.requires_grad_(False)
    return codec.train()


def assembled(config: Config, dataset: Dataset, codec: Any, *, seed: int) -> SpeechLM:
    """A student that has learnt nothing yet (but what its sources know)."""
    rows = dataset.rows("train")
    config = fitted(config, dataset)
    tokenizer = train_tokenizer(texts_of(rows), config.vocabulary) if config.vocabulary else None
    lm = build(config, codec, tokenizer, seed=seed)
    vectors = [row.reply_vector for row in rows if row.reply_vector is not None]
    if vectors:
        stacked = torch.from_numpy(np.stack(vectors)).float()  # [N, D]
        lm.vector.mean.copy_(stacked.mean(0))
        lm.vector.deviation.copy_(stacked.std(0, unbiased=False).clamp(min=1e-3))
    return lm


def learn_words(lm: SpeechLM, dataset: Dataset) -> None:
    """What people say in this dataset, besides what the student has known before: its ears spell by it. Raises ConfigProblem:
    phones, and words that have none."""
    texts = [row.user_text for row in dataset.rows("train") if row.user_text]
    order, before = lm.config.spelling.order, lm.spelling
    lexicon, lines = None, list[Sequence[int]]()
    if lm.speller.ctc == "phones":
        if not order:
            raise ConfigProblem('[encoder] ctc = "phones" is read by words: give [spelling] an order of 1 or more')
        lexicon = lexicon_of(texts)
        if isinstance(before, WordSearch):
            lexicon = Lexicon({**before.lexicon, **lexicon})  # words keep their numbers
        lines = [lexicon.numbers(spoken_words(text)) for text in texts]
        units = len(lexicon) + 1
    elif order:
        lines = [lm.speller.ctc_ids(text) for text in texts]
        units = lm.speller.ctc_size + 1
    else:
        return
    known = before.ngram.lines() if before is not None else []
    # A sentence counts once, however often a grammar's few wordings make it.
    lm.learn_words(NGram.of(dict.fromkeys([*known, *map(tuple, lines)]), units=units, order=order), lexicon)


def with_ears(lm: SpeechLM, folder: Path | None) -> SpeechLM:
    """The same with encoder and heads of another student, and what they spell. Raises ConfigProblem: ears of another kind, with
    other labels, or that spell tokens of another tokenizer."""
    if folder is None:
        return lm
    other = SpeechLM.from_pretrained(folder, device="cpu")
    ctc = other.config.encoder.ctc
    check_ears(lm.config, other.config, folder)
    _check_alike(
        folder, "take ears that learnt from the same dataset",
        ("told cues", lm.config.told, other.config.told),
        ("tokens", ctc == "tokens" and _tokens(lm), ctc == "tokens" and _tokens(other)),
    )  # fmt: skip
    lm.config = lm.config.with_(encoder={"ctc": ctc}, spelling=other.config.spelling)
    lm.speller = replace(lm.speller, ctc=ctc)
    lm.prompter = Prompter(lm.speller)
    lm.encoder.load_state_dict(other.encoder.state_dict())
    lm.heads, lm.spelling, lm.least_sure = other.heads, other.spelling, other.least_sure
    return lm


def with_voice(lm: SpeechLM, folder: Path | None) -> SpeechLM:
    """The same with the talker of another student, and the place of its emotion vectors. What it makes of this thinker's states
    is for training to learn anew. Raises ConfigProblem: a talker of another kind, that speaks another codec's tokens, reads
    another tokenizer's, or feels in another space."""
    if folder is None:
        return lm
    other = SpeechLM.from_pretrained(folder, device="cpu")
    reads = lm.config.talker.units == "tokens"
    check_voice(lm.config, other.config, folder)
    check_codec(lm.codec, other.codec, folder)
    _check_alike(
        folder, "take a voice that learnt from the same dataset",
        ("emotion vector", lm.config.vector, other.config.vector),
        ("tokens", reads and _tokens(lm), reads and _tokens(other)),
    )  # fmt: skip
    lm.talker.load_state_dict(other.talker.state_dict())
    lm.vector.mean.copy_(other.vector.mean)
    lm.vector.deviation.copy_(other.vector.deviation)
    return lm


def check_ears(config: Config, other: Config, folder: Path) -> None:
    """Whether a student of this configuration can take the other's ears. Raises ConfigProblem."""
    _check_alike(
        folder, "take ears of the same flavour",
        ("encoder", config.with_(encoder={"ctc": other.encoder.ctc}).encoder, other.encoder),
        ("mels", config.mels, other.mels),
        ("labels", config.labels, other.labels),
    )  # fmt: skip


def check_voice(config: Config, other: Config, folder: Path) -> None:
    """Whether a student of this configuration can take the other's voice. Raises ConfigProblem."""
    _check_alike(
        folder, "take a voice of the same flavour",
        ("talker", config.talker, other.talker),
        ("kind of codec", (config.codec.kind, config.codec.codebooks), (other.codec.kind, other.codec.codebooks)),
        ("reply emotions", config.labels.reply_emotion, other.labels.reply_emotion),
        ("thinker's width", config.thinker.model.get("hidden_size"), other.thinker.model.get("hidden_size")),
    )  # fmt: skip


def check_codec(codec: Any, other: Any, folder: Path) -> None:
    """Whether a voice speaks in this codec's tokens. Raises ConfigProblem."""
    _check_alike(
        folder, f"it speaks in those of {folder / 'codec'}: leave --codec out, or give one that went on from it",
        ("codec's tokens", codec.tokens_fingerprint(), other.tokens_fingerprint()),
    )  # fmt: skip


def _check_alike(folder: Path, advice: str, *pairs: tuple[str, Any, Any]) -> None:
    for what, ours, theirs in pairs:
        if ours != theirs:
            raise ConfigProblem(f"{folder}: not this student's {what}; {advice}")


def _tokens(lm: SpeechLM) -> Any:
    return lm.speller.tokenizer.get_vocab()


def check_networks(config: Config) -> None:
    """Whether networks can be made of a flavour, and run, before hours go into its codec. Raises ConfigProblem."""
    codec = SimpleNamespace(codebooks=config.codec.codebooks, codebook_size=8, levels=())
    lm = build(config, codec, train_tokenizer(ASKED.values(), 300))
    with torch.no_grad():
        try:
            for network in (lm.thinker.base_model, lm.talker.decoder):
                network(inputs_embeds=torch.zeros(1, 2, network.config.hidden_size))
        except RuntimeError as error:
            raise ConfigProblem(
                f"flavour {config.flavour}: {network.config.model_type} cannot run with these sizes ({error}); "
                "look at [thinker.model] and [talker.model]"
            ) from error


def set_training(lm: SpeechLM, parts: tuple[str, ...]) -> None:
    """Only these parts learn; of a thinker with low-rank adapters, the adapters."""
    for parameter in lm.parameters():
        parameter.requires_grad_(False)
    for part in parts:
        for name, parameter in lm.part_parameters(part):
            untold = [f"heads.cues.{cue}." for cue in CUES if cue not in lm.config.told]
            fixed = name == "encoder.embed_positions.weight" or name.startswith(tuple(untold))  # sinusoids; no labels
            below = part == "thinker" and lm.config.thinker.lora is not None and "lora_" not in name
            parameter.requires_grad_(not (fixed or below))


def set_dropout(lm: SpeechLM, share: float) -> None:
    """What encoder and heads leave out in training, in layers, attention and cues. It is no part of the student."""
    for part in (lm.encoder, lm.heads):
        for module in part.modules():
            for name in ("dropout", "activation_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, share)


def mel_key(config: Config) -> str:
    return f"whisper log-mel, {config.mels} mels"
