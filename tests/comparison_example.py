"""A comparison as a run leaves it, small but whole: three systems, a dozen items with their sounds, made on the spot."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cascade.audio import Waveform, reference, write_wav
from distill.comparison.records import Check, Figure, Item, Measure

SYSTEMS = ("cascade", "cascade-hidden", "nano")
RATE = 16_000
# id, task, words, emotion, age, gender, events, contrast
WRITTEN = (
    ("emotion-0001", "emotion", "They gave the post to somebody else.", "sad", None, "female", (), None),
    ("emotion-0002", "emotion", "We are moving into the new flat on Friday.", "happy", None, "male", (), None),
    ("age-0001", "age", "My tooth came out at school.", None, "child", None, (), None),
    ("gender-0001", "gender", "I am looking for a winter coat.", None, None, "female", (), None),
    ("event-0001", "event", "I have been in bed since Monday.", None, "adult", None, ("cough",), None),
    ("event-0002", "event", "So that was my big evening.", None, "adult", None, ("sigh",), None),
    ("several-0001", "several", "The doctor rang me back.", "fearful", "elder", "male", ("sigh",), None),
    ("contrast-0001", "contrast", "She really did it.", "happy", None, "female", (), "did-it"),
    ("contrast-0002", "contrast", "She really did it.", "angry", None, "female", (), "did-it"),
    ("contrast-0003", "contrast", "It is over now.", "sad", None, "male", (), "over"),
    ("contrast-0004", "contrast", "It is over now.", "happy", None, "male", (), "over"),
    ("instruction-0001", "instruction", "Answer in one sentence: how was your day?", "neutral", None, None, (), None),
)
CRASHED = (("several-0001", "nano"), ("event-0002", "cascade"))
REPLIES = {
    "sad": ("validate", "comforting", "That hurts. I am sorry."),
    "happy": ("celebrate", "joyful", "How lovely! Tell me more."),
    "angry": ("reflect", "neutral", "You sound angry, and I see why."),
    "fearful": ("care", "comforting", "That is frightening. I am here."),
}
PLAIN = ("ask", "neutral", "I see. What happened then?")

NASTY = '</script><script>alert(1)</script><img src=x onerror="alert(2)"> & "quoted" | `x` \u2028 $title ${data}'

MEASURES = tuple(
    Measure(name=name, title=title, about=about, source=source, better=better, unit=unit, **more)
    for name, title, about, source, better, unit, more in (
        ("transcript_wer", "Transcript WER", "Words heard wrong over words said.", "jiwer", "lower", "ratio", {}),
        ("emotion_accuracy", "Emotion heard", "The best label is the true one.", "EChat-eval", "higher", "share", {}),
        ("age_accuracy", "Age heard", "The label is the true one.", "EChat-eval", "higher", "share", {}),
        ("emotion_ece", "Emotion, calibration error", "Confidence against accuracy.", "Guo et al.", "lower", "ratio", {}),
        ("empathy", "Empathy (rubric)", "What a listener would want of a reply.", "Attune", "higher", "score", {}),
        ("contrast_fit", "Contrast accuracy", "Fits its tone better than its twin’s.", "Attune", "higher", "share", {}),
        ("reply_words", "Words per reply", "How much is said.", "Attune", "neither", "score", {}),
        ("speech_quality", "Speech quality", "DNSMOS.", "arXiv 2010.15258", "higher", "score",
         {"unmeasured": "speechmos is not installed: pip install 'attune[judge]'"}),
        ("first_sound_s", "First sound", "From the end of speech.", "Attune", "lower", "s", {"timing": True}),
        ("parameters", "Parameters", "Of all models.", "Attune", "neither", "count", {}),
        ("peak_memory_mb", "Peak memory", "Of all its processes.", "Attune", "lower", "MB", {"timing": True}),
        ("energy_j", "Energy", "Of one answer.", "Attune", "lower", "J",
         {"timing": True, "unmeasured": "this machine has no meter"}),
    )
)  # fmt: skip


def make(run: Path) -> dict[str, Any]:
    """Write RUN: comparison.json, items and answers with their sounds. Returns what comparison.json holds."""
    rows = [_row(run, at) for at in range(len(WRITTEN))]
    tasks = dict(Counter(row["item"]["task"] for row in rows))
    calibration = [_calibration(name, rows) for name in SYSTEMS if name != "cascade-hidden"]
    figures = [*_figures(rows, timing=False), *map(_ece, calibration)]
    comparison = {
        "schema": 1, "attune": "0.1.0", "commit": "0123abc", "seed": 0, "reference": "cascade",
        "command": "attune compare --items small --system cascade --system cascade:cues=hidden --system nano",
        "items": {"name": "Attune-eval example", "sha256": "ab" * 32, "count": len(rows), "tasks": tasks, "folder": "items",
                  "overlaps": {"tiny": "0 of 12 sentences are in the training split"}},
        "systems": [_system(name, rows) for name in SYSTEMS],
        "measures": [measure.model_dump(mode="json") for measure in MEASURES],
        "figures": figures,
        "winners": {"transcript_wer": ["cascade", "cascade-hidden"], "emotion_accuracy": ["cascade"], "age_accuracy": ["cascade"],
                    "empathy": ["cascade"],
                    "contrast_fit": ["cascade", "nano"], "reply_words": [], "first_sound_s": ["nano"]},
        "confusions": [table for name in SYSTEMS for table in _confusions(name, rows)],
        "calibration": calibration,
        "timings": {"wall_s": 42.0, "created_at": "2026-01-02T03:04:05Z", "machine": "2 cores, 8 GB",
                    "figures": [*_figures(rows, timing=True), *_taken()], "stages": {name: _stages(name) for name in SYSTEMS}},
        "rows": rows,
    }  # fmt: skip
    write(run, comparison)
    return comparison


def write(run: Path, comparison: Mapping[str, Any]) -> None:
    (run / "comparison.json").write_text(json.dumps(comparison, indent=1), encoding="utf-8")


def _system(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    failed = sum(bool(row["answers"][name]["failures"]) for row in rows)
    small = name == "nano"
    return {
        "name": name, "kind": "student" if small else "cascade",
        "about": {"cascade": "The embedded cascade.", "cascade-hidden": "The cascade, reading words alone.",
                  "nano": "The nano student, with its thoughts."}[name],
        "settings": {"cues": "hidden"} if name == "cascade-hidden" else {}, "engines": {"asr": "pocketsphinx 5.1"},
        "parameters": 1_234_567 if small else 15_638_363, "answered": len(rows) - failed, "failed": failed,
        "timings": {"load_s": 0.4 if small else 1.2, "peak_memory_mb": 180 if small else 412, "energy_j": None,
                    "energy_note": "this machine has no meter"},
    }  # fmt: skip


def spoilt(comparison: dict[str, Any]) -> dict[str, Any]:
    """The same with something nasty in every text that a person or a model wrote."""
    made: dict[str, Any] = json.loads(json.dumps(comparison))
    made["command"] = made["items"]["name"] = made["timings"]["machine"] = NASTY
    for system in made["systems"]:
        system |= {"about": NASTY, "engines": {NASTY: NASTY}, "settings": {NASTY: NASTY}}
    for measure in made["measures"]:
        measure |= {"title": NASTY, "about": NASTY, "source": NASTY}
        measure["unmeasured"] = measure["unmeasured"] and NASTY
    for row in made["rows"]:
        row["item"]["text"] = NASTY
        for answer in row["answers"].values():
            answer |= {"heard": NASTY, "failures": [NASTY], "listen_back": NASTY, "notes": {NASTY: NASTY}}
            if answer["reply"]:
                answer |= {"reply": NASTY, "thought": NASTY, "strategy": NASTY, "reply_emotion": NASTY}
    return made


# --- rows


def _row(run: Path, at: int) -> dict[str, Any]:
    name, task, text, emotion, age, gender, events, contrast = WRITTEN[at]
    folder = run / "items"
    wave = _sound(folder / f"{name}.wav", 220 + 30 * at, 0.5 + 0.05 * at)
    labels = {"emotion": emotion, "age": age, "gender": gender, "events": events}
    item = Item.model_validate(
        {
            "id": name, "task": task, "text": text, "labels": labels, "contrast": contrast, "group": contrast or name,
            "speaker": f"voice-{at % 3}", "audio": reference(folder / f"{name}.wav", wave, relative_to=folder),
            "check": Check(kind="one_sentence") if task == "instruction" else None,
        }
    )  # fmt: skip
    return {"item": item.model_dump(mode="json"), "answers": {one: _answer(run, one, at) for one in SYSTEMS}}


def _sound(path: Path, hz: float, seconds: float) -> Waveform:
    """A tone that swells and fades."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE)) / RATE
    wave = Waveform((0.3 * np.sin(np.pi * time / seconds) * np.sin(2 * np.pi * hz * time)).astype(np.float32), RATE)
    write_wav(path, wave)
    return wave


def _answer(run: Path, system: str, at: int) -> dict[str, Any]:
    name, _, text, emotion, age, _, events, contrast = WRITTEN[at]
    if (name, system) in CRASHED:
        return {"heard": None, "cues": {}, "reply": None, "audio": None, "failures": ["it died: out of memory"],
                "listen_back": None, "notes": {},
                "values": {f"{cue}_accuracy": [0, 1] for cue, true in (("emotion", emotion), ("age", age)) if true},
                "timings": {"values": {}, "runs": []}}  # fmt: skip
    cues = _cues(system, at, emotion, age, events)
    seen = cues.get("emotion", {}).get("label")
    strategy, voice, reply = REPLIES.get(seen or "", PLAIN)
    audio = f"answers/{system}/{name}.wav"
    _sound(run / audio, 160 + 7 * len(reply) + (90 if system == "nano" else 0), 0.4 + 0.01 * len(reply))
    heard = text.lower().rstrip(".?").replace("the", "a") if system == "nano" else text.lower().rstrip(".?")
    words = text.split()
    wrong = sum(a != b for a, b in zip(text.lower().rstrip(".?").split(), heard.split(), strict=True))
    fits = emotion in REPLIES and seen == emotion
    values: dict[str, list[float]] = {"transcript_wer": [wrong, len(words)], "reply_words": [len(reply.split()), 1]}
    values["empathy"] = [0.9 if fits else 0.5 + 0.02 * (at % 3), 1]
    for cue, true in (("emotion", emotion), ("age", age)):
        if true and cue in cues:
            values[f"{cue}_accuracy"] = [float(cues[cue]["label"] == true), 1]
    if contrast:
        values["contrast_fit"] = [float(fits), 1]
    sound_s = (0.2 if system == "nano" else 0.7) + 0.01 * at
    stages = {stage: seconds + 0.01 * at for stage, seconds in _stages(system).items()}
    return {
        "heard": heard, "cues": cues, "strategy": strategy, "reply_emotion": voice, "reply": reply, "audio": audio,
        "thought": f"They said “{heard}” and sounded {seen or 'unknown'}.", "failures": [], "listen_back": reply.lower(),
        "values": values, "notes": {"empathy": "meets the tone" if fits else "overlooks the tone"},
        "timings": {"values": {"first_sound_s": [sound_s, 1]},
                    "runs": [{"stages_s": stages, "first_sound_s": sound_s, "total_s": sum(stages.values())}]},
    }  # fmt: skip


def _cues(system: str, at: int, emotion: str | None, age: str | None, events: tuple[str, ...]) -> dict[str, Any]:
    """The cascade errs at every fifth and tells one age not at all, nano errs at every third; each is sure in its own way."""
    if system == "cascade-hidden":
        return {}
    best = emotion or "neutral"
    if at % (3 if system == "nano" else 5) == 2:
        best = "neutral" if best != "neutral" else "sad"
    confidence = round(0.3 + (0.053 if system == "nano" else 0.047) * at, 3)
    heard_events = [{"kind": one, "confidence": 0.9} for one in events] if system == "cascade" else []
    told = {"age": {"label": age, "best": age or "adult", "confidence": 0.8 if age else 0.4}}
    return {
        "emotion": {"label": best if confidence >= 0.5 else None, "best": best, "confidence": confidence},
        **({} if (system, at) == ("cascade", 4) else told),
        "events": heard_events,
    }


def _stages(system: str) -> dict[str, float]:
    if system == "nano":
        return {"think": 0.1, "write": 0.05, "speak": 0.3}
    return {"asr": 0.4, "emotion": 0.1, "speaker": 0.05, "events": 0.08, "prosody": 0.2, "reasoning": 0.02, "tts": 0.25}


# --- sums


def _figures(rows: list[dict[str, Any]], *, timing: bool) -> Iterable[dict[str, Any]]:
    for measure in (one for one in MEASURES if one.timing == timing):
        for task in ("all", *dict.fromkeys(row["item"]["task"] for row in rows)):
            for system in SYSTEMS:
                found = _values(rows, measure, task, system)
                if found:
                    yield _figure(measure, task, system, found, rows).model_dump(mode="json")


def _values(rows: list[dict[str, Any]], measure: Measure, task: str, system: str) -> list[list[float]]:
    answers = [row["answers"][system] for row in rows if task in ("all", row["item"]["task"])]
    places = [answer["timings"].get("values", {}) if measure.timing else answer["values"] for answer in answers]
    return [values[measure.name] for values in places if measure.name in values]


def _mean(found: list[list[float]]) -> float:
    return sum(top for top, _ in found) / sum(bottom for _, bottom in found)


def _figure(measure: Measure, task: str, system: str, found: list[list[float]], rows: list[dict[str, Any]]) -> Figure:
    value, few = _mean(found), len(found) < 3
    top = min(1.0, value + 0.08) if measure.unit == "share" else value + 0.08
    other = _values(rows, measure, task, SYSTEMS[0])
    difference = None
    if system != SYSTEMS[0] and other and not few:
        by = value - _mean(other)
        difference = {"to": SYSTEMS[0], "value": by, "low": by - 0.1, "high": by + 0.1, "significant": abs(by) > 0.1}
    ends = {"low": None, "high": None} if few else {"low": max(0.0, value - 0.08), "high": top}
    given = {"measure": measure.name, "task": task, "system": system, "value": value, "items": len(found), **ends}
    return Figure.model_validate({**given, "difference": difference})


def _taken() -> Iterable[dict[str, Any]]:
    """What belongs to a system as a whole, with no items behind it."""
    for system in SYSTEMS:
        about = _system(system, [])
        for measure, value in (
            ("parameters", about["parameters"]),
            ("peak_memory_mb", about["timings"]["peak_memory_mb"]),
        ):
            figure = Figure(measure=measure, task="all", system=system, value=value, low=None, high=None, items=0)
            yield figure.model_dump(mode="json")


def _ece(one: dict[str, Any]) -> dict[str, Any]:
    count = sum(found["count"] for found in one["bins"])
    ends = {"low": one["low"], "high": one["high"]}
    figure = Figure(measure="emotion_ece", task="all", system=one["system"], value=one["ece"], items=count, **ends)
    return figure.model_dump(mode="json")


def _confusions(system: str, rows: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for cue in ("emotion", "age"):
        counts: dict[str, Counter[str]] = {}
        for row in rows:
            true, answer = row["item"]["labels"][cue], row["answers"][system]
            if true and f"{cue}_accuracy" in answer["values"]:
                counts.setdefault(true, Counter())[answer["cues"].get(cue, {}).get("label") or "unknown"] += 1
        if not counts:
            continue
        labels = sorted({*counts, *(label for row in counts.values() for label in row)})
        yield {"system": system, "cue": cue, "labels": labels, "counts": {k: dict(v) for k, v in counts.items()}}


def _calibration(system: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ten bins, each with its upper end."""
    bins: dict[int, list[tuple[float, bool]]] = {at: [] for at in range(10)}
    for row in rows:
        true, cue = row["item"]["labels"]["emotion"], row["answers"][system]["cues"].get("emotion")
        if true and cue:
            bins[math.ceil(round(cue["confidence"] * 10, 9)) - 1].append((cue["confidence"], cue["best"] == true))
    told = [
        {"low": at / 10, "high": (at + 1) / 10, "count": len(found),
         "confidence": sum(c for c, _ in found) / max(1, len(found)),
         "accuracy": sum(right for _, right in found) / max(1, len(found))}
        for at, found in bins.items()
    ]  # fmt: skip
    count = sum(one["count"] for one in told)
    ece = sum(one["count"] * abs(one["accuracy"] - one["confidence"]) for one in told) / count
    return {"system": system, "cue": "emotion", "ece": ece, "low": max(0.0, ece - 0.1), "high": ece + 0.1, "bins": told}
