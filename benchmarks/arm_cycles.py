"""Cycles a frame on 64-bit Arm by a model: how often each block of instructions runs, times what llvm-mca says of it.

python benchmarks/arm_cycles.py jester-pi5 jester-pi4
python benchmarks/arm_cycles.py jester-pi5 --json cycles.json

Modelled, not measured. QEMU counts the executions of every basic block of ``tsm-runner`` (one thread, a frame's share);
LLVM's llvm-mca has the cycles of a block as if it ran again and again. Every access hits the L1 cache, every branch is
predicted, and nothing overlaps from one block to the next: a real core waits for memory, and overlaps. The Cortex-A72
has LLVM's model of the Cortex-A57, the A76 that of the Neoverse N1, its twin for servers. Needs a qemu-user with
plugins, and llvm-mc and llvm-mca (apt-get install llvm-19: older ones have no model of the N1).
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from report import table, write_json
from stages import StageError

from tsm_edge.artifact.folder import RUNNER, Artifact, load_artifact
from tsm_edge.compile.package.zig import zig_command
from tsm_edge.verify.emulated import emulator_command

HERE = Path(__file__).parent
WARM_UP, MEASURED = 1, 2
# Of executed instructions; the blocks beyond are many and cold, and are taken to be as fast as the others.
COVERED = 0.995
ITERATIONS = 60
TRIPLE, FEATURES = "--triple=aarch64-linux-gnu", "+dotprod,+fullfp16"
# The CPU of a target card → LLVM's with the scheduling model that is nearest.
MODELS = {
    "cortex-a53": "cortex-a53",
    "cortex-a57": "cortex-a57",
    "cortex-a72": "cortex-a72",
    "cortex-a76": "neoverse-n1",
}

Block = tuple[str, ...]


@dataclass(frozen=True)
class Cycles:
    """Of one artifact: millions a frame, and how much of it llvm-mca looked at."""

    artifact: str
    precision: str
    cpu: str
    model: str
    instructions_m: float
    cycles_m: float
    bound_m: float
    covered: float


def tool(name: str) -> str:
    """LLVM's program, the newest there is."""
    for version in ("-22", "-21", "-20", "-19", ""):
        if found := shutil.which(name + version):
            return found
    raise StageError(f"{name} is not installed: apt-get install llvm-19")


def build_plugin(qemu: Sequence[str], folder: Path) -> Path:
    """For the installed QEMU: its interface has had several versions."""
    for version in range(6, 0, -1):
        plugin = folder / f"blocks{version}.so"
        source = str(HERE / "count_blocks.c")
        build = [*zig_command(), "cc", "-O2", "-shared", "-fPIC", f"-DAPI={version}", source, "-o", str(plugin)]
        subprocess.run(build, check=True)
        tried = subprocess.run(
            [*qemu, "-plugin", str(plugin), "/bin/true"], capture_output=True, text=True, check=False
        )
        if "plugin" not in tried.stderr:
            return plugin
    raise StageError(f"{qemu[0]} cannot load a plugin: {tried.stderr.strip()}")


def executions(artifact: Artifact, folder: Path) -> Counter[Block]:
    """How often each block runs in a frame more."""
    qemu = emulator_command(artifact.manifest.target)
    plugin = build_plugin(qemu, folder)
    picture = bytes(math.prod(artifact.manifest.frame.shape))

    def run(frames: int) -> Counter[Block]:
        path = folder / "blocks.txt"
        command = [*qemu, "-plugin", str(plugin), str(artifact.path / RUNNER), "stream"]
        environment = {**os.environ, "TSM_BLOCKS": str(path)}
        done = subprocess.run(
            command, input=picture * frames, capture_output=True, env=environment, cwd=artifact.path, check=False
        )
        if done.returncode != 0:
            raise StageError(f"{RUNNER} failed: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}")
        found: Counter[Block] = Counter()
        for line in path.read_text("ascii").splitlines():
            count, *words = line.split()
            found[tuple(words)] += int(count)
        return found

    short, long = run(WARM_UP), run(WARM_UP + MEASURED)
    return Counter({block: count // MEASURED for block, count in (long - short).items() if count >= MEASURED})


def hottest(blocks: Counter[Block]) -> list[Block]:
    """Those that together are :data:`COVERED` of all instructions."""
    total = sum(len(block) * count for block, count in blocks.items())
    found, seen = [], 0
    for block in sorted(blocks, key=lambda block: -blocks[block] * len(block)):
        found.append(block)
        seen += blocks[block] * len(block)
        if seen >= COVERED * total:
            break
    return found


def disassembled(words: Sequence[str]) -> dict[str, str]:
    """Each instruction in words; ``nop`` for what this LLVM does not know."""
    command = [tool("llvm-mc"), "--disassemble", TRIPLE, "--mattr=+all"]
    found = {}
    for word in words:  # one line each, and none for what is unknown: a mark keeps them apart
        found[word] = " ".join(f"0x{word[index : index + 2]}" for index in (6, 4, 2, 0))
    given = "\n0x1f 0x20 0x03 0xd5\n".join(found.values())
    said = subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout
    texts = [" ".join(line.split()) for line in said.splitlines() if line.strip() and not line.strip().startswith(".")]
    parts = " ; ".join(texts).split("nop")
    if len(parts) != len(words):
        raise StageError(f"llvm-mc made {len(parts)} instructions of {len(words)}")
    return {word: part.strip(" ;") or "nop" for word, part in zip(words, parts, strict=True)}


def modelled(blocks: Sequence[Block], cpu: str) -> dict[int, tuple[float, float]]:
    """Cycles of each block again and again, and what its busiest unit needs; by the block's place."""
    texts = disassembled(sorted({word for block in blocks for word in block} - {"d503201f"})) | {"d503201f": "nop"}
    lines = []
    for index, block in enumerate(blocks):
        # A call is taken to last 100 cycles, a return likewise: they cost a branch.
        body = ["b #4" if texts[word].split()[0] in ("bl", "blr", "ret", "br") else texts[word] for word in block]
        lines += [f"# LLVM-MCA-BEGIN b{index}", *body, f"# LLVM-MCA-END b{index}"]
    options = [f"--mcpu={cpu}", f"--mattr={FEATURES}", f"--iterations={ITERATIONS}", "--instruction-info=0"]
    options += ["--resource-pressure=0", "--skip-unsupported-instructions=any"]
    command = [tool("llvm-mca"), f"--m{TRIPLE[2:]}", *options]
    given = "\n".join(lines) + "\n"
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StageError(f"llvm-mca failed: {done.stderr.strip()[-300:]}")
    pattern = r"Code Region - b(\d+)\s+Iterations:\s+(\d+).*?Total Cycles:\s+(\d+).*?Block RThroughput:\s+([\d.]+)"
    return {
        int(found[1]): (int(found[3]) / int(found[2]), float(found[4]))
        for found in re.finditer(pattern, done.stdout, re.DOTALL)
    }


def cycles_of(artifact: Artifact, folder: Path) -> Cycles:
    """Model one artifact.

    Raises
    ------
    StageError
        Its CPU has no model, or a tool is missing or fails.
    """
    manifest = artifact.manifest
    cpu = manifest.target.cpu.cpu
    if cpu not in MODELS:
        raise StageError(f"{artifact.path}: {cpu} has no model, expected one of {', '.join(MODELS)}")
    blocks = executions(artifact, folder)
    hot = hottest(blocks)
    found = modelled(hot, MODELS[cpu])
    total = sum(len(block) * count for block, count in blocks.items())
    covered = sum(len(hot[index]) * blocks[hot[index]] for index in found) / total
    busy, bound = (sum(found[index][which] * blocks[hot[index]] for index in found) / covered for which in (0, 1))
    name = f"{manifest.model} for {manifest.target.name}"
    return Cycles(name, manifest.precision, cpu, MODELS[cpu], total / 1e6, busy / 1e6, bound / 1e6, covered)


def main(arguments: list[str] | None = None) -> int:
    """Model, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="DIR", help="compiled for a 64-bit Arm board")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    rows = []
    try:
        for path in given.artifacts:
            with tempfile.TemporaryDirectory() as scratch:
                rows.append(cycles_of(load_artifact(path.resolve()), Path(scratch)))
    except StageError as error:
        print(f"arm_cycles: {error}", file=sys.stderr)
        return 2
    columns = ("modelled, a frame, one thread", "precision", "CPU", "M instructions", "M cycles", "M bound", "covered")
    numbers = [(f"{r.instructions_m:.1f}", f"{r.cycles_m:.1f}", f"{r.bound_m:.1f}", f"{r.covered:.3f}") for r in rows]
    print(table(columns, [(r.artifact, r.precision, r.cpu, *n) for r, n in zip(rows, numbers, strict=True)]))
    print(f"modelled, not measured ({tool('llvm-mca')}): all in L1, branches predicted, no overlap between blocks")
    if given.json:
        write_json(given.json, [asdict(row) for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
