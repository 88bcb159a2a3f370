import pytest

from tsm_edge.errors import PowerError
from tsm_edge.power.sensor import Quantity, Rail, SensorInfo
from tsm_edge.power.trace import Sample, Trace, Window, shortest_window_s

RAILS = (Rail("VDD_IN"), Rail("VDD_CPU", in_total=False))


def info(quantity: Quantity = "power", period_s: float = 0.1) -> SensorInfo:
    return SensorInfo("fake", RAILS, "module", "all", quantity, period_s, None, "none")


def ramp(count: int, step_s: float = 0.1, quantity: Quantity = "power") -> Trace:
    """2 W rising by 1 W a second, a fourth of it on the second rail; as power, or as its energy."""

    def value(t: float) -> float:
        return 2 + t if quantity == "power" else 2 * t + t * t / 2

    samples = [Sample(k * step_s, (value(k * step_s), value(k * step_s) / 4)) for k in range(count)]
    return Trace(info(quantity, step_s), tuple(samples))


@pytest.mark.parametrize("quantity", ["power", "energy"])
def test_energy_of_a_window_is_exact_for_a_ramp(quantity: Quantity) -> None:
    found = ramp(101, quantity=quantity).joules_in(Window(2.0, 6.0))
    assert found.total_j == pytest.approx(24.0)  # 4 s from 4 W to 8 W
    assert found.joules == pytest.approx((24.0, 6.0))  # the second rail is a part of the first
    assert found.watts == pytest.approx(6.0)
    assert found.rail_watts == pytest.approx((6.0, 1.5))


@pytest.mark.parametrize("quantity", ["power", "energy"])
def test_ends_between_samples_belong_to_the_window(quantity: Quantity) -> None:
    assert ramp(101, quantity=quantity).joules_in(Window(2.05, 6.05)).total_j == pytest.approx(24.2)


def test_samples_outside_the_window_say_nothing_about_it() -> None:
    samples = tuple(Sample(0.1 * k, (9.0 if 20 < k <= 40 else 4.0, 1.0)) for k in range(61))
    assert Trace(info(), samples).joules_in(Window(2.05, 4.05)).watts == pytest.approx(9.0)


def test_rate_jitter_gaps_and_changes_are_those_of_the_samples() -> None:
    times = [0.1 * k + (0.02 if k % 2 else 0.0) for k in range(40)]
    samples = tuple(Sample(t, (5.0 + k // 4, 1.0)) for k, t in enumerate(times))
    found = Trace(info(), samples).joules_in(Window(0.0, 3.9))
    assert found.samples == 39
    assert found.rate_hz == pytest.approx(10.0, rel=0.01)
    assert found.jitter_ms == pytest.approx(20.0, rel=0.02)
    assert found.longest_gap_ms == pytest.approx(120.0)
    assert found.changes == 9


def test_a_window_with_too_few_samples_is_refused_with_what_would_do() -> None:
    with pytest.raises(PowerError) as caught:
        ramp(61, step_s=1.0).joules_in(Window(10.0, 12.0))
    assert str(caught.value) == (
        "power sensor fake gave 3 samples in 2.0 s, expected at least 10; measure for 11.0 s or longer"
    )
    assert ramp(61, step_s=1.0).joules_in(Window(10.0, 21.0)).samples == 12
    assert shortest_window_s(info(period_s=1.0)) == 11.0


@pytest.mark.parametrize("hole", [(0.0, 3.0), (4.0, 7.0), (7.5, 10.0)])
def test_a_hole_in_the_samples_is_refused(hole: tuple[float, float]) -> None:
    trace = ramp(101)
    samples = tuple(sample for sample in trace.samples if not hole[0] <= sample.seconds <= hole[1])
    with pytest.raises(PowerError, match=r"gave no sample for \d\.\d+ s within 10\.0 s"):
        Trace(trace.info, samples).joules_in(Window(0.0, 10.0))


def test_a_counter_that_does_not_move_is_no_measurement() -> None:
    samples = tuple(Sample(0.1 * k, (1234.5, 1.0)) for k in range(50))
    with pytest.raises(PowerError, match=r"counted no energy within 4\.0 s"):
        Trace(info("energy"), samples).joules_in(Window(0.0, 4.0))


@pytest.mark.parametrize("quantity", ["power", "energy"])
def test_spread_gives_each_rail_its_mean_and_extremes(quantity: Quantity) -> None:
    total, part = ramp(101, quantity=quantity).spread()
    assert (total.rail, total.in_total, part.rail, part.in_total) == ("VDD_IN", True, "VDD_CPU", False)
    assert total.mean_w == pytest.approx(7.0)
    assert (total.min_w, total.max_w) == pytest.approx((2.0, 12.0), abs=0.06)
    assert part.mean_w == pytest.approx(1.75)


def test_a_counter_read_once_has_no_power_yet() -> None:
    trace = ramp(1, quantity="energy")
    assert trace.watts() == []
    assert trace.spread() == ()
