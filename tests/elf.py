"""A compact reader of ELF files: what a loader or a CPU would refuse."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

X86_64, ARM, AARCH64 = 62, 40, 183
ARM_HARD_FLOAT = 0x400
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_TLS, PT_GNU_STACK = 1, 2, 3, 7, 0x6474E551
DT_NEEDED, DT_STRTAB, DT_SYMTAB, DT_SYMENT, DT_TEXTREL, DT_VERNEED, DT_VERNEEDNUM = (
    1,
    5,
    6,
    11,
    22,
    0x6FFFFFFE,
    0x6FFFFFFF,
)
SHT_DYNSYM, SHT_ARM_ATTRIBUTES = 11, 0x70000003
# Build attributes of the Arm ABI, by tag.
ARM_CPU_ARCH, ARM_SIMD_ARCH, ARM_VFP_ARGS = 6, 12, 28
ARMV8_A = 14


@dataclass(frozen=True)
class Segment:
    """A program header."""

    kind: int
    flags: int
    offset: int
    address: int
    file_size: int
    align: int


@dataclass(frozen=True)
class Symbol:
    """A dynamic symbol."""

    name: str
    defined: bool
    weak: bool


class Elf:
    """A little-endian ELF file, 32 or 64 bits."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        assert self.data[:4] == b"\x7fELF"
        self.bits = {1: 32, 2: 64}[self.data[4]]
        wide = self.bits == 64
        head = struct.unpack_from("<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH", self.data, 16)
        self.kind, self.machine, self.flags = head[0], head[1], head[6]
        table, size, count = head[4], head[8], head[9]
        self.segments = [self._segment(table + i * size) for i in range(count)]
        self._sections = [self._section(head[5] + i * head[10]) for i in range(head[11])]
        self._dynamic = list(self._read_dynamic())

    def _segment(self, at: int) -> Segment:
        if self.bits == 64:
            kind, flags, offset, address, _, size, _, align = struct.unpack_from("<IIQQQQQQ", self.data, at)
        else:
            kind, offset, address, _, size, _, flags, align = struct.unpack_from("<IIIIIIII", self.data, at)
        return Segment(kind, flags, offset, address, size, align)

    def _section(self, at: int) -> tuple[int, int, int]:
        """Type, offset, size."""
        fields = struct.unpack_from("<IIQQQQ" if self.bits == 64 else "<IIIIII", self.data, at)
        return fields[1], fields[4], fields[5]

    def of_kind(self, kind: int) -> list[Segment]:
        """Program headers of a type."""
        return [segment for segment in self.segments if segment.kind == kind]

    def _read_dynamic(self) -> Iterator[tuple[int, int]]:
        width = "<QQ" if self.bits == 64 else "<II"
        for segment in self.of_kind(PT_DYNAMIC):
            yield from struct.iter_unpack(width, self.data[segment.offset : segment.offset + segment.file_size])

    def dynamic(self, tag: int) -> list[int]:
        """Values of a dynamic tag."""
        return [value for found, value in self._dynamic if found == tag]

    def _offset(self, address: int) -> int:
        for segment in self.of_kind(PT_LOAD):
            if segment.address <= address < segment.address + segment.file_size:
                return address - segment.address + segment.offset
        raise ValueError(f"{address:#x} is not in the file")

    def _text(self, at: int) -> str:
        (strings,) = self.dynamic(DT_STRTAB)
        start = self._offset(strings) + at
        return self.data[start : self.data.index(b"\0", start)].decode()

    @property
    def needed(self) -> list[str]:
        """Libraries it asks the loader for."""
        return [self._text(value) for value in self.dynamic(DT_NEEDED)]

    @property
    def versions(self) -> set[str]:
        """Versions of symbols it asks for, such as ``GLIBC_2.17``."""
        found, at = set(), self._offset(self.dynamic(DT_VERNEED)[0]) if self.dynamic(DT_VERNEED) else 0
        for _ in range(sum(self.dynamic(DT_VERNEEDNUM))):
            _, count, _, first, following = struct.unpack_from("<HHIII", self.data, at)
            entry = at + first
            for _ in range(count):
                _, _, _, name, step = struct.unpack_from("<IHHII", self.data, entry)
                found.add(self._text(name))
                entry += step
            at += following
        return found

    @property
    def symbols(self) -> list[Symbol]:
        """Dynamic symbols."""
        size = 24 if self.bits == 64 else 16
        found = []
        for kind, offset, length in self._sections:
            if kind != SHT_DYNSYM:
                continue
            for at in range(offset + size, offset + length, size):
                if self.bits == 64:
                    name, info, _, section = struct.unpack_from("<IBBH", self.data, at)
                else:
                    name, _, _, info, _, section = struct.unpack_from("<IIIBBH", self.data, at)
                found.append(Symbol(self._text(name), section != 0, info >> 4 == 2))
        return found

    @property
    def arm_attributes(self) -> dict[int, int]:
        """Numeric build attributes of the whole file."""
        for kind, offset, length in self._sections:
            if kind == SHT_ARM_ATTRIBUTES:
                return dict(_attributes(self.data[offset : offset + length]))
        return {}


def _attributes(data: bytes) -> Iterator[tuple[int, int]]:
    at = data.index(b"\0", 5) + 1  # 'A', length, vendor name
    at += 5  # tag of the file's own attributes, and their length
    while at < len(data):
        tag, at = _number(data, at)
        if tag in (4, 5, 67) or (tag > 32 and tag % 2):  # text
            at = data.index(b"\0", at) + 1
        else:
            value, at = _number(data, at)
            yield tag, value


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A LEB128 number and where the next one begins."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
