"""Attune's command line: parse, build, call, print. Data goes to standard output, progress and problems to standard error."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import tempfile
import traceback
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distill.comparison.commands import compare
from distill.teaching.commands import teach
from distill.teaching.live.commands import consent
from distill.training.commands import analyzer, train_student
from graphs.options import BAD_INPUT, FAILED, INTERRUPTED, answerer_options, engine_options, home_option
from graphs.voices import voices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascade.devices import Loudspeaker
    from cascade.profiles import Engines, Profile
    from cascade.turn import Turn
    from distill.teaching.live.contributor import Contributor
    from graphs.conversation import Conversation
    from graphs.options import Answerer
    from graphs.session import GraphMaker

MIN_CALM_CLIPS = 3

NEXT_STEPS = """
To talk to it yourself (first `source .venv/bin/activate`):
  attune chat                      type, give a recording's path, or press Enter and speak
  attune chat --student            the small student that learnt from this cascade (it needs: pip install -e '.[student]')
  attune ask in.wav -o out.wav     answer one recording
  attune calibrate a.wav b.wav c.wav   three calm sentences, so that it reads your voice better
  attune doctor                    what each engine is, and what is missing"""


class OneLineErrors(click.Group):
    """Bad input is one clear line and exit code 2, Ctrl-C exit code 130; no traceback reaches a user."""

    def invoke(self, ctx: click.Context) -> Any:
        from cascade.errors import AttuneError

        try:
            return super().invoke(ctx)
        except AttuneError as error:
            click.echo(f"attune: {error}", err=True)
            ctx.exit(BAD_INPUT)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing to add
            ctx.exit(FAILED)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if by_ctrl_c(error):
                click.echo("\nattune: stopped", err=True)
                ctx.exit(INTERRUPTED)
            if isinstance(error, click.Abort):
                click.echo("\nattune: no answer came", err=True)
                ctx.exit(FAILED)
            click.echo(f"attune: internal error: {type(error).__name__}; details in {keep_traceback()}", err=True)
            ctx.exit(FAILED)


def by_ctrl_c(error: BaseException | None) -> bool:
    """Whether it began with Ctrl-C: some libraries raise an error of their own then."""
    return error is not None and (
        isinstance(error, KeyboardInterrupt) or by_ctrl_c(error.__cause__ or error.__context__)
    )


def keep_traceback() -> str:
    """Write the traceback to a file of its own, for a report; its path."""
    handle, path = tempfile.mkstemp(prefix="attune-crash-", suffix=".txt")
    with os.fdopen(handle, "w") as file:
        file.write(traceback.format_exc())
    return path


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="attune")
def main() -> None:
    """Attune: a spoken sentence gets a spoken answer that fits what was said and how."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign gets a question mark, not a crash


main.add_command(teach)
main.add_command(consent)
main.add_command(analyzer)
main.add_command(train_student)
main.add_command(compare)
main.add_command(voices)


@main.command()
@click.argument("wav", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("reply.wav"),
    show_default=True,
    help="The reply's WAV file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole turn as JSON.")
@click.option("--no-think", is_flag=True, help="Do not show the thought.")
@click.option(
    "--no-judge",
    is_flag=True,
    help="Do not listen back to the reply: no scores, done sooner. (A student's are never judged.)",
)
@click.option("--speaker", help="Read the voice against this calibrated speaker.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same reply.")
@home_option
@answerer_options
def ask(
    wav: Path,
    output: Path,
    as_json: bool,
    no_think: bool,
    no_judge: bool,
    speaker: str | None,
    seed: int,
    home: Path,
    who: Answerer,
) -> None:
    """Answer one recording with speech.

    WAV is the path of a WAV, FLAC, OGG or MP3 file of 0.1 s to 2 min.
    """
    from cascade.asr.voice_activity import read_turn
    from cascade.audio import check_writable
    from cascade.errors import InputError
    from cascade.paralinguistics.speakers import load_speaker
    from graphs.conversation import one_turn
    from graphs.screen import Screen, Silent, saved
    from graphs.session import open_session

    speech = read_turn(wav)
    check_writable(output)
    if output.exists() and output.samefile(wav):
        raise InputError(f"{output}: is the recording itself; give the reply a file of its own")
    calibration = load_speaker(home, speaker) if speaker else None
    show = Silent() if as_json else Screen(think=not no_think)

    async def run(engines: Engines, make: GraphMaker, folder: Path) -> Turn:
        async with open_session(folder, "ask", engines, calibration=calibration, make=make) as session:
            return await one_turn(session, show, speech=speech, seed=seed, listen_back=not no_judge)

    with who.loaded() as (engines, make), tempfile.TemporaryDirectory() as folder:
        turn = asyncio.run(run(engines, make, Path(folder)))
        turn = deliver(turn, wav, output, Path(folder) / "sessions" / "ask")
    if as_json:
        click.echo(turn.model_dump_json(indent=2))
    elif turn.reply_audio:
        saved(output)
    if turn.reply is None:
        why = "; ".join(f"{f.stage} {f.kind}: {f.message}" for f in turn.failures) or "stopped"
        click.echo(f"attune: no reply: {why}", err=True)
        sys.exit(FAILED if turn.failures else INTERRUPTED)


def deliver(turn: Turn, wav: Path, output: Path, folder: Path) -> Turn:
    """Put the reply where it was asked for; the record then names the caller's own files."""
    from cascade.audio import read_speech, reference, write_wav

    update: dict[str, Any] = {}
    if turn.user_audio:
        update["user_audio"] = reference(wav, read_speech(wav))
    if turn.reply and turn.reply_audio:
        spoken = read_speech(folder / turn.reply_audio.path)
        write_wav(output, spoken)
        update["reply_audio"] = reference(output, spoken)
    else:
        update["reply_audio"] = None
    return turn.model_copy(update=update)


@main.command()
@click.option("--session", "session_id", help="Continue or begin the session of this name.")
@click.option("--example", is_flag=True, help="Answer an example sentence that is made on the spot, then end.")
@click.option("--mute", is_flag=True, help="Save the reply's sound, do not play it.")
@click.option("--no-think", is_flag=True, help="Do not show the thought.")
@click.option("--judge/--no-judge", default=None, help="Listen back to replies and score them [while they play].")
@click.option("--speaker", help="Read your voice against this calibration [me, if there is one].")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same reply.")
@click.option("--contribute", is_flag=True, help="Give your spoken turns to train on; asks once. See attune consent.")
@click.option("--stream", metavar="URL", help="With --contribute: the Redis they go to [kept on this machine].")
@home_option
@answerer_options
def chat(
    session_id: str | None,
    example: bool,
    mute: bool,
    no_think: bool,
    judge: bool | None,
    speaker: str | None,
    seed: int,
    contribute: bool,
    stream: str | None,
    home: Path,
    who: Answerer,
) -> None:
    """Talk with it in a terminal.

    Type, give the path of a recording, or press Enter and speak. Ctrl-C stops a reply.
    """
    from cascade.errors import ConfigError
    from cascade.paralinguistics.speakers import DEFAULT, load_speaker, speaker_path
    from graphs.conversation import Conversation
    from graphs.screen import Screen
    from graphs.session import check_session_id, new_session_id, open_session

    if stream and not contribute:
        raise ConfigError(f"--stream {stream}: turns are given with --contribute alone; add it, or leave --stream out")
    session_id = new_session_id() if session_id is None else check_session_id(session_id)
    if speaker is None and not example and who.model is None and speaker_path(home, DEFAULT).is_file():
        speaker = DEFAULT
        click.echo(f"Reading your voice against the calibration {DEFAULT!r}.")
    calibration = load_speaker(home, speaker) if speaker else None
    giving = contributing(home, stream) if contribute else nullcontext()
    with (
        giving as contributor,
        who.loaded() as (engines, make),
        loudspeaker(mute) as player,
        asyncio.Runner() as runner,
    ):
        opened = open_session(home, session_id, engines, calibration=calibration, make=make)
        session = runner.run(opened.__aenter__())
        try:
            if judge is None:
                judge = example or player is not None  # without sound the next line would have to wait for it
            screen = Screen(think=not no_think, folder=session.folder)
            after = partial(contributor.turn, session_folder=session.folder) if contributor else None
            conversation = Conversation(runner, session, screen, player, seed=seed, listen_back=judge, after=after)
            show_example(conversation) if example else conversation.run()
        finally:
            runner.run(opened.__aexit__(None, None, None))


@main.command()
@click.argument("wavs", nargs=-1, type=click.Path(path_type=Path), required=True)
@click.option("--speaker", default="me", show_default=True, help="Under which name to keep it.")
@home_option
def calibrate(wavs: tuple[Path, ...], speaker: str, home: Path) -> None:
    """Learn how you sound when calm.

    WAVS are three or more recordings of different calm sentences. `chat` then reads your voice against them, as does
    `ask --speaker NAME`.
    """
    from cascade.asr.voice_activity import read_turn
    from cascade.errors import InputError
    from cascade.paralinguistics.baseline import calibrated
    from cascade.paralinguistics.speakers import DEFAULT, save_speaker

    clips = [read_turn(wav) for wav in wavs]
    different = len({clip.sha256 for clip in clips})
    if different < MIN_CALM_CLIPS:
        raise InputError(
            f"{different} different recordings given; calibration takes {MIN_CALM_CLIPS} calm sentences or more"
        )
    path = save_speaker(home, speaker, calibrated(clips))
    click.echo(
        f"Kept {path} (delete it to forget).\n"
        f"attune chat{'' if speaker == DEFAULT else f' --speaker {speaker}'} reads your voice against it."
    )


@main.command()
@click.option("--load", "loads", is_flag=True, help="Load each engine of the profile once, and time it.")
@click.option("--models", is_flag=True, help="List the models that can be downloaded: size, licence, revision.")
@partial(home_option, given=False)
@engine_options
def doctor(loads: bool, models: bool, profile: str, swaps: tuple[str, ...]) -> None:
    """Show every engine and what it lacks here."""
    from importlib.util import find_spec

    from cascade import doctor
    from cascade.needs import extra
    from cascade.profiles import load_profile

    chosen = load_profile(profile, swaps)
    if models:
        click.echo("\n".join(doctor.models()))
        return
    findings = doctor.examine(chosen)
    click.echo(f"Profile {chosen.note or chosen.name} (● in use, ○ could be used with --engine STAGE=NAME)\n")
    click.echo("\n".join(doctor.shown(findings)) + "\n")
    for device, why in doctor.devices().items():
        click.echo(f"  {device:<12} {why or 'ok'}")
    there = find_spec("torch") and find_spec("transformers")
    click.echo(f"  {'student':<12} {'ok: attune chat --student' if there else extra('student')}")
    broken = [f"{finding.stage}={finding.name}" for finding in findings if finding.chosen and finding.missing]
    click.echo(
        f"\n{'Not whole: ' + ', '.join(broken) if broken else 'The profile is whole: every stage can run here.'}"
    )
    if loads and not broken:
        broken = load_and_time(chosen)
    sys.exit(FAILED if broken else 0)


def load_and_time(profile: Profile) -> list[str]:
    """Print how long each engine takes to load; those that fail."""
    from cascade.doctor import load_each

    failed = []
    for stage, name, seconds, why in load_each(profile):
        click.echo(f"  {stage:<10} {name:<14} {f'failed: {why}' if why else f'loaded in {seconds:.2f} s'}")
        failed += [f"{stage}={name}"] if why else []
    return failed


def show_example(conversation: Conversation) -> None:
    from distill.teaching.example import example_sentence

    speech, about = example_sentence()
    click.echo(f"An example: {about}\n")
    conversation.turn(speech=speech)
    click.echo(NEXT_STEPS)


@contextmanager
def contributing(home: Path, stream: str | None) -> Iterator[Contributor | None]:
    """Who gives the turns of this chat; None where the person says no."""
    from distill.teaching.live.contributor import open_contributor

    def ask(question: str) -> bool:
        return click.confirm(question, default=False, err=True)

    contributor = open_contributor(home, stream, ask, lambda line: click.echo(f"attune: {line}", err=True))
    try:
        yield contributor
    finally:
        if contributor:
            contributor.close()


@contextmanager
def loudspeaker(mute: bool) -> Iterator[Loudspeaker | None]:
    """The loudspeaker, or None with a line that says why there is no sound."""
    from cascade.devices import Loudspeaker, problem

    why = "--mute" if mute else problem("output")
    if why:
        if not mute:
            click.echo(f"No sound will play: {why}. Replies are saved.", err=True)
        yield None
        return
    player = Loudspeaker(22_050)
    try:
        yield player
    finally:
        player.close()


if __name__ == "__main__":
    main()
