"""``tsm-edge deploy``: a compiled model onto a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.cli.artifacts import chosen_artifact
from tsm_edge.cli.output import json_option, note, print_json, print_table, status
from tsm_edge.rpc.foreign_text import printable

if TYPE_CHECKING:
    from tsm_edge.deploy.bundle import Bundle
    from tsm_edge.deploy.deploy import DeployRequest, DeployResult, Plan
    from tsm_edge.deploy.files import DeployFile


@click.command("deploy")
@click.argument("words", nargs=-1, metavar="[DIR] [USER@HOST[:PATH]]")
@click.option("--adb", is_flag=False, flag_value="", metavar="[SERIAL]", help="To an Android device, over adb.")
@click.option("--bundle", metavar="FILE.tar.gz", type=click.Path(path_type=Path), help="Into a file, to carry by hand.")
@click.option("--ssh-config", metavar="FILE", type=click.Path(path_type=Path), help="For ssh, instead of your own.")
@click.option("--no-verify", is_flag=True, help="Do not run tsm-runner verify there.")
@click.option("--dry-run", is_flag=True, help="Print what would be done; nothing is contacted.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    adb: str | None,
    bundle: Path | None,
    ssh_config: Path | None,
    no_verify: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Copy the compiled model in DIR to a device, and verify it there.

    With USER@HOST your own ssh is used: its keys, agent and configuration. Only files that are not there yet are
    copied; they are checked by hash and become visible all at once. PATH is relative to the home folder; without it:
    tsm-edge/NAME. With a port: ssh://USER@HOST:PORT, after it /~/PATH. With --adb the device is SERIAL, else that of
    ANDROID_SERIAL, else the only one. DIR: by default the artifact compiled last below ./out. Exit code 1 when
    verifying there fails.
    """
    way = [adb is not None, bundle is not None]
    remote = not any(way)
    if len(words) > 1 + remote or sum(way) > 1:
        raise click.UsageError("expected one destination: USER@HOST[:PATH], --adb [SERIAL] or --bundle FILE", ctx)
    if remote and not words:
        raise click.UsageError("expected a destination: USER@HOST[:PATH], --adb [SERIAL] or --bundle FILE", ctx)
    if remote and len(words) == 1 and Path(words[0]).is_dir():
        raise click.UsageError(f"{words[0]} is a folder here: expected a destination after it, USER@HOST[:PATH]", ctx)
    if adb and Path(adb).is_dir():
        raise click.UsageError(f"--adb {adb}: a folder, expected a serial; write: tsm-edge deploy {adb} --adb", ctx)
    folders = words[:-1] if remote else words
    path = chosen_artifact(Path(folders[0]) if folders else None)
    if bundle is not None:
        _bundle(path, bundle, dry_run, as_json)
        return
    from tsm_edge.deploy.adb import adb_destination
    from tsm_edge.deploy.deploy import DeployRequest
    from tsm_edge.deploy.destination import parse_destination

    destination = adb_destination(adb) if adb is not None else parse_destination(words[-1], ssh_config)
    _deploy(ctx, DeployRequest(path, destination, not no_verify), dry_run, as_json)


def _deploy(ctx: click.Context, request: DeployRequest, dry_run: bool, as_json: bool) -> None:
    from tsm_edge.deploy.deploy import deploy, plan

    if dry_run:
        _print_plan(plan(request), as_json)
        return
    with status("reading the artifact") as progress:
        result = deploy(request, progress)
    _print_result(result, as_json)
    if result.verified is False:
        ctx.exit(1)


def _bundle(path: Path, output: Path, dry_run: bool, as_json: bool) -> None:
    from tsm_edge.deploy.bundle import plan_bundle, write_bundle

    bundle = plan_bundle(path, output) if dry_run else write_bundle(path, output)
    if as_json:
        print_json({"path": bundle.path, "size": bundle.size, "files": _plain(bundle.files)})
        return
    _print_files(f"{bundle.path}{' (nothing is written)' if dry_run else ''}", bundle.files, None)
    _print_size(bundle)


def _print_size(bundle: Bundle) -> None:
    if bundle.size is not None:
        note(f"{bundle.size / 1e6:.1f} MB; how to use it is in its README.txt")


def _print_plan(found: Plan, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "device": found.device,
                "folder": found.folder,
                "files": _plain(found.files),
                "commands": found.commands,
            }
        )
        return
    _print_files(f"{found.device}: {found.folder} (nothing is contacted)", found.files, None)
    click.echo("\ncommands, those for files only where the file is not there yet:")
    for line in found.commands:
        click.echo(f"  {line}")


def _print_result(result: DeployResult, as_json: bool) -> None:
    if as_json:
        fields = ("device", "folder", "machine", "copied", "seconds", "verified", "report")
        print_json({**{name: getattr(result, name) for name in fields}, "files": _plain(result.files)})
        return
    _print_files(f"{result.device} ({result.machine}): {result.folder}", result.files, result.copied)
    if result.report:
        _print_report(result.report)
    verdict = {None: "not verified there", True: "verified there", False: "verifying there FAILED"}[result.verified]
    size = sum(file.size for file in result.files) / 1e6
    copied = f"{len(result.copied)} of {len(result.files)} files copied in {result.seconds:.1f} s"
    note(f"{copied}, {size:.1f} MB there; {verdict}")


def _print_report(report: str) -> None:
    """What ``tsm-runner verify`` printed there, as a table; as it is where it is not what our runner prints."""
    try:
        found = json.loads(report)
        rows = [
            (
                printable(str(check["name"])),
                f"{float(check['magnitude']):.4g}",
                f"{float(check['error']):.1e}",
                "ok" if check["passed"] else "DIFFERS",
            )
            for check in found["checks"]
        ]
        title = f"\ntsm-runner verify there: {int(found['frames'])} frames, tolerance {float(found['tolerance']):.0e}"
    except (ValueError, KeyError, TypeError, OverflowError):
        for line in report.splitlines():
            click.echo(printable(line))
        return
    print_table(title, ("output", "largest value", "relative error", ""), rows)


def _print_files(title: str, files: tuple[DeployFile, ...], copied: tuple[str, ...] | None) -> None:
    rows = [(file.name, f"{file.size / 1e6:.3f}", file.sha256[:16]) for file in files]
    columns = ("file", "size (MB)", "SHA-256, first 16 digits")
    if copied is None:
        print_table(title, columns, rows)
        return
    states = ["copied" if file.name in copied else "was there" for file in files]
    print_table(title, (*columns, ""), [(*row, state) for row, state in zip(rows, states, strict=True)])


def _plain(files: tuple[DeployFile, ...]) -> list[dict[str, object]]:
    return [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in files]
