"""Training and scoring of the small acoustic classifier: simulated speakers in, `acoustic.npz` and its card out.

    from distill.training.analyzer import train, score, shown
    card = train(Path("cascade/paralinguistics"), clips=4200, seed=1)
    print(shown(score(Path("labels.csv"))))

No real speech is used for training. Each simulated speaker says four calm sentences and two in every other emotion,
through one room and microphone; one head learns to read a clip cold, one against the mean of other calm clips of the
same speaker. Probabilities and thresholds come from speakers whose synthesizer voice was held out.
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cascade.audio import read_speech
from cascade.errors import EngineUnavailable, InputError
from cascade.needs import extra
from cascade.paralinguistics.acoustic import AGE_REASON, LIMIT, Head, difference, heads
from cascade.paralinguistics.features import measured
from cascade.turn import EMOTIONS, GENDERS, Baseline
from distill.teaching.rooms import draw_channel
from distill.teaching.voices import USER_EMOTIONS, Speaker, missing_engines, say, speakers

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Progress = Callable[[int, int], None]

CALM_SENTENCES, MOVED_SENTENCES = 4, 2
CLIPS_PER_SPEAKER = CALM_SENTENCES + MOVED_SENTENCES * (len(USER_EMOTIONS) - 1)
BASELINE_CLIPS = 3
INVERSE_REGULARISATION = {"emotion": 0.02, "gender": 0.2}  # small: few effective parameters
# How often met, against the four plain ones: balanced training alone would find disgust everywhere.
PRIOR = {"fearful": 0.8, "surprised": 0.7, "disgusted": 0.5}
PRECISION = {"emotion_cold": 0.75, "emotion_relative": 0.85, "gender_cold": 0.95, "gender_calm": 0.97}
FOLDS = 5
LEFT_OUT = ("level_dbfs",)  # the gain and the distance of the microphone, not the voice

SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "I have been waiting here for almost an hour.", "They moved the meeting to Thursday afternoon.",
        "My sister called me again last night.", "The bus was late, so I walked home.",
        "We are going to paint the kitchen tomorrow.", "You left your jacket on the chair.",
        "It has been raining since the morning.", "He told me about it when I came back.",
        "There is a letter for you on the table.", "She wants to talk about the trip.",
    ),
    "de": (
        "Ich warte hier schon fast eine Stunde.", "Der Termin ist jetzt am Donnerstag.",
        "Meine Schwester hat wieder angerufen.", "Wir streichen morgen die Küche.",
        "Die Jacke hängt noch über dem Stuhl.", "Es regnet schon seit dem Morgen.",
    ),
    "es": (
        "Llevo casi una hora esperando aquí.", "La reunión será el jueves por la tarde.",
        "Mi hermana me llamó otra vez anoche.", "Mañana vamos a pintar la cocina.",
        "El libro está encima de la mesa.", "Llueve desde esta mañana.",
    ),
    "it": (
        "Aspetto qui da quasi un'ora.", "La riunione è giovedì pomeriggio.",
        "Mia sorella mi ha chiamato di nuovo ieri.", "Domani dipingiamo la cucina.",
        "Il libro è ancora sulla sedia.", "Piove da questa mattina.",
    ),
    "nl": (
        "Ik wacht hier al bijna een uur.", "De vergadering is donderdagmiddag.", "Mijn zus belde gisteren weer.",
        "Morgen gaan we de keuken verven.", "Het boek ligt nog op de stoel.", "Het regent al sinds vanochtend.",
    ),
    "sv": (
        "Jag har väntat här i nästan en timme.", "Mötet är på torsdag eftermiddag.", "Min syster ringde igen i går.",
        "I morgon ska vi måla köket.", "Boken ligger kvar på stolen.", "Det har regnat sedan i morse.",
    ),
    "fr": (
        "J'attends ici depuis presque une heure.", "La réunion est jeudi après-midi.",
        "Ma soeur m'a encore appelé hier.", "Demain on va peindre la cuisine.",
        "Le livre est encore sur la chaise.", "Il pleut depuis ce matin.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """One measured clip: who, which synthesizer voice, how, and its features."""

    speaker: str
    voice: str
    engine: str
    gender: str
    age: str
    emotion: str
    values: dict[str, float]


# --- corpus -------------------------------------------------------------------------------------------------


def session(task: tuple[Speaker, int]) -> list[Clip]:
    """All clips of one simulated speaker in one room."""
    speaker, seed = task
    rng = np.random.default_rng([seed, int.from_bytes(speaker.name.encode()[-6:], "big")])
    sentences = SENTENCES[speaker.language[:2]]
    channel, clips = draw_channel(rng), []
    for number, index in enumerate(rng.choice(len(sentences), CALM_SENTENCES, replace=False)):
        for emotion in USER_EMOTIONS:
            if emotion != "neutral" and number >= MOVED_SENTENCES:
                continue
            found = measured(say(sentences[index], speaker, emotion, seed=seed * 100 + number, channel=channel))
            if found.values:
                voice = f"{speaker.engine}:{speaker.voice}"
                clips.append(
                    Clip(speaker.name, voice, speaker.engine, speaker.gender, speaker.age, emotion, found.values)
                )
    return clips


def corpus(people: Sequence[Speaker], seed: int, *, workers: int = 1, progress: Progress | None = None) -> list[Clip]:
    """Sessions of all `people` whose synthesizer is installed, in their order whatever the number of workers."""
    tasks = [(person, seed) for person in people if person.engine not in missing_engines()]
    clips: list[Clip] = []
    with ProcessPoolExecutor(workers) as pool:
        for done, found in enumerate(pool.map(session, tasks), start=1):
            clips += found
            if progress:
                progress(done, len(tasks))
    return clips


def chosen(split: Any, count: int, seed: int) -> list[Speaker]:
    """`count` speakers of a split, drawn; more than there are means all."""
    people = speakers(split)
    order = np.random.default_rng(seed).permutation(len(people))[:count]
    return [people[i] for i in sorted(order)]


# --- fitting ------------------------------------------------------------------------------------------------


def relative(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """Each clip against the mean of up to three other calm clips of its speaker."""
    rng, out = np.random.default_rng(seed), []
    calm: dict[str, list[Clip]] = {}
    for clip in clips:
        if clip.emotion == "neutral":
            calm.setdefault(clip.speaker, []).append(clip)
    for clip in clips:
        others = [c for c in calm.get(clip.speaker, []) if c is not clip]
        if others:
            picked = [others[i] for i in rng.permutation(len(others))[:BASELINE_CLIPS]]
            out.append(replace(clip, values=difference(clip.values, mean_of(picked))))
    return out


def mean_of(clips: Sequence[Clip]) -> Baseline:
    features = {name: float(np.mean([c.values[name] for c in clips])) for name in clips[0].values}
    return Baseline(engine="acoustic", source="calibration", features=features, clips=len(clips))


def fitted(clips: Sequence[Clip], target: str, names: Sequence[str], precision: float) -> tuple[Head, dict[str, float]]:
    """One head, its temperature and threshold from held-out voices; and what that test gave, as often as met."""
    x = np.array([[clip.values[name] for name in names] for clip in clips])
    y = np.array([getattr(clip, target) for clip in clips])
    groups = np.array([clip.voice for clip in clips])
    model_selection = _sklearn("model_selection")
    scores = np.zeros((len(y), len(set(y))))
    for fit, test in model_selection.GroupKFold(FOLDS).split(x, y, groups):
        head = _regression(x[fit], y[fit], names, target)
        scores[test] = _scores(head, x[test])
    labels = np.array(head.labels)
    temperature = float(min(np.geomspace(0.5, 4, 40), key=lambda t: _loss(scores / t, labels, y)))
    log_prior = np.log([PRIOR.get(label, 1.0) for label in head.labels])
    odds = _softmax(scores / temperature + log_prior)
    met = np.array([PRIOR.get(label, 1.0) / np.mean(y == label) for label in y])  # weight of each clip
    right = labels[odds.argmax(axis=1)] == y
    threshold = _threshold(odds.max(axis=1), right, met, precision, 1.2 / len(labels))
    whole = _regression(x, y, names, target)
    bias = whole.bias / temperature + log_prior
    final = replace(whole, weights=whole.weights / temperature, bias=bias, threshold=threshold)
    told = odds.max(axis=1) >= threshold
    return final, {
        "accuracy": round(float(np.average(right, weights=met)), 3),
        "temperature": round(temperature, 3),
        "threshold": round(threshold, 3),
        "told": round(float(np.average(told, weights=met)), 3),
        "right_when_told": round(float(np.average(right[told], weights=met[told])), 3) if told.any() else 0.0,
    }


def _regression(x: Array, y: Array, names: Sequence[str], target: str) -> Head:
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-9
    strength = INVERSE_REGULARISATION[target]
    model = _sklearn("linear_model").LogisticRegression(C=strength, max_iter=2000, class_weight="balanced")
    model.fit(np.clip((x - mean) / scale, -LIMIT, LIMIT), y)
    weights, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row for the second class: give the first its opposite
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return Head(tuple(names), tuple(str(c) for c in model.classes_), mean, scale, weights, bias, 0.5)


def _sklearn(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise EngineUnavailable(f"training the analyzer needs scikit-learn: {extra('analyzer')}") from error


def _scores(head: Head, x: Array) -> Array:
    return np.asarray(np.clip((x - head.mean) / head.scale, -LIMIT, LIMIT) @ head.weights.T + head.bias)


def _softmax(scores: Array) -> Array:
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _loss(scores: Array, labels: Array, y: Array) -> float:
    at = np.searchsorted(labels, y)
    return float(-np.log(_softmax(scores)[np.arange(len(y)), at] + 1e-9).mean())


def _threshold(best: Array, right: Any, met: Array, precision: float, lowest: float) -> float:
    """The lowest probability at and above which `precision` of the clips are right; 0.95 when none reaches it."""
    for threshold in np.arange(max(lowest, 0.34), 0.95, 0.01):
        told = best >= threshold
        if told.sum() >= 20 and np.average(right[told], weights=met[told]) >= precision:
            return float(threshold)
    return 0.95


def train(
    out: Path, *, clips: int = 4200, seed: int = 1, workers: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Make the corpus, fit, test on speakers with unseen voices, write acoustic.npz and acoustic.json; returns the
    card.

    Raises EngineUnavailable. Same arguments and the same synthesizers: the same files.
    """
    _sklearn("linear_model")
    seen = corpus(chosen("train", max(20, clips // CLIPS_PER_SPEAKER), seed), seed, workers=workers, progress=progress)
    unseen = corpus(
        chosen("unseen", max(10, clips // CLIPS_PER_SPEAKER // 3), seed), seed + 1, workers=workers, progress=progress
    )
    names = [name for name in seen[0].values if name not in LEFT_OUT]
    grown_up = [clip for clip in seen if clip.age != "child"]
    calm = [clip for clip in grown_up if clip.emotion == "neutral"]
    tasks = {
        "emotion_cold": (seen, "emotion"),
        "emotion_relative": (relative(seen, seed), "emotion"),
        "gender_cold": (grown_up, "gender"),
        "gender_calm": (calm, "gender"),
    }
    made, held_out = {}, {}
    for name, (rows, target) in tasks.items():
        made[name], held_out[name] = fitted(rows, target, names, PRECISION[name])
    card = {
        "what": "emotion and gender from the sound of the voice; multinomial logistic regression on acoustic features",
        "trained_on": "simulated speech only: synthesizers moved by WORLD, recipes in distill/teaching/voices.py",
        "arguments": {"clips": clips, "seed": seed},
        "clips": {"train": len(seen), "unseen": len(unseen)},
        "speakers": {"train": len({c.speaker for c in seen}), "unseen": len({c.speaker for c in unseen})},
        "synthesizers": {"train": sorted({c.engine for c in seen}), "unseen": sorted({c.engine for c in unseen})},
        "synthesizers_missing": missing_engines(),
        "features": names,
        "prior": PRIOR,
        "held_out_voices": held_out,
        "unseen_speakers": scored(unseen, made, seed),
        "limits": [
            "simulated emotion is not felt emotion: expect less on people, and less still on weak emotion",
            "a telephone that cuts off what lies below 200 Hz, and noise within 15 dB of the voice, spoil the pitch",
            "read cold, a voice that is bright, high or fast by nature looks moved: calibrate",
            f"age: {AGE_REASON} (as tried: recall .56 of three ages on unseen voices, chance .33)",
            "gender is the usual sound of adult voices of women and men; children are not told apart",
        ],
    }
    _write(out, made, card)
    return card


def _write(out: Path, made: dict[str, Head], card: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {}
    for name, head in made.items():
        arrays |= {
            f"{name}.{key}": getattr(head, key).astype(np.float32) for key in ("mean", "scale", "weights", "bias")
        }
        arrays |= {f"{name}.names": np.array(head.names), f"{name}.labels": np.array(head.labels)}
        arrays[f"{name}.threshold"] = np.float64(head.threshold)
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "acoustic.npz", **arrays)
    (out / "acoustic.json").write_text(json.dumps(card, indent=1) + "\n")


# --- scoring ------------------------------------------------------------------------------------------------


def score(labels_csv: Path, *, heads_: dict[str, Head] | None = None, seed: int = 0) -> dict[str, Any]:
    """Score labelled recordings. CSV columns: file (relative to the CSV), emotion, gender, and if known age and
    speaker.

    Without a speaker column, gender and age together stand for the speaker, and the result says so. Raises InputError.
    """
    rows = _rows(labels_csv)
    clips, unreadable = [], []
    for row in rows:
        who = row.get("speaker") or f"{row['gender']} {row.get('age', '')}".strip()
        found = measured(read_speech(labels_csv.parent / row["file"]))
        if found.values:
            clips.append(Clip(who, who, "recorded", row["gender"], row.get("age", ""), row["emotion"], found.values))
        else:
            unreadable.append(f"{row['file']}: {found.reason}")
    result = scored(clips, heads_ or heads(), seed)
    result["unmeasurable"] = unreadable
    result["speakers_from"] = "speaker column" if "speaker" in rows[0] else "gender and age: no speaker column"
    return result


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a CSV with the columns file,emotion,gender[,age][,speaker]")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    gone = {"file", "emotion", "gender"} - set(rows[0] if rows else ())
    if gone:
        raise InputError(
            f"{path}: no column {sorted(gone)[0]!r}, or no row; needed: file,emotion,gender[,age][,speaker]"
        )
    for number, row in enumerate(rows, start=2):
        if row["emotion"] not in EMOTIONS or row["gender"] not in GENDERS:
            raise InputError(
                f"{path}: line {number}: emotion {row['emotion']!r}, gender {row['gender']!r};"
                f" legal: {', '.join(EMOTIONS)}; {', '.join(GENDERS)}"
            )
    return rows


def scored(clips: Sequence[Clip], made: dict[str, Head], seed: int) -> dict[str, Any]:
    """Emotion cold and with a baseline of three calm clips per speaker (left out of the test), and gender."""
    rng = np.random.default_rng(seed)
    base: dict[str, Baseline] = {}
    used: set[int] = set()
    for who in dict.fromkeys(clip.speaker for clip in clips):
        calm = [i for i, c in enumerate(clips) if c.speaker == who and c.emotion == "neutral"]
        if calm:
            picked = [int(i) for i in rng.permutation(calm)[:BASELINE_CLIPS]]
            base[who] = mean_of([clips[i] for i in picked])
            used.update(picked)
    rest = [clip for i, clip in enumerate(clips) if i not in used and clip.speaker in base]
    against = [replace(clip, values=difference(clip.values, base[clip.speaker])) for clip in rest]
    own = [replace(clip, values=base[clip.speaker].features) for clip in rest]
    adults = [c.age != "child" for c in rest]
    return {
        "emotion_cold": _table(clips, "emotion", made["emotion_cold"]),
        "emotion_baseline": _table(against, "emotion", made["emotion_relative"]),
        "gender_cold": _table([c for c in clips if c.age != "child"], "gender", made["gender_cold"]),
        "gender_baseline": _table([c for c, ok in zip(own, adults, strict=True) if ok], "gender", made["gender_calm"]),
    }


def _table(clips: Sequence[Clip], target: str, head: Head) -> dict[str, Any]:
    """Confusion of the best label among those present in the clips, and how often the label is told and right."""
    truth = [getattr(clip, target) for clip in clips]
    present = [label for label in head.labels if label in truth]
    counts = {label: dict.fromkeys(present, 0) for label in present}
    told, right = 0, 0
    for clip, label in zip(clips, truth, strict=True):
        odds = head.probabilities(clip.values)
        if label in counts:
            counts[label][max(present, key=lambda name: odds[name])] += 1
        best = max(odds, key=lambda name: odds[name])
        if odds[best] >= head.threshold:
            told, right = told + 1, right + (best == label)
    recalls = [row[label] / max(1, sum(row.values())) for label, row in counts.items()]
    return {
        "n": len(clips),
        "labels": present,
        "uar": round(float(np.mean(recalls)), 3) if recalls else None,
        "confusion": [[counts[a][b] for b in present] for a in present],
        "told": round(told / max(1, len(clips)), 3),
        "right_when_told": round(right / told, 3) if told else None,
    }


def shown(result: dict[str, Any]) -> str:
    """The scores as text: rows are the truth, columns the best label among those present."""
    lines: list[str] = []
    for name, table in result.items():
        if not isinstance(table, dict):
            continue
        uar, when = table["uar"], table["right_when_told"]
        lines.append(f"{name}: unweighted average recall {uar} over {table['n']} clips, best label among those present")
        lines.append(f"  told {table['told']} of the clips (the others unknown), right when told {when}")
        lines.append(" " * 12 + "".join(f"{label:>10}" for label in table["labels"]))
        for label, row in zip(table["labels"], table["confusion"], strict=True):
            lines.append(f"{label:>12}" + "".join(f"{count:>10}" for count in row))
    for key in ("speakers_from", "unmeasurable"):
        if result.get(key):
            lines.append(f"{key}: {result[key]}")
    return "\n".join(lines)
