"""ONNX Runtime on the ONNX file of an artifact: the reference everything compiled is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.artifact.manifest import Manifest
from tsm_edge.artifact.onnx_runtime import open_session
from tsm_edge.errors import ArtifactError
from tsm_edge.files.atomic import file_sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Reference:
    """One stream of frames through ONNX Runtime, with the shift caches fed back; or clips.

    Parameters
    ----------
    onnx : Path
        What was compiled, or of a model in integers, the file of the same integers.
    manifest : Manifest
        Of the artifact.

    Raises
    ------
    ArtifactError
        The file is missing, is another than the one compiled, or ONNX Runtime cannot run it.
    """

    def __init__(self, onnx: Path, manifest: Manifest) -> None:
        if not onnx.is_file():
            raise ArtifactError(f"{onnx}: no such file", "name the ONNX file with: tsm-edge verify --onnx FILE")
        try:
            found = file_sha256(onnx)
        except OSError as error:
            raise ArtifactError(f"{onnx}: cannot be read ({error.strerror})", "check its permissions") from None
        if found not in (manifest.reference_sha256, manifest.hashes.get("onnx")):
            raise ArtifactError(
                f"{onnx}: not the file {manifest.model} for {manifest.target.name} was compiled from",
                "compile again with: tsm-edge compile",
            )
        self._onnx = onnx
        with self._in_words():
            self._session = open_session(onnx.read_bytes())
        self._frame = manifest.frame.name
        self._inputs = [cache.input for cache in manifest.caches]
        self._zeros = [np.zeros(cache.shape, np.float32) for cache in manifest.caches]
        self._caches = self._zeros
        self._clips = manifest.whole_clips
        self._outputs = [manifest.logits.name, *(cache.output for cache in manifest.caches)]
        self.outputs = [*(output.name for output in manifest.outputs), *self._outputs[1:]]

    def reset(self) -> None:
        """Zero the caches."""
        self._caches = self._zeros

    def step(self, frame: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run one frame, float32 [1, 3, height, width], or the clips of a step, [clips * frames, 3, height, width].

        Returns
        -------
        list of numpy.ndarray
            The logits, then every next cache, float32 NCHW; of a clip the mean of the logits over the frames, then
            those of every frame. Named by :attr:`outputs`.
        """
        if self._clips:
            each = [self._run(clip)[0] for clip in np.split(frame, self._clips)]
            means = [logits.mean(0) for logits in each]
            return [means[0] if self._clips == 1 else np.stack(means), np.concatenate(each)]
        found = self._run(frame)
        self._caches = found[1:]
        return found

    def _run(self, frame: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        feed = {self._frame: frame, **dict(zip(self._inputs, self._caches, strict=True))}
        with self._in_words():
            found: list[NDArray[np.float32]] = self._session.run(self._outputs, feed)
        return found

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exception types are not public
            reason = str(error).strip().splitlines()[0]
            raise ArtifactError(
                f"{self._onnx}: ONNX Runtime cannot run it ({reason})", "export the model again: tsm-edge export --help"
            ) from None
