"""SpeechLM: encoder → adapter → thinker → emotion head → gate and style → talker, as one module.

It knows no losses: training asks it for states and logits (distill/training), and answering goes step by step (answer.py).
A row is many samples, one behind the other, each seeing itself alone (attention.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2e_model.attention import packed_kwargs
from e2e_model.config import Config
from e2e_model.encoder import CUES, Adapter, Heads, Heard, SpeechEncoder
from e2e_model.errors import ConfigProblem
from e2e_model.lexicon import Lexicon
from e2e_model.prompts import Prompter
from e2e_model.respond import Event, Said
from e2e_model.rows import Rows, Written
from e2e_model.spelling import NGram, Spelling
from e2e_model.talker import Talker
from e2e_model.tokenizer import Speller
from e2e_model.word_search import WordSearch

PARTS = ("encoder", "heads", "adapter", "thinker", "vector", "talker")
Frames = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class SpeechLM(nn.Module):
    """One student. `codec` is frozen and lies beside the parts that train; `emotion_frames` is given from outside where
    the configuration has an emotion encoder: samples at 16 kHz → frames [S, size] at 50 Hz."""

    def __init__(self, config: Config, speller: Speller, codec: Any, thinker: Any, encoder: SpeechEncoder) -> None:
        super().__init__()
        self.config, self.speller, self.card = config, speller, dict[str, Any]()
        self.prompter = Prompter(speller)
        self.emotion_frames: Callable[[np.ndarray[Any, Any]], Frames] | None = None
        width, hidden = encoder.config.d_model, thinker.config.hidden_size
        sizes = {name: len(getattr(config.labels, name)) for name in CUES}
        self.encoder = encoder
        self.heads = Heads(width, speller.ctc_size, sizes)
        beside = [config.emotion_encoder.size] if config.emotion_encoder.size else []
        self.adapter = Adapter([width, *beside], config.adapter.stack, config.adapter.hidden, hidden)
        self.thinker = thinker
        self.vector = VectorHead(hidden, config.vector.hidden, max(1, config.vector.size))
        self.talker = Talker(config, hidden, speller.unit_size, codec.codebook_size, codec.levels)
        self.use_codec(codec)
        # With the words of the training data, where the configuration asks for it.
        self.spelling: Spelling | WordSearch | None = None
        self.least_sure: float | None = None  # of words that are believed, by `sureness`; None: nobody has measured it

    codec: Any

    def use_codec(self, codec: Any) -> None:
        """Not a part: it never trains here, and is saved as itself. Its tokens must be those that the talker has learnt."""
        self.__dict__["codec"] = codec

    def hear(
        self, mels: Sequence[Tensor], starts: Sequence[int] | None = None
    ) -> tuple[Heard, Tensor, dict[str, Tensor]]:
        """mels [T, M] each → states, CTC logits and cue logits: what the ears tell without the thinker."""
        heard = self.encoder(mels, starts)
        ctc, cues = self.heads(heard)
        return heard, ctc, cues

    def words(self, ctc: Tensor) -> str:
        """CTC logits [S, units + 1] of one utterance → what is read of them. Phones are nothing to read without a lexicon."""
        if self.spelling is None and self.speller.ctc == "phones":
            return ""
        if self.spelling is None:
            return self.speller.ctc_text(ctc.argmax(-1).tolist())
        log_probs = ctc.float().log_softmax(-1).cpu().numpy()
        if isinstance(self.spelling, WordSearch):
            return " ".join(self.spelling.best(log_probs))
        return self.speller.ctc_words(self.spelling.best(log_probs))

    def sureness(self, ctc: Tensor) -> float:
        """CTC logits [S, units + 1] of one utterance → 0..1: one by the number of units between which a state wavers, in the mean
        (e to minus the entropy), of states that hear one; 0 where none does."""
        log_probs = ctc.float().log_softmax(-1)
        log_probs = log_probs[log_probs.argmax(-1) != 0]
        return math.exp(float((log_probs.exp() * log_probs).sum(-1).mean())) if len(log_probs) else 0.0

    def learn_words(self, ngram: NGram, lexicon: Lexicon | None = None) -> None:
        """ngram: over the CTC head's units; with a lexicon, over its words."""
        how = self.config.spelling
        if lexicon is None:
            self.spelling = Spelling(ngram, how.weight, how.bonus, how.beam)
        else:
            self.spelling = WordSearch(lexicon, ngram, how.weight, how.bonus, how.beam)

    def listen(
        self, mels: Sequence[Tensor], starts: Sequence[int] | None = None, emotion: Sequence[Tensor] | None = None
    ) -> tuple[Heard, Tensor, dict[str, Tensor], Tensor, list[int]]:
        """mels [T, M] each, emotion frames [S, E] each → states, CTC logits, cue logits, adapter's states [A, H] and how
        many each utterance has."""
        heard, ctc, cues = self.hear(mels, starts)
        beside = []
        if self.config.emotion_encoder.size:
            if emotion is None:
                raise ConfigProblem(
                    f"a {self.config.flavour} student hears through emotion2vec, and got no frames of it"
                )
            step = self.config.encoder.stack  # theirs come at 50 Hz
            pairs = zip((x[::step] for x in emotion), heard.lengths, strict=True)
            beside = [torch.cat([F.pad(x[:n], (0, 0, 0, n - len(x[:n]))) for x, n in pairs]).to(heard.states)]
        audio, lengths = self.adapter([heard.states, *beside], heard.lengths)
        return heard, ctc, cues, audio, lengths

    @property
    def tokens(self) -> nn.Module:
        module: nn.Module = self.thinker.get_input_embeddings()
        return module

    def thinker_states(self, rows: Rows, audio: Tensor | None, thinker: Any = None) -> Tensor:
        """The thinker's states [P, H] of a row; `thinker`: another one of the same make in its place."""
        thinker = thinker or self.thinker
        tokens = thinker.get_input_embeddings()(rows.ids)
        row = tokens.new_zeros(sum(rows.lengths), tokens.shape[-1]).index_copy(0, rows.token_at, tokens)
        if audio is not None and len(rows.speech_at):
            row = row.index_copy(0, rows.speech_at, audio[rows.speech_from].to(row.dtype))
        made = thinker.base_model(
            inputs_embeds=row[None],
            position_ids=rows.positions[None],
            use_cache=False,
            **packed_kwargs(rows.lengths, row.device),
        )
        states: Tensor = made.last_hidden_state[0]
        return states

    def token_logits(self, states: Tensor) -> Tensor:
        """[Q, H] → [Q, tokens]."""
        logits: Tensor = self.thinker.get_output_embeddings()(states)
        return logits

    def feel(self, states: Tensor, rows: Rows, samples: int) -> Tensor:
        """The emotion vector of each sample's reply [N, V], from the thinker's states [P, H], in its normalised space."""
        owner = rows.vector_sample
        sizes = torch.bincount(owner, minlength=samples).clamp(min=1)[:, None]
        picked = states[rows.vector_at].float()
        mean = picked.new_zeros(samples, states.shape[-1]).index_add(0, owner, picked) / sizes
        return self.vector(mean)  # type: ignore[no-any-return]

    def talker_states(self, written: Written, states: Tensor, vector: Tensor, vector_on: Tensor) -> Tensor:
        """The talker's states [P, D] of a row; states: the thinker's."""
        row = self.talker.embeds(written, states, vector, vector_on)
        made = self.talker.decoder(
            inputs_embeds=row[None],
            position_ids=torch.cat([torch.arange(n, device=row.device) for n in written.lengths])[None],
            use_cache=False,
            **packed_kwargs(written.lengths, row.device),
        )
        out: Tensor = made.last_hidden_state[0]
        return out

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "auto", **sources: str) -> SpeechLM:
        """A student from the folder that training made. device: "auto" takes a GPU where there is one; sources: places of
        the pretrained parts (encoder=…, thinker=…) where it was saved without them. Raises StudentError."""
        from e2e_model.checkpoint import load_student

        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return load_student(folder, device=chosen, sources=sources)

    def save_pretrained(self, folder: str | Path, *, whole: bool = True, half: bool = False, **card: Any) -> None:
        """Write it as a folder; see checkpoint.py."""
        from e2e_model.checkpoint import save_student

        save_student(self, Path(folder), card=card, whole=whole, half=half)

    def respond(
        self,
        samples: np.ndarray[Any, Any] | None,
        sample_rate: int,
        *,
        text: str | None = None,
        history: Sequence[Said] = (),
        task: str = "speech→speech",
        **manner: Any,
    ) -> Iterator[Event]:
        """Think, text and audio as they are made, then End. manner: the fields of answer.Manner.

        samples: mono [N] at `sample_rate`, which must be the configuration's. Raises ConfigProblem.
        """
        from e2e_model.answer import respond
        from e2e_model.at_work import Manner

        if samples is not None and sample_rate != self.config.sample_rate:
            raise ConfigProblem(f"speech of {sample_rate} Hz; resample it to {self.config.sample_rate} Hz")
        return respond(self, samples, text=text, history=history, task=task, manner=Manner(**manner))

    def speak(self, text: str, emotion: str | None = None, **manner: Any) -> Iterator[Event]:
        """These very words, said in an emotion: Audio as it is made, then End."""
        from e2e_model.answer import speak
        from e2e_model.at_work import Manner

        return speak(self, text, emotion, Manner(**manner))

    def part_parameters(self, part: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Of one of PARTS, with the names they have in the whole."""
        yield from getattr(self, part).named_parameters(prefix=part)

    def gradient_checkpointing_enable(self) -> None:
        for network in (self.encoder, self.thinker, self.talker.decoder):
            network.gradient_checkpointing_enable({"use_reentrant": False})


class VectorHead(nn.Module):
    """Thinker's states → emotion vector, in units of the training data's deviation from its mean."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int, inner: int, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.rise = nn.Linear(hidden, inner)
        self.fall = nn.Linear(inner, size)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.fall(F.gelu(self.rise(self.norm(states))))
        return out

    def normalised(self, vector: Tensor) -> Tensor:
        """A vector of the dataset's own space in this head's units."""
        return (vector - self.mean) / self.deviation
