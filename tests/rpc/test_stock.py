"""TVM's own client and server, on loopback, neither of which knows tsm_edge."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_graphs import Reference

from tsm_edge.artifact.folder import LIBRARY, MODEL_ONNX, Artifact
from tsm_edge.rpc.place import Place
from tsm_edge.session.local import OnlineSession


def test_step_and_its_time(stock: Place, small_artifact: Artifact) -> None:
    from tvm import rpc, runtime

    manifest = small_artifact.manifest
    frames = Reference(small_artifact.path / MODEL_ONNX).frames(3)
    with OnlineSession(small_artifact) as session:
        expected = [session.step(frame) for frame in frames]
    remote = rpc.connect(stock.endpoint.host, stock.endpoint.port, stock.key, session_timeout=60)
    remote.upload(str(small_artifact.library))
    module, device = remote.load_module(LIBRARY), remote.cpu(0)
    step = module["step"]
    shapes = [manifest.frame.shape, *(cache.shape for cache in manifest.caches), manifest.logits.shape]
    frame, *caches, logits = [runtime.tensor(np.zeros(shape, np.float32), device) for shape in shapes]
    following = [runtime.tensor(np.zeros(cache.shape, np.float32), device) for cache in manifest.caches]
    for values, wanted in zip(frames, expected, strict=True):
        frame.copyfrom(values)
        step(frame, *caches, logits, *following)
        np.testing.assert_array_equal(logits.numpy(), wanted)
        caches, following = following, caches
    assert module.time_evaluator("step", device, number=3)(frame, *caches, logits, *following).mean > 0
    with pytest.raises(Exception, match=r"argument 0 \(frame\) is float32 \[1, 7\], expected float32"):
        step(logits, *caches, logits, *following)
