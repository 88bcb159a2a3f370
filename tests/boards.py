"""Boards as trees of files and programs that answer, from what kernels, documentation and users of them show."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from power_fakes import write_tree

from tsm_edge.power.system import LocalSystem, ShellSystem, System

_CPUFREQ = "/sys/devices/system/cpu/cpufreq"
_MEMINFO = (
    "MemTotal:        3884372 kB\nMemFree: 100 kB\nMemAvailable:    3211204 kB\nSwapTotal: 100 kB\nSwapFree: 100 kB"
)


def pi_4(throttled: str = "0x0", clock_mhz: int = 1500, temp: int = 48199) -> dict[str, object]:
    """Raspberry Pi 4, Raspberry Pi OS: the firmware's view through vcgencmd."""
    return {
        "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "/proc/cpuinfo": _arm_cores(4, 0x41, 0xD08)
        + "\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4",
        **_linux("6.6.31+rpt-rpi-v8", cores=4),
        **policy(0, "0-3", "ondemand", 600, 1500, 1500, {600: 9000, 1500: 1000}),
        **zones({"cpu-thermal": temp}),
        "program vcgencmd": f"""case "$1" in
get_throttled) echo throttled={throttled};;
measure_clock) echo "frequency(48)={clock_mhz}398464";;
*) echo 'error=1 error_msg="Command not registered"' >&2; exit 255;;
esac""",
    }


def pi_5() -> dict[str, object]:
    """Raspberry Pi 5: its power chip knows the supply's voltage, its kernel an under-voltage alarm."""
    return {
        "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "/proc/cpuinfo": _arm_cores(4, 0x41, 0xD0B),
        **_linux("6.6.31+rpt-rpi-2712", cores=4),
        **policy(0, "0-3", "performance", 1500, 2400, 2400, {1500: 10, 2400: 99000}),
        **zones({"cpu-thermal": 61450}),
        "/sys/class/hwmon/hwmon0/name": "cpu_thermal",
        "/sys/class/hwmon/hwmon0/temp1_input": 61450,
        "/sys/class/hwmon/hwmon3/name": "rpi_volt",
        "/sys/class/hwmon/hwmon3/in0_lcrit_alarm": 0,
        "program vcgencmd": """case "$1" in
get_throttled) echo throttled=0x50000;;
measure_clock) echo "frequency(0)=2400023808";;
pmic_read_adc) echo "         EXT5V_V volt(24)=5.10540000V";;
esac""",
    }


def nano(mode: int = 0, gpu_hz: int = 921600000) -> dict[str, object]:
    """Jetson Nano, JetPack 4."""
    gpu = "/sys/class/devfreq/57000000.gpu"
    return {
        "/proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
        "/etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64",
        "/etc/nvpmodel.conf": "# MAXN is the NONE power model\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n\n"
        "< POWER_MODEL ID=1 NAME=5W >\nCPU_ONLINE CORE_2 0\n\n< PM_CONFIG DEFAULT=0 >",
        "/var/lib/nvpmodel/status": f"pmode:{mode:04}",
        "/proc/cpuinfo": _arm_cores(4, 0x41, 0xD07),
        **_linux("4.9.253-tegra", cores=4),
        **policy(0, "0-3", "schedutil", 102, 1479, 1479, {102: 5000, 1479: 2000}),
        f"{gpu}/cur_freq": gpu_hz,
        f"{gpu}/min_freq": 76800000,
        f"{gpu}/max_freq": 921600000,
        f"{gpu}/governor": "nvhost_podgov",
        f"{gpu}/available_frequencies": "76800000 153600000 460800000 614400000 768000000 921600000",
        "/sys/class/devfreq/57000000.vic/cur_freq": 192000000,
        **zones({"AO-therm": 41500, "CPU-therm": 34000, "GPU-therm": 31000, "PLL-therm": 31500, "PMIC-Die": 100000}),
        "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "POM_5V_IN",
        "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_voltage0_input": 5012,
    }


def tx2() -> dict[str, object]:
    """Jetson TX2, JetPack 4: its Denver cores are off in most power modes; the status file was never written."""
    gpu = "/sys/class/devfreq/17000000.gp10b"
    return {
        "/proc/device-tree/model": "quill\0",
        "/etc/nv_tegra_release": "# R32 (release), REVISION: 4.4, GCID: 23942405, BOARD: t186ref, EABI: aarch64",
        "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MAXQ >\n"
        "< POWER_MODEL ID=3 NAME=MAXP_CORE_ARM >\n",
        "/proc/cpuinfo": _arm_cores(4, 0x41, 0xD07),
        **_linux("4.9.140-tegra", cores=6, online="0,3-5"),
        **policy(0, "0 3 4 5", "schedutil", 345, 2035, 2035, {345: 100, 2035: 50}),
        f"{gpu}/cur_freq": 114750000,
        f"{gpu}/max_freq": 1122000000,
        f"{gpu}/governor": "nvhost_podgov",
        f"{gpu}/available_frequencies": "114750000 1122000000 1300500000",
        **zones({"BCPU-therm": 39000, "MCPU-therm": 39000, "Tboard_tegra": 34000, "PMIC-Die": 100000}),
        "program nvpmodel": 'echo "NV Power Mode: MAXP_CORE_ARM"; echo 3',
    }


def orin(counts: tuple[int, int, int] = (0, 15, 37)) -> dict[str, object]:
    """Jetson Orin Nano, JetPack 6: zones of parts that are off fail with EAGAIN; here they are empty."""
    gpu = "/sys/class/devfreq/17000000.gpu"
    return {
        "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64",
        "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< POWER_MODEL ID=3 NAME=7W >\n",
        "/var/lib/nvpmodel/status": "pmode:0000",
        "/proc/cpuinfo": _arm_cores(6, 0x41, 0xD42),
        **_linux("5.15.148-tegra", cores=6),
        **policy(0, "0 1 2 3", "schedutil", 115, 1510, 1728),
        **policy(4, "4 5", "schedutil", 115, 1510, 1728),
        f"{gpu}/cur_freq": 306000000,
        f"{gpu}/min_freq": 306000000,
        f"{gpu}/max_freq": 612000000,
        f"{gpu}/governor": "nvhost_podgov",
        f"{gpu}/available_frequencies": "306000000 408000000 510000000 612000000 714000000 1020000000",
        "/sys/class/devfreq/15480000.nvdec/cur_freq": 435200000,
        **zones({"cpu-thermal": 52000, "gpu-thermal": 49000, "cv0-thermal": "", "tj-thermal": 52000}),
        "/sys/class/hwmon/hwmon1/name": "ina3221",
        "/sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
        "/sys/class/hwmon/hwmon1/in1_input": 4984,
        "/sys/class/hwmon/hwmon1/curr1_crit_alarm": 0,
        "/sys/class/hwmon/hwmon3/name": "soctherm_oc",
        **{f"/sys/class/hwmon/hwmon3/oc{number}_event_cnt": count for number, count in enumerate(counts, 1)},
    }


def laptop(throttles: int = 3) -> dict[str, object]:
    """An x86 with a clock a core, turbo, and thermal interrupts."""
    clocks: dict[str, object] = {}
    for cpu, mhz in enumerate((3390, 800, 812, 3401)):
        clocks.update(policy(cpu, str(cpu), "powersave", 400, 3400, 3400, now=mhz))
        clocks[f"/sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"] = throttles
        clocks[f"/sys/devices/system/cpu/cpu{cpu}/thermal_throttle/package_throttle_count"] = 7
    name = "Intel(R) Core(TM) i5-7200U CPU @ 2.50GHz"
    tables = (f"processor\t: {cpu}\nmodel name\t: {name}\nflags\t\t: fpu sse avx2" for cpu in range(4))
    return {
        "/sys/class/dmi/id/sys_vendor": "LENOVO",
        "/sys/class/dmi/id/product_name": "20HES0",
        "/proc/cpuinfo": "\n\n".join(tables),
        **_linux("6.1.0-21-amd64", cores=4),
        **clocks,
        "/sys/devices/system/cpu/intel_pstate/no_turbo": 0,
        **zones({"x86_pkg_temp": 71000, "acpitz": 0}),
        "/sys/class/hwmon/hwmon4/name": "coretemp",
        "/sys/class/hwmon/hwmon4/temp1_label": "Package id 0",
        "/sys/class/hwmon/hwmon4/temp1_input": 71000,
        "/sys/class/thermal/cooling_device0/type": "Processor",
        "/sys/class/thermal/cooling_device0/cur_state": 0,
        "/sys/class/thermal/cooling_device1/type": "intel_powerclamp",
        "/sys/class/thermal/cooling_device1/cur_state": -1,
    }


def phone(status: int = 0, cooling: int = 0) -> dict[str, object]:
    """A phone with two clusters: some zones in whole degrees, some in tenths, one that nobody may read."""
    gpu = "/sys/class/kgsl/kgsl-3d0/devfreq"
    return {
        "/system/bin/getprop": "",
        "/proc/cpuinfo": f"{_arm_cores(4, 0x51, 0x801)}\n\n{_arm_cores(4, 0x51, 0x800, first=4)}\n\n"
        "Hardware\t: Qualcomm Technologies, Inc MSM8998",
        **_linux("4.4.78-perf", cores=8, allowed="0-7"),
        **policy(0, "0 1 2 3", "interactive", 300, 1900, 1900, {300: 400, 1900: 20}),
        **policy(4, "4 5 6 7", "interactive", 300, 2457, 2457, {300: 300, 2457: 40}),
        f"{gpu}/cur_freq": 257000000,
        f"{gpu}/max_freq": 710000000,
        f"{gpu}/governor": "msm-adreno-tz",
        f"{gpu}/available_frequencies": "710000000 257000000",
        **zones({"tsens_tz_sensor1": 410, "pm8998_tz": 36312, "battery": 31}),
        "/sys/class/power_supply/battery/temp": 305,
        "/sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0",
        "/sys/class/thermal/cooling_device0/cur_state": cooling,
        "program getprop": 'case "$1" in ro.product.model) echo "Pixel 2";; ro.build.version.release) echo 11;; esac',
        "program dumpsys": f'echo "IsStatusOverride: false"; echo "Thermal Status: {status}"; echo "Cached:"',
    }


BOARDS: Mapping[str, Callable[[], dict[str, object]]] = {
    "pi-4": pi_4,
    "pi-5": pi_5,
    "nano": nano,
    "tx2": tx2,
    "orin": orin,
    "laptop": laptop,
    "phone": phone,
}


def policy(
    number: int,
    cpus: str,
    governor: str,
    low: int,
    most: int,
    limit: int,
    in_state: Mapping[int, int] | None = None,
    now: int | None = None,
) -> dict[str, object]:
    """A cluster's clock, MHz."""
    folder = f"{_CPUFREQ}/policy{number}"
    files: dict[str, object] = {
        f"{folder}/affected_cpus": cpus,
        f"{folder}/scaling_governor": governor,
        f"{folder}/scaling_min_freq": low * 1000,
        f"{folder}/scaling_cur_freq": (now or most) * 1000,
        f"{folder}/scaling_max_freq": most * 1000,
        f"{folder}/cpuinfo_max_freq": limit * 1000,
    }
    if in_state:
        files[f"{folder}/stats/time_in_state"] = "\n".join(f"{mhz * 1000} {ticks}" for mhz, ticks in in_state.items())
    return files


def zones(temperatures: Mapping[str, object]) -> dict[str, object]:
    """Thermal zones, by type."""
    files: dict[str, object] = {}
    for number, (kind, value) in enumerate(temperatures.items()):
        files[f"/sys/class/thermal/thermal_zone{number}/type"] = kind
        files[f"/sys/class/thermal/thermal_zone{number}/temp"] = value
    return files


def build(root: Path, files: Mapping[str, object]) -> LocalSystem:
    """Write the board, or what changed of it, below ``root``."""
    write_tree(root, {path: text for path, text in files.items() if not path.startswith("program ")})
    for path, script in files.items():
        if path.startswith("program "):
            program = root / "usr/bin" / path.removeprefix("program ")
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
    return LocalSystem(root)


def through_a_shell(root: Path) -> System:
    """The same board where nothing but a real sh is there."""

    def run(script: str) -> str:
        script = re.sub(r"(?<![\w*])/(sys|proc|etc|var|system)/", rf"{root}/\1/", script)
        environment = {"PATH": f"{root}/usr/bin:/usr/bin:/bin"}
        done = subprocess.run(["sh", "-c", script], capture_output=True, check=True, env=environment)
        return done.stdout.decode("utf-8", "replace").replace(str(root), "")

    return ShellSystem(run)


def _linux(release: str, cores: int, online: str = "", allowed: str = "") -> dict[str, object]:
    return {
        "/proc/sys/kernel/osrelease": release,
        "/proc/sys/kernel/random/boot_id": "6a77caf9-4ce2-4bb7-b3c4-a52b4b21f97e",
        "/proc/self/status": f"Name:\tsh\nCpus_allowed_list:\t{allowed or f'0-{cores - 1}'}\nMems_allowed_list:\t0",
        "/proc/self/stat": "4711 (tsm edge) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 5",
        "/sys/devices/system/cpu/present": f"0-{cores - 1}",
        "/sys/devices/system/cpu/online": online or f"0-{cores - 1}",
        "/proc/loadavg": "0.42 0.31 0.20 1/214 4711",
        "/proc/stat": "cpu  1000 20 300 90000 50 6 4 70 0 0\ncpu0 500 10 150 45000 25 3 2 35 0 0",
        "/proc/meminfo": _MEMINFO,
    }


def _arm_cores(count: int, implementer: int, part: int, first: int = 0) -> str:
    core = f"BogoMIPS\t: 108.00\nCPU implementer\t: {implementer:#x}\nCPU part\t: {part:#x}"
    return "\n\n".join(f"processor\t: {first + number}\n{core}" for number in range(count))
