"""Reading PTX: kernels, their parameters, and their statements with the lines they stand in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{;]*)\{")
_PARAMETER = re.compile(r"\.param\s+\.(\w+)\s+([\w$]+)")
_STATEMENT = re.compile(
    r"\s*(?:(?P<brace>[{}])|(?P<label>[$%\w]+)\s*:(?!:)|(?P<text>[^;{}\s](?:[^;{}]|\{[^{}]*\})*);)", re.DOTALL
)
_ARRAY = re.compile(
    r"\.(?P<space>global|const|shared|local)\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+(?P<name>[%\w$]+)"
    r"(?:\[(?P<count>\d*)\])?(?:\s*=\s*\{(?P<values>[^}]*)\})?",
    re.DOTALL,
)


class PtxError(Exception):
    """PTX that the stand-in does not know."""


@dataclass(frozen=True)
class Statement:
    """One instruction or directive, without its semicolon; ``{``, ``}``, or a label with its colon."""

    text: str
    line: int


@dataclass(frozen=True)
class Array:
    """A declared array: where it is, its bytes, and its first values (0 to 255) if it has any."""

    space: str
    name: str
    align: int
    bytes: int
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """A kernel's parameter: its type (``u64``), and where its value begins among all."""

    name: str
    kind: str
    offset: int

    @property
    def bytes(self) -> int:
        """Size of the value."""
        return type_bytes(self.kind)


@dataclass(frozen=True)
class Kernel:
    """One ``.entry``.

    Attributes
    ----------
    name : str
    parameters : tuple of Parameter
    most_threads : int
        Of a block (``.maxntid``); 0: any number.
    statements : tuple of Statement
    """

    name: str
    parameters: tuple[Parameter, ...]
    most_threads: int
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Module:
    """A PTX file: its version (64 for 6.4), its kernels, its arrays outside of kernels."""

    version: int
    kernels: tuple[Kernel, ...]
    arrays: tuple[Array, ...]


def type_bytes(kind: str) -> int:
    """Size of a value of a PTX type: 4 of ``f32``, 4 of ``f16x2``, 0 of ``pred``."""
    if kind == "pred":
        return 0
    if kind in ("f16x2", "bf16x2"):
        return 4
    digits = kind.lstrip("bfsu")
    if digits not in BYTES:
        raise PtxError(f"no type .{kind}")
    return BYTES[digits]


def parse(ptx: str) -> Module:
    """Read a PTX text.

    Raises
    ------
    PtxError
        It is none, or has what the stand-in does not know.
    """
    text = _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), ptx)
    version = re.search(r"^\s*\.version\s+(\d+)\.(\d+)", text, re.MULTILINE)
    if version is None:
        raise PtxError("no .version")
    kernels, outside, end = [], [], 0
    for match in _ENTRY.finditer(text):
        outside.append(text[end : match.start()])
        end = _end_of_block(text, match.end())
        line = text.count("\n", 0, match.end()) + 1
        kernels.append(_kernel(match, tuple(_statements(text[match.end() : end - 1], line))))
    outside.append(text[end:])
    if not kernels:
        raise PtxError("no kernel (.entry)")
    return Module(int(version[1]) * 10 + int(version[2]), tuple(kernels), tuple(_outer_arrays("".join(outside))))


def array(text: str) -> Array | None:
    """The array that a directive declares, if it declares one."""
    match = _ARRAY.search(text)
    if match is None:
        return None
    values = match["values"]
    if values is not None and match["type"] != "b8":
        raise PtxError(f"an array of .{match['type']} with values, expected .b8: {match['name']}")
    if match["count"] == "":
        raise PtxError(f"an array without a size: {match['name']}")
    size = type_bytes(match["type"])
    numbers = tuple(int(value, 0) for value in values.split(",")) if values else ()
    return Array(match["space"], match["name"], int(match["align"] or size), size * int(match["count"] or 1), numbers)


def operands(text: str) -> list[str]:
    """Split an instruction's operands at the commas outside of braces and brackets."""
    found, depth, begin = [], 0, 0
    for index, sign in enumerate(text):
        depth += (sign in "{[(") - (sign in "}])")
        if sign == "," and depth == 0:
            found.append(text[begin:index].strip())
            begin = index + 1
    found.append(text[begin:].strip())
    return [operand for operand in found if operand]


def _end_of_block(text: str, begin: int) -> int:
    """Position behind the brace that closes the one before ``begin``."""
    depth = 1
    for match in re.compile(r"[{}]").finditer(text, begin):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.end()
    raise PtxError("a kernel without an end")


def _kernel(match: re.Match[str], statements: tuple[Statement, ...]) -> Kernel:
    parameters, offset = [], 0
    for kind, name in _PARAMETER.findall(match[2]):
        size = type_bytes(kind)
        offset += -offset % size
        parameters.append(Parameter(name, kind, offset))
        offset += size
    threads = re.search(r"\.maxntid\s+([\d,\s]+)", match[3])
    most = 0
    if threads:
        most = 1
        for number in threads[1].split(","):
            most *= int(number)
    return Kernel(match[1], tuple(parameters), most, statements)


def _statements(body: str, first_line: int) -> Iterator[Statement]:
    position, line = 0, first_line
    while body[position:].strip():
        match = _STATEMENT.match(body, position)
        if match is None:
            raise PtxError(f"line {line}: {body[position:].strip()[:60]!r}")
        kind = str(match.lastgroup)
        line += body.count("\n", position, match.start(kind))
        text = " ".join(match[kind].split())
        yield Statement(f"{text}:" if kind == "label" else text, line)
        line += body.count("\n", match.start(kind), match.end())
        position = match.end()


def _outer_arrays(text: str) -> Iterator[Array]:
    for match in _ARRAY.finditer(text):
        found = array(match[0])
        if found:
            yield found
