"""Commands of training, for the command line: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def analyzer() -> None:
    """Train or score the acoustic classifier."""


@analyzer.command()
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write to."
)
@click.option("--clips", default=4200, show_default=True, type=click.IntRange(min=200), help="Clips to synthesize.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes that synthesize.")
def train(out: Path, clips: int, seed: int, workers: int) -> None:
    """Train it anew on speech it synthesizes.

    Writes acoustic.npz and acoustic.json, its card.
    """
    from cascade.errors import InputError
    from distill.training.analyzer import shown, train

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error

    def progress(done: int, of: int) -> None:
        click.echo(f"\r{done} of {of} speakers measured", nl=done == of, err=True)

    card = train(out, clips=clips, seed=seed, workers=workers, progress=progress)
    click.echo(shown(card["unseen_speakers"]))
    click.echo(f'Kept {out / "acoustic.npz"}. Use it: weights = "…" under [emotion] and [speaker] of a profile.')


@analyzer.command()
@click.argument("labels", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--seed", default=0, show_default=True, help="Which three neutral clips of a speaker are the baseline.")
def score(labels: Path, seed: int) -> None:
    """Score it on your labelled recordings.

    LABELS is a CSV with the columns file, emotion, gender, and if known age and speaker.
    """
    from distill.training.analyzer import score, shown

    click.echo(shown(score(labels, seed=seed)))
