"""Which parameter is learnt by which optimizer, as one table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from distill.training.job import Schedule

IN_A_LAYER = re.compile(r"\.\d+\.")  # encoder.layers.3.fc1.weight


@dataclass(frozen=True)
class Row:
    """Parameters that are treated alike. rate: × the schedule's learning rate."""

    optimizer: str
    decays: bool
    rate: float


def table(model: nn.Module, schedule: Schedule) -> dict[Row, list[nn.Parameter]]:
    """Matrices decay; biases, gains and embeddings do not. With "muon", the matrices of layers are Muon's."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    rows: dict[Row, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
        is_muons = schedule.optimizer == "muon" and matrix and parameter.ndim == 2 and IN_A_LAYER.search(name)
        rate = _rate(name, schedule.rates) * (schedule.muon_rate if is_muons else 1.0)
        row = Row("muon" if is_muons else "adamw", matrix, rate)
        rows.setdefault(row, []).append(parameter)
    return rows


def _rate(name: str, rates: Mapping[str, float]) -> float:
    """Of the longest prefix that fits."""
    fitting = [prefix for prefix in rates if name.startswith(prefix)]
    return rates[max(fitting, key=len)] if fitting else 1.0


def optimizers(model: nn.Module, schedule: Schedule) -> list[Optimizer]:
    """Muon (Jordan 2024), scaled so that AdamW's learning rate and decay fit it (Liu et al. 2025, "Muon is scalable for LLM
    training", equation 4); AdamW (Loshchilov and Hutter 2019), fused."""
    rows = table(model, schedule)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row, parameters in rows.items():
        decay = schedule.weight_decay if row.decays else 0.0
        groups.setdefault(row.optimizer, []).append({"params": parameters, "weight_decay": decay, "rate": row.rate})
    made: list[Optimizer] = []
    if "adamw" in groups:
        made.append(torch.optim.AdamW(groups["adamw"], lr=schedule.learning_rate, betas=schedule.betas, fused=True))
    if "muon" in groups:
        made.append(torch.optim.Muon(groups["muon"], lr=schedule.learning_rate, adjust_lr_fn="match_rms_adamw"))
    return made


def set_rate(made: list[Optimizer], rate: float) -> None:
    for optimizer in made:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
