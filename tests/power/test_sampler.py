import itertools
import math
import threading
import time

import pytest
from power_fakes import IDLE_W, FakeSensor, KnownPower, StepClock

from tsm_edge.errors import PowerError
from tsm_edge.power.measure import measure
from tsm_edge.power.sampler import Sampler
from tsm_edge.power.sensor import Quantity, Rail
from tsm_edge.power.trace import Window

IDLE_S = 10.05  # so that the load changes between two samples
POWER = KnownPower(work_from=IDLE_S, work_to=IDLE_S + 30.0)


def known_sensor(clock: StepClock, quantity: Quantity) -> FakeSensor:
    value = POWER.watts if quantity == "power" else POWER.joules
    rails = (Rail("a"), Rail("b"), Rail("of a", in_total=False))
    return FakeSensor(lambda: tuple(share * value(clock.now()) for share in (0.75, 0.25, 0.5)), quantity, 0.1, rails)


@pytest.mark.parametrize("quantity", ["power", "energy"])
def test_work_between_idle_times_has_the_energy_of_its_trace(quantity: Quantity) -> None:
    clock = StepClock()

    def work() -> str:
        clock.sleep(30.0)
        return "labels"

    measured = measure(known_sensor(clock, quantity), work, idle_s=IDLE_S, clock=clock)
    report = measured.report
    assert (measured.result, measured.reason) == ("labels", "")
    assert report is not None
    assert report.seconds == pytest.approx(30.0)
    assert report.gross_j == pytest.approx(POWER.gross_j, rel=0.01)
    assert report.net_j == pytest.approx(POWER.net_j, rel=0.01)
    assert report.idle_w == pytest.approx(IDLE_W, rel=0.01)
    assert report.gross_w - report.net_w == pytest.approx(report.idle_w)
    assert report.net_j_per_frame(900) == pytest.approx(POWER.net_j / 900, rel=0.01)
    assert report.gross_j_per_frame(900) == pytest.approx(POWER.gross_j / 900, rel=0.01)
    assert [(rail.rail, rail.in_total) for rail in report.rails] == [("a", True), ("b", True), ("of a", False)]
    assert report.rails[1].net_w == pytest.approx(0.25 * report.net_w)
    assert report.samples == pytest.approx(300, abs=2)
    assert report.rate_hz == pytest.approx(10.0)
    assert report.remarks == ()


def test_power_over_time_starts_with_the_work() -> None:
    clock = StepClock()
    watts = measure(known_sensor(clock, "power"), lambda: clock.sleep(30.0), IDLE_S, clock).watts
    assert watts[0] == (-IDLE_S, IDLE_W)
    assert watts[-1] == (pytest.approx(39.95), IDLE_W)
    assert all(value == pytest.approx(POWER.watts(seconds + IDLE_S)) for seconds, value in watts)


def test_a_sensor_that_vanishes_costs_the_energy_but_not_the_result() -> None:
    clock = StepClock()

    def read() -> tuple[float, ...]:
        if clock.now() > 20.0:
            raise FileNotFoundError(2, "No such file or directory", "/sys/class/hwmon/hwmon3/power1_input")
        return (5.0,)

    measured = measure(FakeSensor(read), lambda: "labels", 15.0, clock)
    assert measured.result == "labels"
    assert measured.report is None
    assert measured.reason == (
        "power sensor fake cannot be read any more (/sys/class/hwmon/hwmon3/power1_input: No such file or directory)"
        "; see what it reads: tsm-edge power SENSOR"
    )
    assert max(seconds for seconds, _ in measured.watts) <= 5.0


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (math.nan, "rail supply reads nan W, which cannot be"),
        (math.inf, "rail supply reads inf W, which cannot be"),
        (5e6, "rail supply reads 5e\\+06 W, which cannot be"),
        (-3.0, "rail supply reads -3 W, expected no negative power; check which way round its wires are"),
        (0.0, "reads 0 W in total, which no running machine draws"),
    ],
)
def test_garbage_is_an_error_and_never_0_watts(garbage: float, reason: str) -> None:
    with pytest.raises(PowerError, match=reason), Sampler(FakeSensor(lambda: (garbage,))):
        pass
    clock = StepClock()
    sensor = FakeSensor(lambda: (garbage if clock.now() > 3.0 else 5.0,))
    with Sampler(sensor, clock) as sampler:
        sampler.idle(6.0)
    with pytest.raises(PowerError, match=reason):
        sampler.trace()
    assert {sample.values for sample in sampler.latest.samples} == {(5.0,)}


def test_a_counter_that_went_backwards_is_an_error() -> None:
    counts = itertools.chain([7.0, 8.0], itertools.repeat(2.0))
    clock = StepClock()
    with Sampler(FakeSensor(lambda: (next(counts),), "energy"), clock) as sampler:
        sampler.idle(1.0)
    with pytest.raises(PowerError, match="counter of rail supply went back from 8 to 2 J"):
        sampler.trace()


def test_a_sensor_that_cannot_be_read_to_begin_with_stops_before_the_work() -> None:
    def gone() -> tuple[float, ...]:
        raise PermissionError(13, "Permission denied", "/dev/i2c-1")

    with pytest.raises(PowerError, match=r"\(/dev/i2c-1: Permission denied\)"):
        measure(FakeSensor(gone), lambda: pytest.fail("worked"), 1.0, StepClock())


def test_figures_that_mean_little_are_marked() -> None:
    clock = StepClock()
    still = measure(FakeSensor(lambda: (5.0,)), lambda: clock.sleep(5.0), 5.0, clock).report
    assert still is not None
    assert still.net_w == pytest.approx(0.0, abs=1e-9)
    assert [remark.partition(":")[0] for remark in still.remarks] == [
        "hardly more power than idle",
        "the sensor's figure changed 0 times during the work",
    ]
    clock = StepClock()
    warm = FakeSensor(lambda: (3.0 if clock.now() <= 5 else 9.0 if clock.now() < 10 else 5.0,))
    report = measure(warm, lambda: clock.sleep(5.0), 5.0, clock).report
    assert report is not None
    assert (report.idle_before_w, report.idle_after_w) == pytest.approx((3.0, 5.0), abs=0.05)
    assert report.remarks[0].startswith("idle power changed by +2.0")


def test_a_counter_that_jumps_is_an_error_and_not_a_megawatt() -> None:
    counts = itertools.chain([7.0, 8.0], itertools.repeat(262_151.0))
    clock = StepClock()
    with Sampler(FakeSensor(lambda: (next(counts),), "energy"), clock) as sampler:
        sampler.idle(1.0)
    with pytest.raises(PowerError, match=r"counter of rail supply jumped by 2\.621e\+05 J; did the device sleep"):
        sampler.trace()


def test_a_slow_reading_costs_beats_and_is_stamped_in_its_middle() -> None:
    clock = StepClock()

    def read() -> tuple[float, ...]:
        clock.sleep(0.25)  # in the sampling thread: time goes by while the sensor answers
        return (5.0,)

    sensor = FakeSensor(read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "sleep", lambda seconds: setattr(clock, "_time", clock.now() + seconds))
        with Sampler(sensor, clock) as sampler:
            first = sampler.latest.samples[0].seconds
    assert first == pytest.approx(0.125)


def test_with_a_real_clock_samples_come_at_their_period_until_the_end() -> None:
    threads = threading.active_count()
    sensor = FakeSensor(lambda: (5.0,), period_s=0.01)
    with Sampler(sensor) as sampler:
        start = time.monotonic()
        time.sleep(0.3)
        window = Window(start, time.monotonic())
    found = sampler.trace().joules_in(window)
    assert found.total_j == pytest.approx(5.0 * window.seconds)
    assert 10 <= found.samples <= 32
    assert threading.active_count() == threads
    assert not sensor.closed


def test_an_error_in_the_work_is_the_works_and_ends_the_sampling() -> None:
    threads = threading.active_count()
    clock = StepClock()

    def work() -> None:
        raise ValueError("the work's own")

    with pytest.raises(ValueError, match="the work's own"):
        measure(FakeSensor(lambda: (5.0,)), work, 1.0, clock)
    assert threading.active_count() == threads
