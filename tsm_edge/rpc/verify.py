"""A compiled model on another machine, against ONNX Runtime on this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tsm_edge.artifact import LIBRARY, load_artifact
from tsm_edge.replacement import again_if_replaced
from tsm_edge.rpc.place import Place
from tsm_edge.rpc.session import RemoteSession
from tsm_edge.verify import VerifyResult, verify_session


@again_if_replaced
def verify_remote(
    path: Path, place: Place, onnx: Path | None, frames: int, threads: int, notify: Callable[[str], None]
) -> VerifyResult:
    """As :func:`tsm_edge.verify.verify_artifact`, with the model on a device; caches travel too, to be compared.

    Raises
    ------
    ArtifactError
        The artifact or its ONNX file is missing or damaged.
    RpcError
        The device cannot be reached, does not fit the model, or fails.
    """
    artifact = load_artifact(path)
    with RemoteSession(artifact, place, threads, notify=notify) as session:
        return verify_session(session, artifact, onnx, frames, threads, ran=f"{LIBRARY} on {place}")
