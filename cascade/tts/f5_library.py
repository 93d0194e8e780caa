"""F5-TTS's and Vocos's own classes, imported without what only their training needs.

`f5_tts.model` imports its trainer, with it Weights & Biases, Hugging Face datasets and more; the classes for inference lie beside
it and need none of that. They are imported under a bare package of that name, which is taken away again together with them: a
later `import f5_tts.model` by anybody else starts afresh and gets the whole, or its own error.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from cascade.torch_tools import preserved
from cascade.tts import torchaudio_standin

PACKAGE = "f5_tts.model"

_importing = threading.Lock()


@dataclass(frozen=True)
class Library:
    """`tokenizer(vocab.txt, "custom")` → (token → number, size); `tokens([text])` → [[token, …]]."""

    DiT: Any
    CFM: Any
    Vocos: Any
    tokenizer: Callable[[str, str], tuple[dict[str, int], int]]
    tokens: Callable[[list[str]], list[list[str]]]
    configs: Path


def library() -> Library:
    """Imported once, in some seconds. Raises ImportError, naming the package that is missing."""
    with _importing:
        return _imported()


@cache
def _imported() -> Library:
    with preserved(), torchaudio_standin.in_place(), _without_its_init():
        logging.disable(logging.CRITICAL)
        import f5_tts
        from f5_tts.model.backbones.dit import DiT
        from f5_tts.model.cfm import CFM
        from f5_tts.model.utils import convert_char_to_pinyin, get_tokenizer
        from vocos import Vocos

        configs = Path(next(iter(f5_tts.__path__))) / "configs"
        return Library(DiT, CFM, Vocos, get_tokenizer, convert_char_to_pinyin, configs)


@contextlib.contextmanager
def _without_its_init() -> Iterator[None]:
    if PACKAGE in sys.modules:  # somebody has the whole already
        yield
        return
    import f5_tts

    bare = ModuleType(PACKAGE)
    bare.__path__ = [str(Path(place) / "model") for place in f5_tts.__path__]
    bare.__spec__ = ModuleSpec(PACKAGE, None, is_package=True)
    sys.modules[PACKAGE] = bare
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
            del sys.modules[name]
