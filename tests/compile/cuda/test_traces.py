"""How matrix products touch memory, from the addresses that the shipped PTX computes: sectors, and bank conflicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cuda_cases import Branches
from cuda_steps import Step, compiled, lowered
from onnx_graphs import Reference
from standin_device import traced

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP32, PRECISIONS, Precision
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec
from tsm_edge.verify.standin.ptx import parse

WARP, SECTOR, BANKS, WORD = 32, 32, 32, 4


def requests(accesses: np.ndarray, *, shared: bool) -> Iterator[np.ndarray]:
    """The accesses that a warp makes together: of one instruction, for the same time in each of its threads."""
    times: dict[tuple[int, int], int] = defaultdict(int)
    together: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for index, access in enumerate(accesses):
        if bool(access["is_shared"]) == shared:
            thread, line = int(access["thread"]), int(access["line"])
            together[thread // WARP, line, times[thread, line]].append(index)
            times[thread, line] += 1
    for indices in together.values():
        yield accesses[indices]


def words(request: np.ndarray, size: int) -> set[int]:
    """Numbers of the pieces of ``size`` bytes that a request touches."""
    found: set[int] = set()
    for access in request:
        begin = int(access["address"])
        found |= set(range(begin // size, (begin + int(access["bytes"]) - 1) // size + 1))
    return found


def wavefronts(request: np.ndarray) -> int:
    """Times that the memory's banks are asked, if the hardware takes a warp at once."""
    banks: dict[int, int] = defaultdict(int)
    for word in words(request, WORD):
        banks[word % BANKS] += 1
    return max(banks.values())


@pytest.mark.parametrize(
    "precision", [FP32, pytest.param(PRECISIONS["fp16"], marks=pytest.mark.slow)], ids=["fp32", "fp16"]
)
def test_warps_read_whole_sectors_and_every_bank_at_once(precision: Precision, tmp_path: Path) -> None:
    """A 1×1 convolution of MobileNet's, its first block."""
    graph = Branches(28, 28)
    graph.end(graph.conv(graph.source(32), 96))
    model = graph.model(graph.head(graph.source(32), 5))
    made = lowered(model, tmp_path, "jetson-nano", precision)
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    ptx, reference = compiled({"net": made}, gpu), Reference(model)
    step = Step(made, ptx, "net")
    step(reference.frames(1)[0], reference.zeros())
    (call,) = (call for call in made.program.calls if isinstance(call.spec, GemmSpec))
    (launch,) = (launch for launch in step.launches if launch.kernel == f"net_{call.kernel}")
    with traced(ptx) as found:
        launch.repeat(ptx)
    (accesses,) = found
    statements = {item.line: item.text for kernel in parse(ptx).kernels for item in kernel.statements}
    loads = np.array([statements[line].partition(" ")[0].startswith("ld.") for line in accesses["line"].tolist()])
    # The last warp is not whole: its requests are left out.
    read = [request for request in requests(accesses[loads], shared=False) if len(request) == WARP]
    written = [request for request in requests(accesses[~loads], shared=False) if len(request) == WARP]
    assert efficiency(read) >= 0.9
    assert efficiency(written) >= 0.8  # tiles of 40 pixels begin in the middle of sectors
    inside = list(requests(accesses[loads], shared=True))
    needed = sum(-(-len(words(request, WORD)) // BANKS) for request in inside)
    assert needed / sum(map(wavefronts, inside)) >= 0.95


def efficiency(of: list[np.ndarray]) -> float:
    """Bytes that were asked for, of those in the sectors that they are in."""
    assert of
    asked = sum(int(request["bytes"].sum()) for request in of)
    return asked / (SECTOR * sum(len(words(request, SECTOR)) for request in of))
