"""A turn, as a person reads it in a terminal: plain lines, one label a line, bars with their confidence."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from cascade.turn import Cue, Cues, Failure, Prosody, Stage, Thought, Transcript, Turn
from graphs.state import Answered, Done, Event, Heard, Perceived, Sentence, Thinking

LABEL_WIDTH = 9
BAR_CELLS = 10
SHOWN_SHARE = 0.10  # a less probable emotion gets no bar

NOT_HEARD: dict[Stage, str] = {
    "asr": "the words",
    "emotion": "the emotion",
    "speaker": "who speaks",
    "events": "vocal events",
    "prosody": "the voice's movement",
}


def line(label: str, text: str, *, dim: bool = False) -> str:
    """One labelled paragraph, wrapped to the terminal, its continuation under its text."""
    width = min(shutil.get_terminal_size().columns, 100) - LABEL_WIDTH - 2
    wrapped = textwrap.wrap(text, max(width, 20)) or [""]
    rows = [
        click.style(f"{label:>{LABEL_WIDTH}}", fg="cyan")
        + "  "
        + (click.style(wrapped[0], dim=True) if dim else wrapped[0])
    ]
    rows += [" " * (LABEL_WIDTH + 2) + (click.style(row, dim=True) if dim else row) for row in wrapped[1:]]
    return "\n".join(rows)


def bar(share: float) -> str:
    """0..1 as a bar of ten cells; ASCII where the terminal may not show blocks."""
    full = round(share * BAR_CELLS)
    blocks = "UTF" in (os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or "").upper()
    return "█" * full + "░" * (BAR_CELLS - full) if blocks else "#" * full + "." * (BAR_CELLS - full)


def heard(transcript: Transcript | None) -> str:
    if transcript is None:
        return line("heard", "nothing: the recognizer failed")
    sure = (
        ""
        if transcript.confidence is None or transcript.engine == "typed"
        else f"   ({transcript.confidence:.2f} sure)"
    )
    return line(
        "heard", f"“{transcript.text}”{sure}" if transcript.text else "speech, but no word that could be recognised"
    )


def sounded(cues: Cues) -> Iterator[str]:
    """Emotion bars, then age and gender, events, prosody; unknown is said."""
    yield from _emotion(cues.emotion)
    events = cues.events
    if events is None or events.events is None:
        told = "vocal events unknown"
    else:
        timed = (f"{e.kind}{'' if events.reason else f' at {e.start_s:.1f} s'}" for e in events.events)
        told = ", ".join(timed) or "no vocal events"
    yield line("", " · ".join([_one("gender", cues.gender), _one("age", cues.age), told]))
    if cues.prosody is not None and (measures := _prosody(cues.prosody)):
        yield line("", measures, dim=True)


def _emotion(cue: Cue | None) -> Iterator[str]:
    if cue is None or not cue.probabilities:
        yield line("sounded", f"emotion unknown{f' ({cue.reason})' if cue and cue.reason else ''}")
        return
    ranked = sorted(cue.probabilities.items(), key=lambda pair: -pair[1])
    rows = [f"{name:<10}{bar(share)} {share:.2f}" for name, share in ranked if share >= SHOWN_SHARE] or [
        "no emotion stands out"
    ]
    if cue.label is None:
        rows[0] += f"   unknown: below {cue.threshold:.2f}"
    for index, row in enumerate(rows):
        yield click.style(f"{'sounded' if index == 0 else '':>{LABEL_WIDTH}}", fg="cyan") + "  " + row


def _one(name: str, cue: Cue | None) -> str:
    if cue is None or cue.label is None:
        return f"{name} unknown"
    return f"{cue.label} {cue.confidence:.2f}"


def _prosody(prosody: Prosody) -> str:
    parts = [
        (prosody.pitch_hz, "pitch {:.0f} Hz"),
        (prosody.pitch_range_st, "range {:.0f} st"),
        (prosody.rate_syllables_s, "{:.1f} syllables/s"),
        (prosody.level_dbfs, "level {:.0f} dBFS"),
        (prosody.pauses, "{} pause" if prosody.pauses == 1 else "{} pauses"),
    ]
    return " · ".join(form.format(value) for value, form in parts if value is not None)


def thought(thinking: Thought) -> str:
    # A student may think in tags; they are wrapped as words are.
    return line("thought", thinking.language().replace("<", " <").strip(), dim=True)


def failures(found: tuple[Failure, ...]) -> Iterator[str]:
    """What did not work, and so what was not heard."""
    for failure in found:
        lost = f"did not hear {NOT_HEARD[failure.stage]}: " if failure.stage in NOT_HEARD else ""
        yield line("problem", f"{lost}{failure.stage} {failure.kind}: {failure.message}")


def latency(turn: Turn) -> str:
    timings = turn.timings
    stages = " · ".join(f"{name} {seconds:.2f}" for name, seconds in timings.stages_s.items())
    parts = [f"{stages} s"]
    if timings.first_sound_s is not None:
        parts.insert(0, f"first sound after {timings.first_sound_s:.2f} s")
    factor = timings.real_time_factor(turn.reply_audio.duration_s) if turn.reply_audio else None
    if factor is not None:
        parts.append(f"real-time factor {factor:.2f}")
    answerer = turn.engines.get("reasoning")
    if answerer and (peak_mb := answerer.options.get("peak_memory_mb")):
        parts.append(f"peak memory {peak_mb} MB")
    return line("latency", " | ".join(parts), dim=True)


def scores(turn: Turn) -> Iterator[str]:
    """What the judge measured, what it found wrong, and what it could not measure."""
    if turn.scores is None:
        yield line("judged", "not judged")
        return
    given = turn.scores
    measured = [
        (given.reply_wer, "listen-back word error {:.2f}"),
        (given.emotion_agreement, "sounds as meant {:.2f}"),
        (given.speech_quality, "DNSMOS {:.1f} of 5"),
        (given.empathy, "empathy {:.2f}"),
    ]
    yield line("judged", " · ".join(form.format(value) for value, form in measured if value is not None), dim=True)
    for opinion in given.opinions:
        scale = "of 5" if opinion.scale == "emotion_1_5" else f"of 100 for {opinion.task}"
        yield line("", f"{opinion.judge}: {opinion.score:.3g} {scale}: {opinion.reason}", dim=True)
    for complaint in given.complaints:
        yield line("", f"complaint: {complaint}", dim=True)
    for lacking in given.unmeasured:
        yield line("", f"not measured: {lacking}", dim=True)


class Silent:
    """Shows nothing: for a caller who reads the record."""

    def __call__(self, event: Event) -> None: ...


class Screen:
    """Prints a turn as it happens. `folder`: where the session's files lie, to say where the reply was saved."""

    def __init__(self, *, think: bool, folder: Path | None = None) -> None:
        self.think, self.folder = think, folder

    def __call__(self, event: Event) -> None:
        match event:
            case Perceived():
                typed = event.transcript is not None and event.transcript.engine == "typed"
                _print(*([] if typed else [heard(event.transcript), *sounded(event.cues)]))
            case Thinking() if self.think:
                _print(thought(event.thought))
            case Sentence():
                _print(line("reply" if event.index == 0 else "", event.text))
            case Heard() if event.failure:
                _print(*failures((event.failure,)))
            case Answered():
                _print(*failures(event.failures))
            case Done():
                self._done(event.turn)

    def _done(self, turn: Turn) -> None:
        _print(latency(turn), *(scores(turn) if turn.scores else []))
        if self.folder and turn.reply_audio:
            saved(self.folder / turn.reply_audio.path)


def saved(path: Path) -> None:
    _print(click.style(f"{'saved':>{LABEL_WIDTH}}", fg="cyan") + f"  {path}")  # never wrapped: it is there to be copied


def stopped(turn: Turn) -> None:
    """After a turn whose reply was not heard to its end: the person stopped it, or it failed."""
    if turn.heard_text is not None:
        failed = any(failure.stage in ("reasoning", "tts") for failure in turn.failures)
        _print(line("no answer" if failed else "stopped", f"you heard: {turn.heard_text or 'nothing'}"))


def _print(*rows: str) -> None:
    for row in rows:
        click.echo(row)
