"""The machine code of a cubin for sm_5x and sm_6x: each instruction with what its control word says of its timing.

nvdisasm gives the text. The control words are read from the section itself: one before every three instructions, 21
bits each: stall 4, yield 1, write barrier 3, read barrier 3, wait mask 6, reuse 4 (as the maxas assembler documents).
"""

from __future__ import annotations

import re
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

# Half the rate of arithmetic, the same for comparisons, and a quarter; memory; barriers; branches.
_SHIFT = {"SHL", "SHR", "SHF", "BFE", "BFI", "FMNMX", "IMNMX", "ISCADD", "LEA", "FSET", "ISET", "ISCADD32I"}
_COMPARE = {"ISETP", "FSETP", "PSETP", "FCMP", "ICMP", "CSETP"}
_QUARTER = {"MUFU", "F2F", "F2I", "I2F", "I2I", "POPC", "FLO"}
_MEMORY = {"LDS", "STS", "LDG", "STG", "LDL", "STL", "SHFL", "ATOM", "RED", "LDC", "LD", "ST"}
_BRANCH = {"BRA", "EXIT", "SYNC", "SSY", "RET", "BRK", "PBK"}
_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_BANKS = 4


@dataclass
class Instruction:
    """One instruction.

    Attributes
    ----------
    address : int
    text, operation, base, operands : str
        As nvdisasm writes it; ``FADD.SAT``; ``FADD``; ``R0, R1, R2``.
    predicated : bool
    stall, write_barrier, read_barrier, wait_mask, reuse : int
        Of the control word; barriers are -1 where there is none. Stall 0: issued together with the next.
    conflict : int
        Issue slots lost because operands lie in one register bank.
    """

    address: int
    text: str
    operation: str
    base: str
    operands: str
    predicated: bool
    stall: int = 0
    write_barrier: int = -1
    read_barrier: int = -1
    wait_mask: int = 0
    reuse: int = 0
    conflict: int = 0

    @property
    def kind(self) -> str:
        """``arithmetic``, ``shift``, ``compare``, ``quarter``, ``memory``, ``barrier`` or ``branch``."""
        kinds = {"shift": _SHIFT, "compare": _COMPARE, "quarter": _QUARTER, "memory": _MEMORY, "branch": _BRANCH}
        if self.base == "BAR":
            return "barrier"
        return next((name for name, members in kinds.items() if self.base in members), "arithmetic")

    @property
    def width(self) -> int:
        """Bytes that a thread moves."""
        found = re.search(r"\.(128|64|U16|S16|U8|S8)\b", self.operation)
        return _WIDTHS[found[1]] if found else 4


@dataclass
class Kernel:
    """A kernel's instructions and its labels: name → index of the instruction it stands before."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def loops(self) -> list[tuple[int, int]]:
        """First and last instruction of every conditional branch backwards."""
        found = []
        for index, item in enumerate(self.instructions):
            label = re.search(r"`\((\.L_\S+?)\)", item.operands) if item.base == "BRA" else None
            if label and item.predicated and self.labels.get(label[1], index + 1) <= index:
                found.append((self.labels[label[1]], index))
        return found


def disassemble(cubin: Path, nvdisasm: Path) -> dict[str, Kernel]:
    """All kernels of a cubin by their symbols."""
    done = subprocess.run([str(nvdisasm), "-hex", str(cubin)], capture_output=True, text=True, check=True)
    kernels: dict[str, Kernel] = {}
    current: Kernel | None = None
    for line in done.stdout.splitlines():
        if section := re.match(r"\s*\.section\s+(\S+?),", line):
            name = section[1].removeprefix(".text.")
            current = kernels.setdefault(name, Kernel()) if section[1].startswith(".text.") else None
        elif current is None:
            continue
        elif label := re.match(r"(\.L_\S+):", line):
            current.labels[label[1]] = len(current.instructions)
        elif code := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*)$", line):
            current.instructions.append(_instruction(int(code[1], 16), code[2]))
    image = cubin.read_bytes()
    for name, kernel in kernels.items():
        _read_control_words(kernel, _section(image, f".text.{name}"))
        _find_conflicts(kernel)
    return kernels


def _instruction(address: int, body: str) -> Instruction:
    text = re.sub(r"/\*.*?\*/", "", body).translate(str.maketrans("", "", "{};")).strip()
    found = re.match(r"(@!?U?P\w+)?\s*(\S+)\s*(.*)$", text)
    if found is None:
        raise ValueError(f"not an instruction: {body}")
    return Instruction(address, text, found[2], found[2].split(".")[0], found[3], found[1] is not None)


def _read_control_words(kernel: Kernel, code: bytes) -> None:
    for item in kernel.instructions:
        (word,) = struct.unpack_from("<Q", code, item.address & ~31)
        control = word >> 21 * ((item.address & 31) // 8 - 1) & 0x1FFFFF
        write, read = control >> 5 & 7, control >> 8 & 7
        item.stall = control & 15
        item.write_barrier, item.read_barrier = (-1 if write == 7 else write), (-1 if read == 7 else read)
        item.wait_mask, item.reuse = control >> 11 & 63, control >> 17 & 15
        if item.base == "DEPBAR" and (barrier := re.search(r"SB(\d)", item.operands)):
            item.wait_mask |= 1 << int(barrier[1])


def _find_conflicts(kernel: Kernel) -> None:
    """Operands of one instruction in one bank are read one after the other, but for those kept by ``.reuse``."""
    kept: dict[int, int] = {}
    for item in kernel.instructions:
        if item.kind not in ("arithmetic", "shift", "compare"):
            continue
        sources = [operand.strip() for operand in item.operands.split(",")][1:]
        registers = {
            slot: int(found[1]) for slot, operand in enumerate(sources) if (found := re.match(r"[-|~]*R(\d+)", operand))
        }
        banks: dict[int, set[int]] = {}
        for slot, register in registers.items():
            if kept.get(slot) != register:
                banks.setdefault(register % _BANKS, set()).add(register)
        item.conflict = max((len(members) for members in banks.values()), default=1) - 1
        kept = {slot: registers[slot] for slot in range(3) if item.reuse >> slot & 1 and slot in registers}


def _section(image: bytes, name: str) -> bytes:
    """A section of an ELF file."""
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", image, table + index * size) for index in range(count)]
    start = headers[names][4]
    for header in headers:
        if image[start + header[0] : image.index(b"\0", start + header[0])].decode() == name:
            return image[header[4] : header[4] + header[5]]
    raise KeyError(name)
