"""How good speech sounds: the mean opinion score that DNSMOS predicts (P.835, overall), from the package speechmos (MIT).

The network's weights ship inside the package. Of its class the polynomials are used and the way of cutting windows, not its call:
that also asks a second network, about listening tests of another kind (P.808), for which nobody waits here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.audio import SAMPLE_RATE, SILENCE_DBFS, Samples, Waveform
from cascade.cancel import CancelScope
from cascade.errors import EngineFailed, EngineUnavailable, one_line
from cascade.native import NativeCalls
from cascade.needs import Need, extra, package

if TYPE_CHECKING:
    from speechmos.dnsmos import DNSMOS

WINDOW = 144_160  # samples at 16 kHz, 9.01 s: what the network hears at once
WORST, BEST = 1.0, 5.0  # the scale of opinion scores
RAW = 3  # what the network says of a window: signal, background, overall


class SpeechQuality:
    """`model`: a DNSMOS network (sig_bak_ovr.onnx) of one's own; none: the one inside speechmos. `threads`: of the CPU."""

    def __init__(self, model: Path | None = None, *, threads: int = 1) -> None:
        """Raises EngineUnavailable."""
        with warnings.catch_warnings():  # packages that speechmos imports change the filters
            import speechmos
            from speechmos.dnsmos import DNSMOS

        path = model or Path(speechmos.__path__[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"
        self._dnsmos: DNSMOS = DNSMOS.__new__(DNSMOS)  # its constructor would open both networks, on all cores
        self._session = _opened(path, threads)
        self._calls = NativeCalls("dnsmos")  # a window takes longer than a stopped turn may wait

    def score(self, speech: Waveform, cancel: CancelScope) -> float:
        """Predicted mean opinion score of speech at any rate, 1 (bad) to 5 (excellent). Silence is no speech: 1.

        Windows of 9.01 s, one each second, are judged and averaged. Raises EngineFailed, Cancelled.
        """
        cancel.check()
        if not speech.level_dbfs >= SILENCE_DBFS:
            return WORST
        return self._calls.run(lambda: self._mean(speech, cancel), cancel)

    def _mean(self, speech: Waveform, cancel: CancelScope) -> float:
        samples = np.clip(speech.checked().resampled(SAMPLE_RATE).samples, -1, 1)
        overall = []
        for window in windows(samples):
            cancel.check()
            raw = self._session.run(None, {"input_1": window[np.newaxis]})[0][0]
            overall.append(float(self._dnsmos.get_polyfit_val(*raw, is_personalized_MOS=False)[2]))
        mean = float(np.mean(overall))
        if not np.isfinite(mean):
            raise EngineFailed(f"DNSMOS gave {mean} for {speech.duration_s:.1f} s of speech; a number is legal")
        return min(max(mean, WORST), BEST)


def windows(samples: Samples) -> Iterator[Samples]:
    """As DNSMOS cuts them: a short clip is doubled until it fills one, a long one gives one each second.

    samples (T,) with T > 0; each window (144160,).
    """
    while len(samples) < WINDOW:
        samples = np.append(samples, samples)
    # DNSMOS counts whole seconds only, so that the last second may stay unheard.
    hops = max(0, int(len(samples) // SAMPLE_RATE - WINDOW / SAMPLE_RATE)) + 1
    for start in range(0, hops * SAMPLE_RATE, SAMPLE_RATE):
        yield samples[start : start + WINDOW]


def _opened(path: Path, threads: int) -> Any:
    """Raises EngineUnavailable unless it is DNSMOS's primary network."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # errors are raised; they need not be printed, too
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, all straight below Exception
        why = one_line(error)
        raise EngineUnavailable(f"{path}: not a network that ONNX Runtime can read ({why}); get it again") from error
    into = [(value.name, value.shape[1:]) for value in session.get_inputs()]
    out = [value.shape[1:] for value in session.get_outputs()]
    if into != [("input_1", [WINDOW])] or out != [[RAW]]:
        raise EngineUnavailable(f"{path}: not DNSMOS's sig_bak_ovr.onnx: it reads {into} and gives {out}; get that one")
    return session


def needs() -> list[Need]:
    install = extra("judge")
    return [package(name, name, install) for name in ("speechmos", "onnxruntime", "librosa")]
