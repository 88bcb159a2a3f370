"""Building the stand-in driver with zig: for this machine, or for the one that QEMU is to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.cards.architecture import this_architecture
from tsm_edge.compile.package.zig import run_zig
from tsm_edge.errors import ArtifactError
from tsm_edge.files.atomic import scratch_folder
from tsm_edge.files.paths import native_path
from tsm_edge.verify.standin.ptx import PtxError
from tsm_edge.verify.standin.translate import Image, c_sources

LIBRARY_NAME = "libcuda.so.1"
_FOLDER = Path(__file__).resolve().parent
_PARTS = ("driver.c", "work.c", "fiber.c", "check.c")
_FLAGS = (
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    f"-Wl,-soname,{LIBRARY_NAME}",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-w",
)


@dataclass(frozen=True)
class StandIn:
    """What a stand-in says of itself.

    Attributes
    ----------
    capability : int
        Of its GPU: 53 for sm_53.
    newest_ptx : int
        The newest PTX version that it takes: 65 for 6.5.
    has_graphs : bool
        As drivers since CUDA 10.1.
    """

    capability: int = 53
    newest_ptx: int = 65
    has_graphs: bool = True


def build_standin(
    folder: Path, images: Sequence[Image], standin: StandIn | None = None, machine: str = "", optimise: str = "-O1"
) -> Path:
    """Write ``libcuda.so.1`` with the kernels of some PTX texts into a folder; returns its path.

    Parameters
    ----------
    folder : Path
    images : sequence of Image
    standin : StandIn, optional
        By default the Jetson Nano's.
    machine : str
        Architecture that it is to run on; empty: this machine's.
    optimise : str
        ``-O1``: half a minute for a whole network, and its frames in seconds.

    Raises
    ------
    ArtifactError
        The PTX has what the stand-in does not know.
    CompileError
        zig is missing, or failed.
    """
    standin = standin or StandIn()
    machine = machine or this_architecture()
    own = machine == this_architecture()
    # Its own instructions for halves and multiply-adds make this machine several times faster.
    flags = ["-march=native"] if own and machine == "x86_64" else []
    target = f"{machine}-linux-gnu.2.27"
    defines = [f"-DSTANDIN_CAPABILITY={standin.capability}", f"-DSTANDIN_PTX_VERSION={standin.newest_ptx}"]
    defines += [] if standin.has_graphs else ["-DSTANDIN_WITHOUT_GRAPHS"]
    try:
        sources = c_sources(images)
    except PtxError as error:
        raise ArtifactError(
            f"the stand-in driver cannot run the model's PTX: {error}",
            "verify it on the device with: tsm-runner verify",
        ) from None
    output = folder / LIBRARY_NAME
    with scratch_folder() as work:
        parts = [_FOLDER / name for name in _PARTS]
        for index, source in enumerate(sources):
            parts.append(work / f"kernels{index}.c")
            parts[-1].write_text(source, "ascii")
        arguments = ["cc", "-target", target, optimise, *_FLAGS, *flags, *defines, f"-I{_FOLDER}"]
        arguments += [*map(native_path, parts), "-lm", "-o", native_path(output)]
        run_zig(arguments, "building the stand-in driver", output)
    return output
