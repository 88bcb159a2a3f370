"""What instruction sets give kernels on 8-bit levels: a dot product of four, rounding, packing. The only intrinsics.

Levels are stored as they are (uint8) where the dot product takes unsigned activations, and less 128 (int8) on Arm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from tsm_edge.cards import CpuSpec
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.ir.quantisation import MAGIC_BITS
from tsm_edge.errors import CompileError

AVX512_LANES, AVX2_LANES = 16, 8
# Cycles until vpdpbusd's sum can be added to again (LLVM 19's models: Alder Lake and Sapphire Rapids 5, Zen 4 3).
VNNI_LATENCY = 5


@dataclass(frozen=True)
class Instructions:
    """An instruction set.

    Attributes
    ----------
    kind : str
        ``vnni`` (x86-64), ``sdot`` (Armv8.2) or ``mlal`` (every 64-bit Arm).
    lanes : int
        int32 sums of a vector.
    registers : int
        Vector registers.
    under_way : int
        Dot products that begin before the first one's sum can be added to again. A tile of fewer sums leaves the unit
        idle. 1: not modelled; the tiles of Arm's 32 registers have more sums than that.
    """

    kind: Literal["vnni", "sdot", "mlal"]
    lanes: int
    registers: int
    under_way: int = 1

    @property
    def arm(self) -> bool:
        """Whether levels are stored less 128, and pixels are read by vectors."""
        return self.kind != "vnni"

    @property
    def offset(self) -> int:
        """What stored bytes are less than levels."""
        return 128 if self.arm else 0

    @property
    def stored(self) -> str:
        """Type of a stored byte."""
        return "int8" if self.arm else "uint8"

    @property
    def vector_bytes(self) -> int:
        """Bytes of a vector: four for each lane."""
        return 4 * self.lanes

    @property
    def weight_order(self) -> tuple[tuple[int, int], ...]:
        """The (lane, term) of every byte of a vector of weights."""
        if self.kind == "mlal":  # the first two terms of all lanes, then the others
            return tuple((lane, term) for half in (0, 2) for lane in range(4) for term in (half, half + 1))
        return tuple((lane, term) for lane in range(self.lanes) for term in range(4))

    def quad_at(self, vector: Expr, index: int) -> Expr:
        """The ``index``-th four bytes of sixteen, in every lane as :meth:`dot` takes them (Arm)."""
        if self.kind == "sdot":
            return shuffle([vector], [index] * 4)
        first = 4 * index
        order = [first, first + 1] * 4 + [first + 2, first + 3] * 4
        return tirx.reinterpret("int32x4", shuffle([tirx.reinterpret("int8x16", vector)], order))

    def spread(self, quad: Expr) -> Expr:
        """Four bytes (an int32) in every lane, as :meth:`dot` takes them."""
        vector = T.Broadcast(quad, self.lanes)
        return self.quad_at(vector, 0) if self.kind == "mlal" else vector

    def arranged(self, vector: Expr) -> Expr:
        """Four bytes a lane, as :meth:`dot` takes them."""
        if self.kind != "mlal":
            return vector
        order = [4 * lane + term for half in (0, 2) for lane in range(4) for term in (half, half + 1)]
        return tirx.reinterpret("int32x4", shuffle([tirx.reinterpret("int8x16", vector)], order))

    def dot(self, sums: Expr, pixels: Expr, weights: Expr) -> Expr:
        """Add to every int32 the four products of its lane."""
        lanes, size = self.lanes, self.vector_bytes
        if self.kind == "vnni":
            name = f"llvm.x86.avx512.vpdpbusd.{8 * size}"
            return _call(f"int32x{lanes}", name, sums, tirx.reinterpret(f"uint8x{size}", pixels), weights)
        pixels = tirx.reinterpret("int8x16", pixels)
        if self.kind == "sdot":
            return _call("int32x4", "llvm.aarch64.neon.sdot", sums, weights, pixels)
        low, high = (
            _call("int16x8", "llvm.aarch64.neon.smull", shuffle([weights], half), shuffle([pixels], half))
            for half in (range(8), range(8, 16))
        )
        return sums + _call("int32x4", "llvm.aarch64.neon.saddlp", low + high)

    def round(self, values: Expr, lanes: int = 0) -> Expr:
        """float32 to the nearest int32, ties to even."""
        lanes = lanes or self.lanes
        return _call(vector_of("int32", lanes), "llvm.aarch64.neon.fcvtns" if self.arm else "llvm.lrint", values)

    def low_bits(self, values: Expr) -> Expr:
        """The whole numbers in the low bits of floats near 1.5 · 2**23; on Arm with the high bits, see ``biased``."""
        bits = tirx.reinterpret(f"int32x{self.lanes}", values)
        return bits if self.arm else bits - whole(MAGIC_BITS, self.lanes)

    def pack(self, values: Sequence[Expr], biased: bool) -> Expr:
        """Four vectors of int32 to bytes, saturated: of every four lanes, those of the first vector, the second, ….

        ``biased``: they are :meth:`low_bits` of floats.
        """
        lanes, size = self.lanes, self.vector_bytes
        if self.arm:
            halves = self._narrowed(values, biased)
            name = "llvm.aarch64.neon.sqxtn"
            bytes_ = [_call("int8x8", name, half) for half in halves]
            return tirx.reinterpret("uint8x16", shuffle(bytes_, range(16)))
        width = ".512" if lanes == AVX512_LANES else ""
        family = "llvm.x86.avx512." if lanes == AVX512_LANES else "llvm.x86.avx2."
        pairs = [_call(f"int16x{2 * lanes}", f"{family}packssdw{width}", *values[i : i + 2]) for i in (0, 2)]
        packed = _call(f"int8x{size}", f"{family}packuswb{width}", *pairs)
        return tirx.reinterpret(f"uint8x{size}", packed)

    def _narrowed(self, values: Sequence[Expr], biased: bool) -> list[Expr]:
        """Two vectors of int16 of four of int32 (Arm)."""
        if biased:
            whole_vectors = [tirx.reinterpret("int16x8", value) for value in values]
            return [shuffle(whole_vectors[i : i + 2], range(0, 16, 2)) for i in (0, 2)]
        parts = [_call("int16x4", "llvm.aarch64.neon.sqxtn", value) for value in values]
        return [shuffle(parts[i : i + 2], range(8)) for i in (0, 2)]

    def narrow(self, value: Expr, biased: bool = False, lanes: int = 0) -> Expr:
        """A vector of int32 to bytes, saturated."""
        lanes = lanes or self.lanes
        if self.arm:
            value = value - whole(MAGIC_BITS, lanes) if biased else value
            value = tirx.min(tirx.max(value, whole(-128, lanes)), whole(127, lanes))
            return tirx.reinterpret(vector_of("uint8", lanes), tirx.Cast(vector_of("int8", lanes), value))
        value = tirx.min(tirx.max(value, whole(0, lanes)), whole(255, lanes))
        return tirx.Cast(vector_of("uint8", lanes), value)

    def quads(self, packed: Expr) -> Expr:
        """Of :meth:`pack`: the byte of each of the four vectors side by side, for every lane."""
        groups = range(self.lanes // 4)
        order = [16 * group + 4 * vector + lane for group in groups for lane in range(4) for vector in range(4)]
        return shuffle([packed], order)

    def middle(self, low: Expr, high: Expr) -> Expr:
        """Of every lane's eight bytes, ``low`` before ``high``, the four in the middle."""
        lanes = self.lanes
        if lanes == AVX2_LANES:  # which has no funnel shift
            right = tirx.shift_right(tirx.reinterpret("uint32x8", low), T.Broadcast(tirx.const(16, "uint32"), 8))
            return right.astype("int32x8") | tirx.shift_left(high, whole(16, lanes))
        return _call(f"int32x{lanes}", "llvm.fshr", high, low, whole(16, lanes))

    def widen(self, stored: Expr) -> Expr:
        """Stored bytes (uint8) to int32."""
        lanes = self.lanes
        return tirx.Cast(f"int32x{lanes}", tirx.reinterpret(f"{self.stored}x{lanes}", stored))

    def pick(self, raw: Expr, vector: int) -> Expr:
        """One vector of int32 out of stored bytes in the order of :meth:`pack`."""
        lanes, size = self.lanes, self.vector_bytes
        order = [16 * (lane // 4) + 4 * vector + lane % 4 for lane in range(lanes)]
        if self.arm:
            return self.widen(shuffle([raw], order))
        zero = T.Broadcast(tirx.const(0, "uint8"), size)
        return tirx.reinterpret(
            f"int32x{lanes}", shuffle([raw, zero], [index for at in order for index in (at, size, size, size)])
        )


def instructions_of(cpu: CpuSpec, target: str) -> Instructions:
    """The instruction set of a CPU.

    Raises
    ------
    CompileError
        None of its instructions is worth it.
    """
    if "multiply-by-lane" in cpu.abilities:
        return Instructions("sdot" if "dot-product" in cpu.abilities else "mlal", 4, 32)
    if "dot-product" in cpu.abilities and cpu.vector_lanes in (AVX2_LANES, AVX512_LANES):
        under_way = math.ceil(VNNI_LATENCY * cpu.fma_per_cycle)
        return Instructions("vnni", cpu.vector_lanes, cpu.vector_registers, under_way)
    raise CompileError(
        f"target {target} has neither 8-bit dot products nor 64-bit Arm's multiply-adds, which precision int8 needs",
        "leave --precision out, or choose x86-64-v4-vnni, x86-64-v3-vnni or a 64-bit Arm target",
    )


def fused(a: Expr, b: Expr, c: Expr, lanes: int) -> Expr:
    """``a * b + c`` of float32, rounded once."""
    return _call(f"float32x{lanes}", "llvm.fma", a, b, c)


def whole(value: int, lanes: int) -> Expr:
    """An int32 in every lane."""
    constant = tirx.const(value, "int32")
    return constant if lanes == 1 else T.Broadcast(constant, lanes)


def vector_of(dtype: str, lanes: int) -> str:
    """Name of a vector type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def shuffle(vectors: Sequence[Expr], indices: Iterable[int]) -> Expr:
    """A vector of the chosen lanes, counted over all of ``vectors`` laid end to end."""
    return tirx.Shuffle(list(vectors), [tirx.const(index, "int32") for index in indices])


def _call(dtype: str, name: str, *arguments: Any) -> Expr:
    return tirx.call_llvm_pure_intrin(dtype, name, *arguments)
