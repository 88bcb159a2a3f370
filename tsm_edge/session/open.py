"""The one way to open a session: here, or on another machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tsm_edge.artifact.folder import Artifact, load_artifact
from tsm_edge.cards.threads import Threads
from tsm_edge.session.base import Session
from tsm_edge.session.local import OnlineSession

if TYPE_CHECKING:
    from tsm_edge.rpc.place import Place, TimeLimits


def open_session(
    artifact: str | Path | Artifact,
    place: Place | None = None,
    threads: int | Threads | None = None,
    limits: TimeLimits | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> Session:
    """Open a session over a compiled model.

    Parameters
    ----------
    artifact : str, Path or Artifact
        An artifact directory on this machine.
    place : Place, optional
        The device it runs on; None: this machine.
    threads : int or Threads, optional
        CPU threads of a step. None: as tuning found (``manifest.threads``); without, one.
    limits : TimeLimits, optional
        How long to wait for a device.
    notify : callable
        Is given one line on what the user should know of a device: a reconnection, a setting without effect.

    Returns
    -------
    Session
        With zero caches. The caller closes it.

    Raises
    ------
    ArtifactError
        The artifact is missing, damaged or made for another machine, or there cannot be so many threads.
    RpcError
        The device cannot be reached, does not fit the model, or fails.
    """
    if place is None:
        return OnlineSession(artifact, threads)
    from tsm_edge.rpc.session import RemoteSession

    if threads is None:
        artifact = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
        threads = artifact.manifest.threads or 1
    return RemoteSession(artifact, place, threads, limits, notify)
