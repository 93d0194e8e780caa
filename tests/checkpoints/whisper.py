"""A Whisper of random weights as CTranslate2 reads it: every file that a real one has, but its words mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from ctranslate2.specs import WhisperSpec
from faster_whisper.tokenizer import _LANGUAGE_CODES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

FRAMES, TOKENS = 1500, 448  # the lengths Whisper reads and writes
LOGITS = 8.0  # standard deviation of the words' logits: far apart, so that no word hangs on rounding
HEARD = 6.0  # how much louder than usual the encoder speaks, so that the words depend on the sound
TEXT = ("hello world this is a test of speech", "how are you today I am fine", "the train was late and then it rained")
TASKS = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")


class _Weights:
    """Random float32 weights of a usual size, drawn in the order they are asked for."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def matrix(self, *shape: int, scale: float | None = None) -> np.ndarray:
        spread = scale if scale is not None else 1 / np.sqrt(np.prod(shape[1:]))
        return self._random.standard_normal(shape, dtype=np.float32) * np.float32(spread)

    def linear(self, spec: Any, out: int, into: int) -> None:
        spec.weight, spec.bias = self.matrix(out, into), self.matrix(out, scale=0.02)

    def norm(self, spec: Any, size: int, gain: float = 1.0) -> None:
        spec.gamma, spec.beta = np.full(size, gain, np.float32), np.zeros(size, np.float32)

    def attention(self, spec: Any, size: int) -> None:
        """Of itself: queries, keys and values in one matrix. Of the encoder: queries alone, then keys and values."""
        self.norm(spec.layer_norm, size)
        for linear, times in zip(spec.linear, (3, 1) if len(spec.linear) == 2 else (1, 2, 1), strict=True):
            self.linear(linear, times * size, size)

    def layer(self, spec: Any, size: int) -> None:
        self.attention(spec.self_attention, size)
        if hasattr(spec, "attention"):
            self.attention(spec.attention, size)
        self.norm(spec.ffn.layer_norm, size)
        self.linear(spec.ffn.linear_0, 4 * size, size)
        self.linear(spec.ffn.linear_1, size, 4 * size)


def make_whisper(
    folder: Path, *, d_model: int = 32, layers: int = 1, multilingual: bool = True, mels: int = 80, seed: int = 2
) -> Path:
    """Write the model into `folder` and give it back. Heads have 16 dimensions up to d_model 128, 64 beyond."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(multilingual=multilingual)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": mels, "sampling_rate": 16_000}))
    spec = _spec(_Weights(seed), tokenizer, d_model, layers, mels)
    spec.validate()
    spec.optimize()
    spec.save(str(folder))
    return folder


def _spec(weights: _Weights, tokenizer: Tokenizer, d_model: int, layers: int, mels: int) -> WhisperSpec:
    heads = d_model // (16 if d_model <= 128 else 64)
    spec = WhisperSpec(layers, heads, layers, heads)
    encoder, decoder = spec.encoder, spec.decoder
    for conv, into in ((encoder.conv1, mels), (encoder.conv2, d_model)):
        conv.weight, conv.bias = weights.matrix(d_model, into, 3), weights.matrix(d_model, scale=0.02)
    encoder.position_encodings.encodings = weights.matrix(FRAMES, d_model, scale=0.5)
    decoder.position_encodings.encodings = weights.matrix(TOKENS, d_model, scale=0.5)
    decoder.embeddings.weight = weights.matrix(tokenizer.get_vocab_size(), d_model, scale=0.5)
    logits = weights.matrix(tokenizer.get_vocab_size(), d_model, scale=LOGITS / np.sqrt(d_model))
    decoder.projection.weight = logits * _likelihood(tokenizer)[:, None]
    for half, gain in ((encoder, HEARD), (decoder, 1.0)):
        weights.norm(half.layer_norm, d_model, gain)
        for layer in half.layer:
            weights.layer(layer, d_model)
    _configure(spec, tokenizer, layers, heads)
    return spec


def _likelihood(tokenizer: Tokenizer) -> np.ndarray:
    """How far each token's logit may rise, (tokens,): words win over languages, and these over bytes and times."""
    out = np.full(tokenizer.get_vocab_size(), 0.1, np.float32)
    for token, index in tokenizer.get_vocab().items():
        if token.startswith("Ġ") and len(token) > 2:
            out[index] = 1.0
        elif token.strip("<|>") in _LANGUAGE_CODES:
            out[index] = 0.5
    return out


def _configure(spec: WhisperSpec, tokenizer: Tokenizer, layers: int, heads: int) -> None:
    ids = tokenizer.get_vocab()
    spec.register_vocabulary(sorted(ids, key=ids.__getitem__))
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [ids["<|endoftext|>"]]
    spec.config.lang_ids = sorted(ids[f"<|{code}|>"] for code in _LANGUAGE_CODES)
    spec.config.alignment_heads = [[layers - 1, head] for head in range(heads)]


def _tokenizer(*, multilingual: bool) -> Tokenizer:
    """Byte-level BPE of a few sentences, then Whisper's special tokens in Whisper's order.

    CTranslate2 takes a model for multilingual when its vocabulary holds the empty token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    if multilingual:
        whole = json.loads(tokenizer.to_str())
        whole["model"]["vocab"][""] = len(whole["model"]["vocab"])
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(whole))
    languages = [f"<|{code}|>" for code in _LANGUAGE_CODES]
    special = ["<|endoftext|>", "<|startoftranscript|>", *languages, *TASKS]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    stamps = [f"<|{index * 0.02:.2f}|>" for index in range(FRAMES + 1)]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in stamps])
    return tokenizer
