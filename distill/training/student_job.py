"""Stages 1 to 3 as jobs of the loop: which items an epoch holds, how they are packed, and what a batch is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from cascade.audio import Waveform, write_wav
from cascade.errors import InputError
from distill.training.aligned import pieces
from distill.training.data import Dataset, Voice
from distill.training.data import Row as Turn
from distill.training.examples import HEARD_ONLY, Chance, Example, Examples, cues_of, rng_of
from distill.training.job import HELD_OUT, Batch
from distill.training.losses import CHOICES, KINDS, StudentLosses, count_of
from distill.training.objectives import IGNORE
from distill.training.packing import mixture, packs
from distill.training.prepared import Prepared
from distill.training.stages import HEARS, Source, Stage
from distill.training.swaps import matters_of
from e2e_model.answer import respond, speak
from e2e_model.model import SpeechLM
from e2e_model.pronouncing import phones_of
from e2e_model.respond import Audio, End, Event, Think
from e2e_model.rows import gathered, written
from e2e_model.think import spoken_words

Item = tuple[str, int]  # source and place among the split's rows
SAMPLES = 2


TAUGHT: Mapping[Source, tuple[str, ...]] = {"writing": ("thinker",), "speaking": ("vector", "talker")}


class StudentJob:
    """One of the stages that train the student. capacity: states and tokens that a pack may hold."""

    def __init__(
        self,
        stage: Stage,
        lm: SpeechLM,
        dataset: Dataset,
        prepared: Prepared,
        *,
        capacity: int,
        seed: int,
        chance: Chance,
        by_heart: int | None = None,
    ) -> None:
        self.name, self.stage, self.lm = stage.name, stage, lm

        def learns(*parts: str) -> bool:
            return any(one.requires_grad for part in parts for _, one in lm.part_parameters(part))

        writes = learns("adapter", "thinker")
        # Texts answered in writing teach the thinker alone; texts to be said are for whoever says them.
        idle = {source for source, parts in TAUGHT.items() if not learns(*parts)}
        self._sources = {source: share for source, share in stage.sources.items() if source not in idle}
        writing = [source for source in stage.sources if writes or source not in HEARD_ONLY]
        self.model: nn.Module = StudentLosses(lm, only_hears=not writing)
        self.weights: Mapping[str, float] = dict(stage.objectives)
        self.flops_per_token: float | None = None
        self._dataset, self._prepared, self._capacity, self._seed = dataset, prepared, capacity, seed
        self._train, self._held_out = rows_of(dataset, by_heart)
        words = sorted({word for turn in self._train for word in spoken_words(turn.user_text or "").split()})
        matters = matters_of(turn.user_text or "" for turn in self._train)
        codes = prepared.codes if any(name in stage.objectives for name in ("codes", "depth")) else None
        self._makers = {
            training: Examples(lm, chance if training else chance.still(), codes, words, matters, writes)
            for training in (True, False)
        }
        spell = phones_of if lm.speller.ctc == "phones" else lm.speller.ctc_ids
        self._spell: Callable[[str], list[int] | None] = cache(spell)
        self._total_epochs = max(1.0, stage.schedule.epochs or 1.0)

    # What an epoch holds.

    def packs(self, epoch: int) -> Sequence[list[Item]]:
        of: dict[str, list[int]] = {source: self._items(source, self._train) for source in self._sources}
        sizes: dict[str, int] = {source: len(places) for source, places in of.items()}
        weights: dict[str, float] = {source: weight for source, weight in self._sources.items() if sizes[source]}
        chosen = mixture(sizes, weights, seed=self._seed, epoch=epoch)
        items = [(source, of[source][place]) for source, place in chosen]
        lengths = [self._length(source, self._train[place]) for source, place in items]
        made = packs(lengths, self._capacity, seed=self._seed, epoch=epoch)
        return [[items[place] for place in pack] for pack in made]

    def held_out(self) -> Sequence[list[Item]]:
        sources = [source for source in self._sources if source != "listening"]  # users are who shall be understood
        items = [(source, place) for source in sources for place in self._items(source, self._held_out)]
        lengths = [self._length(source, self._held_out[place]) for source, place in items]
        made = packs(lengths, self._capacity, seed=self._seed, epoch=0, shuffle=False)
        return [[items[place] for place in pack] for pack in made]

    def _items(self, source: str, rows: Sequence[Turn]) -> list[int]:
        """Rows a source can take: those with a person's speech whose words can be spelt, or with text alone."""
        if source in ("speaking", "listening"):
            aloud = [k for k, row in enumerate(rows) if row.reply_text and row.reply_duration_s]
            return aloud if source == "speaking" else [k for k in aloud if self._spell(rows[k].reply_text or "")]
        if source == "understanding":
            return [k for k, row in enumerate(rows) if row.user_duration_s and self._spell(row.user_text or "")]
        tasks = ("dialogue", "write") if source == "writing" else ("dialogue",)
        return [k for k, row in enumerate(rows) if row.task in tasks and row.user_text and row.reply_text]

    def unspelt(self) -> int:
        """Training rows whose speech is there, and is not heard here because no dictionary has one of its words."""
        if "understanding" not in self.stage.sources:
            return 0
        return sum(
            bool(row.user_text and row.user_duration_s and not self._spell(row.user_text)) for row in self._train
        )

    def _length(self, source: str, turn: Turn) -> int:
        """Upper bound of its states and tokens: bytes bound the tokens of any text."""
        text = len((turn.user_text or "").encode()) + len((turn.reply_text or "").encode())
        text += sum(len((one.said + one.replied).encode()) for one in turn.history) // 2
        whose = HEARS.get(cast("Source", source))
        frames = int(self._prepared.mel_frames(turn, whose) * self._makers[True].chance.augment.longest) if whose else 0
        speech = self.lm.encoder.states_of(frames) if whose else 0
        aloud = source in ("speaking", "dialogue") and self._makers[True].codes is not None
        codes = self._prepared.code_frames(turn) + len(turn.reply_text or "") if aloud else 0
        return int(speech * 1.5) + codes + text // 2 + 96

    # What a batch is made of.

    def batch(self, pack: Any, epoch: int) -> Batch:
        training = epoch != HELD_OUT
        rows = self._train if training else self._held_out
        mels, starts, turns, examples, hears = [], [], [], [], []
        for source, place in pack:
            turn, rng = rows[place], rng_of(self._seed, epoch, source, rows[place])
            speech = 0
            if whose := HEARS.get(source):
                mel = self._makers[training].chance.augment(self._prepared.mel(turn, whose).astype(np.float32), rng)
                turn = turn if whose == "user" else overheard(turn)
                speech = self.lm.adapter.length(self.lm.encoder.states_of(len(mel)))
                mels.append(torch.from_numpy(mel))
                lot = float(rng.random())
                starts.append(self.lm.encoder.start_of(len(mel), lot) if self._makers[training].chance.shift else 0)
                turns.append((turn, whose))
            made = self._makers[training].of(source, turn, rng, speech, self.true_share(epoch))
            examples += made
            hears += [len(mels) - 1 if one.hears and one.row.speech else -1 for one in made]
        tensors = self.tensors(mels, starts, turns, examples, hears)
        tokens = sum(self.lm.encoder.states_of(len(mel)) for mel in mels)
        tokens += sum(len(one.row.places) + (len(one.spoken.steps) if one.spoken else 0) for one in examples)
        return Batch(tensors, count_of(tensors), tokens)

    def true_share(self, epoch: int) -> float:
        """How often the talker gets the true vector: always at first, never at the end (Emotion Omni's schedule)."""
        return 1.0 - min(1.0, max(0, epoch) / self._total_epochs) if epoch != HELD_OUT else 0.0

    def tensors(
        self,
        mels: list[Tensor],
        starts: list[int],
        heard: Sequence[tuple[Turn, Voice]],
        examples: Sequence[Example],
        hears: Sequence[int],
    ) -> dict[str, Any]:
        """What StudentLosses takes. heard: whose speech each log-mel is."""
        turns = [turn for turn, _ in heard]
        lengths = [self.lm.adapter.length(self.lm.encoder.states_of(len(mel))) for mel in mels]
        rows = gathered([one.row for one in examples], lengths, list(hears), self.lm.config.vector.states)
        aloud = [k for k, one in enumerate(examples) if one.spoken is not None]
        said = None
        if aloud:
            talker = self.lm.talker
            replies = [rows.reply_at[k] for k in aloud]
            said = written([examples[k].spoken for k in aloud], replies, read=talker.read, end=talker.end)  # type: ignore[misc]
        frames = None
        if self.lm.config.emotion_encoder.size and mels:
            frames = [self._emotion_frames(turn, whose) for turn, whose in heard]
        return {
            "mels": mels,
            "starts": starts,
            "emotion_frames": frames,
            "targets": {**self._heard(turns), **self._words_at(mels, heard), **self._choices(examples)},
            "rows": rows if examples else None,
            "kinds": torch.tensor(kinds_of(examples), dtype=torch.long),
            "written": said,
            "feeling": self._feeling(examples, aloud),
        }

    def _emotion_frames(self, turn: Turn, whose: Voice) -> Tensor:
        sound = self._dataset.audio(turn, whose)
        if sound is None or self.lm.emotion_frames is None:
            raise InputError(f"row {turn.id}: no frames of the emotion encoder; give it with --emotion-encoder")
        return torch.from_numpy(self.lm.emotion_frames(Waveform(*sound).resampled(self.lm.config.sample_rate).samples))

    def _heard(self, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """Targets of the heads."""
        labels, told = self.lm.config.labels, self.lm.config.told
        words = [self._spell(turn.user_text or "") or [] for turn in turns]
        spelt = sum(
            len(spoken_words(turn.user_text or "").split()) for turn, ids in zip(turns, words, strict=True) if ids
        )
        out = {
            "ctc": torch.tensor([unit for one in words for unit in one], dtype=torch.long),
            "ctc_lengths": torch.tensor([len(one) for one in words], dtype=torch.long),
            "ctc_words": torch.tensor(spelt),
        }
        known = [cues_of(turn, told) for turn in turns]
        for name in CHOICES:
            names = getattr(labels, name)
            out[name] = torch.tensor(
                [names.index(v) if (v := cues[name]) else IGNORE for cues in known], dtype=torch.long
            )
            soft = [getattr(turn, f"{name}_posterior") or [0.0] * len(names) for turn in turns]
            out[f"{name}_posterior"] = torch.tensor(soft, dtype=torch.float32).reshape(len(turns), len(names))
        events = [[float(e in (cues["events"] or ())) for e in labels.events] for cues in known]
        out["events"] = torch.tensor(events, dtype=torch.float32).reshape(len(turns), len(labels.events))
        out["events_known"] = torch.tensor([float(cues["events"] is not None) for cues in known])
        return out

    def _words_at(self, mels: Sequence[Tensor], heard: Sequence[tuple[Turn, Voice]]) -> dict[str, Tensor]:
        """Targets of the CTC head by word, where it is known when each is heard. Spans are over all turns' states."""
        before, found = 0, []
        for mel, (turn, whose) in zip(mels, heard, strict=True):
            states = self.lm.encoder.states_of(len(mel))
            duration_s = getattr(turn, f"{whose}_duration_s")  # as it was said, whatever was made of it
            made = pieces(turn.user_text or "", turn.user_words, states, duration_s, self._spell)
            found += [(ids, before + first, before + end) for ids, first, end in made]
            before += states
        return {
            "aligned": torch.tensor([unit for ids, _, _ in found for unit in ids], dtype=torch.long),
            "aligned_lengths": torch.tensor([len(ids) for ids, _, _ in found], dtype=torch.long),
            "aligned_spans": torch.tensor([span for _, *span in found], dtype=torch.long).reshape(-1, 2),
        }

    def _choices(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """A teacher LM's choices for the reply's tokens, where its tokens are this thinker's."""
        at: list[int] = []
        ids, logprobs = [], []
        place = 0
        for one in examples:
            counted = [k for k, counts in enumerate(one.row.counts) if counts]
            top = self._dataset.top_logprobs(one.turn) if one.kind == "reply" and one.turn.reply_tokens else None
            first, end = one.row.reply
            if top is not None and top.ids[: end - first].tolist() == one.row.ids[first:end]:  # the very same tokens
                for number in range(end - first):
                    at.append(place + counted.index(first + number))
                    ids.append(top.top_ids[number])
                    logprobs.append(top.top_logprobs[number])
            place += len(counted)
        if not at:
            return {}
        width = max(len(one) for one in ids)
        pad = [np.pad(one, (0, width - len(one)), constant_values=-1) for one in ids]
        low = [np.pad(one, (0, width - len(one)), constant_values=-np.inf) for one in logprobs]
        return {
            "top_at": torch.tensor(at),
            "top_ids": torch.from_numpy(np.stack(pad)).long(),
            "top_logprobs": torch.from_numpy(np.stack(low)).float(),
        }

    def _feeling(self, examples: Sequence[Example], aloud: Sequence[int]) -> dict[str, Tensor]:
        size = self.lm.vector.mean.shape[0]
        vectors = [
            np.asarray(one.turn.reply_vector, np.float32) if one.felt else np.zeros(size, np.float32)
            for one in examples
        ]
        # Only what answers a voice tells of a feeling; text to text has the same reply, but nobody to feel with.
        known = [one.felt and one.row.reply[1] > one.row.reply[0] and one.kind == "reply" for one in examples]
        return {
            "true": torch.from_numpy(np.stack(vectors)) if vectors else torch.zeros(0, size),
            "known": torch.tensor(known, dtype=torch.bool),
            "use_true": torch.tensor([one.use_true for one in examples], dtype=torch.bool),
            "on": torch.tensor([one.vector_on for one in examples], dtype=torch.bool),
            "spoken": torch.tensor(list(aloud), dtype=torch.long),
        }

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def samples(self, folder: Path) -> None:
        """Held-out rows as this stage knows to do them: JSON to read, WAVs to hear."""
        was_training = self.lm.training
        self.lm.eval()
        aloud = any(name in self.weights for name in ("codes", "depth"))
        rows = [turn for turn in self._held_out if turn.task == "dialogue" and turn.user_text][:SAMPLES]
        shown = [self._sample(turn, folder / f"{number:02d}", aloud) for number, turn in enumerate(rows)]
        (folder / "samples.json").write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        self.lm.train(was_training)

    def _sample(self, turn: Turn, path: Path, aloud: bool) -> dict[str, Any]:
        """One row: what is said and shall be answered, and what the student makes of it."""
        told: dict[str, Any] = {"id": turn.id, "said": turn.user_text, "emotion": turn.user_emotion}
        told |= {"target": turn.reply_text, "target_emotion": turn.reply_emotion}
        if "dialogue" not in self.stage.sources and aloud:
            return told | heard_and_kept(speak(self.lm, turn.reply_text or "", turn.reply_emotion), path)
        sound = self._dataset.audio(turn, "user")
        assert sound is not None, "a dialogue has a person's speech"
        heard = Waveform(*sound).resampled(self.lm.config.sample_rate)
        write_wav(path.with_name(path.name + "-user.wav"), heard)
        tasks = ("speech→speech",) if aloud else ("asr", "labels") if self.name == "understand" else ("speech→text",)
        for task in tasks:
            told[task] = heard_and_kept(respond(self.lm, heard.samples, task=task), path)
        return told


def overheard(turn: Turn) -> Turn:
    """The reply as if somebody said it: its words are known, and nothing of who says it."""
    nothing = dict.fromkeys(f"user_{name}" for name in ("emotion", "age", "gender", "events"))
    nothing |= dict.fromkeys(f"{name}_posterior" for name in CHOICES)
    return replace(turn, user_text=turn.reply_text, user_words=turn.reply_words, **nothing)  # type: ignore[arg-type]


def rows_of(dataset: Dataset, by_heart: int | None) -> tuple[list[Turn], list[Turn]]:
    """Rows to learn from and rows held out; by heart: the same few dialogues for both."""
    if by_heart is None:
        return dataset.rows("train"), dataset.rows("validation")
    few = [row for row in dataset.rows("train") if row.task == "dialogue"][:by_heart]
    return few, few


def heard_and_kept(events: Iterable[Event], path: Path) -> dict[str, Any]:
    """What a student gave; its speech goes into a WAV file."""
    told: dict[str, Any] = {}
    parts, rate = [], 0
    for event in events:
        match event:
            case Think():
                told |= {"think": event.text, "heard": event.heard, "heard_emotion": event.emotion}
            case Audio():
                rate = event.sample_rate
                parts.append(event.samples)
            case End():
                told |= {"text": event.text, "ended": event.reason}
    if parts:
        write_wav(path.with_name(path.name + "-reply.wav"), Waveform(np.concatenate(parts), rate))
    return told


def kinds_of(examples: Sequence[Example]) -> list[int]:
    """What each token that counts is: of the think, or what comes after it."""
    kinds = []
    for one in examples:
        after = KINDS.index(one.kind)
        kinds += [
            after if k >= one.row.reply[0] else KINDS.index("think")
            for k, counts in enumerate(one.row.counts)
            if counts
        ]
    return kinds
