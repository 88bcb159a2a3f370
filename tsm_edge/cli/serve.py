"""``tsm-edge serve``: this machine as a device that other machines run models on."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click
from click.core import ParameterSource

from tsm_edge.cli.output import warn
from tsm_edge.rpc.key import chosen_key
from tsm_edge.rpc.place import DEFAULT_PORT, DEFAULT_TRACKER_PORT, Endpoint, UnixEndpoint, parse_endpoint


@click.command("serve")
@click.option("--host", metavar="HOST", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on; 0: any free one.",
)
@click.option("--unix", metavar="PATH", help="Listen on a Unix socket instead: only you can connect.")
@click.option("--key", metavar="K", default="", help="What clients must give; with --tracker, the kind of device.")
@click.option("--key-file", metavar="FILE", type=click.Path(path_type=Path), help="Read the key from a file of yours.")
@click.option("--tracker", metavar="HOST:PORT", help="Announce this device at a tracker.")
@click.option("--custom-addr", metavar="HOST", help="The address the tracker shall give to clients.")
@click.pass_context
def command(
    ctx: click.Context,
    host: str,
    port: int,
    unix: str | None,
    key: str,
    key_file: Path | None,
    tracker: str | None,
    custom_addr: str | None,
) -> None:
    """Let other machines run compiled models here (`tsm-edge run --rpc HOST:PORT`), until Ctrl-C.

    Whoever connects can run any program as you: TVM's RPC runs what it is sent, without encryption. So by default only
    this machine can connect, through a tunnel others; a key keeps out other users of this machine, and so does a Unix
    socket (`--rpc unix:PATH`). One session at a time; a crash ends that session only.
    """
    if unix is not None and any(_was_given(ctx, name) for name in ("host", "port")):
        raise click.UsageError("expected either --unix PATH or --host and --port", ctx)
    if tracker is not None and key_file is not None:
        raise click.UsageError("a tracker tells everybody the keys of its devices: --key-file keeps a secret", ctx)
    from tsm_edge.rpc.reach import reach
    from tsm_edge.rpc.server import Server, ServeRequest

    request = ServeRequest(
        endpoint=Endpoint(host, port) if unix is None else UnixEndpoint(unix),
        key=chosen_key(key, key_file),
        tracker=None if tracker is None else parse_endpoint(tracker, DEFAULT_TRACKER_PORT),
        announced_host=custom_addr,
    )
    with Server(request, _log) as server:
        advice = reach(server.endpoint, bool(request.key))
        if advice.exposed:
            warn(advice.text)
        # A tracker's key names a kind of device; any other is a secret that logs should not keep.
        kind = f" as {key!r}" if tracker is not None else " with a key" if request.key else ""
        click.echo(f"serving on {server.endpoint}{kind}: {server.machine}, {server.build}")
        if not advice.exposed:
            click.echo(advice.text)
        try:
            server.run()
        except KeyboardInterrupt:
            click.echo("stopped")


def _was_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


def _log(text: str) -> None:
    """A full disk under the log, or a reader that went away, does not end the server."""
    with contextlib.suppress(OSError):
        click.echo(text)
