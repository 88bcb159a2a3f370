"""The parts of a PTX instruction, and its operands in C: registers are raw bits in unsigned variables, and each is read
as what the instruction says it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tsm_edge.verify.standin.ptx import PtxError, operands, type_bytes

_SPECIAL = {
    **{f"%tid.{axis}": f"at->thread.{axis}" for axis in "xyz"},
    **{f"%ntid.{axis}": f"at->threads.{axis}" for axis in "xyz"},
    **{f"%ctaid.{axis}": f"at->block.{axis}" for axis in "xyz"},
    **{f"%nctaid.{axis}": f"at->blocks.{axis}" for axis in "xyz"},
}


@dataclass(frozen=True)
class Names:
    """What names in a kernel stand for.

    Attributes
    ----------
    symbols : mapping of str to str
        Arrays: name → C expression of the address.
    parameters : mapping of str to int
        Name → offset among the kernel's arguments.
    local : tuple of (str, int) or None
        The C array that local memory is, and its bytes.
    """

    symbols: Mapping[str, str]
    parameters: Mapping[str, int]
    local: tuple[str, int] | None = None


def register(name: str) -> str:
    """The C variable of a register or label."""
    return re.sub(r"[%$.]", "_", name)


def c_type(kind: str) -> str:
    """Integer of a PTX type: signed only for ``.s``."""
    if kind == "pred":
        return "uint32_t"
    return f"{'' if kind.startswith('s') else 'u'}int{8 * type_bytes(kind)}_t"


@dataclass(frozen=True)
class Instruction:
    """One instruction: the words of its opcode, and its operands."""

    words: list[str]
    operands: list[str]
    line: int
    names: Names

    @property
    def kind(self) -> str:
        """The last type."""
        return self.words[-1]

    @property
    def float32(self) -> bool:
        return self.kind == "f32"

    def has(self, word: str) -> bool:
        return word in self.words

    def read(self, index: int, kind: str = "") -> str:
        """C of an operand's value as a type."""
        return self.value(self.operands[index], kind or self.kind)

    def value(self, token: str, kind: str) -> str:
        bits = self._bits(token, kind)
        if kind in ("f32", "f64"):
            return f"standin_{kind}({bits})"
        if kind == "f16":
            return f"standin_f16((uint16_t){bits})"
        return f"(({c_type(kind)}){bits})"

    def _bits(self, token: str, kind: str) -> str:
        if token in _SPECIAL:
            return _SPECIAL[token]
        if token.startswith("%") or token in self.names.parameters:
            return register(token)
        if re.fullmatch(r"0[fFdD][0-9a-fA-F]+", token):
            return f"0x{token[2:]}{'ull' if token[1] in 'dD' else 'u'}"
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", token):
            return f"({token.rstrip('U')}ull)"
        if token in self.names.symbols:
            return self.names.symbols[token]
        return register(token)

    def write(self, expression: str, kind: str = "", index: int = 0) -> str:
        """C that puts a value of a type into an operand."""
        kind = kind or self.kind
        if kind in ("f32", "f64", "f16"):
            if self.has("sat"):
                expression = f"standin_saturate({expression})"
            expression = f"standin_bits_{kind}({expression})"
        elif kind != "pred":
            expression = f"({c_type(kind)})({expression})"
        return f"{register(self.operands[index])} = {expression};"

    def address(self, index: int) -> str:
        match = re.fullmatch(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\d+))?\s*\]", self.operands[index])
        if match is None:
            raise PtxError(f"line {self.line}: address {self.operands[index]}")
        return f"{self.value(match[1], 'u64')} + (uint64_t)({match[2] or 0})"

    def vector(self, index: int) -> list[str]:
        return operands(self.operands[index].strip("{}"))
