"""Has a device the GPU's driver that a model needs? Asked before anything is copied there.

A driver takes PTX up to a version: that of its CUDA release. The drivers of CUDA releases are in the table "CUDA
Toolkit and Corresponding Driver Versions" of CUDA's release notes, the PTX of CUDA releases in the "PTX Release
History" of the PTX ISA; both at docs.nvidia.com/cuda. A Jetson's driver comes with JetPack, which
``/etc/nv_tegra_release`` names by its Linux for Tegra (L4T): developer.nvidia.com/embedded/jetpack-archive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tsm_edge.cards import TargetCard
from tsm_edge.errors import DeployError

# The first of those that take a PTX version, the newest first: (L4T, JetPack, PTX), and (driver, PTX).
_JETPACKS = (
    ((36, 4), "6.1", (8, 5)),  # CUDA 12.6
    ((36, 2), "6.0", (8, 2)),  # CUDA 12.2
    ((34, 1), "5.0", (7, 4)),  # CUDA 11.4
    ((32, 4), "4.4", (6, 5)),  # CUDA 10.2
    ((32, 1), "4.2", (6, 3)),  # CUDA 10.0
)
_DRIVERS = (
    ((580,), (9, 0)),  # CUDA 13.0
    ((575,), (8, 8)),
    ((570,), (8, 7)),
    ((560,), (8, 5)),
    ((555,), (8, 5)),
    ((550,), (8, 4)),
    ((545,), (8, 3)),
    ((535,), (8, 2)),
    ((530,), (8, 1)),
    ((525,), (8, 0)),  # CUDA 12.0
    ((520,), (7, 8)),
    ((515,), (7, 7)),
    ((510,), (7, 6)),
    ((495,), (7, 5)),
    ((470,), (7, 4)),
    ((465,), (7, 3)),
    ((460,), (7, 2)),
    ((455,), (7, 1)),
    ((450,), (7, 0)),  # CUDA 11.0
    ((440,), (6, 5)),
    ((418,), (6, 4)),
    ((410,), (6, 3)),  # CUDA 10.0
)
_LIBRARY = "libcuda.so.1"
_FOLDERS = (
    "/usr/lib/*-linux-gnu/tegra /usr/lib/*-linux-gnu /usr/lib/*-linux-gnu/nvidia /usr/lib64 /usr/lib/wsl/lib /usr/lib"
)

# POSIX shell that tells what :func:`check_gpu` reads; it changes nothing.
ASK_GPU = (
    'echo "tsm-tegra=$(head -n 1 /etc/nv_tegra_release 2>/dev/null)"; '
    'echo "tsm-nvidia=$(head -n 1 /proc/driver/nvidia/version 2>/dev/null)"; '
    f"l=$({{ ldconfig -p || /sbin/ldconfig -p; }} 2>/dev/null | grep -c {_LIBRARY}); "
    f"for d in {_FOLDERS}; do [ -e $d/{_LIBRARY} ] && l=1; done; "
    'echo "tsm-driver=${l:-0}"; '
    "for f in /dev/nvhost-gpu /dev/nvhost-ctrl-gpu /dev/nvidiactl; do "
    "[ -e $f ] && { [ -r $f ] && [ -w $f ] || echo tsm-gpu-refused=$f; }; done; "
)


def check_gpu(name: str, answers: Mapping[str, str], target: TargetCard) -> None:
    """Refuse a device on which a model for a GPU cannot run.

    Parameters
    ----------
    name : str
        Of the device.
    answers : mapping of str to str
        What :data:`ASK_GPU` printed.
    target : TargetCard

    Raises
    ------
    DeployError
        It has no driver, too old a driver, or the user may not use the GPU.
    """
    if target.gpu is None:
        return
    newest = _newest_ptx(answers)
    needed = tuple(map(int, target.gpu.ptx_isa.split(".")))
    if newest is not None and newest[1] < needed:
        raise DeployError(
            f"{name} has {newest[0]}, whose driver takes PTX up to {_dotted(newest[1])}; the model is compiled for "
            f"{target.name} (PTX {target.gpu.ptx_isa})",
            f"install {_first_with(needed, is_tegra=bool(answers.get('tegra')))} there, or compile for an older card",
        )
    if answers.get("driver", "0") == "0":
        raise DeployError(
            f"{name} has no {_LIBRARY}, the model is compiled for the GPU of {target.name}",
            "install NVIDIA's driver there (a Jetson's comes with JetPack), or compile for its CPU: tsm-edge targets",
        )
    if refused := answers.get("gpu-refused"):
        raise DeployError(
            f"{name}: the user there may not use the GPU ({refused})",
            "let the user join its group there: sudo usermod -aG video USER; then deploy again",
        )


def _newest_ptx(answers: Mapping[str, str]) -> tuple[str, tuple[int, ...]] | None:
    """What there is, for people, and the newest PTX its driver takes; None: not known."""
    tegra = re.search(r"R(\d+) .*REVISION: (\d+)", answers.get("tegra", ""))
    if tegra:
        release = (int(tegra[1]), int(tegra[2]))
        known = next((entry for entry in _JETPACKS if release >= entry[0]), None)
        named = f"L4T {_dotted(release)}" + (f" (JetPack {known[1]} or later)" if known else "")
        return named, known[2] if known else (0,)
    driver = re.search(r"Kernel Module\D*\s(\d+)\.", answers.get("nvidia", ""))
    if driver:
        known_driver = next((entry for entry in _DRIVERS if (int(driver[1]),) >= entry[0]), None)
        return f"NVIDIA's driver {driver[1]}", known_driver[1] if known_driver else (0,)
    return None


def _first_with(needed: tuple[int, ...], *, is_tegra: bool) -> str:
    """The oldest release whose driver takes that PTX."""
    if is_tegra:
        names = [f"JetPack {jetpack}" for _, jetpack, newest in _JETPACKS if newest >= needed]
    else:
        names = [f"driver {_dotted(driver)}" for driver, newest in _DRIVERS if newest >= needed]
    return f"{names[-1]} or later" if names else "the newest driver"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
