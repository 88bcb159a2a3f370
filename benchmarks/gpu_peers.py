"""Other engines on the GPU of this machine: the median step of an online ONNX model, ms.

``gpu_peers.py ENGINE MODEL.onnx`` prints one engine's answer as JSON. Caches stay on the device; batch 1; the frame
goes there and the logits come back, as with tsm-edge. The logits of three frames must be ONNX Runtime's on the CPU.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tsm-edge's module that sees to this may not be here
WARM_UP, FRAMES, CHECKED = 50, 500, 3
Step = Callable[[], Any]  # the next frame's logits


class Missing(Exception):
    """What an engine needs is not here."""


def timed(step: Step) -> float:
    """Median duration, milliseconds."""
    for _ in range(WARM_UP):
        step()
    samples = []
    for _ in range(FRAMES):
        started = time.perf_counter()
        step()
        samples.append(1e3 * (time.perf_counter() - started))
    return statistics.median(samples)


def a_frame(shape: list[int]) -> Any:
    """The one frame that is shown again and again; the caches make the logits change."""
    import numpy as np

    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def reference(path: str) -> list[Any]:
    """Logits of the first frames, by ONNX Runtime on the CPU."""
    import numpy as np
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    frame_info, *cache_infos = session.get_inputs()
    inputs = {info.name: np.zeros(info.shape, np.float32) for info in cache_infos}
    inputs[frame_info.name] = a_frame(frame_info.shape)
    found = []
    for _ in range(CHECKED):
        logits, *following = session.run(None, inputs)
        found.append(logits)
        inputs |= {info.name: value for info, value in zip(cache_infos, following, strict=True)}
    return found


def onnx_runtime(path: str, graphs: bool = False) -> Step:
    """ONNX Runtime's CUDA provider, inputs and outputs bound; with ``graphs`` both steps are CUDA graphs."""
    import numpy as np
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise Missing("ONNX Runtime has no CUDA provider here")
    options = {"use_tf32": "0", "enable_cuda_graph": str(int(graphs))}
    session = ort.InferenceSession(path, providers=[("CUDAExecutionProvider", options)])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise Missing("ONNX Runtime's CUDA provider does not load here")
    frame_info, *cache_infos = session.get_inputs()
    logits_info, *next_caches = session.get_outputs()
    frame = a_frame(frame_info.shape)

    def on_device(info: Any) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(np.zeros(info.shape, np.float32), "cuda", 0)

    shown, logits = on_device(frame_info), on_device(logits_info)
    sets = [[on_device(info) for info in cache_infos] for _ in range(2)]
    steps = []
    for parity in range(2):
        binding = session.io_binding()
        binding.bind_ortvalue_input(frame_info.name, shown)
        for info, before in zip(cache_infos, sets[parity], strict=True):
            binding.bind_ortvalue_input(info.name, before)
        for info, after in zip(next_caches, sets[1 - parity], strict=True):
            binding.bind_ortvalue_output(info.name, after)
        binding.bind_ortvalue_output(logits_info.name, logits)
        run_options = ort.RunOptions()
        run_options.add_run_config_entry("gpu_graph_id", str(parity) if graphs else "-1")
        steps.append((binding, run_options))
    newest = 0

    def step() -> Any:
        nonlocal newest
        shown.update_inplace(frame)
        session.run_with_iobinding(*steps[newest])
        newest = 1 - newest
        return logits.numpy()

    if graphs:  # the first runs of each are captured
        for _ in range(6):
            step()
        for cache in sets[newest]:
            cache.update_inplace(np.zeros(cache.shape(), np.float32))
    return step


def network_of(path: str, kind: Any) -> tuple[Any, Any, list[Any]]:
    """The graph as one PyTorch function on the GPU without a break in it, a pinned frame, and zeroed caches."""
    import onnx
    import torch
    from engines.torch_graph import TorchGraph

    if not torch.cuda.is_available():
        raise Missing("PyTorch has no CUDA here")
    torch.backends.cudnn.allow_tf32 = False  # float32 is to be float32, as it is in tsm-edge
    torch.backends.cudnn.benchmark = True
    shapes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in onnx.load(path).graph.input]
    network = TorchGraph(Path(path)).eval().to(kind)
    example = tuple(torch.zeros(shape, dtype=kind) for shape in shapes)
    exported = torch.export.export(network, example).module().cuda()
    frame = torch.from_numpy(a_frame(shapes[0])).to(kind).pin_memory()
    return exported, frame, [torch.zeros(shape, device="cuda", dtype=kind) for shape in shapes[1:]]


def torch_reduce_overhead(path: str) -> Step:
    """``torch.compile`` in the mode that makes CUDA graphs by itself (``reduce-overhead``)."""
    import torch

    network, frame, caches = network_of(path, torch.float32)
    compiled = torch.compile(network, mode="reduce-overhead", fullgraph=True)

    def step() -> Any:
        nonlocal caches
        with torch.no_grad():
            torch.compiler.cudagraph_mark_step_begin()
            logits, *following = compiled(frame.cuda(non_blocking=True), *caches)
            caches = [cache.clone() for cache in following]  # the graph's own memory is used again
            return logits.cpu().numpy()

    return step


def torch_captured(path: str, kind_name: str = "float32") -> Step:
    """``torch.compile``, the whole step with its upload, caches and download in one CUDA graph made by hand."""
    import torch

    network, frame, caches = network_of(path, getattr(torch, kind_name))
    compiled = torch.compile(network, fullgraph=True)
    on_device = frame.cuda()
    with torch.no_grad():
        logits, *_ = compiled(on_device, *caches)
    back = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)

    def whole() -> None:
        on_device.copy_(frame, non_blocking=True)
        logits, *following = compiled(on_device, *caches)
        for cache, value in zip(caches, following, strict=True):
            cache.copy_(value)
        back.copy_(logits, non_blocking=True)

    side = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(side):
        for _ in range(3):
            whole()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        whole()
    for cache in caches:
        cache.zero_()

    def step() -> Any:
        graph.replay()
        torch.cuda.current_stream().synchronize()
        return back.float().numpy().copy()

    return step


# Name → what makes its step, and the largest error of its logits.
ENGINES: dict[str, tuple[Callable[[str], Step], float]] = {
    "ONNX Runtime CUDA": (onnx_runtime, 1e-3),
    "ONNX Runtime CUDA, CUDA graphs": (lambda path: onnx_runtime(path, True), 1e-3),
    "torch.compile reduce-overhead": (torch_reduce_overhead, 1e-3),
    "torch.compile in a CUDA graph": (torch_captured, 1e-3),
    "torch.compile in a CUDA graph, fp16": (lambda path: torch_captured(path, "float16"), 3e-2),
}


def main() -> None:
    """Print what there is as JSON."""
    name, path = sys.argv[1:]
    make, tolerance = ENGINES[name]
    try:
        expected = reference(path)
        step = make(path)
    except (ImportError, Missing) as error:
        print(json.dumps({"left_out": str(error)}))
        return
    largest = max(abs(logits).max() for logits in expected)
    error = max(float(abs(step() - logits).max() / largest) for logits in expected)
    answer: dict[str, Any] = {"error": error, "right": error <= tolerance}
    if answer["right"]:
        answer["median_ms"] = timed(step)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
