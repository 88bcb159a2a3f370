"""Machines with a power sensor, as trees of their kernel's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

NANO = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
TX2 = "/sys/bus/i2c/drivers/ina3221x/0-004"
ORIN = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
RAPL = "/sys/class/powercap/intel-rapl:"
BATTERY = "/sys/class/power_supply/battery"
ODPM = "/sys/bus/iio/devices/iio:device"
RAPL_RANGE_UJ = 262143328850
VCGENCMD = '#!/bin/sh\ncat "$(dirname "$0")/adc.txt"\n'


def jetson_nano(watts: float, joules: float) -> dict[str, object]:
    """Which channel is the CPU and which the GPU differs between releases; the name of the total does not."""
    rails = {0: ("POM_5V_IN", watts), 1: ("POM_5V_GPU", 0.2 * watts), 2: ("POM_5V_CPU", 0.5 * watts)}
    files: dict[str, object] = {}
    for index, (name, value) in rails.items():
        files[f"{NANO}/rail_name_{index}"] = name
        files[f"{NANO}/in_voltage{index}_input"] = 5000
        files[f"{NANO}/in_current{index}_input"] = round(1000 * value / 5)
        files[f"{NANO}/in_power{index}_input"] = round(1000 * value)
    return files


def jetson_tx2(watts: float, joules: float) -> dict[str, object]:
    """Two chips on the module, two on the carrier board."""
    names = {
        "0/iio:device0": ("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI"),
        "1/iio:device1": ("VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"),
        "2/iio:device2": ("VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS"),
    }
    files: dict[str, object] = {}
    for place, rails in names.items():
        for index, name in enumerate(rails):
            files[f"{TX2}{place}/rail_name_{index}"] = name
            files[f"{TX2}{place}/in_power{index}_input"] = round(1000 * (watts if name == "VDD_IN" else 0.3 * watts))
    return files


def jetson_orin_nano(watts: float, joules: float) -> dict[str, object]:
    """JetPack 5 and 6: no power, and a seventh input that is a sum of voltages over shunts."""
    rails = {1: ("VDD_IN", watts), 2: ("VDD_CPU_GPU_CV", 0.4 * watts), 3: ("VDD_SOC", 0.2 * watts)}
    files: dict[str, object] = {f"{ORIN}/name": "ina3221", f"{ORIN}/in7_label": "sum of shunt voltages"}
    files |= {f"{ORIN}/in7_input": 123456, f"{ORIN}/curr4_input": 9999}
    for index, (name, value) in rails.items():
        files[f"{ORIN}/in{index}_label"] = name
        files[f"{ORIN}/in{index}_input"] = 5048
        files[f"{ORIN}/curr{index}_input"] = round(1e6 * value / 5048)
    return files


def hwmon_ina226(watts: float, joules: float) -> dict[str, object]:
    """A chip with a driver of its own, beside one that measures no power."""
    return {
        "/sys/class/hwmon/hwmon0/name": "cpu_thermal",
        "/sys/class/hwmon/hwmon0/temp1_input": 51000,
        "/sys/class/hwmon/hwmon1/name": "ina226",
        "/sys/class/hwmon/hwmon1/power1_input": round(1e6 * watts),
    }


def rapl(watts: float, joules: float) -> dict[str, object]:
    """Two packages that come round during the work, parts of them, memory beside one, and the platform around all."""
    shares = {"0": ("package-0", 0.5), "0:0": ("core", 0.4), "0:1": ("dram", 0.2), "1": ("package-1", 0.3)}
    shares["2"] = ("psys", 1.6)
    files: dict[str, object] = {}
    for zone, (name, share) in shares.items():
        offset = RAPL_RANGE_UJ - 100_000_000
        files[f"{RAPL}{zone}/name"] = name
        files[f"{RAPL}{zone}/max_energy_range_uj"] = RAPL_RANGE_UJ
        files[f"{RAPL}{zone}/energy_uj"] = round(offset + 1e6 * share * joules) % RAPL_RANGE_UJ
    # The same counters seen another way.
    files["/sys/class/powercap/intel-rapl-mmio:0/name"] = "package-0"
    files["/sys/class/powercap/intel-rapl-mmio:0/energy_uj"] = 1
    return files


def pi5(watts: float, joules: float) -> dict[str, object]:
    """As the firmware prints it: all currents, then all voltages, two of them without a current."""
    shares = {"3V3_SYS": (3.3, 0.1), "DDR_VDD2": (1.1, 0.2), "VDD_CORE": (0.85, 0.6), "HDMI": (5.1, 0.1)}
    amps = [f"{name + '_A':>12} current({k})={s * watts / v:.8f}A" for k, (name, (v, s)) in enumerate(shares.items())]
    volts = [f"{name + '_V':>12} volt({8 + k})={v:.8f}V" for k, (name, (v, _)) in enumerate(shares.items())]
    volts += ["     EXT5V_V volt(24)=5.15542000V", "      BATT_V volt(25)=0.00000000V"]
    return {"/usr/bin/vcgencmd": VCGENCMD, "/usr/bin/adc.txt": "\n".join(amps + volts)}


def phone(watts: float, joules: float) -> dict[str, object]:
    """A vendor that counts current out of the battery as negative, in µA."""
    return {
        f"{BATTERY}/type": "Battery",
        f"{BATTERY}/status": "Discharging",
        f"{BATTERY}/voltage_now": 3_912_000,
        f"{BATTERY}/current_now": -round(1e6 * watts / 3.912),
    }


def phone_in_milliamps(watts: float, joules: float) -> dict[str, object]:
    """A vendor that counts it as positive, in mA, and voltage in mV."""
    return {
        "/sys/class/power_supply/usb/type": "USB",
        "/sys/class/power_supply/usb/current_now": 0,
        f"{BATTERY}/type": "Battery",
        f"{BATTERY}/status": "Discharging",
        f"{BATTERY}/voltage_now": 3912,
        f"{BATTERY}/current_now": round(1e3 * watts / 3.912),
    }


def pixel(watts: float, joules: float) -> dict[str, object]:
    """Two power chips, each with its file."""

    def lines(rails: Mapping[str, float]) -> str:
        counters = [f"CH{k}(T=349894)[{name}], {round(1e6 * s * joules)}" for k, (name, s) in enumerate(rails.items())]
        return "\n".join(["t=349894", *counters])

    return {
        f"{ODPM}0/energy_value": lines({"S4M_VDD_CPUCL0": 0.3, "S2M_VDD_CPUCL2": 0.4, "VSYS_PWR_MODEM": 0.0}),
        f"{ODPM}1/energy_value": lines({"S8S_VDD_G3D_L2": 0.1, "VSYS_PWR_DISPLAY": 0.2}),
    }


@dataclass(frozen=True)
class Board:
    """A faked machine, and what a sensor is to tell of it."""

    text: str
    files: Callable[[float, float], dict[str, object]]
    counted: tuple[str, ...]
    others: tuple[str, ...]
    boundary: str


BOARDS = {
    "Jetson Nano": Board("ina3221", jetson_nano, ("POM_5V_IN",), ("POM_5V_GPU", "POM_5V_CPU"), "module"),
    "Jetson TX2": Board(
        "ina3221",
        jetson_tx2,
        ("VDD_IN",),
        (
            *("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI", "VDD_SYS_CPU", "VDD_SYS_DDR"),
            *("VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS"),
        ),
        "module",
    ),
    "Jetson Orin Nano": Board("ina3221", jetson_orin_nano, ("VDD_IN",), ("VDD_CPU_GPU_CV", "VDD_SOC"), "module"),
    "hwmon": Board("hwmon", hwmon_ina226, ("power1",), (), "unknown"),
    "RAPL": Board("rapl", rapl, ("package-0", "package-0/dram", "package-1"), ("package-0/core", "psys"), "SoC"),
    "Raspberry Pi 5": Board("pmic", pi5, ("3V3_SYS", "DDR_VDD2", "VDD_CORE", "HDMI"), (), "module"),
    "phone": Board("battery", phone, ("battery",), (), "board"),
    "phone in mA": Board("battery", phone_in_milliamps, ("battery",), (), "board"),
    "Pixel": Board(
        "odpm",
        pixel,
        ("S4M_VDD_CPUCL0", "S2M_VDD_CPUCL2", "VSYS_PWR_MODEM", "S8S_VDD_G3D_L2", "VSYS_PWR_DISPLAY"),
        (),
        "module",
    ),
}
