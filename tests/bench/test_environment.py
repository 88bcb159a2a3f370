"""What boards tell of themselves, on trees of files as theirs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from boards import BOARDS, build, laptop, nano, orin, phone, pi_4, policy, through_a_shell

from tsm_edge.bench.environment import fix_clock_commands, glance, snapshot
from tsm_edge.bench.result import AlarmCount, Environment, Gpu, Temperature
from tsm_edge.power.system import LocalSystem


@pytest.mark.parametrize("name", BOARDS)
def test_files_and_a_shell_tell_the_same(name: str, tmp_path: Path) -> None:
    local = snapshot(build(tmp_path, BOARDS[name]()), 1.5)
    remote = snapshot(through_a_shell(tmp_path), 1.5)
    # Faked trees have no uname; a real shell does.
    assert local == Environment(**{**remote.__dict__, "architecture": local.architecture})
    moving = glance(LocalSystem(tmp_path), 1.5)
    for field in ("cores", "gpus", "firmware_mhz", "temperatures", "throttled_now", "events", "load_1min", "busy_s"):
        assert getattr(moving, field) == getattr(local, field), field
    assert moving.board is None, "it stands still"


WHAT = {
    "pi-4": ("Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi", "4 × Cortex-A72", "Linux 6.6.31+rpt-rpi-v8"),
    "pi-5": ("Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi", "4 × Cortex-A76", "Linux 6.6.31+rpt-rpi-2712"),
    "nano": ("NVIDIA Jetson Nano Developer Kit", "jetson", "4 × Cortex-A57", "Linux 4.9.253-tegra, L4T 32.7.1"),
    "tx2": ("quill", "jetson", "4 × Cortex-A57", "Linux 4.9.140-tegra, L4T 32.4.4"),
    "orin": (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "jetson",
        "6 × Cortex-A78AE",
        "Linux 5.15.148-tegra, L4T 36.4.7",
    ),
    "laptop": ("LENOVO 20HES0", "pc", "4 × Intel(R) Core(TM) i5-7200U CPU @ 2.50GHz", "Linux 6.1.0-21-amd64"),
    "phone": ("Pixel 2", "android", "4 × Kryo 2xx Silver + 4 × Kryo 2xx Gold", "Linux 4.4.78-perf, Android 11"),
}


@pytest.mark.parametrize("name", BOARDS)
def test_what_a_board_is(name: str, tmp_path: Path) -> None:
    found = snapshot(build(tmp_path, BOARDS[name]()))
    assert (found.board, found.kind, found.cpu_model, found.kernel) == WHAT[name]
    assert (found.load_1min, found.busy_s, found.stolen_s, found.own_s) == (0.42, 13.3, 0.7, 3.0)
    assert (found.memory_total_mb, found.memory_available_mb, found.swap_used_mb) == (3977.6, 3288.3, 0.0)
    assert found.boot_id
    assert found.virtual is False


def test_clocks_of_clusters_reach_their_cores(tmp_path: Path) -> None:
    found = snapshot(build(tmp_path, phone()))
    assert [(core.number, core.max_mhz) for core in found.cores] == [
        (number, 1900.0 if number < 4 else 2457.0) for number in range(8)
    ]
    assert {core.governor for core in found.cores} == {"interactive"}
    assert [(item.cores, item.clock_mhz, item.time_s) for item in found.time_in_state] == [
        ("0-3", 300.0, 4.0),
        ("0-3", 1900.0, 0.2),
        ("4-7", 300.0, 3.0),
        ("4-7", 2457.0, 0.4),
    ]


def test_cores_that_are_switched_off_are_there(tmp_path: Path) -> None:
    found = snapshot(build(tmp_path, BOARDS["tx2"]()))
    assert [core.number for core in found.cores if not core.online] == [1, 2]
    assert [core.current_mhz for core in found.cores] == [2035.0, None, None, 2035.0, 2035.0, 2035.0]


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("nano", ("57000000.gpu", 921.6, 921.6, 921.6)),
        ("tx2", ("17000000.gp10b", 114.75, 1122.0, 1300.5)),
        ("orin", ("17000000.gpu", 306.0, 612.0, 1020.0)),
        ("phone", ("kgsl-3d0", 257.0, 710.0, 710.0)),
    ],
)
def test_a_gpu_is_told_from_video_codecs(name: str, gpu: tuple[object, ...], tmp_path: Path) -> None:
    (found,) = snapshot(build(tmp_path, BOARDS[name]())).gpus
    assert (found.name, found.current_mhz, found.max_mhz, found.limit_mhz) == gpu


@pytest.mark.parametrize(
    ("name", "temperatures"),
    [
        ("pi-5", {"cpu-thermal": 61.45}),
        ("nano", {"AO-therm": 41.5, "CPU-therm": 34.0, "GPU-therm": 31.0, "PLL-therm": 31.5}),
        ("orin", {"cpu-thermal": 52.0, "gpu-thermal": 49.0, "tj-thermal": 52.0}),
        ("laptop", {"x86_pkg_temp": 71.0, "Package id 0": 71.0}),
        ("phone", {"tsens_tz_sensor1": 41.0, "pm8998_tz": 36.31, "battery": 31.0}),
    ],
)
def test_temperatures_are_those_that_are_measured(name: str, temperatures: dict[str, float], tmp_path: Path) -> None:
    """Not Tegra's constant 100 °C, not a zone that is off, each in degrees."""
    found = snapshot(build(tmp_path, BOARDS[name]()))
    assert found.temperatures == tuple(Temperature(zone, value) for zone, value in temperatures.items())


def with_cards(*lines: str) -> dict[str, object]:
    """A laptop whose nvidia-smi says this of its cards, as that of driver 580 does."""
    said = "\n".join(lines)
    wanted = "--query-gpu=name,clocks.sm,clocks.max.sm,temperature.gpu --format=csv,noheader,nounits"
    program = f"""[ "$*" = "{wanted}" ] || exit 6
echo '{said}'"""
    return {**laptop(), "/proc/driver/nvidia/version": "NVRM version: 580", "program nvidia-smi": program}


def test_a_graphics_card_is_asked_of_its_driver(tmp_path: Path) -> None:
    system = build(tmp_path, with_cards("NVIDIA H200, 1755, 1980, 42"))
    for look in (snapshot(system), glance(system, 1.0)):
        assert look.gpus == (Gpu("NVIDIA H200", current_mhz=1755.0, limit_mhz=1980.0),)
        assert look.temperatures[-1] == Temperature("NVIDIA H200", 42.0)


@pytest.mark.parametrize(
    "lines",
    [
        ("NVIDIA A2, 210, 1770, 33", "NVIDIA A2, 1770, 1770, 60"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",),
        ("",),
    ],
)
def test_which_of_several_cards_is_used_is_not_told(lines: tuple[str, ...], tmp_path: Path) -> None:
    assert snapshot(build(tmp_path, with_cards(*lines))).gpus == ()


def test_a_card_tells_what_it_has(tmp_path: Path) -> None:
    found = snapshot(build(tmp_path, with_cards("GRID T4, [N/A], 1590, [N/A]")))
    assert found.gpus == (Gpu("GRID T4", limit_mhz=1590.0),)
    assert "GRID T4" not in [item.zone for item in found.temperatures]


@pytest.mark.parametrize(
    ("bits", "now", "since"),
    [
        ("0x0", (), ()),
        ("0x50000", (), ("under-voltage", "throttled")),
        ("0x50005", ("under-voltage", "throttled"), ("under-voltage", "throttled")),
        ("0xe0008", ("soft temperature limit",), ("frequency capped", "throttled", "soft temperature limit")),
    ],
)
def test_bits_of_a_raspberry_pis_firmware(
    bits: str, now: tuple[str, ...], since: tuple[str, ...], tmp_path: Path
) -> None:
    found = snapshot(build(tmp_path, pi_4(bits, clock_mhz=600)))
    assert (found.throttled_now, found.throttled_since_boot, found.firmware_mhz) == (now, since, 600.4)
    assert found.events == (), "how often is not kept"


def test_the_firmwares_file_is_read_where_vcgencmd_is_not(tmp_path: Path) -> None:
    files = {path: text for path, text in pi_4().items() if path != "program vcgencmd"}
    found = snapshot(build(tmp_path, {**files, "/sys/devices/platform/soc/soc:firmware/get_throttled": "50005"}))
    assert found.throttled_now == ("under-voltage", "throttled")
    assert found.firmware_mhz is None


def test_without_either_it_is_said_that_nobody_knows(tmp_path: Path) -> None:
    files = {path: text for path, text in pi_4().items() if path != "program vcgencmd"}
    found = snapshot(build(tmp_path, files))
    assert {item.key: item.reason for item in found.unknown} == {
        "throttled_now": "vcgencmd is not there, or may not be asked",
        "supply_v": "no sensor for it",
    }


def test_alarms_of_jetsons_are_counted(tmp_path: Path) -> None:
    found = snapshot(build(tmp_path / "orin", orin((0, 15, 37))))
    assert found.events == (
        AlarmCount("under voltage (OC1)", 0),
        AlarmCount("average over-current (OC2)", 15),
        AlarmCount("over-current (OC3)", 37),
    )
    older = snapshot(build(tmp_path / "nano", nano()))
    assert ("events", "this JetPack shows no counter of over-current alarms") in [
        (item.key, item.reason) for item in older.unknown
    ]


def test_thermal_interrupts_and_cooling(tmp_path: Path) -> None:
    found = snapshot(build(tmp_path / "pc", laptop(throttles=3)))
    assert found.events == (AlarmCount("cores too hot", 12), AlarmCount("package too hot", 7))
    assert found.throttled_now == ()
    hot = snapshot(build(tmp_path / "phone", phone(status=2, cooling=3)))
    assert hot.throttled_now == ("cooled by thermal-cpufreq-0", "thermal status moderate")


@pytest.mark.parametrize(
    ("name", "mode", "supply"),
    [("nano", "MAXN (mode 0)", 5.012), ("tx2", "MAXP_CORE_ARM (mode 3)", None), ("orin", "15W (mode 0)", 4.984)],
)
def test_power_modes_and_supply_of_jetsons(name: str, mode: str, supply: float | None, tmp_path: Path) -> None:
    found = snapshot(build(tmp_path, BOARDS[name]()))
    assert (found.power_mode, found.supply_v) == (mode, supply)
    assert mode in found.power_modes


def test_the_supply_of_a_raspberry_pi_5(tmp_path: Path) -> None:
    assert snapshot(build(tmp_path, BOARDS["pi-5"]())).supply_v == 5.105


def test_other_runs_are_found_and_servers_that_wait_are_not(tmp_path: Path) -> None:
    processes = {
        "/proc/11/cmdline": "/usr/bin/python3\0/home/pi/.venv/bin/tsm-edge\0run\0rtsp://user:secret@camera/\0",
        "/proc/12/cmdline": "python3\0-m\0tsm_edge.cli\0serve\0",
        "/proc/13/cmdline": "./tsm-runner\0bench\0",
        "/proc/14/cmdline": "vim\0notes-on-tsm-edge\0",
        "/proc/15/cmdline": "bash\0-c\0echo tsm-edge\0",
    }
    found = snapshot(build(tmp_path, {**pi_4(), **processes}))
    assert found.others == ("tsm-edge run (process 11)", "tsm-runner bench (process 13)")


@pytest.mark.parametrize("way", ["here", "client", "elsewhere"])
def test_a_process_and_its_own_helpers_are_no_other_runs(way: str, tmp_path: Path) -> None:
    """Nor is the client of a server on the same machine; on another machine its number is somebody else's."""
    boot = "/proc/sys/kernel/random/boot_id"
    processes: dict[str, object] = {boot: Path(boot).read_text() if way == "client" else "another\n"}
    for pid, parent in ((os.getpid(), 1), (4194301, os.getpid()), (4194302, 1)):
        processes[f"/proc/{pid}/cmdline"] = "tsm-edge\0bench\0"
        processes[f"/proc/{pid}/stat"] = f"{pid} (tsm edge) S {parent} 1 1"
    system = build(tmp_path, {**pi_4(), **processes})
    system.here = way == "here"
    found = snapshot(system)
    others = (os.getpid(), 4194301, 4194302) if way == "elsewhere" else (4194302,)
    assert found.others == tuple(f"tsm-edge bench (process {pid})" for pid in others)


def test_garbage_is_not_believed(tmp_path: Path) -> None:
    files = {**pi_4(), **policy(0, "0-3", "ondemand", 600, 1500, 1500)}
    garbage = {path: "\x1b[31m-1e999 nonsense" for path in files if not path.startswith("program ")}
    found = snapshot(build(tmp_path, {**garbage, "program vcgencmd": "echo throttled=none"}))
    assert (found.cores, found.temperatures, found.time_in_state, found.load_1min) == ((), (), (), None)


@pytest.mark.real_time
def test_this_machine_is_looked_at_fast_enough_to_be_looked_at_between_frames() -> None:
    system = LocalSystem()
    found = snapshot(system)
    assert found.cores
    assert found.affinity
    assert found.memory_total_mb
    times = []
    for _ in range(5):
        start = time.perf_counter()
        glance(system, 0.0)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5, "a glance is meant to take milliseconds"


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("pi-4", ["echo performance | sudo tee", "# and cool it", "# afterwards", "echo ondemand | sudo tee"]),
        ("nano", ["sudo jetson_clocks --store", "sudo jetson_clocks", "# afterwards", "sudo jetson_clocks --restore"]),
        (
            "orin",
            [
                "sudo nvpmodel -m 2   # MAXN_SUPER (mode 2)",
                "sudo jetson_clocks --store",
                "sudo jetson_clocks",
                "# afterwards",
                "sudo jetson_clocks --restore",
                "sudo nvpmodel -m 0   # 15W (mode 0)",
            ],
        ),
        (
            "laptop",
            [
                "echo performance | sudo tee",
                "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo",
                "# afterwards",
                "echo powersave | sudo tee",
                "echo 0 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo",
            ],
        ),
        ("phone", ["adb shell cmd power set-fixed-performance-mode-enabled true", "# with root", "# after", "adb"]),
    ],
)
def test_commands_that_hold_the_clocks(name: str, commands: list[str], tmp_path: Path) -> None:
    found = fix_clock_commands(snapshot(build(tmp_path, BOARDS[name]())))
    assert len(found) == len(commands)
    assert all(line.startswith(start) for line, start in zip(found, commands, strict=True)), found


def test_a_virtual_machine_has_no_clock_to_hold() -> None:
    assert fix_clock_commands(Environment(0.0, kind="pc", virtual=True)) == [
        "# a virtual machine cannot hold its clock: hold it on the host"
    ]
