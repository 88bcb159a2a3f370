"""Has a device the GPU's driver that a model needs? Asked before anything is copied there.

A driver takes PTX up to a version: that of its CUDA release (NVIDIA's "PTX ISA", table of release notes, and the "CUDA
Toolkit and Corresponding Driver Versions" of CUDA's release notes). A Jetson's driver comes with JetPack, which
``/etc/nv_tegra_release`` names by its Linux for Tegra (L4T).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tsm_edge.cards import TargetCard
from tsm_edge.errors import DeployError

# What a driver of this version, or later, takes: (L4T, JetPack, PTX) and (driver, CUDA, PTX), the newest first.
_JETPACKS = (
    ((36, 2), "6.0", (8, 2)),
    ((34, 1), "5.0", (7, 4)),
    ((32, 4), "4.4", (6, 5)),
    ((32, 1), "4.2", (6, 3)),
)
_DRIVERS = (
    ((550,), "12.4", (8, 4)),
    ((535,), "12.2", (8, 2)),
    ((525,), "12.0", (8, 0)),
    ((520,), "11.8", (7, 8)),
    ((470,), "11.4", (7, 4)),
    ((450,), "11.0", (7, 0)),
    ((440,), "10.2", (6, 5)),
    ((418,), "10.1", (6, 4)),
    ((410,), "10.0", (6, 3)),
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
        return f"NVIDIA's driver {driver[1]}", known_driver[2] if known_driver else (0,)
    return None


def _first_with(needed: tuple[int, ...], *, is_tegra: bool) -> str:
    """The oldest release whose driver takes that PTX."""
    if is_tegra:
        names = [f"JetPack {jetpack}" for _, jetpack, newest in _JETPACKS if newest >= needed]
    else:
        names = [f"driver {_dotted(driver)}" for driver, _, newest in _DRIVERS if newest >= needed]
    return f"{names[-1]} or later" if names else "the newest driver"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
