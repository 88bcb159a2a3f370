"""``tsm-edge serve``: this machine as a device that other machines run models on."""

from __future__ import annotations

import click

from tsm_edge.cli.output import status, warn
from tsm_edge.rpc.place import DEFAULT_PORT, DEFAULT_TRACKER_PORT, parse_endpoint


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any free one.")
@click.option("--key", metavar="K", default="", help="What clients must give; with --tracker, the kind of device.")
@click.option("--tracker", metavar="HOST:PORT", help="Announce this device at a tracker.")
@click.option("--custom-addr", metavar="HOST", help="The address the tracker shall give to clients.")
def command(host: str, port: int, key: str, tracker: str | None, custom_addr: str | None) -> None:
    """Let other machines run compiled models here (`tsm-edge run --rpc HOST:PORT`), until Ctrl-C.

    TVM's RPC has no authentication and no encryption and runs what it is sent, so by default only this machine can
    connect: reach it from another one through a tunnel. One session at a time; a crash ends that session only.
    """
    from tsm_edge.rpc.server import Server, ServeRequest, reach

    place = parse_endpoint(tracker, DEFAULT_TRACKER_PORT) if tracker is not None else None
    with status("loading TVM"):
        server = Server(ServeRequest(host, port, key, place, custom_addr), click.echo)
    advice = reach(server.endpoint)
    if advice.exposed:
        warn(advice.text)
    click.echo(f"serving on {server.endpoint}{f' with key {key!r}' if key else ''}: {server.machine}, {server.build}")
    if not advice.exposed:
        click.echo(advice.text)
    try:
        server.run()
    except KeyboardInterrupt:
        click.echo("stopped")
