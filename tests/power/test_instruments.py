"""Chips on I²C and graphics cards, whose packages are stood in for; laboratory meters, over a socket."""

from __future__ import annotations

import socketserver
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from loopback import running
from power_fakes import IDLE_W, KnownPower, StepClock

from tsm_edge.errors import PowerError
from tsm_edge.power import scpi
from tsm_edge.power.measure import measure
from tsm_edge.power.registry import open_sensor

ADDRESS = 0x41


class FakeBus:
    """A chip on an I²C bus, register by register as its data sheet has them."""

    opened: int | None = None
    registers: Callable[[], dict[int, int]] = staticmethod(dict)

    def __init__(self, number: int) -> None:
        if number != 1:
            raise FileNotFoundError(2, "No such file or directory", f"/dev/i2c-{number}")
        type(self).opened = number

    def read_word_data(self, address: int, register: int) -> int:
        """16 bits, the lowest first."""
        if address != ADDRESS:
            raise OSError(121, "Remote I/O error")
        value = type(self).registers()[register] & 0xFFFF
        return (value >> 8) | (value & 0xFF) << 8

    def close(self) -> None:
        """Note it."""
        type(self).opened = None


def ina219(volts: float, amps: float, ohms: float = 0.1) -> dict[int, int]:
    """Bit 1 of the bus voltage says that a conversion is done."""
    return {0: 0x399F, 1: round(amps * ohms / 10e-6), 2: round(volts / 4e-3) << 3 | 0b10}


def ina226(volts: float, amps: float, ohms: float = 0.1) -> dict[int, int]:
    return {0: 0x4127, 1: round(amps * ohms / 2.5e-6), 2: round(volts / 1.25e-3), 0xFE: 0x5449, 0xFF: 0x2260}


def ina260(volts: float, amps: float) -> dict[int, int]:
    return {0: 0x6127, 1: round(amps / 1.25e-3), 2: round(volts / 1.25e-3), 0xFE: 0x5449, 0xFF: 0x2270}


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> type[FakeBus]:
    """What ``smbus2.SMBus`` opens."""
    made = type("Bus", (FakeBus,), {})
    monkeypatch.setitem(sys.modules, "smbus2", SimpleNamespace(SMBus=made))
    return made


@pytest.mark.parametrize(
    ("text", "registers"),
    [
        ("ina219:1:0x41", ina219),
        ("ina226:1:65:0.02", lambda volts, amps: ina226(volts, amps, 0.02)),
        ("ina226:1:0x41:0.01", lambda volts, amps: ina226(volts, amps, 0.01)),
        ("ina260:1:0x41", ina260),
    ],
)
def test_a_chip_has_the_energy_of_the_known_power(
    text: str, registers: Callable[[float, float], dict[int, int]], bus: type[FakeBus]
) -> None:
    power = KnownPower(2.01, 7.01)
    clock = StepClock()
    bus.registers = staticmethod(lambda: registers(5.1, power.watts(clock.now()) / 5.1))
    sensor = open_sensor(text)
    measured = measure(sensor, lambda: clock.sleep(5.0), 2.01, clock)
    assert measured.report is not None, measured.reason
    assert measured.report.gross_j == pytest.approx(power.gross_j, rel=0.01)
    assert measured.report.net_j == pytest.approx(power.net_j, rel=0.01)
    assert measured.report.idle_w == pytest.approx(IDLE_W, rel=0.01)
    assert sensor.info.name == f"{text.partition(':')[0]}:1:0x41"
    sensor.close()
    assert bus.opened is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ina219:1", "expected ina219:BUS:ADDRESS; for example: ina219:1:0x40"),
        ("ina219:1:0x80", "expected ina219:BUS:ADDRESS"),
        ("ina219:one:0x40", "expected ina219:BUS:ADDRESS"),
        ("ina219:1:0x41:0", "a shunt of 0 Ω, expected more than 0"),
        ("ina219:1:0x41:1e-", "the shunt of ina219:1:0x41:1e- is '1e-', expected a number"),
        ("ina260:1:0x41:0.1", "its shunt is in the chip; write ina260:1:0x41"),
        ("ina219:7:0x41", r"/dev/i2c-7 cannot be opened \(No such file or directory\); turn I²C on"),
        ("ina219:1:0x40", r"nothing answers at 0x40 of bus 1 \(Remote I/O error\); look with: i2cdetect -y 1"),
        ("ina260:1:0x41", "the chip at 0x41 says it is 5449:2260, expected 5449:2270; look with: i2cdetect -y 1"),
    ],
)
def test_a_chip_that_is_not_there_or_another_one_is_refused(text: str, reason: str, bus: type[FakeBus]) -> None:
    bus.registers = staticmethod(lambda: ina226(5.1, 1.0))
    with pytest.raises(PowerError, match=reason):
        open_sensor(text)
    assert bus.opened is None


@pytest.mark.parametrize(
    ("registers", "reason"),
    [
        ({**ina219(5.1, 1.0), 0: 0x3998}, "its configuration is 0x3998, so it does not measure all the time"),
        ({**ina219(5.1, 1.0), 0: 0xFFFF}, "its configuration is 0xffff"),
        (ina219(5.1, -1.0), r"reads -5\.1 W, expected no negative power; check which way round its wires are"),
        ({**ina219(5.1, 1.0), 1: 32000}, "its current is beyond its range, 3.2 A; take a smaller shunt"),
        ({**ina219(5.1, 1.0), 0: 0x219F, 1: 4000}, "its current is beyond its range, 0.4 A; take a smaller shunt"),
        (ina219(5.1, 0.0), "reads 0 W in total"),
        (ina219(0.0, 1.0), "reads 0 W in total"),
    ],
)
def test_a_chip_that_measures_nothing_sensible_is_refused(
    registers: dict[int, int], reason: str, bus: type[FakeBus]
) -> None:
    bus.registers = staticmethod(lambda: registers)
    with pytest.raises(PowerError, match=reason):
        open_sensor("ina219:1:0x41")
    assert bus.opened is None


def test_an_ina226_beyond_its_range_is_refused_and_not_read_as_its_limit(bus: type[FakeBus]) -> None:
    bus.registers = staticmethod(lambda: {**ina226(5.1, 0.5), 1: 0x7FFF})
    with pytest.raises(PowerError, match=r"its current is beyond its range, 0\.819 A; take a smaller shunt"):
        open_sensor("ina226:1:0x41")


class FakeNvml:
    """``pynvml`` with one card or none."""

    class NVMLError(Exception):
        """What it raises."""

    def __init__(self, energy_mj: object, power_mw: object, cards: int = 1) -> None:
        self._answers = {"energy": energy_mj, "power": power_mw}
        self._cards = cards
        self.initialised = 0

    def nvmlInit(self) -> None:
        """Count it; without a driver it fails."""
        if self._cards < 0:
            raise self.NVMLError("Driver Not Loaded")
        self.initialised += 1

    def nvmlShutdown(self) -> None:
        """Count it."""
        self.initialised -= 1

    def nvmlDeviceGetCount(self) -> int:
        """Of cards."""
        return self._cards

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """Any object."""
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        """Bytes, as older versions give."""
        return b"NVIDIA T%d" % handle

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> float:
        """mJ."""
        return self._answer("energy")

    def nvmlDeviceGetPowerUsage(self, handle: int) -> float:
        """mW."""
        return self._answer("power")

    def _answer(self, what: str) -> float:
        found = self._answers[what]
        if isinstance(found, str):
            raise self.NVMLError(found)
        value = found() if callable(found) else found
        assert isinstance(value, float)
        return value


def use_nvml(monkeypatch: pytest.MonkeyPatch, library: FakeNvml) -> FakeNvml:
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


@pytest.mark.parametrize("counts", [True, False])
def test_a_graphics_card_is_counted_or_else_sampled(counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    power = KnownPower(5.05, 25.05)
    clock = StepClock()
    reads = iter(range(10**6))  # a mJ a reading: it is seen to move before any time passes
    energy = (lambda: 1e3 * power.joules(clock.now()) + 77.0 + next(reads)) if counts else "Not Supported"
    library = use_nvml(monkeypatch, FakeNvml(energy, lambda: 1e3 * power.watts(clock.now())))
    sensor = open_sensor("nvml")
    assert sensor.info.quantity == ("energy" if counts else "power")
    assert [rail.name for rail in sensor.info.rails] == ["NVIDIA T0"]
    measured = measure(sensor, lambda: clock.sleep(20.0), 5.05, clock)
    assert measured.report is not None, measured.reason
    assert measured.report.net_j == pytest.approx(power.net_j, rel=0.01)
    sensor.close()
    assert library.initialised == 0


@pytest.mark.parametrize(
    ("text", "library", "reason"),
    [
        ("nvml", FakeNvml("Not Supported", "Not Supported"), r"shows neither power nor energy \(Not Supported\)"),
        ("nvml", FakeNvml(0.0, 0.0), r"shows neither power nor energy \(it answers 0\)"),
        ("nvml", FakeNvml(0.0, 0.0, cards=-1), r"no NVIDIA driver here \(Driver Not Loaded\)"),
        ("nvml", FakeNvml(1.0, 1.0, cards=0), "no card here; see whether the driver has one: nvidia-smi -L"),
        ("nvml", FakeNvml(1.0, 1.0, cards=2), "2 cards here; name one by its number: nvml:0"),
        ("nvml:2", FakeNvml(1.0, 1.0, cards=2), "no card '2', expected a number below 2"),
        ("nvml:x", FakeNvml(1.0, 1.0, cards=2), "no card 'x', expected a number below 2"),
    ],
)
def test_a_card_that_shows_nothing_is_no_sensor(
    text: str, library: FakeNvml, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_nvml(monkeypatch, library)
    with pytest.raises(PowerError, match=reason):
        open_sensor(text)
    assert library.initialised == 0


def test_a_card_that_falls_off_the_bus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    library = use_nvml(monkeypatch, FakeNvml("Not Supported", 5000.0))
    sensor = open_sensor("nvml")
    library._answers["power"] = "GPU is lost"
    with pytest.raises(PowerError, match=r"nvml cannot be read any more \(GPU is lost\)"):
        sensor.read()


@contextmanager
def instrument(answers: dict[str, Callable[[], str]]) -> Iterator[str]:
    """An instrument behind a socket; yields its VISA resource. It leaves unknown questions unanswered, as many do."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                answer = answers.get(line.decode().strip())
                if answer is not None:
                    self.wfile.write(f"{answer()}\n".encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with running(server):
        yield f"TCPIP::127.0.0.1::{server.server_address[1]}::SOCKET"


@pytest.fixture
def visa(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pyvisa, and little patience."""
    pytest.importorskip("pyvisa_py", reason="pyvisa-py is not installed: SCPI is NOT tested")
    monkeypatch.setattr(scpi, "_ANSWER_MS", 300)


@pytest.mark.parametrize("knows_power", [True, False])
def test_an_instrument_on_a_socket_has_the_energy_of_the_known_power(knows_power: bool, visa: None) -> None:
    power = KnownPower(1.55, 9.55)
    clock = StepClock()
    answers: dict[str, Callable[[], str]] = {
        "*IDN?": lambda: "Rohde&Schwarz,NGU201,3639.3763k02/100001,04.000",
        "MEAS:VOLT?": lambda: "5.0500",
        "MEAS:CURR?": lambda: f"{power.watts(clock.now()) / 5.05:.6E}",
    }
    if knows_power:
        answers["MEAS:POW?"] = lambda: f"{power.watts(clock.now()):+.6E}"
    with instrument(answers) as resource:
        sensor = open_sensor(f"scpi:{resource}")
        measured = measure(sensor, lambda: clock.sleep(8.0), 1.55, clock)
        sensor.close()
    assert measured.report is not None, measured.reason
    assert measured.report.net_j == pytest.approx(power.net_j, rel=0.01)
    assert sensor.info.covers == "what Rohde&Schwarz, NGU201 is wired to"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("9.91E37", "MEAS:CURR\\? is out of range; choose a wider range"), ("ERR", "is 'ERR', expected a number")],
)
def test_an_instrument_out_of_range_or_confused_is_refused(answer: str, reason: str, visa: None) -> None:
    answers = {"*IDN?": lambda: "A,B,C,D", "MEAS:VOLT?": lambda: "5.05", "MEAS:CURR?": lambda: answer}
    with instrument(answers) as resource, pytest.raises(PowerError, match=reason):
        open_sensor(f"scpi:{resource}")


def test_an_instrument_that_is_not_there_or_silent_is_refused(visa: None) -> None:
    with pytest.raises(PowerError, match=r"does not answer \*IDN\? \(.*refused\)"):
        open_sensor("scpi:TCPIP::127.0.0.1::1::SOCKET")
    with pytest.raises(PowerError, match=r"cannot be opened \(.*\); look with: pyvisa-shell"):
        open_sensor("scpi:nonsense")
    with instrument({}) as resource, pytest.raises(PowerError, match=r"does not answer \*IDN\? \("):
        open_sensor(f"scpi:{resource}")


@pytest.mark.parametrize(
    ("text", "module", "package"),
    [
        ("ina219:1:0x40", "smbus2", "smbus2"),
        ("nvml", "pynvml", "nvidia-ml-py"),
        ("scpi:X", "pyvisa", "pyvisa pyvisa-py"),
    ],
)
def test_a_missing_package_is_named(text: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PowerError, match=f"the Python package {package} is not installed; pip install {package}"):
        open_sensor(text)
