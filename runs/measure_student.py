"""What a student learnt: `python runs/measure_student.py answers RUN/student DATA`, `codec`, `speaks`, `strangers` or `table`.

answers  a split's dialogues through the student: transcript, labels and reply text against the dataset's, word error of the
         spoken reply by listen-back beside that of the teacher's own sound and of its sound through the codec alone. The
         recognizer's language model is made of the replies of --ears: "rows" are those that are measured (a closed set: it
         flatters all three alike), "train" all training replies
codec    replies of a split through a codec alone: word error beside that of the sound it was given
speaks   lines of a text file said by the student, by its teacher's voice, and by that voice through the codec: word error by a
         general recognizer, whether it stopped; with --emotion, one or more, how each sounds: agreement, pitch, level
strangers  recordings, and lines of a text file said by a voice nobody trained on: what is heard, and whether it is said that
         nothing was understood
table    held-out losses of runs side by side, each stage's best evaluation: for ablations
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cascade.asr import pocketsphinx
from cascade.asr.words import word_error_rate, words_of
from cascade.audio import Waveform, read_speech
from cascade.cancel import CancelScope
from cascade.engines import load_engine
from cascade.judging.listener import agreement
from cascade.turn import REPLY_EMOTIONS
from distill.teaching.voices import cast_of, say
from distill.training.data import Dataset, Row, open_dataset
from e2e_model.codec import load_codec
from e2e_model.model import SpeechLM
from e2e_model.respond import Audio, End, Text, Think
from e2e_model.think import spoken_words


def answers(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dataset = open_dataset(asked.data)
    lm = SpeechLM.from_pretrained(asked.student)
    rows = [row for row in dataset.rows(asked.split) if row.task == "dialogue" and row.user_text][: asked.rows]
    with listening(_sentences(rows if asked.ears == "rows" else dataset.rows(asked.ears))) as ears:
        found = [_answered(lm, dataset, row, ears, asked) for row in rows]
    for one in found if asked.show else []:
        print(json.dumps(one, ensure_ascii=False))
    print(json.dumps(summed(found), indent=1))


def _sentences(rows: list[Row]) -> list[str]:
    parts = (part for row in rows if row.reply_text for part in re.split(r"(?<=[.?!])\s", row.reply_text))
    return [" ".join(words_of(part)) for part in parts]


def _answered(lm: SpeechLM, dataset: Dataset, row: Row, ears: Any, asked: argparse.Namespace) -> dict[str, Any]:
    sound, target = dataset.audio(row, "user"), dataset.audio(row, "reply")
    assert sound is not None, "a dialogue has a person's speech"
    assert target is not None, "and a reply"
    began, think, reply, parts, end = time.process_time(), Think(), "", [], None
    first = None
    heard = Waveform(*sound).resampled(lm.config.sample_rate)
    for event in lm.respond(heard.samples, heard.sample_rate, think=asked.think, vector=not asked.no_vector):
        if isinstance(event, Think):
            think = event
        elif isinstance(event, Text):
            reply += event.text
        elif isinstance(event, Audio):
            first = first or time.process_time() - began
            parts.append(event.samples)
        elif isinstance(event, End):
            end = event
    spent = time.process_time() - began
    made = Waveform(np.concatenate(parts), lm.codec.sample_rate) if parts else None
    told = Waveform(*target).resampled(lm.codec.sample_rate)
    again = through(lm.codec, told)
    words = row.reply_text or ""
    return {
        "id": row.id,
        "said": row.user_text,
        "heard": think.heard,
        "transcript_wer": word_error_rate(spoken_words(row.user_text or ""), think.heard or ""),
        **{
            f"{cue}_right": _same(getattr(row, f"user_{cue}"), getattr(think, cue))
            for cue in ("emotion", "age", "gender")
        },
        "strategy_right": _same(row.strategy, think.strategy),
        "reply_emotion_right": _same(row.reply_emotion, think.reply_emotion),
        "reply_exact": reply == words,
        "target": words,
        "reply": reply,
        "stopped_itself": end is not None and end.reason == "end",
        "reply_wer": word_error_rate(reply, _heard(ears, made)) if made and reply else 1.0,
        "teacher_wer": word_error_rate(words, _heard(ears, told)),
        "codec_wer": word_error_rate(words, _heard(ears, again)),
        "first_sound_cpu_s": first,
        "real_time_factor": spent / made.duration_s if made else None,
    }


def _same(known: Any, told: Any) -> bool | None:
    """None where there is no label, or the student was not taught this one."""
    return None if known is None or told is None else known == told


def _heard(ears: Any, wave: Waveform) -> str:
    return str(ears.transcribe(wave, cancel=CancelScope()).text)


def summed(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the rows, and how many were measured."""
    out: dict[str, Any] = {"rows": len(found)}
    for name in found[0]:
        values = [one[name] for one in found if isinstance(one[name], bool | float | int)]
        if values:
            out[name] = round(statistics.fmean(values), 4)
    if "transcript_wer" in found[0]:
        out["transcript_exact"] = statistics.fmean(one["transcript_wer"] == 0 for one in found)
    return out


# --- the codec alone


def codec(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dataset, codec = open_dataset(asked.data), load_codec(asked.codec)
    rows = [row for row in dataset.rows(asked.split) if row.reply_text and row.reply_duration_s][: asked.rows]
    with listening(_sentences(dataset.rows("train"))) as ears:
        found = []
        for row in rows:
            sound = dataset.audio(row, "reply")
            assert sound is not None, "it has a length, so it is there"
            told = Waveform(*sound).resampled(codec.sample_rate)
            words = row.reply_text or ""
            again = through(codec, told)
            found.append(
                {
                    "teacher_wer": word_error_rate(words, _heard(ears, told)),
                    "codec_wer": word_error_rate(words, _heard(ears, again)),
                }
            )
    print(json.dumps(summed(found), indent=1))


def through(codec: Any, wave: Waveform) -> Waveform:
    """Into tokens and back."""
    with torch.inference_mode():
        samples = codec.decode(codec.encode(torch.from_numpy(wave.samples)[None]))[0].numpy()
    return Waveform(samples, codec.sample_rate)


@contextmanager
def listening(sentences: Sequence[str] = ()) -> Iterator[Any]:
    """PocketSphinx, with a language model of these sentences, else with its general one."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "expected.txt"
        text.write_text("\n".join(sentences), encoding="utf-8")
        ears = pocketsphinx.load(pocketsphinx.Options(language_model=text if sentences else None))
        try:
            yield ears
        finally:
            ears.close()


# --- any text, and any emotion


def speaks(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    lm = SpeechLM.from_pretrained(asked.student)
    lines = [line for line in asked.texts.read_text(encoding="utf-8").splitlines() if line.strip()][: asked.rows]
    voice = load_engine("tts", asked.voice, {})
    analyzers = {"emotion": load_engine("emotion", "acoustic", {}), "prosody": load_engine("prosody", "prosody", {})}
    by_emotion: dict[str, Any] = {}
    with listening() as ears:
        for emotion in asked.emotion or ["neutral"]:
            found = [_said(lm, voice, analyzers, ears, line, emotion) for line in lines]
            for one in found if asked.show else []:
                print(json.dumps(one, ensure_ascii=False))
            by_emotion[emotion] = summed(found)
    print(json.dumps(by_emotion, indent=1))


def _said(lm: SpeechLM, voice: Any, analyzers: dict[str, Any], ears: Any, text: str, emotion: Any) -> dict[str, Any]:
    parts, stopped = [], False
    for event in lm.speak(text, emotion, seed=0):
        if isinstance(event, Audio):
            parts.append(event.samples)
        elif isinstance(event, End):
            stopped = event.reason == "end"
    cancel = CancelScope()
    theirs = voice.speak(text, emotion=emotion, intensity=0.7, rate=1.0, seed=0, cancel=cancel).wave
    told = theirs.resampled(lm.codec.sample_rate)
    waves = {"student": Waveform(np.concatenate(parts), lm.codec.sample_rate) if parts else None}
    waves |= {"teacher": told, "codec": through(lm.codec, told)}
    out: dict[str, Any] = {"text": text, "stopped_itself": stopped}
    for who, wave in waves.items():
        heard = _heard(ears, wave) if wave else ""
        out |= {f"{who}_heard": heard, f"{who}_wer": word_error_rate(text, heard)}
        if wave is None:
            continue
        prosody = analyzers["prosody"].analyze(wave, baseline=None, cancel=cancel).prosody
        out[f"{who}_agreement"] = agreement(emotion, analyzers["emotion"].analyze(wave, baseline=None, cancel=cancel))
        out |= {
            f"{who}_pitch_hz": prosody.pitch_hz,
            f"{who}_level_dbfs": prosody.level_dbfs,
            f"{who}_s": wave.duration_s,
        }
    return out


def strangers(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    lm = SpeechLM.from_pretrained(asked.student)
    heard: list[tuple[str, Waveform]] = [(path.name, read_speech(path)) for path in asked.recordings]
    if asked.texts:
        lines = asked.texts.read_text(encoding="utf-8").splitlines()[: asked.rows]
        cast = cast_of("test")
        for number, line in enumerate(lines):
            speaker = cast[number % len(cast)]
            heard.append((line, say(line, speaker, "neutral", seed=number)))
    found = []
    for name, wave in heard:
        think, reply, parts, reason = Think(), "", [], ""
        speech = wave.resampled(lm.config.sample_rate)
        for event in lm.respond(speech.samples, speech.sample_rate, seed=0):
            if isinstance(event, Think):
                think = event
            elif isinstance(event, Text):
                reply += event.text
            elif isinstance(event, Audio):
                parts.append(event.samples)
            elif isinstance(event, End):
                reason = event.reason
        seconds = sum(map(len, parts)) / lm.codec.sample_rate
        found.append({"what": name, "heard": think.heard, "strategy": think.strategy, "reply": reply, "s": seconds,
                      "stopped_itself": reason == "end", "asks_again": think.strategy == "clarify"})  # fmt: skip
        print(json.dumps(found[-1], ensure_ascii=False))
    print(json.dumps(summed(found), indent=1))


def table(asked: argparse.Namespace) -> None:
    """Markdown: a line for each run and stage."""
    lines = []
    names: list[str] = []
    for folder in asked.runs:
        for curve in sorted(folder.glob("*/curve.jsonl")):
            held = [row for line in curve.open() if (row := json.loads(line))["split"] == "held_out"]
            if asked.stage in (None, curve.parent.name) and held:
                best = min(held, key=lambda row: row["total"])["objectives"]
                names += [name for name in best if name not in names]
                lines.append((f"{folder.name} {curve.parent.name}", best))
    print("| run | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for run, best in lines:
        print(f"| {run} | " + " | ".join(f"{best[name]:.3f}" if name in best else "–" for name in names) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("answers")
    one.add_argument("student", type=Path)
    one.add_argument("data", type=Path)
    one.add_argument("--split", default="validation", choices=["train", "validation", "test"])
    one.add_argument("--rows", type=int, default=32)
    one.add_argument("--ears", default="train", choices=["rows", "train", "validation", "test"])
    one.add_argument("--think", default="tag", choices=["tag", "language", "none"])
    one.add_argument("--no-vector", action="store_true")
    one.add_argument("--show", action="store_true", help="each row, too")
    one.set_defaults(do=answers)
    alone = kinds.add_parser("codec")
    alone.add_argument("codec", type=Path)
    alone.add_argument("data", type=Path)
    alone.add_argument("--split", default="validation", choices=["train", "validation", "test"])
    alone.add_argument("--rows", type=int, default=32)
    alone.set_defaults(do=codec)
    said = kinds.add_parser("speaks")
    said.add_argument("student", type=Path)
    said.add_argument("texts", type=Path)
    said.add_argument("--voice", default="flite", help="the teacher's engine")
    said.add_argument("--emotion", action="append", choices=REPLY_EMOTIONS)
    said.add_argument("--rows", type=int, default=50)
    said.add_argument("--show", action="store_true", help="each line, too")
    said.set_defaults(do=speaks)
    strange = kinds.add_parser("strangers")
    strange.add_argument("student", type=Path)
    strange.add_argument("recordings", type=Path, nargs="*")
    strange.add_argument("--texts", type=Path)
    strange.add_argument("--rows", type=int, default=10)
    strange.set_defaults(do=strangers)
    other = kinds.add_parser("table")
    other.add_argument("runs", type=Path, nargs="+")
    other.add_argument("--stage")
    other.set_defaults(do=table)
    asked = parser.parse_args()
    asked.do(asked)


if __name__ == "__main__":
    main()
