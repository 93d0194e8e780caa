"""A tiny AudioSet tagger (AST) with random weights, in the files of the published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LABELS = ("Speech", "Laughter", "Giggle", "Cough", "Crying, sobbing", "Sigh", "Dog", "Music")
# The sizes of the published one; it hears up to 10.24 s at once.
PUBLISHED = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_length": 1024,
    "num_mel_bins": 128,
}


def make_audio_tagger(
    folder: Path, *, seed: int = 0, labels: tuple[str, ...] = LABELS, problem_type: str | None = None, **sizes: Any
) -> Path:
    """config.json, preprocessor_config.json, model.safetensors; it hears up to 2.08 s at once.

    `sizes`: other values of its ASTConfig.
    """
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    from cascade.torch_tools import preserved

    tiny = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_length": 208,
        "num_mel_bins": 32,
    }
    config = ASTConfig(
        **{**tiny, **sizes},
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        problem_type=problem_type,
    )
    with preserved():
        torch.manual_seed(seed)
        network = ASTForAudioClassification(config)
        torch.nn.init.normal_(network.classifier.dense.weight, std=1.0)
        network.save_pretrained(folder)
        ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length).save_pretrained(folder)
    return folder
