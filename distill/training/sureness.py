"""How unsure ears are when what they heard is not to be believed: by people who speak as those did whom they learnt from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import torch

from distill.training.data import Row
from distill.training.prepared import Prepared
from e2e_model.model import SpeechLM

MOST_TURNS = 200  # a few seconds
LEAST_TURNS = 12  # fewer say nothing of how much it varies
DEVIATIONS = 2.33  # below the mean: 1 of 100 turns, were it normal


def learn_sureness(lm: SpeechLM, held_out: Sequence[Row], prepared: Prepared) -> None:
    """From turns that nothing learnt from. Too few of them: all that is heard is believed."""
    turns = [row for row in held_out if row.user_duration_s and row.user_text][:MOST_TURNS]
    lm.least_sure = None
    if len(turns) < LEAST_TURNS:
        return
    with torch.inference_mode():
        found = [lm.sureness(lm.hear([torch.from_numpy(prepared.mel(row).astype(np.float32))])[1]) for row in turns]
    lm.least_sure = round(max(0.0, statistics.fmean(found) - DEVIATIONS * statistics.stdev(found)), 4)
