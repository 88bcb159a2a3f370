"""PTX → machine code for one GPU by ptxas, which says what every kernel uses; a kernel that cannot run is refused."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.large import is_large
from tsm_edge.compile.backends.cuda.toolchain import ptxas_program
from tsm_edge.compile.ir.device_code import KernelResources
from tsm_edge.compile.ir.program import KernelCall, Program
from tsm_edge.errors import CompileError
from tsm_edge.files.atomic import scratch_folder

# ptxas spills a word or two of some kernels of a few registers. A large GPU's L1 does not feel that, and its driver
# compiles the PTX with another release.
_SPILLED_ON_LARGE = 64
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for")
_SPILLED = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def assemble(ptx: str, gpu: GpuSpec) -> tuple[bytes, dict[str, KernelResources]]:
    """Assemble PTX for a GPU.

    Returns
    -------
    (bytes, dict of str to KernelResources)
        The cubin, and what each kernel uses.

    Raises
    ------
    CompileError
        ptxas refuses the PTX: it is newer than its ``.version`` says, or not for this GPU.
    """
    with scratch_folder() as folder:
        source, cubin = folder / "kernels.ptx", folder / "kernels.cubin"
        source.write_text(ptx, "ascii")
        command = [str(ptxas_program()), "-v", f"-arch={gpu.arch}", str(source), "-o", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr + done.stdout).strip().splitlines() or [f"ended with code {done.returncode}"]
            raise CompileError(
                f"ptxas refuses the kernels for {gpu.arch}: {lines[0]}", "please report it, with the model's name"
            )
        return cubin.read_bytes(), parse_resources(done.stderr)


def ptxas_version() -> str:
    """The version of ptxas: ``11.8.89``."""
    done = subprocess.run([str(ptxas_program()), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"V(\d+\.\d+\.\d+)", done.stdout)
    return found[1] if found else "unknown"


def parse_resources(log: str) -> dict[str, KernelResources]:
    """Read what ``ptxas -v`` says of every kernel."""
    resources = {}
    for part in re.split(r"(?=ptxas info\s+: Compiling entry function)", log):
        entry, spilled, used = _ENTRY.search(part), _SPILLED.search(part), _USED.search(part)
        if entry and spilled and used:
            shared = _SHARED.search(part)
            resources[entry[1]] = KernelResources(
                registers=int(used[1]),
                spill_bytes=int(spilled[1]) + int(spilled[2]),
                shared_bytes=int(shared[1]) if shared else 0,
            )
    return resources


def check_resources(program: Program, resources: Mapping[str, KernelResources], gpu: GpuSpec) -> None:
    """Refuse what would fail on the device, or run from local memory.

    Raises
    ------
    CompileError
        A kernel has more registers or shared memory than a block may have, or spills.
    """
    for call in (*program.byte_calls, *program.calls):
        if problem := problem_of(call, resources[call.kernel], gpu):
            raise CompileError(
                f"kernel {call.kernel} ({call.spec.describe()}) needs {problem}",
                f"please report it, with the model's name and the target ({gpu.arch}); "
                "where tuning records chose it, compile with: --no-records",
            )


def problem_of(call: KernelCall, used: KernelResources, gpu: GpuSpec) -> str:
    """What a kernel needs that a GPU does not have; empty: nothing."""
    threads, most_spilled = call.grid.threads[0], _SPILLED_ON_LARGE if is_large(gpu) else 0
    if used.registers * threads > gpu.registers:
        return f"{used.registers} registers × {threads} threads, a block may have {gpu.registers}"
    if used.shared_bytes > gpu.shared_kib * 1024:
        return f"{used.shared_bytes} bytes of shared memory, a block may have {gpu.shared_kib * 1024}"
    if used.spill_bytes > most_spilled:
        return f"{used.spill_bytes} bytes of spilled registers, expected {most_spilled or 'none'}"
    return ""
