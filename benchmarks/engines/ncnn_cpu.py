"""ncnn, converted from the ONNX file by pnnx; caches go from extractor to extractor as ``ncnn.Mat``."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import Engine, Floats, OnlineModel, Stepper


class _NcnnStepper:
    def __init__(self, model: OnlineModel, folder: Path, threads: int, variant: str, half: bool) -> None:
        import ncnn

        self._ncnn = ncnn
        self._caches = model.caches
        ncnn.set_omp_num_threads(threads)
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        options.use_winograd_convolution = variant != "no-winograd"
        # 16-bit storage would not be float32; bfloat16 has three bits less than half precision.
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = half
        options.use_bf16_storage = options.use_bf16_packed = False
        for load, name in ((self._net.load_param, "model.ncnn.param"), (self._net.load_model, "model.ncnn.bin")):
            if load(str(folder / name)):
                raise RuntimeError(f"ncnn cannot load {name}")
        self.reset()

    def reset(self) -> None:
        # A Mat made from an array does not keep the array alive.
        zeros = [cache.zeros[0] for cache in self._caches]
        self._mats: list[Any] = [self._ncnn.Mat(array).clone() for array in zeros]

    def step(self, frame: Floats) -> Floats:
        extractor = self._net.create_extractor()
        extractor.input("in0", self._ncnn.Mat(frame[0]))
        for index, mat in enumerate(self._mats):
            extractor.input(f"in{index + 1}", mat)
        _, logits = extractor.extract("out0")
        self._mats = [extractor.extract(f"out{index + 1}")[1] for index in range(len(self._mats))]
        return np.array(logits, np.float32).reshape(1, -1)


@dataclass(frozen=True)
class _Ncnn:
    half: bool = False
    integers: bool = False
    packages = ("ncnn", "pnnx")
    distributions = ("ncnn", "pnnx")
    variants = ("winograd", "no-winograd")

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        link = folder / "model.onnx"  # pnnx names its files after its input's
        link.symlink_to(model.path.resolve())
        command = [str(Path(sys.executable).parent / "pnnx"), link.name, "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if not (folder / "model.ncnn.param").exists():
            raise RuntimeError(f"pnnx wrote no model: {(done.stderr or done.stdout)[-300:]}")
        if self.integers:
            from engines.ncnn_int8 import write_int8

            write_int8(model, folder)

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        return _NcnnStepper(model, folder, threads, variant, self.half)


ENGINES: dict[str, Engine] = {"fp32": _Ncnn(), "fp16": _Ncnn(half=True), "int8": _Ncnn(integers=True)}
