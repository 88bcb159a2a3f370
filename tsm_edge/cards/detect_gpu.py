"""What this machine's NVIDIA GPU is: behind the target card ``native-cuda``. Asks the driver's library alone."""

from __future__ import annotations

import ctypes

from tsm_edge.cards.target import GpuSpec
from tsm_edge.errors import CardError

_HINT = "name the target instead, for example: tsm-edge compile --target cuda-sm86"

# CU_DEVICE_ATTRIBUTE_… of cuda.h.
_CLOCK_KHZ, _MULTIPROCESSORS, _MEMORY_CLOCK_KHZ, _BUS_BITS, _L2_BYTES = 13, 16, 36, 37, 38
_BLOCK_SHARED_BYTES, _BLOCK_REGISTERS, _SM_THREADS = 8, 12, 39
_MAJOR, _MINOR, _SM_SHARED_BYTES, _SM_REGISTERS, _SM_BLOCKS = 75, 76, 81, 82, 106

# CUDA C++ Programming Guide: fp32 lanes of a multiprocessor and the rate of halfs, by compute capability.
_LANES = {(5, 3): (128, 2.0), (6, 0): (64, 2.0), (6, 1): (128, 0.016), (6, 2): (128, 2.0), (7, 0): (64, 2.0)}
_LANES |= {(7, 2): (64, 2.0), (7, 5): (64, 2.0), (8, 0): (64, 4.0), (8, 6): (128, 1.0), (8, 7): (128, 2.0)}
_LANES |= {(8, 9): (128, 1.0), (9, 0): (128, 2.0)}
# PTX that drivers take, by the CUDA version they say (1000 major + 10 minor); NVRTC 11.8 makes none that is newer.
_PTX = {10000: "6.3", 10010: "6.4", 10020: "6.5", **{11000 + 10 * minor: f"7.{minor}" for minor in range(9)}}
# Of what the memory could move, kernels reach about this share.
_SHARE_OF_BANDWIDTH = 0.8
_UNKNOWN_GB_S = 20.0


def detect_gpu(library: str = "libcuda.so.1") -> GpuSpec:
    """Describe this machine's first GPU.

    Parameters
    ----------
    library : str
        The driver's library, by name or path.

    Raises
    ------
    CardError
        There is no driver or no GPU, or one that no PTX can be made for.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise _unknown(f"its driver cannot be loaded ({error})") from None
    if code := int(driver.cuInit(0)):
        raise _unknown(f"cuInit answers {code}")
    device, version = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if code := int(driver.cuDeviceGet(ctypes.byref(device), 0)):
        raise _unknown(f"cuDeviceGet answers {code}")

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
        return value.value

    found = attribute(_MAJOR), attribute(_MINOR)
    capability = max((known for known in _LANES if known <= found), default=None)
    ptx = max((cuda for cuda in _PTX if cuda <= version.value), default=None)
    if capability is None or ptx is None:
        raise _unknown(
            f"it has compute capability {found[0]}.{found[1]} and CUDA {version.value}, expected 5.3 and 10.0"
        )
    lanes, half_rate = _LANES[capability]
    moved = 2e3 * attribute(_MEMORY_CLOCK_KHZ) * attribute(_BUS_BITS) / 8 / 1e9
    return GpuSpec(
        compute_capability=f"{capability[0]}.{capability[1]}",
        multiprocessors=max(1, attribute(_MULTIPROCESSORS)),
        clock_mhz=max(1, attribute(_CLOCK_KHZ) // 1000),
        memory_gb_s=round(_SHARE_OF_BANDWIDTH * moved, 1) or _UNKNOWN_GB_S,
        ptx_isa=_PTX[ptx],
        lanes=lanes,
        half_rate=half_rate,
        registers=attribute(_BLOCK_REGISTERS) or 32768,
        shared_kib=min(48, (attribute(_BLOCK_SHARED_BYTES) or 49152) // 1024),
        sm_registers=attribute(_SM_REGISTERS) or 65536,
        sm_shared_kib=(attribute(_SM_SHARED_BYTES) or 65536) // 1024,
        sm_warps=(attribute(_SM_THREADS) or 2048) // 32,
        sm_blocks=attribute(_SM_BLOCKS) or 16,
        l2_kib=attribute(_L2_BYTES) // 1024,
    )


def _unknown(problem: str) -> CardError:
    return CardError(f"target 'native-cuda': no NVIDIA GPU is usable here: {problem}", _HINT)
