"""Who can reach a server, in words: for whoever starts one."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

from tsm_edge.rpc.listener import user_name
from tsm_edge.rpc.place import Endpoint, UnixEndpoint


@dataclass(frozen=True)
class Reach:
    """Who can connect to a server.

    Attributes
    ----------
    exposed : bool
        Other machines can.
    text : str
        One line: what whoever connects can do, how to keep others out, and how to connect from another machine.
    """

    exposed: bool
    text: str


def reach(endpoint: Endpoint | UnixEndpoint, has_key: bool) -> Reach:
    """Say who can connect to a server listening on ``endpoint``, and how to tunnel to it."""
    user = user_name(os.geteuid())
    login = f"{user}@{socket.gethostname()}"
    if isinstance(endpoint, UnixEndpoint):
        path = os.path.abspath(endpoint.path)
        return Reach(
            False,
            f"only {user} can connect; from another machine tunnel first: ssh -L 9090:{path} {login} "
            f"(Android: adb forward tcp:9090 localfilesystem:{path})",
        )
    port = endpoint.port
    tunnel = f"ssh -L {port}:127.0.0.1:{port} {login} (Android: adb forward tcp:{port} tcp:{port})"
    who = "who has the key" if has_key else "who connects"
    power = f"whoever {who.removeprefix('who ')} can run any program here as {user}"
    if _is_loopback(endpoint.host):
        advice = "" if has_key else "; keep other users of this machine out with --key-file FILE, or use --unix PATH"
        return Reach(False, f"{power}{advice}; from another machine tunnel first: {tunnel}")
    return Reach(
        True,
        f"other machines can connect to {endpoint}, and {power}: TVM's RPC has no encryption, and a key, if any, is "
        f"sent as it is; leave out --host and tunnel instead: {tunnel}",
    )


def _is_loopback(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return bool(host) and all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in addresses)
