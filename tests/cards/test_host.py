import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tsm_edge.cards import CpuSpec, load_target
from tsm_edge.cards.detect import detect_cpu, detect_libc
from tsm_edge.errors import CardError

V2 = "fpu sse sse2 pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"
V3 = f"{V2} fma movbe avx f16c abm bmi1 avx2 bmi2 xsave"
V4 = f"{V3} avx512f avx512dq avx512cd avx512bw avx512vl"
PI4 = "fp asimd evtstrm crc32 cpuid"
PI5 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


class Machine:
    """A folder with the files of /proc and /sys that detection reads."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def x86(self, flags: str, cpus: int = 4, mhz: str = "2394.454") -> None:
        lines = f"vendor_id\t: GenuineIntel\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\nbugs\t\t:"
        self.write("proc/cpuinfo", "\n".join(f"processor\t: {cpu}\n{lines}\n" for cpu in range(cpus)))

    def arm(self, features: str, parts: Iterable[int], implementer: int = 0x41) -> None:
        blocks = [
            f"processor\t: {cpu}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: {implementer:#x}\n"
            f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part:#x}\nCPU revision\t: 3\n"
            for cpu, part in enumerate(parts)
        ]
        board = "Hardware\t: BCM2835\nRevision\t: c03111\nModel\t\t: Raspberry Pi"
        self.write("proc/cpuinfo", "\n".join([*blocks, board]))

    def cache(self, index: int, level: int, kind: str, size: str, cpu: int = 0) -> None:
        folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
        self.write(f"{folder}/level", str(level))
        self.write(f"{folder}/type", kind)
        self.write(f"{folder}/size", size)

    def siblings(self, *lists: str) -> None:
        for cpu, text in enumerate(lists):
            self.write(f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", text)

    def detect(self, machine: str, cpus: Iterable[int] = range(4)) -> CpuSpec:
        return detect_cpu(self.root, machine, list(cpus))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_haswell(machine: Machine) -> None:
    machine.x86(V3)
    for index, (level, kind, size) in enumerate(
        [(1, "Data", "32K"), (1, "Instruction", "32K"), (2, "Unified", "256K"), (3, "Unified", "8M")]
    ):
        machine.cache(index, level, kind, size)
    machine.siblings("0,2", "1,3", "0,2", "1,3")
    assert machine.detect("x86_64") == CpuSpec(
        triple="x86_64-unknown-linux-gnu",
        cpu="x86-64-v3",
        vector_lanes=8,
        vector_registers=16,
        l1d_kib=32,
        l2_kib=256,
        l3_kib=8192,
        cores=2,
        clock_mhz=2394,
        fma_per_cycle=2.0,
        abilities=("memory-operands", "prefetch", "broadcast-pairs"),
    )


@pytest.mark.parametrize(
    ("flags", "cpu", "lanes", "registers"),
    [
        (V4, "x86-64-v4", 16, 32),
        (V4.replace("avx512vl", ""), "x86-64-v3", 8, 16),
        (V3.replace("avx2", ""), "x86-64-v2", 4, 16),
        (V3.replace(" fma", ""), "x86-64-v2", 4, 16),
        ("fpu sse sse2", "x86-64", 4, 16),
    ],
)
def test_x86_level_needs_every_one_of_its_features(
    machine: Machine, flags: str, cpu: str, lanes: int, registers: int
) -> None:
    machine.x86(flags)
    found = machine.detect("x86_64")
    assert (found.cpu, found.vector_lanes, found.vector_registers) == (cpu, lanes, registers)


def test_raspberry_pi_4_without_cache_files(machine: Machine) -> None:
    machine.arm(PI4, [0xD08] * 4)
    machine.write("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "1800000")
    assert machine.detect("aarch64") == CpuSpec(
        triple="aarch64-unknown-linux-gnu",
        cpu="generic",
        features=("+neon",),
        vector_lanes=4,
        vector_registers=32,
        l1d_kib=32,
        l2_kib=1024,
        cores=4,
        clock_mhz=1800,
        fma_per_cycle=1.0,
        l2_shared=True,
        abilities=("multiply-by-lane",),
    )


def test_raspberry_pi_5(machine: Machine) -> None:
    machine.arm(PI5, [0xD0B] * 4)
    machine.cache(0, 1, "Data", "64K")
    machine.cache(1, 1, "Instruction", "64K")
    machine.cache(2, 2, "Unified", "512K")
    machine.cache(3, 3, "Unified", "2048K")
    found = machine.detect("aarch64")
    assert found.features == ("+neon", "+dotprod", "+fullfp16")
    assert (found.l1d_kib, found.l2_kib, found.l3_kib) == (64, 512, 2048)
    assert (found.fma_per_cycle, found.in_order) == (2.0, False)


def test_raspberry_pi_3_is_in_order(machine: Machine) -> None:
    machine.arm(PI4, [0xD03] * 4)
    assert machine.detect("aarch64").in_order


def test_big_little_is_described_by_its_little_cores_unless_only_the_big_are_allowed(machine: Machine) -> None:
    machine.arm(PI5, [0xD05] * 4 + [0xD0B] * 4)
    assert machine.detect("aarch64", range(8)).in_order
    big = machine.detect("aarch64", range(4, 8))
    assert (big.in_order, big.fma_per_cycle, big.cores) == (False, 2.0, 4)


def test_unknown_arm_core_gets_modest_defaults(machine: Machine) -> None:
    machine.arm(PI5, [0x022] * 4, implementer=0x61)
    found = machine.detect("aarch64")
    assert (found.fma_per_cycle, found.in_order, found.l1d_kib) == (1.0, False, 32)


def test_feature_missing_on_one_core_is_not_used(machine: Machine) -> None:
    machine.arm(PI5, [0xD0B] * 4)
    text = (machine.root / "proc/cpuinfo").read_text()
    machine.write("proc/cpuinfo", text.replace(" asimddp", "", 1))
    assert "+dotprod" not in machine.detect("aarch64").features


def test_cores_are_those_the_process_may_use(machine: Machine) -> None:
    machine.x86(V3)
    assert machine.detect("x86_64", [1, 3]).cores == 2


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 4)])
def test_cores_respect_the_control_groups_quota(machine: Machine, quota: str, cores: int) -> None:
    machine.x86(V3)
    machine.write("sys/fs/cgroup/cpu.max", quota)
    assert machine.detect("x86_64").cores == cores


def test_base_frequency_goes_before_the_highest(machine: Machine) -> None:
    machine.x86(V3)
    machine.write("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "4700000")
    machine.write("sys/devices/system/cpu/cpu0/cpufreq/base_frequency", "2600000")
    assert machine.detect("x86_64").clock_mhz == 2600


def test_hidden_files_leave_modest_defaults(machine: Machine) -> None:
    machine.x86(V3, mhz="unknown")
    found = machine.detect("x86_64")
    assert (found.l1d_kib, found.l2_kib, found.l3_kib, found.cores, found.clock_mhz) == (32, 256, 0, 4, 0)


@pytest.mark.parametrize("name", ["armv7l", "aarch64 with 32-bit programs", "riscv64", "arm64"])
def test_other_machines_are_refused_with_a_way_out(machine: Machine, name: str) -> None:
    machine.arm(PI4, [0xD08] * 4)
    with pytest.raises(CardError, match=re.escape(name) + ".*expected Linux on x86_64 or aarch64; .*--target"):
        machine.detect(name)


def test_no_proc_is_refused(machine: Machine) -> None:
    message = r"/proc/cpuinfo cannot be read or lists no CPU \(is /proc hidden from this process\?\); .*--target"
    with pytest.raises(CardError, match=f"{message} x86-64$"):
        machine.detect("x86_64")
    with pytest.raises(CardError, match=f"{message} raspberry-pi-4$"):
        machine.detect("aarch64")


def test_another_system_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(CardError, match="this is Darwin on arm64, expected Linux on x86_64 or aarch64; "):
        machine.detect("arm64")


@pytest.mark.parametrize(
    ("libc_ver", "expected"),
    [
        (("glibc", "2.36"), "glibc-2.27"),
        (("glibc", "2.27"), "glibc-2.27"),
        (("glibc", "2.17"), "glibc-2.17"),
        (("glibc", "2.9"), "glibc-2.9"),
        (("musl", "1.2.4"), "musl"),
    ],
)
def test_libc(tmp_path: Path, libc_ver: tuple[str, str], expected: str) -> None:
    assert detect_libc(tmp_path, libc_ver) == expected


def test_musl_is_known_by_its_loader(machine: Machine) -> None:
    machine.write("lib/ld-musl-x86_64.so.1", "")
    assert detect_libc(machine.root, ("", "")) == "musl"


def test_unknown_libc_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="expected glibc or musl"):
        detect_libc(tmp_path, ("", ""))


def test_this_machine_is_detected() -> None:
    card = load_target("native")
    assert card.cpu == detect_cpu()
    assert card.libc == detect_libc()
