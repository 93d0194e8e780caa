"""A tiny age and gender checkpoint with random weights, in the files and under the names of audeering's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# The sizes of the published one of 6 layers.
PUBLISHED = {
    "hidden_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "conv_dim": (512,) * 7,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
}


def make_age_gender(folder: Path, *, seed: int = 0, pickled: bool = False, **sizes: Any) -> Path:
    """config.json, preprocessor_config.json, model.safetensors (or pytorch_model.bin). Steep heads make it sure of something.

    `sizes`: other values of its Wav2Vec2Config.
    """
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

    from cascade.paralinguistics.age_gender_model import AgeGenderModel
    from cascade.torch_tools import preserved

    tiny = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    config = Wav2Vec2Config(
        **{**tiny, **sizes},
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        id2label={0: "female", 1: "male", 2: "child"},
    )
    with preserved():
        torch.manual_seed(seed)
        network = AgeGenderModel(config)
        for head in (network.age, network.gender):
            torch.nn.init.normal_(head.dense.weight, std=0.5)
            torch.nn.init.normal_(head.out_proj.weight, std=0.8)
        network.save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    if pickled:
        torch.save(network.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder
