"""Other engines on the GPU of this machine, each where it is installed: the median step of an online ONNX model, ms.

Caches stay on the device; batch 1; the frame goes there and the logits come back, as with tsm-edge.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP, FRAMES = 50, 500


def timed(step: Callable[[], Any]) -> float:
    """Median duration, milliseconds."""
    for _ in range(WARM_UP):
        step()
    samples = []
    for _ in range(FRAMES):
        started = time.perf_counter()
        step()
        samples.append(1e3 * (time.perf_counter() - started))
    return statistics.median(samples)


def onnx_runtime(path: str) -> float:
    """ONNX Runtime's CUDA provider with bound inputs and outputs, the caches on the device."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tsm-edge's module that sees to this may not be here
    import numpy as np
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ImportError("ONNX Runtime has no CUDA provider here")
    session = ort.InferenceSession(path, providers=["CUDAExecutionProvider"])
    frame_info, *cache_infos = session.get_inputs()
    logits, *next_caches = (output.name for output in session.get_outputs())
    frame = np.random.default_rng(0).standard_normal(frame_info.shape).astype(np.float32)
    sets = [
        [ort.OrtValue.ortvalue_from_numpy(np.zeros(info.shape, np.float32), "cuda", 0) for info in cache_infos]
        for _ in range(2)
    ]
    bindings = []
    for parity in range(2):
        binding = session.io_binding()
        for info, before in zip(cache_infos, sets[parity], strict=True):
            binding.bind_ortvalue_input(info.name, before)
        for name, after in zip(next_caches, sets[1 - parity], strict=True):
            binding.bind_ortvalue_output(name, after)
        binding.bind_output(logits, "cpu")
        bindings.append(binding)
    newest = 0

    def step() -> Any:
        nonlocal newest
        binding = bindings[newest]
        binding.bind_cpu_input(frame_info.name, frame)
        session.run_with_iobinding(binding)
        newest = 1 - newest
        return binding.copy_outputs_to_cpu()[0]

    return timed(step)


def torch_compiled(path: str) -> float:
    """torch.compile with CUDA graphs (``reduce-overhead``) of the same graph."""
    from pathlib import Path

    import torch
    from engines.torch_graph import TorchGraph

    if not torch.cuda.is_available():
        raise ImportError("PyTorch has no CUDA here")
    network = TorchGraph(Path(path)).eval().cuda()
    step_of = torch.compile(network, mode="reduce-overhead")
    import onnx

    shapes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in onnx.load(path).graph.input]
    frame = torch.randn(shapes[0]).pin_memory()
    caches = [torch.zeros(shape, device="cuda") for shape in shapes[1:]]

    def step() -> Any:
        nonlocal caches
        with torch.no_grad():
            torch.compiler.cudagraph_mark_step_begin()
            logits, *following = step_of(frame.cuda(non_blocking=True), *caches)
            caches = [cache.clone() for cache in following]  # the graph's own memory is used again
            return logits.cpu()

    return timed(step)


def main() -> None:
    """Print what there is as JSON."""
    found: dict[str, Any] = {}
    for name, engine in (("ONNX Runtime CUDA", onnx_runtime), ("torch.compile, CUDA graphs", torch_compiled)):
        try:
            found[name] = {"median_ms": engine(sys.argv[1])}
        except ImportError as error:
            found[name] = {"left_out": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
