"""OpenVINO, CPU plugin: caches as tensors swapped between frames, or as the model's own state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.base import Engine, Floats, OnlineModel, Stepper


def _compile(model: OnlineModel, threads: int, hint: str, stateful: bool) -> Any:
    import openvino

    core = openvino.Core()
    network = core.read_model(model.path)
    if stateful:
        from openvino._offline_transformations import apply_make_stateful_transformation

        apply_make_stateful_transformation(network, {cache.input: cache.output for cache in model.caches})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        # Its default is bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": hint,
    }
    return core.compile_model(network, "CPU", settings)


class _SwappedStepper:
    def __init__(self, model: OnlineModel, threads: int, hint: str) -> None:
        import openvino

        self._model = model
        compiled = _compile(model, threads, hint, stateful=False)
        self._caches = [[openvino.Tensor(cache.zeros) for cache in model.caches] for _ in range(2)]
        # Two requests with fixed tensors, so that nothing but the frame is set in a step.
        self._requests = [compiled.create_infer_request() for _ in range(2)]
        for turn, request in enumerate(self._requests):
            for cache, read, write in zip(model.caches, self._caches[turn], self._caches[1 - turn], strict=True):
                request.set_tensor(cache.input, read)
                request.set_tensor(cache.output, write)
        self._turn = 0

    def reset(self) -> None:
        for tensor in self._caches[self._turn]:
            tensor.data[:] = 0

    def step(self, frame: Floats) -> Floats:
        import openvino

        request = self._requests[self._turn]
        request.set_tensor(self._model.frame, openvino.Tensor(frame, shared_memory=True))
        request.infer()
        self._turn = 1 - self._turn
        result: Floats = request.get_tensor(self._model.logits).data
        return result


class _StatefulStepper:
    def __init__(self, model: OnlineModel, threads: int, hint: str) -> None:
        self._model = model
        self._request = _compile(model, threads, hint, stateful=True).create_infer_request()

    def reset(self) -> None:
        self._request.reset_state()

    def step(self, frame: Floats) -> Floats:
        import openvino

        self._request.set_tensor(self._model.frame, openvino.Tensor(frame, shared_memory=True))
        self._request.infer()
        result: Floats = self._request.get_tensor(self._model.logits).data
        return result


@dataclass(frozen=True)
class _OpenVino:
    hint: str
    packages = ("openvino",)
    distributions = ("openvino",)
    variants = ("swapped", "stateful")

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        """Nothing to convert: it reads ONNX."""

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        make = _SwappedStepper if variant == "swapped" else _StatefulStepper
        return make(model, threads, self.hint)


# Of int8 it is given a quantised file: what is quantised there is computed in integers, whatever the hint.
ENGINES: dict[str, Engine] = {"fp32": _OpenVino("f32"), "fp16": _OpenVino("f16"), "int8": _OpenVino("f32")}
