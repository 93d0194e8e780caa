"""A student from its configuration: parts from zero, or with the pretrained weights of their sources."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from e2e_model.attention import PACKED
from e2e_model.config import Config, Lora, Part
from e2e_model.encoder import SpeechEncoder
from e2e_model.errors import CheckpointProblem, ConfigProblem
from e2e_model.model import SpeechLM
from e2e_model.tokenizer import Speller, load_tokenizer

FRONT_GAIN = 4.0  # log-mels have a deviation of about 0.4; behind the convolutions it shall be about 1


def resolved(config: Config) -> Config:
    """The same with the sources' own configurations written in, so that it can be built without them.

    What a source in a folder says counts over what is written; a hub is asked only where nothing is.
    """
    encoder, thinker = config.encoder, config.thinker
    if encoder.source and _asked(encoder):
        model = _config(encoder.source, "encoder", "whisper")
        config = config.with_(encoder={"model": model}, mels=model["num_mel_bins"])
    if thinker.source and _asked(thinker):
        config = config.with_(thinker={"model": _config(thinker.source, "thinker", None)})
    return config


def _asked(part: Part) -> bool:
    return not part.model or Path(part.source or "").is_dir()


def build(config: Config, codec: Any, tokenizer: Any = None, *, pretrained: bool = True, seed: int = 0) -> SpeechLM:
    """A student to be trained, or (pretrained=False) the bare frame that a checkpoint fills.

    tokenizer: of one's own; None: that of the thinker's source. Raises ConfigProblem, CheckpointProblem.
    """
    config = resolved(config) if pretrained else config
    if codec.codebooks != config.codec.codebooks:
        raise ConfigProblem(
            f"the codec has {codec.codebooks} codebooks, the configuration asks for {config.codec.codebooks}; "
            "change [codec] codebooks or take another codec"
        )
    if tokenizer is None:
        if not config.thinker.source:
            raise ConfigProblem("a thinker from zero needs a tokenizer that was trained on the data")
        tokenizer = load_tokenizer(config.thinker.source, "the thinker")
    speller = Speller(tokenizer, config.encoder.ctc, config.talker.units)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            encoder = make_encoder(config, pretrained)
            thinker = make_thinker(config, speller, pretrained)
            lm = SpeechLM(config, speller, codec, thinker, encoder)
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
            raise ConfigProblem(
                f"flavour {config.flavour}: no network can be made of it ({_first_line(error)}); "
                "look at [encoder.model], [thinker.model] and [talker.model]"
            ) from error
        if config.thinker.lora:
            add_lora(lm.thinker, config.thinker.lora)
    return lm


def make_encoder(config: Config, pretrained: bool) -> SpeechEncoder:
    from transformers import WhisperConfig, WhisperModel

    part = config.encoder
    network = SpeechEncoder(
        WhisperConfig(**{**part.model, "num_mel_bins": config.mels * part.stack}),
        window_s=part.window_s,
        padded=part.padded,
        jitter=part.jitter_positions,
        stack=part.stack,
    )
    if part.source is None:
        begin_encoder(network)
    if pretrained and part.source:
        weights = _pretrained(WhisperModel, part.source, "encoder").encoder.state_dict()
        try:
            network.load_state_dict({**weights, "mix": network.mix.data})
        except RuntimeError as error:
            raise ConfigProblem(
                f"{part.source}: its sizes are not those of [encoder.model]; leave them out, so that they are taken from it"
            ) from error
    return network


@torch.no_grad()
def begin_encoder(network: SpeechEncoder) -> None:
    """Weights to learn from zero with. Whisper's own are so small that the places drown the speech, and CTC stands still."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    network.conv1.weight *= FRONT_GAIN


def make_thinker(config: Config, speller: Speller, pretrained: bool) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    part = config.thinker
    if pretrained and part.source:
        thinker = _pretrained(AutoModelForCausalLM, part.source, "thinker")
        thinker.set_attn_implementation(PACKED)
    else:
        size = part.model.get("vocab_size") or speller.size
        made = AutoConfig.for_model(**{**part.model, "vocab_size": size})
        thinker = AutoModelForCausalLM.from_config(made, attn_implementation=PACKED)  # type: ignore[no-untyped-call]
    if thinker.config.vocab_size < speller.size:
        raise ConfigProblem(
            f"the thinker knows {thinker.config.vocab_size} tokens, its tokenizer has {speller.size}; "
            "take those that belong together"
        )
    return thinker


def _pretrained(kind: Any, source: str, part: str) -> Any:
    """Weights as safetensors only: other files could run code."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return kind.from_pretrained(source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32)
    except Exception as error:  # whatever a library makes of a folder or a hub that does not answer
        raise CheckpointProblem(f"{source}: no {part} can be loaded ({_first_line(error)})") from error
    finally:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _config(source: str, part: str, kind: str | None) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        made = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # as above
        raise CheckpointProblem(
            f"{source}: no configuration of the {part} can be read ({_first_line(error)})"
        ) from error
    if kind and made.model_type != kind:
        raise CheckpointProblem(f"{source}: this is a {made.model_type} model, the {part} must be of {kind}")
    values: dict[str, Any] = made.to_diff_dict()
    values["model_type"] = made.model_type
    for key in ("dtype", "torch_dtype", "transformers_version", "architectures", "_name_or_path"):
        values.pop(key, None)
    return values


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:140]


def add_lora(thinker: Any, lora: Lora) -> None:
    """Low-rank adapters by peft, in place; what lies below them is frozen."""
    from peft import LoraConfig, inject_adapter_in_model

    for parameter in thinker.parameters():
        parameter.requires_grad_(False)
    settings = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.layers)
    )
    try:
        inject_adapter_in_model(settings, thinker)
    except ValueError as error:
        raise ConfigProblem(f"[thinker.lora] layers: {_first_line(error)}") from error


def merge_lora(lm: SpeechLM) -> SpeechLM:
    """The adapters' effect goes into the weights below them, and the adapters go; in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(lm.thinker.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(lm.thinker.get_submodule(parent), child, module.get_base_layer())
    lm.config = dataclasses.replace(lm.config, thinker=dataclasses.replace(lm.config.thinker, lora=None))
    return lm
