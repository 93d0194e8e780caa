"""Attention over samples that lie one behind the other in one row, each seeing itself alone: no padding is computed.

Registered with transformers as "attune_packed", for its own models. The row's samples are told by `cu_seq_lens_q` (as
flash attention takes it), [N + 1] offsets. Without it, it is plain attention with a cache: then a query sees all keys
up to its own place, from the end of the keys.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

PACKED = "attune_packed"
SAMPLE_BY_SAMPLE = ("cpu",)  # devices on which many small attentions cost no more than one with a mask


def packed_attention(
    module: nn.Module,
    query: Tensor,  # [B, H, T, D]
    key: Tensor,  # [B, G, S, D], G divides H
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """[B, T, H, D], as transformers wants it."""
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    if cu_seq_lens_q is None:
        mask, plain = (attention_mask, False) if attention_mask is not None else _cached(query, key, causal)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=plain, **options)
    elif query.device.type in SAMPLE_BY_SAMPLE:  # the cost is that of the samples, not of the row squared
        lengths = cu_seq_lens_q.diff().tolist()
        parts = zip(*(torch.split(x, lengths, dim=2) for x in (query, key, value)), strict=True)
        one = _products if query.dtype == torch.bfloat16 and query.requires_grad else F.scaled_dot_product_attention
        out = torch.cat([one(q, k, v, is_causal=causal, **options) for q, k, v in parts], dim=2)
    else:
        mask = block_mask(cu_seq_lens_q, causal)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)
    return out.transpose(1, 2), None


def _products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool,
    scale: float | None,
    dropout_p: float,
    enable_gqa: bool,
) -> Tensor:
    """Attention as its three products. torch's fused backward pass in bfloat16 takes nearly twice as long on CPUs."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scores = (query * (scale or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)  # [B, H, T, T]
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return F.dropout(scores.softmax(-1).to(value.dtype), dropout_p) @ value


def block_mask(offsets: Tensor, causal: bool) -> Tensor:
    """[T, T], true where a place may look: within its own sample, and back where `causal`."""
    lengths = offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=offsets.device), lengths)
    mask = owner[:, None] == owner[None, :]
    return mask.tril() if causal else mask


def _cached(query: Tensor, key: Tensor, causal: bool) -> tuple[Tensor | None, bool]:
    """Mask and whether plain causal attention will do."""
    new, all_ = query.shape[2], key.shape[2]
    if not causal or new == 1:
        return None, False
    if new == all_:
        return None, True
    mask = torch.ones(new, all_, dtype=torch.bool, device=query.device).tril(all_ - new)
    return mask, False


def _mask(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """packed_attention makes its own, but where a batch is padded."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    mask: Tensor | None = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](*args, attention_mask=attention_mask, **options)
    return mask


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _mask)


def offsets_of(lengths: Any, device: torch.device | str = "cpu") -> Tensor:
    """[N + 1] int32 offsets of samples that lie one behind the other."""
    ends = torch.as_tensor(lengths, dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)
    return F.pad(ends, (1, 0))


def packed_kwargs(lengths: Any, device: torch.device | str) -> dict[str, Any]:
    """What a model's forward takes beside its row."""
    offsets = offsets_of(lengths, device)
    longest = int(max(lengths)) if len(lengths) else 0
    return {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, "max_length_q": longest, "max_length_k": longest}
