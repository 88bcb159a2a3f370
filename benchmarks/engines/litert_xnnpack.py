"""LiteRT (TensorFlow Lite) on XNNPACK, from the ONNX file by way of PyTorch; caches kept channels-last.

In int8 it is quantised by its own quantiser; frames, logits and caches stay float32 outside of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from streams import calibration

from engines.base import Engine, Floats, OnlineModel, Stepper

FILE, FLOAT32_FILE = "model.tflite", "float32.tflite"


def _channels_last(shape: tuple[int, ...]) -> Floats:
    batch, channels, height, width = shape
    return np.zeros((batch, height, width, channels), np.float32)


class _InterpreterStepper:
    """The classic interpreter: caches copied from outputs to inputs, as its API has no way to share them."""

    def __init__(self, folder: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(folder / FILE), num_threads=threads)
        self._interpreter.allocate_tensors()
        signature = self._interpreter.get_signature_runner()
        self._frame, *self._reads = self._tensors(signature.get_input_details(), "args_")
        self._logits, *self._writes = self._tensors(signature.get_output_details(), "output_")

    def _tensors(self, details: Mapping[str, Any], prefix: str) -> list[Any]:
        # They are numbered by position: args_10 comes after args_9.
        names = sorted(details, key=lambda name: _number(name, prefix))
        return [self._interpreter.tensor(details[name]["index"]) for name in names]

    def reset(self) -> None:
        for read in self._reads:
            read().fill(0)

    def step(self, frame: Floats) -> Floats:
        np.copyto(self._frame(), frame)
        self._interpreter.invoke()
        for read, write in zip(self._reads, self._writes, strict=True):
            np.copyto(read(), write())
        return np.array(self._logits())


def _number(name: str, prefix: str) -> int:
    return int(name.rpartition(prefix)[2].partition("_")[0])


class _CompiledStepper:
    """The compiled-model API: two sets of cache buffers used in turn."""

    def __init__(self, model: OnlineModel, folder: Path, threads: int) -> None:
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options

        cpu = CpuOptions(num_threads=threads)
        options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
        self._model = CompiledModel.from_file(str(folder / FILE), options=options)
        signature = self._model.get_signature_by_index(0)
        self._key, self._classes = signature["key"], model.classes
        inputs = sorted(signature["inputs"], key=lambda name: _number(name, "args_"))
        outputs = sorted(signature["outputs"], key=lambda name: _number(name, "output_"))
        create = self._model.create_input_buffer_by_name
        self._frame = create(self._key, inputs[0])
        self._logits = self._model.create_output_buffer_by_name(self._key, outputs[0])
        self._caches = [[create(self._key, name) for name in inputs[1:]] for _ in range(2)]
        self._zeros = [_channels_last(cache.shape) for cache in model.caches]
        self._maps = [
            (
                {inputs[0]: self._frame} | dict(zip(inputs[1:], self._caches[turn], strict=True)),
                {outputs[0]: self._logits} | dict(zip(outputs[1:], self._caches[1 - turn], strict=True)),
            )
            for turn in range(2)
        ]
        self._turn = 0

    def reset(self) -> None:
        for buffer, zeros in zip(self._caches[self._turn], self._zeros, strict=True):
            buffer.write(zeros)

    def step(self, frame: Floats) -> Floats:
        self._frame.write(frame)
        self._model.run_by_name(self._key, *self._maps[self._turn])
        self._turn = 1 - self._turn
        logits: Floats = self._logits.read(self._classes, np.float32).reshape(1, -1)
        return logits


@dataclass(frozen=True)
class _LiteRt:
    integers: bool = False
    packages = ("ai_edge_litert", "litert_torch")
    distributions = ("ai-edge-litert", "litert-torch")
    variants = ("interpreter", "compiled")

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        import litert_torch
        import torch

        from engines.torch_graph import TorchGraph

        arguments: list[Any] = [torch.zeros(model.frame_shape)]
        arguments += [torch.from_numpy(_channels_last(cache.shape)) for cache in model.caches]
        caches = list(range(1, len(arguments)))
        network = litert_torch.to_channel_last_io(TorchGraph(model.path).eval(), args=caches, outputs=caches)
        path = folder / (FLOAT32_FILE if self.integers else FILE)
        litert_torch.convert(network, tuple(arguments)).export(str(path))
        if self.integers:
            _quantise(model, path, folder / FILE)

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        if variant == "interpreter":
            return _InterpreterStepper(folder, threads)
        return _CompiledStepper(model, folder, threads)


def _quantise(model: OnlineModel, path: Path, result: Path) -> None:
    """Write the file in int8: weights with a scale for each output channel, tensors between layers with one each."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import qtyping, quantizer, recipe

    ((key, names),) = Interpreter(str(path)).get_signature_list().items()
    inputs = sorted(names["inputs"], key=lambda name: _number(name, "args_"))
    samples = []
    for frame in calibration(model):
        caches = [np.ascontiguousarray(frame[cache.input].transpose(0, 2, 3, 1)) for cache in model.caches]
        samples.append(dict(zip(inputs, [frame[model.frame], *caches], strict=True)))
    quantiser = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        quantiser.update_quantization_recipe(".*", end, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)
    quantiser.quantize(quantiser.calibrate({key: samples}, num_threads=1)).export_model(str(result))


ENGINES: dict[str, Engine] = {"fp32": _LiteRt(), "int8": _LiteRt(integers=True)}
