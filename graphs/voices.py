"""`attune voices`: the clips that F5-TTS speaks after."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from graphs.options import FAILED, AtLeastZero, engine_options, home_option


@click.group()
def voices() -> None:
    """Keep the clips that F5-TTS speaks after: one voice, a clip for each emotion."""


def bank_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--bank, and --home in which a name is sought."""
    return click.option(
        "--bank", default="default", show_default=True, help="A bank's name, or a folder (./…, ~/…, /…)."
    )(home_option(command, given=False))


@voices.command()
@click.argument("emotion")
@click.argument("wav", type=click.Path(path_type=Path))
@click.option("--text", required=True, help="The words of the clip, all of them.")
@click.option("--speed", default=1.0, show_default=True, help="How fast to speak after it; 1 = as the clip (0.5 to 2).")
@bank_option
def add(emotion: str, wav: Path, text: str, speed: float, bank: str) -> None:
    """Add a clip of 2 to 12 seconds, in place of an earlier one of that emotion.

    EMOTION is a reply emotion; a bank needs neutral. WAV is a WAV, FLAC, OGG or MP3 file.
    """
    from cascade.tts.clip_check import check_clip
    from cascade.tts.voice_bank import add_clip, bank_folder

    clip = add_clip(bank_folder(bank), emotion, wav, text, speed)
    for finding in check_clip(clip.wave(), clip.text):
        click.echo(f"attune: {emotion}: {finding.what}", err=True)
    click.echo(f"Kept {clip.wav}")


@voices.command()
@click.argument("emotion")
@bank_option
def remove(emotion: str, bank: str) -> None:
    """Take a clip out of a bank, and delete its file if it lies in the bank's folder."""
    from cascade.tts.voice_bank import add_line, bank_folder, remove_clip

    folder = bank_folder(bank)
    clip = remove_clip(folder, emotion)
    click.echo(f"Removed {emotion}: {clip.wav}{' (the file stays)' if clip.wav.exists() else ''}")
    if emotion == "neutral":
        line = add_line("neutral", folder)
        click.echo(f"attune: without neutral the bank cannot be used; do: {line}", err=True)


@voices.command("list")
@bank_option
def list_voices(bank: str) -> None:
    """Show a bank: each emotion's clip, or whose clip is used for it."""
    from cascade.tts.voice_bank import bank_folder, listing, read_bank

    click.echo("\n".join(listing(read_bank(bank_folder(bank)))))


@voices.command()
@bank_option
@click.option("--no-listen", is_flag=True, help="Do not compare each text with what the profile's recognizer hears.")
@click.option(
    "--max-wer",
    default=0.3,
    show_default=True,
    type=AtLeastZero(),
    help="Highest word error of a clip that was listened to.",
)
@engine_options
def check(bank: str, no_listen: bool, max_wer: float, profile: str, swaps: tuple[str, ...]) -> None:
    """Check every clip: length, level, silence, and whether its text is what is said."""
    from cascade.engines import load_engine
    from cascade.profiles import load_profile
    from cascade.tts.voice_bank import bank_folder, examined, read_bank

    recognizer: Any = None
    if not no_listen:
        asr = load_profile(profile, swaps).stages["asr"]
        recognizer = load_engine("asr", asr.engine, asr.options)
    try:
        lines, well = examined(read_bank(bank_folder(bank)), recognizer, max_wer=max_wer)
    finally:
        if hasattr(recognizer, "close"):
            recognizer.close()
    click.echo("\n".join(lines))
    sys.exit(0 if well else FAILED)
