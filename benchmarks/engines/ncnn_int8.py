"""A float model of ncnn → the same in int8, in ncnn's own files, as its ``ncnn2table`` and ``ncnn2int8`` make them.

Those tools are not in its wheel. A convolution or dense layer gets int8 weights with a scale for each output channel,
and a scale for what it reads, from the largest value on the calibration frames. ncnn then quantises and computes in
integers by itself; between two convolutions it stays in integers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from streams import calibration

from engines.base import Floats, OnlineModel

PARAM, WEIGHTS = "model.ncnn.param", "model.ncnn.bin"
LARGEST = 127
# ncnn's Winograd has room for weights of 6 bits only: its tool gives so many to every convolution with these keys.
LARGEST_OF_WINOGRAD, WINOGRAD = 31, {"1": 3, "11": 3, "2": 1, "12": 1, "3": 1, "13": 1}
# What stands before weights in the file: that they are float32, or int8.
FLOAT32, INT8 = struct.pack("<I", 0), struct.pack("<I", 0x000D4B38)
# Key of a layer: scales stand behind the bias, in the order that the value says.
SCALES = "8"
MORE_SCALES = 100  # added to that value: of the result, too, which is then written in int8


@dataclass(frozen=True)
class _Kind:
    """Keys of a type of layer: how many outputs, whether there is a bias, how many weights, and scales of them."""

    outputs: str
    bias: str
    weights: str
    scales: str
    order: int


_CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")
_KINDS = {
    "Convolution": _Kind("0", "5", "6", "0", 2),
    "ConvolutionDepthWise": _Kind("0", "5", "6", "7", 1),
    "InnerProduct": _Kind("0", "1", "2", "0", 2),
}


@dataclass(frozen=True)
class _Layer:
    """A layer with weights, and the line of the file that describes it."""

    line: int
    words: tuple[str, ...]

    @property
    def kind(self) -> _Kind:
        return _KINDS[self.words[0]]

    @property
    def convolves(self) -> bool:
        return self.words[0] in _CONVOLUTIONS

    @property
    def source(self) -> str:
        """What it reads: it has one input and one output."""
        return self.words[4]

    @property
    def result(self) -> str:
        return self.words[5]

    @property
    def largest(self) -> int:
        """Of its weights."""
        winograd = self.words[0] == "Convolution" and all(self.number(key) == value for key, value in WINOGRAD.items())
        return LARGEST_OF_WINOGRAD if winograd else LARGEST

    def number(self, key: str) -> int:
        """The value of a key; 0 where it is left out."""
        return next((int(word.partition("=")[2]) for word in self.words if word.startswith(f"{key}=")), 0)


def write_int8(model: OnlineModel, folder: Path) -> None:
    """Quantise the model's two files in place.

    Raises
    ------
    RuntimeError
        There are weights of layers that are not known here.
    """
    lines = (folder / PARAM).read_text("utf-8").splitlines()
    described = [(index, tuple(line.split())) for index, line in enumerate(lines)]
    layers = [_Layer(index, words) for index, words in described if words and words[0] in _KINDS]
    largest = _largest_values(model, folder, {layer.source for layer in layers})
    read = {name: np.float32(LARGEST / max(value, 1e-30)) for name, value in largest.items()}
    convolved = {layer.source for layer in layers if layer.convolves}
    data, parts, at = (folder / WEIGHTS).read_bytes(), [], 0
    for layer in layers:
        weights, bias, at = _read(layer, data, at)
        levels, scales = _levels(weights.reshape(layer.number(layer.kind.scales), -1), layer.largest)
        parts += [INT8, levels, bias.tobytes(), scales.tobytes(), read[layer.source].tobytes()]
        stays = layer.convolves and layer.result in convolved
        if stays:
            parts.append(read[layer.result].tobytes())
        lines[layer.line] += f" {SCALES}={layer.kind.order + MORE_SCALES * stays}"
    if at != len(data):
        raise RuntimeError(f"{len(data) - at} bytes of weights belong to layers that are not known here")
    (folder / PARAM).write_text("\n".join(lines) + "\n", "utf-8")
    (folder / WEIGHTS).write_bytes(b"".join(parts))


def _read(layer: _Layer, data: bytes, at: int) -> tuple[Floats, Floats, int]:
    """Weights and biases of a layer whose part of the file begins at a byte, and where the next part begins."""
    kind = layer.kind
    weights, biases = layer.number(kind.weights), layer.number(kind.outputs) * layer.number(kind.bias)
    start = at + len(FLOAT32)
    if data[at:start] != FLOAT32:
        raise RuntimeError(f"{layer.words[1]}: its weights are not float32 where they were expected")
    end = start + 4 * (weights + biases)
    values: NDArray[np.float32] = np.frombuffer(data[start:end], "<f4")
    return values[:weights], values[weights:], end


def _levels(weights: Floats, largest: int) -> tuple[bytes, NDArray[np.float32]]:
    """Weights in int8, filled up to whole words, and how many levels of each row are 1."""
    scales = (largest / np.maximum(np.abs(weights).max(1), 1e-30)).astype("<f4")
    levels = np.rint(weights * scales[:, None]).astype(np.int8).tobytes()
    return levels + b"\0" * (-len(levels) % 4), scales


def _largest_values(model: OnlineModel, folder: Path, blobs: set[str]) -> dict[str, float]:
    """The largest magnitude of each blob over the calibration frames."""
    import ncnn

    net = ncnn.Net()
    net.opt.lightmode = False  # blobs stay to be looked at
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(folder / PARAM))
    net.load_model(str(folder / WEIGHTS))
    found = dict.fromkeys(blobs, 0.0)
    for inputs in calibration(model):
        # A Mat made from an array does not keep the array alive.
        arrays: Sequence[Floats] = [inputs[model.frame][0], *(inputs[cache.input][0] for cache in model.caches)]
        extractor = net.create_extractor()
        for index, array in enumerate(arrays):
            extractor.input(f"in{index}", ncnn.Mat(array))
        for blob in blobs:
            found[blob] = max(found[blob], float(np.abs(np.array(extractor.extract(blob)[1])).max()))
    return found
