"""A GPU's model over RPC: frames go there and logits come back, the shift caches stay on the GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_gpu
from background import Start, served_at

from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Place
from tsm_edge.rpc.session import RemoteSession


def test_steps_resets_and_explicit_caches(start: Start, tiny_gpu_models: Path) -> None:
    server = start(
        *("tsm_edge.cli", "serve", "--port", "0", "--key", "gpu"), LD_LIBRARY_PATH=str(tiny_gpu_models / "new")
    )
    place = Place(served_at(server), "gpu")
    for _ in range(2):  # a session knows nothing of the one before
        with RemoteSession(tiny_gpu_models / "model", place) as session:
            kept, explicit, caches = [], [], [np.zeros(tiny_gpu.CACHE, np.float32)]
            for index, frame in enumerate(tiny_gpu.frames(4)):
                if index == 3:
                    session.reset()
                    caches = [np.zeros(tiny_gpu.CACHE, np.float32)]
                kept.append(session.step(frame))
                logits, caches = session.step_explicit(frame, caches)
                explicit.append(logits)
        np.testing.assert_allclose(kept, tiny_gpu.expected(4, 3), rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(kept, explicit)


def test_a_program_is_chosen_on_the_device_and_its_kernels_are_timed(start: Start, tiny_gpu_models: Path) -> None:
    server = start(
        *("tsm_edge.cli", "serve", "--port", "0", "--key", "trials"), LD_LIBRARY_PATH=str(tiny_gpu_models / "new")
    )
    frames = tiny_gpu.frames(3)[:, 0]
    with RemoteSession(tiny_gpu_models / "programs", Place(served_at(server), "trials")) as session:
        for program, seed in ((0, 0), (1, 5), (0, 0)):
            assert session.select(program) == 2
            timings = session.measure(frames, 0, 3, kernels=True)
            np.testing.assert_allclose(timings.logits, tiny_gpu.expected(3, seed=seed)[-1], rtol=1e-5, atol=1e-4)
            assert timings.kernels_ns is not None
            assert timings.kernels_ns.shape == (3, 2)
            assert timings.kernels_ns.min() > 0
        with pytest.raises(RpcError, match="program is 2, the library has 2"):
            session.select(2)


def test_a_device_without_a_driver_says_so(start: Start, tiny_gpu_models: Path) -> None:
    server = start(
        "tsm_edge.cli",
        "serve",
        "--port",
        "0",
        "--key",
        "none",
        STANDIN_FAIL="cuInit=100",
        LD_LIBRARY_PATH=str(tiny_gpu_models / "new"),
    )
    with (
        RemoteSession(tiny_gpu_models / "model", Place(served_at(server), "none")) as session,
        pytest.raises(RpcError, match="CUDA_ERROR_NO_DEVICE"),
    ):
        session.step(tiny_gpu.frames(1)[0])
