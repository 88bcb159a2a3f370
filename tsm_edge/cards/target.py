"""Target cards: a machine, its CPU and C library."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from tsm_edge.cards.checks import check_name, check_range
from tsm_edge.cards.tables import shown
from tsm_edge.errors import CardError

# The architectures that kernels are written for, as LLVM spells them: it crashes on others.
_TRIPLE = re.compile(
    r"(x86_64|aarch64)(-\w+)?-linux-(gnu|musl)|aarch64(-\w+)?-linux-android\d{0,2}"
    r"|arm(v7|v7a|v7l|v8|v8a|v8l)?(-\w+)?-linux-(gnu|musl)eabihf",
    re.ASCII,
)


# What a core's instructions can do beyond vector multiply-adds; the rules ask for these, never for a triple.
Ability = Literal[
    "memory-operands",
    "broadcast-operands",
    "broadcast-pairs",
    "multiply-by-lane",
    "prefetch",
    "dot-product",
    "fp16-arithmetic",
]


@dataclass(frozen=True)
class CpuSpec:
    """What the schedule rules need to know of a CPU core and its caches.

    Attributes
    ----------
    triple, cpu : str
        LLVM target triple and ``-mcpu`` name.
    features : tuple of str
        LLVM features beyond those of ``cpu``, for example ``+neon``.
    float_abi : str
        ``hard`` or empty (the triple's own).
    vector_lanes : int
        float32 values in a vector register.
    vector_registers : int
        Architectural vector registers.
    l1d_kib, l2_kib, l3_kib : int
        Data caches in KiB as one core sees them; 0: none or unknown.
    cores : int
        Cores a model may use.
    clock_mhz : int
        Nominal clock, MHz; 0: unknown.
    fma_per_cycle : float
        Vector multiply-adds a core can issue each cycle.
    memory_gb_s : float
        Sustained memory bandwidth of the whole chip, GB/s; 0: unknown.
    in_order : bool
        An in-order core: loads must run ahead of their use.
    l2_shared : bool
        All cores share the L2 cache; else each has its own.
    abilities : tuple of str
        ``memory-operands``: arithmetic takes an operand from memory, so that few registers go far.
        ``broadcast-operands``: and repeats one value from there over a vector (AVX-512). ``broadcast-pairs``: a load
        repeats two neighbouring values over a vector (AVX2). ``multiply-by-lane``: multiply-adds take one lane of a
        vector (64-bit Arm). ``prefetch``: asking for data ahead of its use pays, as the core does not follow streams
        by itself. ``dot-product``: 8-bit dot products. ``fp16-arithmetic``: half-precision vectors.
    """

    triple: str
    cpu: str
    vector_lanes: int
    vector_registers: int
    l1d_kib: int
    l2_kib: int
    cores: int
    features: tuple[str, ...] = ()
    float_abi: str = ""
    l3_kib: int = 0
    clock_mhz: int = 0
    fma_per_cycle: float = 1.0
    memory_gb_s: float = 0.0
    in_order: bool = False
    l2_shared: bool = False
    abilities: tuple[Ability, ...] = ()

    @property
    def vector_bytes(self) -> int:
        """Size of a vector register."""
        return 4 * self.vector_lanes

    def __post_init__(self) -> None:
        if not _TRIPLE.fullmatch(self.triple):
            raise CardError(
                f"triple is {shown(self.triple)}, expected 'x86_64-unknown-linux-gnu', 'aarch64-unknown-linux-gnu', "
                "'aarch64-unknown-linux-android' or 'armv7l-unknown-linux-gnueabihf'",
                "take one of them ('musl' may stand for 'gnu')",
            )
        if not re.fullmatch(r"[\w.+-]{1,40}", self.cpu, re.ASCII):
            raise CardError(f"cpu is {shown(self.cpu)}, expected a name of LLVM's", "for example cpu = 'cortex-a72'")
        for feature in self.features:
            if not re.fullmatch(r"\+[\w.-]{1,40}", feature, re.ASCII):
                raise CardError(
                    f"features has {shown(feature)}, expected a name of LLVM's after +", "for example '+neon'"
                )
        if self.vector_lanes not in (4, 8, 16):
            raise CardError(
                f"vector_lanes is {shown(self.vector_lanes)}, expected 4, 8 or 16 float32 values",
                "4 for NEON and SSE, 8 for AVX2, 16 for AVX-512",
            )
        if self.vector_registers not in (16, 32):
            raise CardError(
                f"vector_registers is {shown(self.vector_registers)}, expected 16 or 32",
                "32 for AVX-512 and 64-bit Arm, 16 for others",
            )
        check_range("l1d_kib", self.l1d_kib, 1, 4096)
        check_range("l2_kib", self.l2_kib, 1, 1 << 20)
        check_range("l3_kib", self.l3_kib, 0, 1 << 22)
        check_range("cores", self.cores, 1, 4096)
        check_range("clock_mhz", self.clock_mhz, 0, 20_000)
        check_range("memory_gb_s", self.memory_gb_s, 0, 100_000)
        check_range("fma_per_cycle", self.fma_per_cycle, 0.01, 16)
        if self.float_abi not in ("", "hard"):
            raise CardError(
                f"float_abi is {shown(self.float_abi)}, expected 'hard' or empty", "leave it out: the triple says it"
            )


@dataclass(frozen=True)
class GpuSpec:
    """What the schedule rules need to know of an NVIDIA GPU.

    Attributes
    ----------
    compute_capability : str
        ``5.3`` for sm_53.
    multiprocessors : int
    clock_mhz : int
        Highest clock, MHz.
    memory_gb_s : float
        Memory bandwidth that kernels reach, GB/s.
    ptx_isa : str
        Newest PTX its drivers take: ``6.4``.
    lanes : int
        fp32 multiply-adds a multiprocessor makes in a cycle.
    half_rate : float
        fp16 multiply-adds (in pairs, without tensor cores) for every fp32 one.
    registers, shared_kib : int
        32-bit registers and shared memory (static, KiB) that a thread block may have.
    sm_registers, sm_shared_kib : int
        The same of a multiprocessor, for all its blocks.
    sm_warps, sm_blocks : int
        Most warps and thread blocks at a time on a multiprocessor.
    l2_kib : int
        L2 cache, KiB; 0: unknown.
    launch_us : float
        From the end of a kernel to the start of the next, µs.
    """

    compute_capability: str
    multiprocessors: int
    clock_mhz: int
    memory_gb_s: float
    ptx_isa: str
    lanes: int = 128
    half_rate: float = 1.0
    registers: int = 32768
    shared_kib: int = 48
    sm_registers: int = 65536
    sm_shared_kib: int = 64
    sm_warps: int = 64
    sm_blocks: int = 32
    l2_kib: int = 0
    launch_us: float = 3.0

    @property
    def arch(self) -> str:
        """As ptxas spells it: ``sm_53``."""
        return f"sm_{self.compute_capability.replace('.', '')}"

    @property
    def multiply_adds_gs(self) -> float:
        """fp32 multiply-adds of the whole GPU, 10⁹ a second."""
        return self.multiprocessors * self.lanes * self.clock_mhz / 1e3

    def __post_init__(self) -> None:
        for name in ("compute_capability", "ptx_isa"):
            if not re.fullmatch(r"\d{1,2}\.\d", getattr(self, name), re.ASCII):
                raise CardError(
                    f"{name} is {shown(getattr(self, name))}, expected a version such as '6.4'", "correct [gpu]"
                )
        check_range("multiprocessors", self.multiprocessors, 1, 1024)
        check_range("clock_mhz", self.clock_mhz, 1, 20_000)
        check_range("memory_gb_s", self.memory_gb_s, 0.1, 100_000)
        check_range("lanes", self.lanes, 32, 1024)
        check_range("half_rate", self.half_rate, 0.01, 4)
        check_range("registers", self.registers, 1024, 1 << 20)
        check_range("shared_kib", self.shared_kib, 1, 1024)
        check_range("sm_registers", self.sm_registers, 1024, 1 << 20)
        check_range("sm_shared_kib", self.sm_shared_kib, 1, 1024)
        check_range("sm_warps", self.sm_warps, 1, 1024)
        check_range("sm_blocks", self.sm_blocks, 1, 1024)
        check_range("l2_kib", self.l2_kib, 0, 1 << 20)
        check_range("launch_us", self.launch_us, 0, 1000)


@dataclass(frozen=True)
class NewerCpu:
    """Instructions that some of a target's CPUs have: a second set of kernels is chosen where they are there.

    Attributes
    ----------
    features : tuple of str
        LLVM features beyond those of the card's CPU, of :data:`HARDWARE_BITS`.
    abilities : tuple of str
        All it can then do, as of :class:`CpuSpec`.
    """

    features: tuple[str, ...]
    abilities: tuple[Ability, ...]

    @property
    def needs(self) -> int:
        """The bits of ``AT_HWCAP`` in which Linux says that a CPU has them."""
        return sum(HARDWARE_BITS[feature] for feature in self.features)

    def __post_init__(self) -> None:
        for feature in self.features:
            if feature not in HARDWARE_BITS:
                raise CardError(
                    f"newer features has {shown(feature)}, expected one of {', '.join(HARDWARE_BITS)}",
                    "a second set of kernels is for 64-bit Arm",
                )


# ``asimddp``; ``fphp`` and ``asimdhp`` (arch/arm64/include/uapi/asm/hwcap.h).
HARDWARE_BITS = {"+dotprod": 1 << 20, "+fullfp16": 1 << 9 | 1 << 10}


@dataclass(frozen=True)
class TargetCard:
    """A machine of ``targets/NAME.toml``.

    Attributes
    ----------
    name, description, source : str
        ``source`` names the datasheets the figures come from.
    device : {"cpu", "cuda"}
        What runs the kernels.
    cpu : CpuSpec
        The CPU (for a GPU target, the host).
    libc : str
        What the artifact links against: ``glibc-2.17`` style, ``musl``, ``bionic``.
    power_sensors : tuple of str
        Sensor families that can measure this machine; empty: an external meter is needed.
    gpu : GpuSpec or None
        Of a ``cuda`` target.
    detect : bool
        The CPU and GPU fields are placeholders, to be replaced by what this machine reports (``native``).
    newer : NewerCpu or None
        Of integers: what a second set of kernels in the same file may use.
    """

    name: str
    description: str
    source: str
    cpu: CpuSpec
    device: Literal["cpu", "cuda"] = "cpu"
    libc: str = "glibc-2.17"
    power_sensors: tuple[str, ...] = ()
    gpu: GpuSpec | None = None
    detect: bool = False
    newer: NewerCpu | None = None

    @property
    def newer_cpu(self) -> CpuSpec | None:
        """The CPU with the newer instructions."""
        if self.newer is None:
            return None
        features = (*self.cpu.features, *self.newer.features)
        return replace(self.cpu, features=features, abilities=self.newer.abilities)

    @property
    def android(self) -> bool:
        """Whether it runs Android: reached by adb, and its C library is bionic."""
        return self.libc == "bionic"

    @property
    def static_runner(self) -> bool:
        """Whether ``tsm-runner`` is a static program there, with the model inside.

        With glibc it opens ``model.so``, so that a device has the weights once, and what it verifies is what programs
        load. Elsewhere no dynamic program can be linked here.
        """
        return not self.libc.startswith("glibc")

    def __post_init__(self) -> None:
        check_name(self.name)
        if (self.device == "cuda") != (self.gpu is not None):
            raise CardError(
                f"device is {self.device!r}, expected 'cuda' with a table [gpu] and 'cpu' without",
                "correct one of the two",
            )
        if not re.fullmatch(r"glibc-2\.(1[7-9]|[2-9]\d)|musl|bionic", self.libc, re.ASCII):
            raise CardError(
                f"libc is {shown(self.libc)}, expected 'glibc-2.17' or a later version, 'musl' or 'bionic'",
                "the device says its glibc's version with: ldd --version",
            )
        if (self.libc == "bionic") != ("android" in self.cpu.triple):
            raise CardError(
                f"libc is {self.libc!r}, but triple is {self.cpu.triple!r}: bionic is Android's, alone",
                "correct one of the two",
            )
