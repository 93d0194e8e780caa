"""`attune consent`, for the command line: parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from graphs.options import FAILED, home_option

stream_option = click.option(
    "--stream", metavar="URL", help="A Redis stream: redis://HOST:PORT/DB or unix:///PATH [this machine]."
)


@click.group()
def consent() -> None:
    """Give what you say in chats to teach a model, and take it back."""


@consent.command()
@home_option
def show(home: Path) -> None:
    """Show what you agreed to, and what waits on this machine."""
    from distill.teaching.live.consent import consent_of, unsettled
    from distill.teaching.live.contribution import Spool

    agreed = consent_of(home)
    if agreed is None:
        click.echo("You give nothing. To be asked: attune consent give, or attune chat --contribute.")
    else:
        click.echo(
            f"You give, since {agreed.given_at:%Y-%m-%d %H:%M} UTC, as contributor {agreed.contributor}\n"
            f"  for    {agreed.purpose}\n  to     {', '.join(agreed.places)}\n"
            f"  wait   {len(Spool(home).entries())} turns in {Spool(home).folder}\n"
            "To take it back: attune consent withdraw"
        )
    for one in unsettled(home):
        click.echo(f"Withdrawn, but not yet deleted in {', '.join(one.places)}: run attune consent withdraw again.")


@consent.command()
@stream_option
@click.option("--yes", is_flag=True, help="Agree without being asked; the text is shown.")
@home_option
def give(stream: str | None, yes: bool, home: Path) -> None:
    """Read what is kept, where and what for, and agree to it.

    Chats then give their turns with --contribute.
    """
    from distill.teaching.live.consent import LOCAL, consent_of, give, question
    from distill.teaching.live.stream import checked_url, shown

    place = shown(checked_url(stream)) if stream else LOCAL
    agreed = consent_of(home)
    if agreed and agreed.covers(place):
        click.echo("You have agreed to this already: attune consent show")
        return
    click.echo(question(place, home))
    if not yes and not _agreed():
        click.echo("Nothing is given.")
        sys.exit(FAILED)
    click.echo(
        f"Thank you. You are contributor {give(home, place).contributor}; attune consent withdraw takes it back."
    )


def _agreed() -> bool:
    """Raises InputError where nobody can answer."""
    from cascade.errors import InputError

    try:
        return click.confirm("Do you agree?", default=False)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise
        click.echo()
        raise InputError("nobody answered, so nothing is given; to agree without being asked: --yes") from None


@consent.command()
@click.option("--stream", metavar="URL", help="With its password, where a stream asks for one.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Delete your rows from this dataset, too (may be given more than once).",
)
@home_option
def withdraw(stream: str | None, datasets: tuple[Path, ...], home: Path) -> None:
    """Take back your consent and delete what you gave.

    What waits on this machine and in streams is deleted at once; rows of datasets when they are next added to, or now with
    --dataset. Run it again for a stream that could not be reached.
    """
    from distill.teaching.live.consent import consent_of
    from distill.teaching.live.contribution import Spool
    from distill.teaching.live.contributor import withdraw

    stood = consent_of(home) is not None
    deleted = withdraw(home, stream)
    click.echo("Your consent is withdrawn." if stood else "No consent stands.")
    click.echo(f"Deleted: {deleted.spool} turns that waited here, {deleted.stream} in streams.")
    for dataset in datasets:
        from distill.teaching.live.forgetting import forget, renew

        click.echo(f"{dataset}: {forget(dataset, Spool(home).withdrawn())} rows deleted.")
        renew(dataset)
    for line in deleted.unreached:
        click.echo(
            f"attune: not deleted: {line}; run this again when it is there (--stream URL where it asks for a password)",
            err=True,
        )
    sys.exit(FAILED if deleted.unreached else 0)
