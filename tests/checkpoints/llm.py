"""Small language models made on the spot: one that has learnt to write a single well-formed answer, and one that babbles."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from cascade.engines import Message, Prompt
from cascade.reasoning import prompting
from cascade.torch_tools import preserved
from cascade.turn import EMOTIONS, Cues, EmotionCue, Exchange, Transcript

# Each token of it is followed by one and the same other, so that little is to be learnt.
ANSWER = (
    "<think>They told me something that matters to them, and I go by their words. So I say back what I heard and leave room.\n"
    "<heard>what they said<age>unknown<gender>unknown<emotion>unknown<event>unknown<strategy>reflect<reply>comforting"
    "</think> Thank you for telling me. What part of it is on your mind the most?"
)
SENTENCES = ["Thank you for telling me.", "What part of it is on your mind the most?"]
WINDOW = 16_384
QWEN3 = {  # the sizes of Qwen3-0.6B
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
SAMPLE = "hello how are you 你好 こんにちは 🎉"

# As Qwen3's: with enable_thinking off, an empty thought is put before the answer.
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
_SAID = """
i my the a lost job dog sister today yesterday really so never happy tired work school mother night talk friend house moved
alone new car bread garden broke found again what should we do maybe nobody listens it rained on our trip and then she left
"""
_WORDS = _SAID.split()
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz ,.?'éß你好🎉"
_STEPS, _PROMPTS, _LEARNING_RATE = 100, 16, 5e-3


def make_llm(folder: Path) -> Path:
    """A Qwen3 checkpoint that answers every request of the reasoner with ANSWER at temperature 0 (form "both")."""
    with preserved():
        torch.manual_seed(0)
        requests = [_request(random.Random(n)) for n in range(_PROMPTS)]
        tokenizer = _tokenizer([m.content for request in requests for m in request] + [ANSWER] * 20)
        model = _model(tokenizer)
        _train(model, tokenizer, requests)
        return _saved(model, tokenizer, folder)


def make_random_llm(folder: Path, *, texts: Sequence[str] = (SAMPLE,), **sizes: int) -> Path:
    """The same, untrained: it writes no answer of any form. `texts` make its tokens; `sizes`: other values of its Qwen3Config.

    A vocabulary larger than the tokenizer's, as Qwen3's own is, has nothing in the rest of it.
    """
    with preserved():
        torch.manual_seed(0)
        tokenizer = _tokenizer(list(texts))
        model = _model(tokenizer, **sizes)
        with torch.no_grad():
            model.lm_head.weight[len(tokenizer) :] = 0.0
        return _saved(model, tokenizer, folder)


def _request(draw: random.Random) -> list[Message]:
    """What the reasoner asks for words of any kind, known and garbled, with and without a conversation before them."""
    text = " ".join(draw.choices(_WORDS, k=draw.randint(2, 20)))
    if draw.random() < 0.5:
        text = "".join(draw.choices(_LETTERS, k=draw.randint(1, 160)))
    share = draw.random()
    cue = EmotionCue(probabilities={"sad": share, "happy": 1 - share}, engine="drawn")
    history = [Exchange(said=text[::-1], replied=" ".join(SENTENCES), emotion=draw.choice(EMOTIONS))] * draw.randint(
        0, 3
    )
    prompt = Prompt(Transcript(text=text, confidence=draw.random(), engine="drawn"), Cues(emotion=cue), history)
    return prompting.messages(prompt, form="both", tool_steps=2, history_turns=8)


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that may merge across words: the fixed wording of a request becomes few tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pieces = [line for text in texts for line in text.splitlines(keepends=True)]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=alphabet, special_tokens=specials, max_token_length=32, show_progress=False
    )
    inner.train_from_iterator(pieces, trainer)
    inner.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=_TEMPLATE
    )


def _model(tokenizer: PreTrainedTokenizerFast, **sizes: int) -> Qwen3ForCausalLM:
    small = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    config = Qwen3Config(
        **{**small, **sizes},
        max_position_embeddings=WINDOW,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    model = Qwen3ForCausalLM(config)
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    return model


def _train(model: Any, tokenizer: PreTrainedTokenizerFast, requests: list[list[Message]]) -> None:
    """Loss on the answer alone."""
    answer = [*tokenizer.encode(ANSWER, add_special_tokens=False), tokenizer.eos_token_id]
    sets = [[*_asked(tokenizer, request), *answer] for request in requests]
    optimizer = torch.optim.AdamW(model.parameters(), _LEARNING_RATE)
    for step in range(_STEPS):
        ids = torch.tensor([sets[step % len(sets)]])
        logits = model(input_ids=ids, logits_to_keep=len(answer) + 1).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _asked(tokenizer: PreTrainedTokenizerFast, request: list[Message]) -> list[int]:
    chat = [{"role": message.role, "content": message.content} for message in request]
    found = tokenizer.apply_chat_template(chat, add_generation_prompt=True, enable_thinking=False, return_dict=True)
    ids: list[int] = found["input_ids"]
    return ids


def _saved(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder
