"""ONNX Runtime, CPU provider: plain ``run`` with arrays, or IO binding with two sets of caches used in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.base import Engine, Floats, OnlineModel, Stepper


def open_session(path: Path, threads: int) -> Any:
    """Return an ``InferenceSession`` on exactly ``threads`` threads, all graph optimisations on."""
    from tsm_edge.artifact.onnx_runtime import import_onnxruntime, session_options
    from tsm_edge.artifact.onnx_runtime import open_session as make_session

    onnxruntime, options = import_onnxruntime(), session_options()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return make_session(str(path), options)


class RunStepper:
    """``InferenceSession.run``: outputs are new arrays, fed back as the next inputs without a copy."""

    def __init__(self, model: OnlineModel, threads: int) -> None:
        self._model = model
        self._session = open_session(model.path, threads)
        self._outputs = [model.logits, *(cache.output for cache in model.caches)]
        self.reset()

    def reset(self) -> None:
        self._feeds = {cache.input: cache.zeros for cache in self._model.caches}

    def step(self, frame: Floats) -> Floats:
        self._feeds[self._model.frame] = frame
        logits, *following = self._session.run(self._outputs, self._feeds)
        for cache, value in zip(self._model.caches, following, strict=True):
            self._feeds[cache.input] = value
        result: Floats = logits
        return result


class _BindingStepper:
    """Everything bound once except the frame: nothing is allocated in a step."""

    def __init__(self, model: OnlineModel, threads: int) -> None:
        import numpy as np
        from onnxruntime import OrtValue

        self._frame = model.frame
        self._session = open_session(model.path, threads)
        self._logits = np.zeros(model.logits_shape, np.float32)
        self._caches = [[cache.zeros for cache in model.caches] for _ in range(2)]
        values = [[OrtValue.ortvalue_from_numpy(array) for array in arrays] for arrays in self._caches]
        logits = OrtValue.ortvalue_from_numpy(self._logits)
        self._values, self._logits_value = values, logits
        self._bindings = [self._bind(model, values[turn], values[1 - turn]) for turn in range(2)]
        self._turn = 0

    def _bind(self, model: OnlineModel, reads: list[Any], writes: list[Any]) -> Any:
        binding = self._session.io_binding()
        binding.bind_ortvalue_output(model.logits, self._logits_value)
        for cache, read, write in zip(model.caches, reads, writes, strict=True):
            binding.bind_ortvalue_input(cache.input, read)
            binding.bind_ortvalue_output(cache.output, write)
        return binding

    def reset(self) -> None:
        for array, value in zip(self._caches[self._turn], self._values[self._turn], strict=True):
            array.fill(0)
            value.update_inplace(array)

    def step(self, frame: Floats) -> Floats:
        binding = self._bindings[self._turn]
        binding.bind_cpu_input(self._frame, frame)
        self._session.run_with_iobinding(binding)
        self._turn = 1 - self._turn
        result: Floats = self._logits_value.numpy()
        return result


class _OnnxRuntime:
    packages = ("onnxruntime",)
    distributions = ("onnxruntime",)
    variants = ("run", "io-binding")

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        """Nothing to convert."""

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        return RunStepper(model, threads) if variant == "run" else _BindingStepper(model, threads)


# Of int8 it is given a quantised file.
ENGINES: dict[str, Engine] = {"fp32": _OnnxRuntime(), "int8": _OnnxRuntime()}
