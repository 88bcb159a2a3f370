"""``tsm-edge service``: a run that systemd starts with the system, watches, and starts again."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import click

from tsm_edge.artifact.folder import latest_artifact, load_artifact
from tsm_edge.cli.clips import chosen_showing
from tsm_edge.cli.group import CommandGroup
from tsm_edge.cli.output import note
from tsm_edge.cli.run import checked_source
from tsm_edge.cli.run import command as run_command
from tsm_edge.cli.run_clips import refuse_what_is_not_for
from tsm_edge.cli.watching import checked_watching
from tsm_edge.errors import ServiceError
from tsm_edge.service.manage import FOLDER
from tsm_edge.service.manage import install as install_unit
from tsm_edge.service.manage import remove as remove_unit
from tsm_edge.service.unit import CREDENTIAL, Unit, check_readable, is_in_home, program, state_folder

_SECRETS = ("--page-token", "--webhook-secret", "--mqtt-login")
_INSTALL_ELSEWHERE = (
    "install tsm-edge where all may read it, with the system's Python: /usr/bin/python3 -m venv /opt/tsm-edge"
)
_WRITTEN = {"-o", "--output", "--out", "--events", "--spool", "--record"}
# Options of `run` whose value is no file, whatever lies here under that name.
_NO_FILES = {
    option
    for parameter in run_command.params
    if isinstance(parameter, click.Option) and not parameter.is_flag and not isinstance(parameter.type, click.Path)
    for option in parameter.opts
    if option not in ("--video", "--camera")
}


@click.group("service", cls=CommandGroup)
def command() -> None:
    """Run a model as a service of this system, by systemd."""


@command.command(
    "install", short_help="Write a systemd unit, and start it.", context_settings={"ignore_unknown_options": True}
)
@click.option("--service-name", metavar="NAME", default="live", show_default=True, help="Of the service.")
@click.option("--dry-run", is_flag=True, help="Print the unit, and change nothing.")
@click.argument("arguments", metavar="[DIR] --camera N|URL [RUN OPTIONS]", nargs=-1, type=click.UNPROCESSED)
def install(service_name: str, dry_run: bool, arguments: tuple[str, ...]) -> None:
    """Write a systemd unit for `tsm-edge run` with these options, and start it.

    Files that are there are named by their whole path; those that are written go to /var/lib/tsm-edge-NAME. Lines for
    each frame are left out, and a camera that is lost is waited for, unless --reconnect says for how long.
    """
    unit = planned(service_name, arguments)
    if dry_run:
        click.echo(unit.text(), nl=False)
        note(f"would write {FOLDER / unit.file_name}, and run: systemctl enable --now {unit.file_name}")
        return
    path = install_unit(unit)
    click.echo(f"wrote {path}; it runs, also after a restart")
    click.echo(f"its log: journalctl -u {unit.file_name} -f")


@command.command("remove")
@click.option("--service-name", metavar="NAME", default="live", show_default=True, help="Of the service.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
def remove(service_name: str, dry_run: bool) -> None:
    """Stop a service and remove its unit. What it wrote stays in /var/lib/tsm-edge-NAME."""
    unit = Unit(service_name, ())
    if dry_run:
        note(f"would run: systemctl disable --now {unit.file_name}, and remove {FOLDER / unit.file_name}")
        return
    click.echo(f"removed {remove_unit(service_name)}; what it wrote stays in /var/lib/tsm-edge-{service_name}")


def planned(name: str, arguments: tuple[str, ...]) -> Unit:
    """The unit for a run with these arguments.

    Raises
    ------
    UsageError
        ``run`` does not know them, or would not begin with them.
    ServiceError
        The service's user could not read or write a file, or the model takes clips.
    """
    ctx = run_command.make_context("tsm-edge run", list(arguments))
    given = ctx.params
    checked_watching(given)
    if given["video"] is None and given["camera"] is None:
        raise click.UsageError("expected what the service shall watch: --camera N|URL")
    checked_source(ctx, given["video"], given["camera"], given["loop"])
    if given["show"]:
        raise click.UsageError("--show needs a screen, and a service has none: leave it out, or use --page PORT")
    words = _apart(arguments)
    artifact = given["artifact"]
    if artifact is None:
        artifact = latest_artifact()
        words.insert(0, str(artifact))
    manifest = load_artifact(artifact).manifest
    if manifest.clip:
        raise ServiceError(
            f"{artifact}: takes clips of recorded video, expected a model for a camera", "compile with --mode online"
        )
    refuse_what_is_not_for(manifest, ctx, chosen_showing(given), given["sliding"])
    _check_written(words, name)
    words, credentials = _with_credentials(words)
    is_read = [
        _is_there(word) and before not in _WRITTEN | _NO_FILES
        for before, word in zip(["", *words], words, strict=False)
    ]
    read = [Path(word).absolute() for word, named in zip(words, is_read, strict=True) if named]
    words = [str(Path(word).absolute()) if named else word for word, named in zip(words, is_read, strict=True)]
    if "--quiet" not in words:
        words.append("--quiet")
    if not any(word.startswith("--reconnect") for word in words):
        words += ["--reconnect", "inf"]
    for path in read:
        check_readable(path)
    own = [Path(sys.executable).absolute(), Path(__file__).absolute()]
    for path in own:
        check_readable(path, _INSTALL_ELSEWHERE)
    return Unit(
        name=name,
        command=(*program(Path(sys.executable)), "run", *words),
        credentials=credentials,
        reads_home=is_in_home([*read, *own]),
        gpu=manifest.target.gpu is not None,
    )


def _apart(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--option=value`` and ``-oFILE`` as two words."""
    words: list[str] = []
    for argument in arguments:
        option, sign, value = argument.partition("=")
        if sign and option.startswith("--"):
            words += [option, value]
        elif argument.startswith("-o") and argument != "-o":
            words += ["-o", argument[2:]]
        else:
            words.append(argument)
    return words


def _check_written(words: Sequence[str], name: str) -> None:
    """Refuse to write where the service may not; relative paths lead to its own folder."""
    folder = state_folder(name)
    for option, word in pairwise(words):
        if option in _WRITTEN and not Path(os.path.normpath(folder / word)).is_relative_to(folder):
            raise ServiceError(
                f"{option} {word}: the service may write in {folder} alone",
                f"give a name in it: {option} {Path(word).name}",
            )


def _with_credentials(words: list[str]) -> tuple[list[str], tuple[tuple[str, Path], ...]]:
    """Files with secrets are read by systemd: their owner keeps them to himself."""
    found: list[tuple[str, Path]] = []
    result: list[str] = []
    for word in words:
        option = result[-1] if result else ""
        if option in _SECRETS:
            name = option.removeprefix("--")
            found.append((name, Path(word).absolute()))
            word = f"{CREDENTIAL}{name}"
        result.append(word)
    return result, tuple(found)


def _is_there(word: str) -> bool:
    """Whether a word of the command line is a file or folder; a camera's number is none, whatever lies here."""
    return not word.startswith("-") and not word.isdigit() and os.path.exists(word)
