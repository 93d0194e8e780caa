"""What a student learnt: `python runs/measure_student.py answers RUN/student DATA`, or `table RUN …`.

answers  a split's dialogues through the student: transcript, labels and reply text against the dataset's, word error of the
         spoken reply by listen-back beside that of the teacher's own sound and of its sound through the codec alone. The
         recognizer's language model is made of the replies of --ears: "rows" are those that are measured (a closed set: it
         flatters all three alike), "train" all training replies
table    held-out losses of runs side by side, each stage's best evaluation: for ablations
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cascade.asr import pocketsphinx
from cascade.asr.words import word_error_rate, words_of
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from distill.training.data import Dataset, Row, open_dataset
from e2e_model.model import SpeechLM
from e2e_model.respond import Audio, End, Text, Think
from e2e_model.think import spoken_words


def answers(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dataset = open_dataset(asked.data)
    lm = SpeechLM.from_pretrained(asked.student)
    rows = [row for row in dataset.rows(asked.split) if row.task == "dialogue" and row.user_text][: asked.rows]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "replies.txt"
        known = rows if asked.ears == "rows" else dataset.rows(asked.ears)
        text.write_text("\n".join(_sentences(known)), encoding="utf-8")
        ears = pocketsphinx.load(pocketsphinx.Options(language_model=text))
        found = [_answered(lm, dataset, row, ears, asked) for row in rows]
        ears.close()
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
    with torch.inference_mode():
        again = lm.codec.decode(lm.codec.encode(torch.from_numpy(told.samples)[None]))[0].numpy()
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
        "codec_wer": word_error_rate(words, _heard(ears, Waveform(again, lm.codec.sample_rate))),
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
    out["transcript_exact"] = statistics.fmean(one["transcript_wer"] == 0 for one in found)
    return out


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
    other = kinds.add_parser("table")
    other.add_argument("runs", type=Path, nargs="+")
    other.add_argument("--stage")
    other.set_defaults(do=table)
    asked = parser.parse_args()
    asked.do(asked)


if __name__ == "__main__":
    main()
