"""Which devices a command measures on: this machine, or those behind ``--rpc`` and ``--tracker``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tsm_edge.rpc.place import Place


def places_of(rpc: tuple[str, ...], tracker: str | None, key: str) -> list[Place | None]:
    """The places named, one a device; of a tracker all that are free. None: this machine."""
    from tsm_edge.rpc.place import chosen_place
    from tsm_edge.rpc.tracker import count_devices

    if len(rpc) > 1:
        chosen_place(rpc[0], tracker, key)  # refuses both
        return [chosen_place(address, None, key) for address in rpc]
    place = chosen_place(rpc[0] if rpc else None, tracker, key)
    if place is None or not place.by_tracker:
        return [place]
    return [place] * max(1, count_devices(place.endpoint, key))
