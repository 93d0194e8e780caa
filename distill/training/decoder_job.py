"""Stage 0 for a voice that is there: the codec's decoder learns to make clear speech of what that talker expects.

A talker is never sure of a frame. What is decoded of it lies between levels (`Levels.mean`), where no decoder has been that knows
tokens alone. As vocoders learn on from the spectra that their synthesizer makes (Tacotron 2, Shen et al., arXiv 1712.05884,
section 3.2), this one learns on from a talker's expectations: the tokens stay, and so do all students that speak in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cascade.audio import Waveform
from distill.training.assemble import set_training
from distill.training.codec_job import CROP_S, WEIGHTS, resynthesis_sums
from distill.training.data import Dataset, Row
from distill.training.examples import Chance
from distill.training.job import Batch
from distill.training.losses import felt
from distill.training.prepared import Prepared
from distill.training.stages import TABLE
from distill.training.student_job import StudentJob, heard_and_kept
from e2e_model.codec import FsqCodec
from e2e_model.model import SpeechLM
from e2e_model.rows import Rows, Written

AS_WRITTEN = 4  # every so many crops are made of the true tokens, as others may speak in them
SAMPLES = 4


class Expected(nn.Module):
    """The decoder as the loop trains it, behind a student that stays as it is."""

    def __init__(self, lm: SpeechLM, codec: FsqCodec) -> None:
        super().__init__()
        self.lm, self.codec = lm.requires_grad_(False), codec

    def forward(
        self, rows: Rows, written: Written, feeling: dict[str, Tensor], firsts: Tensor, wave: Tensor
    ) -> dict[str, Tensor]:
        """firsts: [B] the first of each crop's frames; wave: [B, N] how they sounded. The sums of what is to be small."""
        frames = wave.shape[1] // self.codec.samples_per_frame
        places = firsts[:, None] + torch.arange(frames, device=firsts.device)
        with torch.no_grad():
            values = self.codec.quantizer.between(self.levels(rows, written, feeling))[places]
            values[::AS_WRITTEN] = self.codec.quantizer.values(written.frames.T[None])[0][places[::AS_WRITTEN]]
        made: Tensor = self.codec.decoder(values)
        return resynthesis_sums(made, wave, self.codec.sample_rate)

    def levels(self, rows: Rows, written: Written, feeling: dict[str, Tensor]) -> Tensor:
        """[F, K · places] that the talker expects of each frame, knowing those before it."""
        talker, codes = self.lm.talker, written.frames
        states = self.lm.thinker_states(rows, None)
        whose = feeling["spoken"]
        vector, _, _ = felt(self.lm, states, rows, feeling)
        made = self.lm.talker_states(written, states, vector[whose], feeling["on"][whose])[written.frame_from]
        logits = [talker.logits(made)[:, : talker.codebook_size]]
        if talker.depth is not None:
            books = talker.depth.logits(made, talker.codes(codes[:, 0]), codes[:, 1:])
            logits += books[: talker.codebooks - 1]
        assert talker.codes.levels is not None, "the order was looked at"
        return torch.cat([talker.codes.levels.mean(one.float().softmax(-1)) for one in logits], -1)


class DecoderJob(StudentJob):
    """Packs of *speak*, with a crop of each reply's sound. The talker knows its codec's levels."""

    def __init__(
        self,
        codec: FsqCodec,
        lm: SpeechLM,
        dataset: Dataset,
        prepared: Prepared,
        *,
        capacity: int,
        seed: int,
        chance: Chance,
    ) -> None:
        set_training(lm, ("vector", "talker"))  # whom rows of *speak* are for
        super().__init__(TABLE["speak"], lm, dataset, prepared, capacity=capacity, seed=seed, chance=chance)
        lm.use_codec(codec)
        self.name, self.model, self.weights = "codec", Expected(lm, codec), WEIGHTS
        self._codec, self._crop = codec, round(CROP_S * codec.frame_rate)

    def _items(self, source: str, rows: Sequence[Row]) -> list[int]:
        """Replies as long as a crop."""
        return [k for k in super()._items(source, rows) if self._prepared.code_frames(rows[k]) >= self._crop]

    def batch(self, pack: Any, epoch: int) -> Batch:
        tensors = super().batch(pack, epoch).tensors
        written: Written = tensors["written"]
        turns = [(self._train if epoch >= 0 else self._held_out)[place] for _, place in pack]
        counts = torch.bincount(written.unit_sample[written.frame_unit], minlength=len(turns)).tolist()
        before, firsts, waves = 0, [], []
        for (_, place), turn, frames in zip(pack, turns, counts, strict=True):
            first = int(np.random.default_rng((self._seed, epoch + 1, place)).integers(frames - self._crop + 1))
            firsts.append(before + first)
            waves.append(self._sound(turn, first, self._crop))
            before += frames
        made = {name: tensors[name] for name in ("rows", "written", "feeling")}
        made |= {"firsts": torch.tensor(firsts), "wave": torch.from_numpy(np.stack(waves))}
        return Batch(made, dict.fromkeys(self.weights, float(len(firsts))), len(firsts) * self._crop)

    def _sound(self, turn: Row, first: int, frames: int) -> np.ndarray[Any, Any]:
        sound = self._dataset.audio(turn, "reply")
        assert sound is not None, "rows of speak have a sound"
        size = self._codec.samples_per_frame
        wave = Waveform(*sound).resampled(self._codec.sample_rate).samples[first * size : (first + frames) * size]
        return np.pad(wave.astype(np.float32), (0, frames * size - len(wave)))

    @torch.no_grad()
    def samples(self, folder: Path) -> None:
        """Held-out replies, spoken by the student through the decoder as it is."""
        turns = [self._held_out[place] for pack in self.held_out() for _, place in pack][:SAMPLES]
        for index, turn in enumerate(turns):
            heard_and_kept(self.lm.speak(turn.reply_text or "", turn.reply_emotion), folder / f"{index:02d}")
