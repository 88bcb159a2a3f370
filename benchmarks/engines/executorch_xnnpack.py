"""ExecuTorch with the XNNPACK backend, from the ONNX file by way of PyTorch.

Measured with caches as inputs and outputs, and as the program's own mutable buffers. In int8 it is quantised by its own
quantiser for XNNPACK; caches stay float32 outside of the program.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams import calibration

from engines.base import Engine, Floats, OnlineModel, Stepper


class _ExecuTorchStepper:
    def __init__(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> None:
        import torch
        from executorch.extension.pybindings import portable_lib

        torch.set_num_threads(1)
        # Its pool is made when the library loads, one thread a core.
        portable_lib._unsafe_reset_threadpool(threads)
        if portable_lib._threadpool_get_thread_count() != threads:
            raise RuntimeError(f"ExecuTorch keeps {portable_lib._threadpool_get_thread_count()} threads, not {threads}")
        self._torch = torch
        self._path = str(folder / f"{variant}.pte")
        self._load = portable_lib._load_for_executorch
        self._stateful = variant == "buffers"
        self._model = model
        self._module: Any = None
        self.reset()

    def reset(self) -> None:
        # Mutable buffers go back to zero by loading the program anew.
        if self._module is None or self._stateful:
            self._module = self._load(self._path)
        shapes = [] if self._stateful else [cache.shape for cache in self._model.caches]
        self._caches = [self._torch.zeros(shape) for shape in shapes]

    def step(self, frame: Floats) -> Floats:
        logits, *self._caches = self._module.forward([self._torch.from_numpy(frame), *self._caches])
        result: Floats = logits.numpy()
        return result


@dataclass(frozen=True)
class _ExecuTorch:
    integers: bool = False
    packages = ("executorch", "torch")
    distributions = ("executorch", "torch")
    variants = ("inputs", "buffers")

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        import torch

        from engines.torch_graph import TorchGraph

        network: Any = TorchGraph(model.path).eval()
        plain = (torch.zeros(model.frame_shape), *(torch.zeros(cache.shape) for cache in model.caches))
        if self.integers:
            network = _quantised(network, plain, model)
        _write(network, plain, folder / "inputs.pte")
        _write(_with_buffers(network, model), plain[:1], folder / "buffers.pte")

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        return _ExecuTorchStepper(model, folder, threads, variant)


def _quantised(network: Any, arguments: tuple[Any, ...], model: OnlineModel) -> Any:
    """The network in int8: a scale for each output channel of the weights, and one for each tensor between layers."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantiser = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(network, arguments, strict=False).module(), quantiser)
    with torch.no_grad():
        for inputs in calibration(model):
            names = (model.frame, *(cache.input for cache in model.caches))
            prepared(*(torch.from_numpy(inputs[name]) for name in names))
    return convert_pt2e(prepared)


def _write(network: Any, arguments: tuple[Any, ...], path: Path) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(network, arguments, strict=False)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def _with_buffers(network: Any, model: OnlineModel) -> Any:
    import torch

    class WithBuffers(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            for index, cache in enumerate(model.caches):
                self.register_buffer(f"cache_{index}", torch.zeros(cache.shape))

        def forward(self, frame: Any) -> Any:
            caches = [self.get_buffer(f"cache_{index}") for index in range(len(model.caches))]
            logits, *following = self.network(frame, *caches)
            for cache, value in zip(caches, following, strict=True):
                cache.copy_(value)
            return logits

    # Nothing in it acts otherwise while training, and a quantised network refuses to be told that it does not.
    return WithBuffers()


ENGINES: dict[str, Engine] = {"fp32": _ExecuTorch(), "int8": _ExecuTorch(integers=True)}
