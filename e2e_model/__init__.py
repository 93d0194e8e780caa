"""The student: one end-to-end empathetic speech LLM, as a torch library of its own.

from e2e_model import SpeechLM
lm = SpeechLM.from_pretrained("runs/nano/student")
for event in lm.respond(samples, 16_000): ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from e2e_model.model import SpeechLM

__all__ = ["SpeechLM"]


def __getattr__(name: str) -> Any:  # torch comes with the model, not with the package
    if name == "SpeechLM":
        from e2e_model.model import SpeechLM

        return SpeechLM
    raise AttributeError(name)
