"""PyTorch on the CPU, from the ONNX file: as it is, with channels last, or compiled by TorchInductor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.base import Engine, Floats, OnlineModel, Stepper


class _TorchStepper:
    def __init__(self, model: OnlineModel, threads: int, variant: str) -> None:
        import torch

        from engines.torch_graph import TorchGraph

        torch.set_num_threads(threads)
        self._torch, self._model = torch, model
        network = TorchGraph(model.path).eval()
        self._layout = torch.contiguous_format if variant == "eager" else torch.channels_last
        for weights in network.buffers():
            if weights.ndim == 4:
                weights.data = weights.data.contiguous(memory_format=self._layout)
        self._network: Any = network
        if variant == "inductor":
            import torch._inductor.config

            torch._inductor.config.freezing = True  # weights are constants: their layout is chosen once
            plain = (torch.zeros(model.frame_shape), *(torch.zeros(cache.shape) for cache in model.caches))
            # Exported first: walked node by node, every operator would be compiled by itself.
            self._network = torch.compile(torch.export.export(network, plain, strict=False).module())
        self.reset()

    def reset(self) -> None:
        self._caches = [self._torch.zeros(cache.shape) for cache in self._model.caches]

    def step(self, frame: Floats) -> Floats:
        with self._torch.inference_mode():
            given = self._torch.from_numpy(frame).contiguous(memory_format=self._layout)
            logits, *self._caches = self._network(given, *self._caches)
        result: Floats = logits.numpy()
        return result


class _PyTorch:
    packages = ("torch",)
    distributions = ("torch",)
    variants = ("eager", "channels-last", "inductor")

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        """Nothing to convert: the ONNX graph is walked node by node."""

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        return _TorchStepper(model, threads, variant)


ENGINES: dict[str, Engine] = {"fp32": _PyTorch()}
