"""The card ``native-cuda``: what the driver's library says of this machine's GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tsm_edge.cards import GpuSpec, load_target
from tsm_edge.cards.detect_gpu import detect_gpu
from tsm_edge.compile.machine_code import backend_for
from tsm_edge.errors import CardError
from tsm_edge.verify.standin.build import StandIn, build_standin


def test_a_gpu_is_described_by_its_driver(tmp_path: Path) -> None:
    library = build_standin(tmp_path, [], StandIn())
    # In a process of its own: a library that is loaded is found by its name from then on.
    code = "import sys; from tsm_edge.cards.detect_gpu import detect_gpu; print(repr(detect_gpu(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, library], capture_output=True, text=True, check=True)
    gpu = eval(done.stdout, {"GpuSpec": GpuSpec})
    assert (gpu.compute_capability, gpu.multiprocessors, gpu.clock_mhz) == ("5.3", 1, 921)
    assert (gpu.registers, gpu.shared_kib, gpu.lanes) == (32768, 48, 128)
    assert gpu.ptx_isa == "6.5"


def test_without_a_driver_the_reason_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"target 'native-cuda': no NVIDIA GPU is usable here: .*absent\.so"):
        detect_gpu(str(tmp_path / "absent.so"))


def test_a_machine_without_a_gpu_has_the_card_but_cannot_compile_for_it() -> None:
    target = load_target("native-cuda")
    if not target.detect:
        pytest.skip("this machine has an NVIDIA GPU")
    with pytest.raises(CardError, match="no NVIDIA GPU is usable here"):
        backend_for(target).check()
