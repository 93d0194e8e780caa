"""Students made on the spot: a nano of tiny width, and base and full from tiny random checkpoints of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints.llm import make_random_llm

from cascade.torch_tools import preserved
from e2e_model.build import build
from e2e_model.codec import Codec, FsqCodec, FsqConfig, MimiCodec
from e2e_model.config import Config
from e2e_model.model import SpeechLM
from e2e_model.prompts import ASKED, THINKING
from e2e_model.tokenizer import train_tokenizer

SENTENCES = (
    "I am so sorry that you lost your job. That must be hard for you, and I am here.",
    "What happened on the way home? Tell me as much of it as you want to.",
    "That is wonderful news, and I am glad for you!",
)
VECTOR = 6
SMALL_DECODER: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 2048,
}
SMALL_WHISPER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
}


def tokenizer(size: int = 400) -> Any:
    """A tokenizer as a nano trains it."""
    return train_tokenizer([*SENTENCES, *ASKED.values(), *THINKING.values()], size)


def fsq(seed: int = 0) -> FsqCodec:
    """Its codes: 64."""
    sizes = dict.fromkeys(("encoder_width", "decoder_width", "decoder_fine_width", "mel_bins"), 16)
    blocks = dict.fromkeys(("encoder_fine_blocks", "encoder_blocks", "decoder_blocks", "decoder_fine_blocks"), 1)
    with preserved():
        torch.manual_seed(seed)
        return FsqCodec(FsqConfig(levels=(4, 4, 4), **sizes, **blocks)).eval()


def nano(*, codec: Codec | None = None, seed: int = 0, **changes: Any) -> SpeechLM:
    """Untrained. changes: of parts of its configuration, as Config.with_ takes them."""
    parts: dict[str, Any] = {
        "vocabulary": 400,
        "encoder": {"model": {**SMALL_WHISPER, "max_source_positions": 1500}},
        "adapter": {"hidden": 32},
        "thinker": {"model": {**SMALL_DECODER, "tie_word_embeddings": True}},
        "vector": {"size": VECTOR, "hidden": 16},
        "talker": {"model": SMALL_DECODER, "depth": SMALL_DECODER},
        "limits": {"think_tokens": 6, "reply_tokens": 24, "speech_s": 4.0},
    }
    for name, change in changes.items():
        parts[name] = {**parts.get(name, {}), **change} if isinstance(change, dict) else change
    return _awake(build(Config.flavoured("nano").with_(**parts), codec or fsq(), tokenizer(), seed=seed))


def make_whisper_encoder(folder: Path, *, mels: int = 80, seed: int = 0) -> Path:
    """A Whisper of random weights as transformers saves it."""
    from transformers import WhisperConfig, WhisperModel

    decoder: dict[str, Any] = {
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 8,
        "vocab_size": 16,
    }
    marks: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    with preserved():
        torch.manual_seed(seed)
        WhisperModel(WhisperConfig(**SMALL_WHISPER, **decoder, **marks, num_mel_bins=mels)).save_pretrained(folder)
    return folder


def make_mimi(folder: Path, seed: int = 0) -> Path:
    """A Mimi of random weights and codebooks, 24 kHz at 12.5 Hz."""
    from transformers import MimiConfig, MimiModel

    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_filters": 4,
        "codebook_size": 32,
        "codebook_dim": 8,
        "vector_quantization_hidden_dimension": 8,
        "num_quantizers": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 16,
        "upsample_groups": 16,
    }
    with preserved():
        torch.manual_seed(seed)
        model = MimiModel(MimiConfig(**sizes))
        for name, buffer in model.named_buffers():
            if name.endswith("embed_sum"):  # codebooks lie in buffers, and begin as zeros
                buffer.normal_()
        model.save_pretrained(folder)
    return folder


def base(folder: Path, name: str = "base", **changes: Any) -> SpeechLM:
    """base, or full by its name, with the parts it starts from made in `folder`."""
    config = Config.flavoured(name)
    whisper, qwen3, mimi = folder / "whisper", folder / "qwen3", folder / "mimi"
    if not mimi.exists():
        make_whisper_encoder(whisper, mels=config.mels)
        make_random_llm(qwen3, texts=SENTENCES, hidden_size=32, intermediate_size=48, head_dim=8)
        make_mimi(mimi)
    parts: dict[str, Any] = {
        "encoder": {"source": str(whisper), "model": {}},
        "adapter": {"hidden": 32},
        "thinker": {"source": str(qwen3), "model": {}},
        "vector": {"size": VECTOR, "hidden": 16},
        "talker": {"model": SMALL_DECODER, "depth": {**SMALL_DECODER, "hidden_size": 16}},
        "codec": {"source": str(mimi), "codebooks": 4},
        "limits": {"think_tokens": 6, "reply_tokens": 24, "speech_s": 4.0},
    }
    if config.emotion_encoder.size:
        parts["emotion_encoder"] = {"source": None, "size": 5}
    for part, change in changes.items():
        parts[part] = {**parts.get(part, {}), **change} if isinstance(change, dict) else change
    lm = _awake(build(config.with_(**parts), MimiCodec.from_pretrained(mimi, codebooks=4)))
    if lm.config.emotion_encoder.size:
        lm.emotion_frames = emotion_frames
    return lm


def full(folder: Path, **changes: Any) -> SpeechLM:
    return base(folder, "full", **changes)


def emotion_frames(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """In emotion2vec's place: frames [S, 5] at 50 Hz that depend on the sound."""
    parts = np.abs(samples[: len(samples) // 320 * 320]).reshape(-1, 320)
    frames = [parts.mean(1), parts.max(1), parts.std(1), parts[:, 0], parts[:, -1]]
    return np.asarray(np.stack(frames, 1), dtype=np.float32)


def _awake(lm: SpeechLM) -> SpeechLM:
    """What begins as nothing gets values, so that its effect is seen: adapters, gates, styles, layer weights."""
    generator = torch.Generator().manual_seed(1)
    for parameter in lm.parameters():
        if not parameter.detach().any():
            parameter.data.normal_(0.0, 0.3, generator=generator)
    return lm.eval()


def noise(seconds: float, *, seed: int = 0, rate: int = 16_000) -> np.ndarray[Any, Any]:
    """Sound that rises and falls."""
    n = int(seconds * rate)
    loudness = 0.05 * (1.2 + np.sin(np.arange(n) * (2 * np.pi * 3 / rate)))
    drawn = np.random.default_rng(seed).standard_normal(n)
    return np.asarray(drawn * loudness, dtype=np.float32)
