"""PocketSphinx in a process of its own (see `cascade.process`): decoding a whole utterance cannot be interrupted otherwise.

Run as a script with a JSON object of decoder settings as its argument.
Request   {"bytes"} and then 16-bit PCM at 16 kHz, one utterance
Response  {"text", "words": [[text, start_s, end_s, probability], ...], "confidence"}; or {"error"}
"""

from __future__ import annotations

import json
import sys
from typing import IO, Any

from pocketsphinx import Config, Decoder

FRAME_S = 0.01


class Ears:
    """A decoder whose utterances do not influence each other: same sound, same words."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._decoder = Decoder(Config(loglevel="FATAL", **settings))

    def listen(self, pcm: bytes) -> dict[str, Any]:
        # Its running cepstral mean and noise estimate would carry one utterance into the next.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, no_search=False, full_utt=True)
        self._decoder.end_utt()
        best = self._decoder.hyp()
        if best is None:
            return {"text": "", "words": [], "confidence": None}
        words = [self._word(segment) for segment in self._decoder.seg()]
        kept = [word for word in words if not word[0].startswith(("<", "["))]
        confidence = sum(word[3] for word in kept) / len(kept) if kept else None
        return {"text": " ".join(word[0] for word in kept), "words": kept, "confidence": confidence}

    def _word(self, segment: Any) -> tuple[str, float, float, float]:
        text = segment.word.split("(")[0]  # "a(2)": the second pronunciation of "a"
        probability = min(1.0, max(0.0, segment.prob))
        return text, segment.start_frame * FRAME_S, (segment.end_frame + 1) * FRAME_S, probability


def serve(requests: IO[bytes], responses: IO[bytes], settings: dict[str, Any]) -> None:
    """Answer until the requests end."""
    ears = Ears(settings)
    for line in requests:
        pcm = requests.read(json.loads(line)["bytes"])
        try:
            header = ears.listen(pcm)
        except Exception as error:  # whatever it was, the caller must hear of it: this process has no other voice
            header = {"error": f"{type(error).__name__}: {error}"}
        responses.write(json.dumps({**header, "bytes": 0}).encode() + b"\n")
        responses.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer, json.loads(sys.argv[1]))
