"""The figures of the README, made again: `python runs/measure.py tone voice latency speech FILE=WORDS …`

tone     ten sentences in five emotions by unseen simulated voices: cues, and whether the reply fits the tone
voice    the reply voice in each reply emotion: listen-back word error, pitch, pace and level against neutral
latency  the example turn: when sound leaves, and what the graph adds to its engines
speech   words heard in recordings of yours, given as path=what is said
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cascade.asr.pocketsphinx import Options, PocketSphinx
from cascade.asr.words import word_error_rate
from cascade.audio import Waveform, joined, read_speech
from cascade.cancel import CancelScope
from cascade.engines import Prompt
from cascade.errors import InputError
from cascade.paralinguistics import prosody
from cascade.paralinguistics.baseline import calibrated
from cascade.profiles import Engines, load_profile
from cascade.tts.emotions import REPLY_SHIFTS
from cascade.turn import REPLY_EMOTIONS, Baseline, Cues, EmotionCue, EngineInfo, Transcript, Turn
from distill.teaching.example import example_sentence
from distill.teaching.voices import Speaker, UserEmotion, say, speakers
from graphs.session import open_session
from graphs.state import Done, Sentence, Sound

TONES: tuple[UserEmotion, ...] = ("neutral", "happy", "sad", "angry", "fearful")
SAID = (
    "I got the job.",
    "My boss wants to talk to me tomorrow.",
    "We are moving to a new city.",
    "My sister is coming to visit us.",
    "The doctor called me this morning.",
    "I have an exam next week.",
    "My daughter is getting married.",
    "I went to the supermarket today.",
    "They are building a road behind our house.",
    "My best friend told me the truth.",
)
CALM = (
    "The table stands by the window.",
    "It is ten past four in the afternoon.",
    "I put the keys on the shelf by the door.",
)
# A reply fits a tone when it is spoken in one of these emotions. Anger is met calmly, fear and sadness warmly.
FITS: dict[UserEmotion, tuple[str, ...]] = {
    "neutral": ("neutral", "happy", "comforting", "sorry"),
    "happy": ("happy", "joyful"),
    "sad": ("comforting", "sorry", "sad", "tearful"),
    "angry": ("neutral", "comforting", "sorry"),
    "fearful": ("comforting",),
}
# What people say elsewhere: the language model of the reply voice is built from the answers to these.
OTHERS = (
    "I failed my driving test again.",
    "My grandmother died last week.",
    "I cannot sleep because of the noise next door.",
    "They gave me the promotion.",
    "My son will not talk to me.",
    "I am flying alone for the first time.",
    "The rent went up and I am worried about money.",
    "We won the final yesterday.",
    "My cat is ill.",
    "I broke up with my partner.",
    "I have a job interview on Monday.",
    "My computer lost all my work.",
    "We had dinner with the neighbours.",
    "I have to go to the hospital.",
    "My friend forgot my birthday.",
    "I am learning to play the piano.",
)


class Given:
    """A recognizer that knows the words: what the cues and the reply are worth without recognition errors."""

    info = EngineInfo(name="given", version="1")

    def __init__(self, text: str) -> None:
        self.text = text

    def transcribe(self, speech: Waveform, *, cancel: CancelScope) -> Transcript:
        return Transcript(text=self.text, engine="given")


def one_turn(home: Path, engines: Engines, baseline: Baseline | None = None, **said: Any) -> tuple[Turn, list[Any]]:
    async def run() -> list[Any]:
        async with open_session(home, "measure", engines, calibration=baseline) as session:
            return [event async for event in session.ask(**said)]

    with tempfile.TemporaryDirectory(dir=home) as folder:
        home = Path(folder)
        events = asyncio.run(run())
    assert isinstance(events[-1], Done)
    return events[-1].turn, events


def tone(home: Path, engines: Engines) -> None:
    adults = [s for s in speakers("unseen") if s.language == "en-us" and s.age == "adult"]
    adults = adults[:: max(1, len(adults) // len(SAID))]  # from all engines
    for name, calm, given in (
        ("cold", False, False),
        ("with three calm sentences of the speaker", True, False),
        ("with three calm sentences of the speaker, and the words given instead of recognized", True, True),
    ):
        print(f"\n== tone, {name}: {len(SAID)} sentences × {len(TONES)} emotions, {len(adults)} unseen voices in turn")
        rows = []
        for number, text in enumerate(SAID):
            speaker = adults[number % len(adults)]
            for emotion in TONES:
                listening = replace(engines, loaded={**engines.loaded, "asr": Given(text)}) if given else engines
                rows.append(toned(home, listening, text, speaker, emotion, calm=calm))
                print(rows[-1]["line"], flush=True)
        for key in ("emotion argmax", "emotion told", "emotion right when told", "gender argmax", "fits"):
            values = [row[key] for row in rows if row[key] is not None]
            print(f"{key}: {sum(values)}/{len(values)}")
        print(f"words: {np.mean([row['wer'] for row in rows]):.2f} mean word error rate")


def toned(
    home: Path, engines: Engines, text: str, speaker: Speaker, emotion: UserEmotion, *, calm: bool
) -> dict[str, Any]:
    turn, _ = one_turn(
        home,
        engines,
        calibration(speaker) if calm else None,
        speech=say(text, speaker, emotion, seed=7, augment=False),
        listen_back=False,
    )
    cue, gender = turn.cues.emotion, turn.cues.gender
    assert turn.transcript is not None
    assert turn.thought is not None
    assert turn.reply is not None, turn.failures
    assert cue is not None
    assert gender is not None
    fits = turn.reply.emotion in FITS[emotion]
    told = cue.label
    heard = f"{emotion:<8}→ {told or 'unknown (' + str(cue.best) + ')':<18}"
    return {
        "emotion argmax": cue.best == emotion,
        "emotion told": told is not None,
        "emotion right when told": None if told is None else told == emotion,
        "gender argmax": gender.best == speaker.gender,
        "fits": fits,
        "wer": word_error_rate(text, turn.transcript.text),
        "line": f"{'fits ' if fits else 'MISFIT'} {heard} [{text} | {turn.transcript.text}] "
        f"{turn.thought.strategy}/{turn.reply.emotion}: {turn.reply.text}",
    }


def calibration(speaker: Speaker) -> Baseline | None:
    try:
        return calibrated([say(line, speaker, "neutral", seed=100 + i, augment=False) for i, line in enumerate(CALM)])
    except InputError as error:
        print(f"({speaker.engine} {speaker.voice} read cold: {error})")
        return None


def voice(home: Path, engines: Engines) -> None:
    expected, replies = written_replies(engines)
    lines = home / "replies.txt"
    lines.write_text("\n".join(expected))
    domain = PocketSphinx(Options(language_model=lines))
    verbatim = sum(reply in expected for reply in replies)
    print(
        f"\n== voice: word error of {len(replies)} reply sentences as the generic recognizer hears them, and with a language"
        f"\nmodel of {len(expected)} sentences it writes to other words ({verbatim} of these among them)"
    )
    calm = measured(engines, "neutral", replies)
    for emotion in REPLY_EMOTIONS:
        waves = spoken(engines, emotion, replies)
        errors = [
            np.mean([word_error_rate(text, ears.transcribe(w, cancel=CancelScope()).text) for text, w in waves])
            for ears in (engines["asr"], domain)
        ]
        got, meant = measured(engines, emotion, replies), REPLY_SHIFTS[emotion]
        pitch, pace, level = got[0] - calm[0], calm[1] / got[1], got[2] - calm[2]
        print(
            f"{emotion:<11} generic {errors[0]:.2f}  domain {errors[1]:.2f}   pitch {pitch:+5.1f} st"
            f" ({meant.pitch_st:+.1f} meant)   pace × {pace:.2f} ({meant.rate:.2f})"
            f"   level {level:+5.1f} dB ({meant.gain_db:+.1f})"
        )
    domain.close()


def written_replies(engines: Engines) -> tuple[list[str], list[str]]:
    """Sentences the counsellor writes: to `OTHERS` in many ways, for the language model; and to `SAID`, to be spoken."""
    expected = {
        line for text in OTHERS for tone in TONES for seed in range(4) for line in written(engines, text, tone, seed)
    }
    replies = [line for text, tone in zip(SAID, TONES * 2, strict=True) for line in written(engines, text, tone, 0)]
    return sorted(expected), list(dict.fromkeys(replies))[:12]


def written(engines: Engines, text: str, tone: UserEmotion, seed: int) -> list[str]:
    cue = EmotionCue(probabilities={tone: 1.0}, engine="given")
    prompt = Prompt(Transcript(text=text, engine="typed"), Cues(emotion=cue), seed=seed)
    return [item for item in engines["reasoning"].respond(prompt, cancel=CancelScope()) if isinstance(item, str)]


def spoken(engines: Engines, emotion: Any, replies: list[str]) -> list[tuple[str, Waveform]]:
    arguments: dict[str, Any] = {"emotion": emotion, "intensity": 0.7, "rate": 1.0, "seed": 0, "cancel": CancelScope()}
    return [(text, engines["tts"].speak(text, **arguments).wave) for text in replies]


def measured(engines: Engines, emotion: Any, replies: list[str]) -> tuple[float, float, float]:
    """Pitch in semitones, seconds, level in dB of all replies together."""
    whole = joined([wave for _, wave in spoken(engines, emotion, replies)])
    found = prosody.load(prosody.Options()).analyze(whole, baseline=None, cancel=CancelScope()).prosody
    assert found is not None
    assert found.pitch_hz is not None
    return 12 * float(np.log2(found.pitch_hz)), whole.duration_s, whole.level_dbfs


def latency(home: Path, engines: Engines, turns: int = 10) -> None:
    speech, about = example_sentence()
    print(f"\n== latency: {about}")
    extra, first, last = [], [], []
    for _ in range(turns):
        turn, events = one_turn(home, engines, speech=speech)
        stages = turn.timings.stages_s
        listening = max(stages[s] for s in ("asr", "emotion", "speaker", "events", "prosody"))
        # The counsellor composes before its first sentence leaves, so that speaking only begins after it.
        extra.append(turn.timings.total_s - listening - stages["reasoning"] - stages["tts"])
        first.append(next(event.at_s for event in events if isinstance(event, Sound)))
        last.append([event.at_s for event in events if isinstance(event, Sentence)][-1])
    sounds = [event.at_s for event in events if isinstance(event, Sound)]
    print(f"first sound {median(first):.2f} s; last sentence handed to the voice at {median(last):.2f} s")
    print(f"one turn: sounds leave at {', '.join(f'{at:.2f}' for at in sounds)} s")
    print(
        f"graph beyond its engines: median {median(extra) * 1000:.1f} ms, most {max(extra) * 1000:.1f} ms of {turns} turns"
    )


def speech(home: Path, engines: Engines, given: list[str]) -> None:
    print("\n== speech")
    for item in given:
        path, _, words = item.partition("=")
        turn, _ = one_turn(home, engines, speech=read_speech(path), listen_back=False)
        assert turn.transcript is not None
        assert turn.reply is not None
        wrong = word_error_rate(words, turn.transcript.text)
        print(f"{path}: word error rate {wrong:.2f}\n  heard: {turn.transcript.text}\n  reply: {turn.reply.text}")


def main(arguments: list[str]) -> None:
    given = [argument for argument in arguments if "=" in argument]
    sections: dict[str, Callable[[Path, Engines], None]] = {
        "tone": tone,
        "voice": voice,
        "latency": latency,
        "speech": lambda home, engines: speech(home, engines, given),
    }
    asked = [argument for argument in arguments if "=" not in argument]
    unknown = [name for name in asked if name not in sections]
    if unknown or not asked:
        sys.exit(f"measure: {' '.join(unknown) or 'nothing'} asked; legal: {', '.join(sections)}")
    engines = Engines.load(load_profile("embedded"))
    with tempfile.TemporaryDirectory() as home:
        for name in asked:
            sections[name](Path(home), engines)
    engines.close()


if __name__ == "__main__":
    main(sys.argv[1:])
