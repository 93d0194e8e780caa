"""A tiny emotion2vec checkpoint with random weights, in the files and under the names of the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

LABELS = (
    "生气/angry",
    "厌恶/disgusted",
    "恐惧/fearful",
    "开心/happy",
    "中立/neutral",
    "其他/other",
    "难过/sad",
    "吃惊/surprised",
    "<unk>",
)
# The sizes of emotion2vec+ base.
BASE = {"depth": 8, "num_heads": 12, "embed_dim": 768, "average_top_k_layers": 8}
BASE_AUDIO = {
    "prenet_depth": 4,
    "num_alibi_heads": 12,
    "model_depth": 8,
    "conv_pos_groups": 16,
    "feature_encoder_spec": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
}
WIDTH = 32


def make_emotion2vec(
    folder: Path,
    *,
    seed: int = 0,
    labels: tuple[str, ...] = LABELS,
    sizes: Mapping[str, Any] = MappingProxyType({}),
    audio_sizes: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """config.yaml, model.pt, tokens.txt; 32 features at 50 Hz. The outputs are steep, so that it is sure of something.

    `sizes`, `audio_sizes`: other values of its layout, and of the part of it that reads the sound.
    """
    import torch
    from omegaconf import OmegaConf

    from cascade.torch_tools import preserved

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokens.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    layout = {**_layout(), **sizes, "modalities": {"audio": {**_audio(), **audio_sizes}}}
    config = {
        "model": "Emotion2vec",
        "model_conf": layout,
        "tokenizer": "CharTokenizer",
        "scope_map": ["d2v_model.", "none"],
    }
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    with preserved():
        from funasr.models.emotion2vec.model import Emotion2vec

        torch.manual_seed(seed)
        network = Emotion2vec(model_conf=layout, vocab_size=len(labels))
        torch.nn.init.normal_(network.proj.weight, std=2.0)
    weights = {
        name if name.startswith("proj.") else f"d2v_model.{name}": value for name, value in network.state_dict().items()
    }
    torch.save({"model_state_dict": weights}, folder / "model.pt")
    return folder


def _layout() -> dict[str, Any]:
    no_drop = (
        "encoder_dropout",
        "post_mlp_drop",
        "attention_dropout",
        "activation_dropout",
        "dropout_input",
        "layerdrop",
    )
    return {
        **dict.fromkeys((*no_drop, "start_drop_path_rate", "end_drop_path_rate", "loss_beta"), 0.0),
        "loss_scale": None,
        "depth": 2,
        "num_heads": 4,
        "norm_eps": 1e-5,
        "norm_affine": True,
        "embed_dim": WIDTH,
        "mlp_ratio": 4.0,
        "layer_norm_first": False,
        "average_top_k_layers": 2,
        "end_of_block_targets": False,
        "clone_batch": 1,
        "normalize": True,
    }


def _audio() -> dict[str, Any]:
    nothing = (
        "prenet_layerdrop",
        "prenet_dropout",
        "start_drop_path_rate",
        "end_drop_path_rate",
        "keep_masked_pct",
        "mask_dropout",
        "mask_channel_prob",
    )
    never = (
        "inverse_mask",
        "add_masks",
        "remove_masks",
        "ema_local_encoder",
        "learned_alibi",
        "learned_alibi_scale_per_layer",
    )
    return {
        **dict.fromkeys(nothing, 0.0),
        **dict.fromkeys(never, False),
        **dict.fromkeys(("mask_prob_min", "alibi_max_pos", "decoder"), None),
        "type": "AUDIO",
        "prenet_depth": 1,
        "num_extra_tokens": 10,
        "init_extra_token_zero": True,
        "mask_noise_std": 0.01,
        "mask_prob": 0.5,
        "mask_prob_adjust": 0.05,
        "mask_length": 5,
        "encoder_zero_mask": True,
        "mask_channel_length": 64,
        "local_grad_mult": 1.0,
        "use_alibi_encoder": True,
        "alibi_scale": 1.0,
        "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": True,
        "num_alibi_heads": 4,
        "model_depth": 2,
        "extractor_mode": "layer_norm",
        "feature_encoder_spec": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] + [(16,2,2)]",
        "conv_pos_width": 95,
        "conv_pos_groups": 4,
        "conv_pos_depth": 5,
        "conv_pos_pre_ln": False,
    }
