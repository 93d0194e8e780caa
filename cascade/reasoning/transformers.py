"""A language model of the hub, run here: any causal model with a chat template, read from safetensors by transformers.

It decodes by itself, for the library's generate() draws from the random numbers that all threads share; each answer has a
generator of its own, so the same seed gives the same words whatever else the process does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from cascade.cancel import CancelScope
from cascade.engines import Message
from cascade.errors import EngineFailed, EngineUnavailable, one_line
from cascade.models import Checkpoint, checkpoint, described, locate
from cascade.needs import Device, Need, device, extra, package
from cascade.reasoning.answer import CLOSE, OPEN
from cascade.reasoning.dialogue import DialogueOptions, LanguageModelReasoner, PromptTooLong
from cascade.turn import EngineInfo, Token, TokenChoice

if TYPE_CHECKING:
    import torch

ENGINE = "transformers"
FILES = ("config.json", "tokenizer_config.json", "tokenizer*.*", "*.safetensors")
PREFILL = 256  # tokens of the request that are read at once: keeps memory and the wait for a stop small
_HALF = "\ufffd"  # what a decoder writes for a character that is not whole yet


class Options(DialogueOptions):
    """model: a folder or hub name. dtype auto: bfloat16 on CUDA, float32 on a CPU.

    top_p, top_k: only among these most probable tokens it draws, where temperature > 0 (top_k 0: among all).
    """

    model: Checkpoint = "qwen3-4b"
    device: Device = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    top_p: float = Field(default=0.8, gt=0, le=1)
    top_k: int = Field(default=20, ge=0)


class TransformersModel:
    """A LanguageModel. Threads may share it: each answer has a cache and a generator of its own."""

    def __init__(self, options: Options) -> None:
        from cascade.pretrained import config_of
        from cascade.torch_tools import device_of, make_stoppable

        folder = locate(options.model, FILES)
        _check_architecture(config_of(folder), folder)
        self._device = device_of(options.device)
        self._tokenizer = _tokenizer(folder)
        self._model = _model(folder, _dtype(options.dtype, self._device), self._device)
        make_stoppable(self._model)
        self._options = options
        self._ends = _end_ids(self._model, self._tokenizer)
        self._hidden = _marks(self._tokenizer)
        self._tokenizing = threading.Lock()  # a fast tokenizer cannot be borrowed by two threads at once
        window = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self._window: int | None = window
        shown = described(options, options.model, self._device)
        self.info = EngineInfo(name=ENGINE, version=version("transformers"), options=shown)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        top_logprobs: int,
        cancel: CancelScope,
    ) -> Iterator[Token]:
        """Log-probabilities are the model's own: before temperature, top_k and top_p.

        Raises PromptTooLong (nothing is cut off in silence), OutOfMemory, EngineFailed, Cancelled.
        """
        import torch
        from transformers import DynamicCache

        cancel.check()
        step = self._request(messages, max_tokens)
        cache = DynamicCache(config=self._model.config)
        generator = torch.Generator(device=self._device).manual_seed(seed)
        writing = _Writing(self._text, self._hidden)
        for _ in range(max_tokens):
            scores = self._next(step, cache, cancel)
            chosen = self._choice(scores, temperature, generator, cancel)
            if chosen in self._ends:
                return
            step = torch.tensor([[chosen]], device=self._device)
            yield self._token(chosen, writing.add(chosen), scores, top_logprobs)

    def _request(self, messages: Sequence[Message], max_tokens: int) -> torch.Tensor:
        """Token ids (1, T) of the request by the model's own chat template, its built-in thinking switched off."""
        ids = self._templated([{"role": message.role, "content": message.content} for message in messages])
        if self._window is not None and ids.shape[1] + max_tokens > self._window:
            raise PromptTooLong(
                f"the request takes {ids.shape[1]} tokens and the answer up to {max_tokens}, the model holds {self._window}: "
                "lower max_tokens or history_turns, or take another model"
            )
        return ids.to(self._device)

    def _templated(self, chat: list[dict[str, str]]) -> torch.Tensor:
        from jinja2 import TemplateError

        with self._tokenizing:
            for form in (chat, _without_system(chat)):  # some templates refuse a system message
                try:
                    found = self._tokenizer.apply_chat_template(
                        form, add_generation_prompt=True, enable_thinking=False, return_tensors="pt", return_dict=True
                    )
                except TemplateError as error:
                    refused = error
                else:
                    ids: torch.Tensor = found["input_ids"]
                    return ids
        raise EngineFailed(f"{ENGINE}: the model's chat template refuses the conversation ({refused})")

    def _next(self, ids: torch.Tensor, cache: Any, cancel: CancelScope) -> torch.Tensor:
        """The scores (V,) float32 of the token after `ids`, which are added to the cache."""
        import torch

        from cascade.torch_tools import running

        with running(ENGINE, cancel):
            for start in range(0, ids.shape[1], PREFILL):
                piece = ids[:, start : start + PREFILL]
                output = self._model(input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
            scores: torch.Tensor = output.logits[0, -1].float()
            if not bool(torch.isfinite(scores).any()) or bool(torch.isnan(scores).any()):
                raise EngineFailed(f'{ENGINE}: the model gave scores that are no numbers; try dtype = "float32"')
        return scores

    def _choice(self, scores: torch.Tensor, temperature: float, generator: torch.Generator, cancel: CancelScope) -> int:
        import torch
        from transformers.generation.logits_process import (
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        from cascade.torch_tools import running

        if temperature == 0:
            return int(scores.argmax())
        warpers: list[Any] = [TemperatureLogitsWarper(float(temperature))]
        warpers += [TopKLogitsWarper(self._options.top_k)] if self._options.top_k else []
        warpers += [TopPLogitsWarper(self._options.top_p)] if self._options.top_p < 1 else []
        with running(ENGINE, cancel):
            warped = scores[None]
            for warp in warpers:
                warped = warp(None, warped)
            # A draw from a whole vocabulary takes milliseconds on a CPU.
            kept = (warped[0] > -torch.inf).nonzero()[:, 0]
            return int(kept[torch.multinomial(warped[0, kept].softmax(-1), 1, generator=generator)])

    def _token(self, chosen: int, text: str, scores: torch.Tensor, top: int) -> Token:
        logprobs = scores.log_softmax(-1)
        best = logprobs.topk(min(top, len(logprobs)))
        return Token(
            text=text,
            id=chosen,
            logprob=float(logprobs[chosen]),
            top=tuple(
                TokenChoice(text=self._text([i]), id=i, logprob=p)
                for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ),
        )

    def _text(self, ids: Sequence[int]) -> str:
        with self._tokenizing:
            text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


@dataclass
class _Writing:
    """Turns ids into text as they come, and holds back a character until all of its bytes are there."""

    decode: Any
    hidden: set[int]  # marks of the chat, not words

    def __post_init__(self) -> None:
        self._before: list[int] = []  # given out: the last piece decides whether the next begins with a space
        self._held: list[int] = []

    def add(self, token: int) -> str:
        if token in self.hidden:
            return ""
        self._held.append(token)
        known = self.decode(self._before) if self._before else ""
        text: str = self.decode([*self._before, *self._held])
        if text.endswith(_HALF):
            return ""
        self._before, self._held = self._held, []
        return text[len(known) :]


def _without_system(chat: list[dict[str, str]]) -> list[dict[str, str]]:
    """The system message put before the first of the person's."""
    first = chat[1]["content"] if len(chat) > 1 else ""
    return [{"role": "user", "content": f"{chat[0]['content']}\n\n{first}"}, *chat[2:]]


def _tokenizer(folder: Path) -> Any:
    """The checkpoint's tokenizer, with a chat template. Raises EngineUnavailable."""
    from transformers import AutoTokenizer

    from cascade.torch_tools import quietly

    if not _vocabulary(folder):
        raise EngineUnavailable(f"{folder}: holds no tokenizer.json (or tokenizer.model); get the model again")
    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError:
        raise
    except Exception as error:  # whatever a library makes of a corrupt file
        raise EngineUnavailable(f"{folder}: its tokenizer cannot be used ({one_line(error)}); get it again") from error
    if not tokenizer.chat_template:
        raise EngineUnavailable(
            f"{folder}: its tokenizer has no chat template; take the instruct or chat version of the model"
        )
    return tokenizer


def _vocabulary(folder: Path) -> bool:
    return any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
    )


def _model(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The causal model with all of its weights, in evaluation mode. Raises EngineUnavailable, OutOfMemory."""
    from transformers import AutoModelForCausalLM

    from cascade.torch_tools import quietly, running

    auto: Any = AutoModelForCausalLM  # with output_loading_info it gives a pair, which its types do not say
    try:
        with quietly():
            model, report = auto.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
            )
    except ImportError:
        raise
    except Exception as error:  # whatever a library makes of a corrupt file
        raise EngineUnavailable(f"{folder}: not a model that can be read ({one_line(error)}); get it again") from error
    if report["missing_keys"]:
        raise EngineUnavailable(f"{folder}: the weights {min(report['missing_keys'])} are missing; get the model again")
    with running(ENGINE, CancelScope()):
        return model.eval().to(device)


def _check_architecture(config: dict[str, Any], folder: Path) -> None:
    """Raises EngineUnavailable unless it is a model that writes text alone, of a kind the library knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, made = config.get("model_type"), config.get("architectures") or []
    wanted = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(kind))
    if wanted is None or wanted not in made:
        shown = ", ".join(map(str, made)) or str(kind)
        raise EngineUnavailable(f"{folder}: wrong architecture {shown}; it takes a causal language model of the hub")


def _marks(tokenizer: Any) -> set[int]:
    """The tokens that are marks of the chat and no words; those of a thought are part of the answer."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {*special, *tokenizer.all_special_ids} - set(tokenizer.convert_tokens_to_ids([OPEN, CLOSE]))


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    import torch

    name = wanted if wanted != "auto" else "bfloat16" if device.type == "cuda" else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends an answer: the generation settings', the model's and the tokenizer's."""
    named = [getattr(model.generation_config, "eos_token_id", None), model.config.get_text_config().eos_token_id]
    ends: set[int] = set()
    for ids in (*named, tokenizer.eos_token_id):
        ends |= set(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return ends


def needs(options: Options) -> list[Need]:
    return [
        *(package(name, name, extra("llm")) for name in ("torch", "transformers", "safetensors", "jinja2")),
        checkpoint(options.model, FILES),
        device(options.device),
    ]


def language_model(options: Options) -> TransformersModel:
    """Raises EngineUnavailable: no checkpoint, a corrupt one, another architecture; OutOfMemory."""
    return TransformersModel(options)


def load(options: Options) -> LanguageModelReasoner:
    """Raises as `language_model`."""
    model = language_model(options)
    return LanguageModelReasoner(model.info, model, options)
