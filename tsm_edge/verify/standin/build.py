"""Building the stand-in driver with zig: for this machine, or its driver for the one that QEMU is to be."""

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
GPU_NAME = "standin-gpu"
_FOLDER = Path(__file__).resolve().parent
_FLAGS = ("-std=gnu11", "-ffp-contract=off", "-fno-strict-aliasing", "-w")
_SHARED = ("-shared", "-fPIC", "-fvisibility=hidden", f"-Wl,-soname,{LIBRARY_NAME}")


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


@dataclass(frozen=True)
class _Program:
    """What is made of the kernels.

    Attributes
    ----------
    name : str
    parts : tuple of str
        C files around them.
    flags : tuple of str
    has_bodies : bool
        Else only the kernels' names and sizes are in it.
    """

    name: str
    parts: tuple[str, ...]
    flags: tuple[str, ...]
    has_bodies: bool = True


_WHOLE = _Program(LIBRARY_NAME, ("driver.c", "work.c", "fiber.c", "check.c"), _SHARED)
_DRIVER = _Program(LIBRARY_NAME, ("driver.c", "work.c", "asking.c"), (*_SHARED, "-DSTANDIN_ASKING"), has_bodies=False)
_GPU = _Program(GPU_NAME, ("answering.c", "fiber.c", "check.c"), ())


def build_standin(folder: Path, images: Sequence[Image], standin: StandIn | None = None, optimise: str = "-O1") -> Path:
    """Write ``libcuda.so.1`` with the kernels of some PTX texts into a folder, for this machine; returns its path.

    Parameters
    ----------
    folder : Path
    images : sequence of Image
    standin : StandIn, optional
        By default the Jetson Nano's.
    optimise : str
        ``-Og`` is built twice as fast; ``-O1`` runs whole networks faster.

    Raises
    ------
    ArtifactError
        The PTX has what the stand-in does not know.
    CompileError
        zig is missing, or failed.
    """
    return _build(_WHOLE, folder, _sources(images), standin or StandIn(), this_architecture(), optimise)


def build_apart(folder: Path, images: Sequence[Image], standin: StandIn, machine: str) -> Path:
    """The same in two: ``libcuda.so.1`` for another machine, and the GPU that it asks, a program for this one.

    An emulator then has only the driver to run. Parameters and errors are those of :func:`build_standin`; ``machine``
    is the architecture that the driver is to run on. Returns the program's path.
    """
    sources = _sources(images)
    _build(_DRIVER, folder, sources, standin, machine)
    return _build(_GPU, folder, sources, standin, this_architecture())


def _sources(images: Sequence[Image]) -> list[str]:
    try:
        return c_sources(images)
    except PtxError as error:
        raise ArtifactError(
            f"the stand-in driver cannot run the model's PTX: {error}",
            "verify it on the device with: tsm-runner verify",
        ) from None


def _build(
    program: _Program,
    folder: Path,
    sources: Sequence[str],
    standin: StandIn,
    machine: str,
    optimise: str = "-O1",
) -> Path:
    # Its own instructions for halves and multiply-adds make this machine several times faster.
    flags = ["-march=native"] if program.has_bodies and machine == "x86_64" else []
    defines = [f"-DSTANDIN_CAPABILITY={standin.capability}", f"-DSTANDIN_PTX_VERSION={standin.newest_ptx}"]
    defines += [] if standin.has_graphs else ["-DSTANDIN_WITHOUT_GRAPHS"]
    output = folder / program.name
    with scratch_folder() as work:
        parts = [_FOLDER / name for name in program.parts]
        for index, source in enumerate(sources if program.has_bodies else sources[:1]):
            parts.append(work / f"kernels{index}.c")
            parts[-1].write_text(source, "ascii")
        arguments = ["cc", "-target", f"{machine}-linux-gnu.2.27", optimise, *_FLAGS, *program.flags, *flags, *defines]
        arguments += [f"-I{_FOLDER}", *map(native_path, parts), "-lm", "-o", native_path(output)]
        run_zig(arguments, "building the stand-in driver", output)
    return output
