"""MNN, CPU backend, high precision: its sessions, or its module API, which hands caches on without a copy."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import Engine, Floats, OnlineModel, Stepper

FILE = "model.mnn"


class _SessionStepper:
    def __init__(self, model: OnlineModel, folder: Path, threads: int, settings: dict[str, Any]) -> None:
        import MNN

        self._mnn = MNN
        self._model = model
        self._interpreter = MNN.Interpreter(str(folder / FILE))
        self._session = self._interpreter.createSession(settings)
        self._inputs = self._interpreter.getSessionInputAll(self._session)
        self._outputs = self._interpreter.getSessionOutputAll(self._session)
        self._caches = [self._host(cache.shape, cache.zeros) for cache in model.caches]
        self._logits = self._host((1, model.classes), np.zeros((1, model.classes), np.float32))

    def _host(self, shape: tuple[int, ...], values: Floats) -> Any:
        return self._mnn.Tensor(shape, self._mnn.Halide_Type_Float, values, self._mnn.Tensor_DimensionType_Caffe)

    def reset(self) -> None:
        self._caches = [self._host(cache.shape, cache.zeros) for cache in self._model.caches]

    def step(self, frame: Floats) -> Floats:
        self._inputs[self._model.frame].copyFrom(self._host(self._model.frame_shape, frame))
        for cache, tensor in zip(self._model.caches, self._caches, strict=True):
            self._inputs[cache.input].copyFrom(tensor)
        self._interpreter.runSession(self._session)
        for cache, tensor in zip(self._model.caches, self._caches, strict=True):
            self._outputs[cache.output].copyToHostTensor(tensor)
        self._outputs[self._model.logits].copyToHostTensor(self._logits)
        return np.array(self._logits.getNumpyData(), np.float32).reshape(1, -1)


class _ModuleStepper:
    def __init__(self, model: OnlineModel, folder: Path, threads: int, settings: dict[str, Any]) -> None:
        import MNN.expr
        import MNN.nn

        self._expr = MNN.expr
        self._model = model
        self._manager = MNN.nn.create_runtime_manager((settings,))
        inputs = [model.frame, *(cache.input for cache in model.caches)]
        outputs = [model.logits, *(cache.output for cache in model.caches)]
        self._module = MNN.nn.load_module_from_file(
            str(folder / FILE), inputs, outputs, runtime_manager=self._manager, shape_mutable=False
        )
        self.reset()

    def _variable(self, shape: tuple[int, ...], values: Floats) -> Any:
        variable = self._expr.placeholder(shape, self._expr.NCHW)
        variable.write(values)
        return variable

    def reset(self) -> None:
        self._caches = [self._variable(cache.shape, cache.zeros) for cache in self._model.caches]

    def step(self, frame: Floats) -> Floats:
        variable = self._variable(self._model.frame_shape, frame)
        logits, *self._caches = self._module.forward([variable, *self._caches])
        return np.array(logits.read(), np.float32).reshape(1, -1)


@dataclass(frozen=True)
class _Mnn:
    integers: bool = False
    packages = ("MNN",)
    distributions = ("MNN",)
    variants = ("session", "module")

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        program = Path(sys.executable).parent / "mnnconvert"
        command = [str(program), "-f", "ONNX", "--modelFile", str(model.path), "--MNNModel", str(folder / FILE)]
        command += ["--bizCode", "x", *(["--weightQuantBits", "8"] if self.integers else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not (folder / FILE).exists():
            raise RuntimeError(f"mnnconvert wrote no model: {(done.stderr or done.stdout)[-300:]}")

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        # A precision of "low" would compute in bfloat16. Low memory keeps weights in int8: activations are then
        # quantised layer by layer, frame by frame.
        settings = {"backend": "CPU", "precision": "high", "numThread": threads}
        settings |= {"memory": "low"} if self.integers else {}
        stepper = _SessionStepper if variant == "session" else _ModuleStepper
        return stepper(model, folder, threads, settings)


ENGINES: dict[str, Engine] = {"fp32": _Mnn(), "int8": _Mnn(integers=True)}
