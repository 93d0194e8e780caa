"""Whisper's encoder without work done twice. Imports faster-whisper, so it is imported late.

Telling the language and decoding both begin with the encoder's pass over the same window; here the second one finds the
first one's output. On a CPU the windows of a batch are encoded one after another: there the encoder gains nothing from a batch
and pays for its memory, while the decoder, which gets them all at once, does gain.
"""

from __future__ import annotations

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray

Features = NDArray[np.float32]


class Encoder(WhisperModel):  # type: ignore[misc]  # the library has no types
    """A WhisperModel that remembers what it encoded, until `forget`."""

    _known: tuple[tuple[Features, ctranslate2.StorageView], ...] = ()

    def forget(self) -> None:
        self._known = ()

    def encode(self, features: Features) -> ctranslate2.StorageView:
        """(mel bands, frames) or (batch, mel bands, frames) → (batch, frames / 2, width)."""
        batch = features[None] if features.ndim == 2 else features
        if self.model.device != "cpu" or len(batch) == 1:
            return self._encoded(batch)
        return ctranslate2.StorageView.from_array(
            np.concatenate([np.asarray(self._encoded(row[None])) for row in batch])
        )

    def _encoded(self, batch: Features) -> ctranslate2.StorageView:
        for known, output in self._known:
            if np.array_equal(known, batch):
                return output
        output = super().encode(batch)
        self._known = (*self._known, (batch, output))  # in one step: another thread may be reading
        return output
