"""Plugs that measure what is drawn at the wall, over HTTP: Shelly (second generation and later) and Tasmota."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tsm_edge.errors import PowerError, unknown_name
from tsm_edge.power.sensor import LOOK, TRY, Rail, SensorInfo, number
from tsm_edge.power.system import System

_ANSWER_S = 5.0
_LARGEST_ANSWER = 1 << 18
# Plugs renew their figure about once a second.
_PERIOD_S = 1.0
# Power by kind of a Shelly's component.
_SHELLY_POWER = {"switch": "apower", "pm1": "apower", "light": "apower", "cover": "apower", "em1": "act_power"}


@dataclass(frozen=True)
class _Address:
    """Of a plug.

    Attributes
    ----------
    shown : str
        What names it, without a password.
    base : str
        ``http://HOST``.
    user, password : str
        Empty where none is given.
    part : str
        Of a plug with several outlets.
    """

    shown: str
    base: str
    user: str
    password: str
    part: str


class PlugSensor:
    """See :class:`tsm_edge.power.sensor.Sensor`.

    Parameters
    ----------
    name : str
    uncertainty : str
    watts : callable
        Asks the plug.
    """

    def __init__(self, name: str, uncertainty: str, watts: Callable[[], float]) -> None:
        self.info = SensorInfo(
            name=name,
            rails=(Rail("wall"),),
            boundary="wall",
            covers="all that hangs on the plug, with the loss of its power supply",
            quantity="power",
            period_s=_PERIOD_S,
            uncertainty_percent=None,
            uncertainty=uncertainty,
        )
        self._watts = watts

    def read(self) -> tuple[float, ...]:
        """W."""
        return (self._watts(),)

    def close(self) -> None:
        """Nothing is held."""


def open_shelly(argument: str, system: System) -> PlugSensor:
    """Ask a Shelly.

    Parameters
    ----------
    argument : str
        ``http://HOST``, or ``http://HOST/switch:1`` where several outlets are measured.

    Raises
    ------
    PowerError
        It does not answer, or does not measure power.
    """
    address = _address("shelly", argument)
    url = f"{address.base}/rpc/Shelly.GetStatus"
    powers = _shelly_powers(address, _ask(address, url))
    if address.part and address.part not in powers:
        raise PowerError(
            f"power sensor {address.shown}: {unknown_name('outlet', address.part, powers)}", "name another one"
        )
    if not powers:
        raise PowerError(f"power sensor {address.shown}: this Shelly measures no power", LOOK)
    if not address.part and len(powers) > 1:
        raise PowerError(
            f"power sensor {address.shown}: {len(powers)} outlets: {', '.join(powers)}",
            f"name one: {address.shown}/{next(iter(powers))}",
        )
    part = address.part or next(iter(powers))

    def watts() -> float:
        found = _shelly_powers(address, _ask(address, url))
        if part not in found:
            raise PowerError(f"power sensor {address.shown}: its answer has no {part} any more", TRY)
        return found[part]

    return PlugSensor(address.shown, "not stated for small loads", watts)


def open_tasmota(argument: str, system: System) -> PlugSensor:
    """Ask a Tasmota plug.

    Parameters
    ----------
    argument : str
        ``http://HOST``, or ``http://USER:PASSWORD@HOST``.

    Raises
    ------
    PowerError
        It does not answer, or does not measure power.
    """
    address = _address("tasmota", argument)
    query = {"cmnd": "Status 8"}
    if address.password:
        query |= {"user": address.user or "admin", "password": address.password}
    url = f"{address.base}/cm?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"

    def power() -> Any:
        status = _ask(address, url).get("StatusSNS")
        energy = status.get("ENERGY") if isinstance(status, dict) else None
        if not isinstance(energy, dict) or "Power" not in energy:
            raise PowerError(f"power sensor {address.shown}: this Tasmota device measures no power", LOOK)
        return energy["Power"]

    def watts() -> float:
        return number(power(), f"Power of {address.shown}")

    # Without being told otherwise Tasmota rounds to whole watts, a fifth of what a small board draws.
    whole = isinstance(power(), int)
    uncertainty = "whole watts only: give it decimals with WattRes 3" if whole else "not stated for small loads"
    return PlugSensor(address.shown, uncertainty, watts)


def _shelly_powers(address: _Address, status: Mapping[str, Any]) -> dict[str, float]:
    """W of each part that measures it (``switch:0``)."""
    powers = {}
    for name, part in status.items():
        key = _SHELLY_POWER.get(name.partition(":")[0], "")
        if isinstance(part, dict) and key in part:
            powers[name] = number(part[key], f"{key} of {name} of {address.shown}")
    return powers


def _address(kind: str, text: str) -> _Address:
    """Take an address apart."""
    wrong = PowerError(
        f"power sensor {kind}:{text}: expected {kind}:http://HOST", f"for example: {kind}:http://192.168.1.20"
    )
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise wrong
    place = f"[{host}]" if ":" in host else host
    base = f"{parts.scheme}://{place}:{port}" if port else f"{parts.scheme}://{place}"
    user, password = (urllib.parse.unquote(field or "") for field in (parts.username, parts.password))
    return _Address(f"{kind}:{base}", base, user, password, parts.path.strip("/"))


def _ask(address: _Address, url: str) -> dict[str, Any]:
    """Get a JSON object.

    Raises
    ------
    PowerError
        There is no answer in time, or another one.
    """
    # A plug is in the local network, where a proxy would not find it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_ANSWER_S) as answer:
            data = answer.read(_LARGEST_ANSWER)
    except urllib.error.HTTPError as error:
        hint = "turn its password off, or name it (Tasmota: http://USER:PASSWORD@HOST)" if error.code == 401 else LOOK
        raise PowerError(f"power sensor {address.shown} answers {error.code} {error.reason}", hint) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise PowerError(
            f"power sensor {address.shown} does not answer ({reason})", "check its address, and that it is on"
        ) from None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PowerError(f"power sensor {address.shown} answers something else than JSON", "check its address")
    return found
