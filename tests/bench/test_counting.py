"""Which instructions the counting plugin of ``benchmarks/arm_instructions.py`` takes for multiply-adds."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np

from tsm_edge.compile.package.zig import zig_command

SOURCE = Path(__file__).parents[2] / "benchmarks/count_instructions.c"
MARK = "CODE BETWEEN US."
MULTIPLICATIONS = """\
fmla v0.4s, v1.4s, v2.4s
fmla v0.2d, v1.2d, v2.2d
fmla v0.2s, v1.2s, v2.2s
fmla v0.4s, v1.4s, v30.s[3]
fmla v0.2d, v1.2d, v30.d[1]
fmla v0.8h, v1.8h, v2.8h
fmla v0.4h, v1.4h, v2.4h
fmla v0.8h, v1.8h, v15.h[7]
fmla v0.4h, v1.4h, v2.h[0]
sdot v0.4s, v1.16b, v2.16b
udot v0.2s, v1.8b, v2.8b
sdot v0.4s, v1.16b, v30.4b[3]
udot v0.4s, v1.16b, v30.4b[2]
smull v0.8h, v1.8b, v2.8b
smull2 v0.8h, v1.16b, v2.16b
umull v0.8h, v1.8b, v2.8b
smull v0.4s, v1.4h, v2.h[3]
umull2 v0.4s, v1.8h, v2.h[7]
smlal v0.8h, v1.8b, v2.8b
smlal2 v0.8h, v1.16b, v2.16b
umlal v0.4s, v1.4h, v2.4h
smlal2 v0.4s, v1.8h, v2.h[3]
umlal v0.4s, v1.4h, v2.h[3]
"""
OTHERS = """\
fmls v0.4s, v1.4s, v2.4s
fmls v0.8h, v1.8h, v2.8h
fmls v0.4s, v1.4s, v2.s[1]
fmul v0.4s, v1.4s, v2.s[1]
fmul v0.8h, v1.8h, v2.h[1]
fmul v0.8h, v1.8h, v2.8h
fadd v0.4s, v1.4s, v2.4s
fadd v0.8h, v1.8h, v2.8h
fmax v0.4s, v1.4s, v2.4s
fmaxnm v0.8h, v1.8h, v2.8h
sadalp v0.4s, v1.8h
saddlp v0.4s, v1.8h
saddl v0.8h, v1.8b, v2.8b
saddw v0.8h, v1.8h, v2.8b
smlsl v0.8h, v1.8b, v2.8b
smlsl v0.4s, v1.4h, v2.h[1]
sqdmull v0.4s, v1.4h, v2.4h
sqdmlal v0.4s, v1.4h, v2.4h
sqdmulh v0.4s, v1.4s, v2.4s
sqdmull v0.4s, v1.4h, v2.h[1]
sqdmlal v0.4s, v1.4h, v2.h[1]
pmull v0.8h, v1.8b, v2.8b
mul v0.4s, v1.4s, v2.4s
mla v0.4s, v1.4s, v2.4s
mla v0.4s, v1.4s, v2.s[1]
mul v0.8h, v1.8h, v2.h[1]
add v0.4s, v1.4s, v2.4s
scvtf v0.4s, v1.4s
fcvtns v0.4s, v1.4s
sqxtn v0.4h, v1.4s
uzp1 v0.4s, v1.4s, v2.4s
tbl v0.16b, {v1.16b}, v2.16b
ext v0.16b, v1.16b, v2.16b, #3
movi v0.4s, #75, lsl #24
sshll v0.8h, v1.8b, #0
sshr v0.8h, v1.8h, #3
usra v0.4s, v1.4s, #16
ldp q0, q1, [x0]
ld1 {v0.16b}, [x0]
smaddl x0, w1, w2, x3
fmadd s0, s1, s2, s3
fmla s0, s1, v2.s[1]
sabal v0.8h, v1.8b, v2.8b
addhn v0.8b, v1.8h, v2.8h
ret
"""


def assembled(text: str, folder: Path) -> list[int]:
    """Instruction words, by LLVM's assembler: what lies between two marks in the object file."""
    source, made = folder / "code.s", folder / "code.o"
    source.write_text(f'.text\n.ascii "{MARK}"\n{text}.ascii "{MARK}"\n')
    command = [*zig_command(), "cc", "-target", "aarch64-linux-musl", "-mcpu=cortex_a76", "-c", str(source)]
    subprocess.run([*command, "-o", str(made)], check=True)
    _, code, _ = made.read_bytes().split(MARK.encode())
    words: list[int] = np.frombuffer(code, "<u4").tolist()
    return words


def test_multiplications_of_vectors_are_counted_and_nothing_else(tmp_path: Path) -> None:
    pairs = re.findall(r"\{(0x\w{8}), (0x\w{8})\}", SOURCE.read_text())
    table = [(int(mask, 16), int(value, 16)) for mask, value in pairs]
    assert len(table) == 10
    text = (MULTIPLICATIONS + OTHERS).splitlines()
    words = assembled(MULTIPLICATIONS + OTHERS, tmp_path)
    counted = [line for line, word in zip(text, words, strict=True) if any(word & m == v for m, v in table)]
    assert counted == MULTIPLICATIONS.splitlines()
