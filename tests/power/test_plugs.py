"""Plugs: real HTTP on loopback, a minute that does not take one."""

from __future__ import annotations

import json

import pytest
from power_fakes import KnownPower, StepClock, serving_plug

from tsm_edge.errors import PowerError
from tsm_edge.power.measure import measure
from tsm_edge.power.registry import open_sensor
from tsm_edge.power.sampler import Sampler
from tsm_edge.power.trace import Window


def shelly(watts: float) -> dict[str, object]:
    """As a Shelly Plus Plug answers."""
    switch = {"id": 0, "output": True, "apower": watts, "voltage": 236.9, "aenergy": {"total": 11.2}}
    return {
        "ble": {},
        "cloud": {"connected": False},
        "switch:0": switch,
        "sys": {"uptime": 1234},
        "wifi": {"rssi": -50},
    }


def tasmota(watts: float) -> dict[str, object]:
    """As a Tasmota plug answers ``Status 8``."""
    return {"StatusSNS": {"Time": "2026-01-31T12:00:00", "ENERGY": {"Total": 3.185, "Power": watts, "Voltage": 236}}}


@pytest.mark.parametrize(("kind", "status"), [("shelly", shelly), ("tasmota", tasmota)])
def test_a_plug_that_answers_once_a_second_measures_a_minute(kind: str, status: type) -> None:
    power = KnownPower(work_from=20.5, work_to=80.5)
    clock = StepClock()
    with serving_plug(lambda path: (200, status(power.watts(clock.now() // 1)))) as plug:
        sensor = open_sensor(f"{kind}:{plug.url}")
        measured = measure(sensor, lambda: clock.sleep(60.0), 20.5, clock)
    assert measured.report is not None, measured.reason
    assert measured.report.samples == 60
    assert measured.report.rate_hz == pytest.approx(1.0)
    assert measured.report.gross_j == pytest.approx(power.gross_j, rel=0.01)
    assert measured.report.net_j == pytest.approx(power.net_j, rel=0.01)
    assert measured.report.sensor.boundary == "wall"


def test_a_plug_that_answers_once_a_second_is_refused_for_two_seconds() -> None:
    clock = StepClock()
    with serving_plug(lambda path: (200, shelly(7.0))) as plug:
        measured = measure(open_sensor(f"shelly:{plug.url}"), lambda: clock.sleep(2.0), 20.5, clock)
    assert measured.report is None
    assert "gave 2 samples in 2.0 s of work, expected at least 10; measure for 11.0 s or longer" in measured.reason


def test_requests_are_those_that_the_makers_document() -> None:
    with serving_plug(lambda path: (200, shelly(7.0))) as plug:
        open_sensor(f"shelly:{plug.url}/")
        assert set(plug.requests) == {"/rpc/Shelly.GetStatus"}
    with serving_plug(lambda path: (200, tasmota(7.0))) as plug:
        open_sensor(f"tasmota:{plug.url}")
        assert set(plug.requests) == {"/cm?cmnd=Status%208"}


def test_a_password_is_sent_and_never_shown() -> None:
    with serving_plug(lambda path: (200, tasmota(7.0))) as plug:
        address = plug.url.replace("http://", "http://admin:se%20cret@")
        sensor = open_sensor(f"tasmota:{address}")
        assert set(plug.requests) == {"/cm?cmnd=Status%208&user=admin&password=se%20cret"}
        assert sensor.info.name == f"tasmota:{plug.url}"
        plug.answer = lambda path: (500, {})
        with pytest.raises(PowerError) as caught:
            sensor.read()
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {}, "answers 401 Unauthorized; turn its password off, or name it"),
        (404, b"", "answers 404 Not Found"),
        (200, b"<html>a router</html>", "answers something else than JSON; check its address"),
        (200, [1, 2], "answers something else than JSON"),
        (200, {"switch:0": {"output": True}}, "this Shelly measures no power"),
        (200, shelly(0.0), "reads 0 W in total, which no running machine draws; check that the board"),
        (200, {"switch:0": {"apower": None}}, "apower of switch:0 of .* is None, expected a number"),
        (200, {"switch:0": {"apower": True}}, "is True, expected a number"),
        (200, b'{"switch:0": {"apower": NaN}}', "is nan, expected a number"),
    ],
)
def test_an_answer_that_is_no_power_is_an_error_when_opened_and_later(status: int, body: object, reason: str) -> None:
    with serving_plug(lambda path: (status, body)) as plug, pytest.raises(PowerError, match=reason):
        open_sensor(f"shelly:{plug.url}")
    answers = iter([(200, shelly(7.0))] * 6)
    clock = StepClock()
    with serving_plug(lambda path: next(answers, (status, body))) as plug:
        sensor = open_sensor(f"shelly:{plug.url}")
        with Sampler(sensor, clock) as sampler:
            window = sampler.idle(15.0)
    with pytest.raises(PowerError, match=f"{reason}|has no switch:0 any more"):
        sampler.trace().joules_in(window)


def test_a_plug_that_goes_away_is_named_with_the_reason() -> None:
    clock = StepClock()
    with serving_plug(lambda path: (200, shelly(7.0))) as plug:
        sensor = open_sensor(f"shelly:{plug.url}")
    with pytest.raises(PowerError, match=r"does not answer \(.*refused\); check its address"), Sampler(sensor, clock):
        pass


def test_of_several_outlets_one_is_named() -> None:
    status = {f"switch:{k}": {"apower": 5.0 + k} for k in range(3)}
    with serving_plug(lambda path: (200, status)) as plug:
        with pytest.raises(PowerError, match=r"3 outlets: switch:0, switch:1, switch:2; name one: shelly:.*/switch:0"):
            open_sensor(f"shelly:{plug.url}")
        assert open_sensor(f"shelly:{plug.url}/switch:1").read() == (6.0,)
        with pytest.raises(PowerError, match=r"unknown outlet 'switch:9'"):
            open_sensor(f"shelly:{plug.url}/switch:9")


def test_a_tasmota_that_rounds_to_whole_watts_says_so() -> None:
    with serving_plug(lambda path: (200, tasmota(7))) as plug:
        assert "WattRes 3" in open_sensor(f"tasmota:{plug.url}").info.uncertainty
    with serving_plug(lambda path: (200, tasmota(7.125))) as plug:
        assert "WattRes" not in open_sensor(f"tasmota:{plug.url}").info.uncertainty
    with (
        serving_plug(lambda path: (200, {"StatusSNS": {}})) as plug,
        pytest.raises(PowerError, match="this Tasmota device measures no power"),
    ):
        open_sensor(f"tasmota:{plug.url}")


@pytest.mark.parametrize(
    "address", ["192.168.1.20", "ftp://plug", "http://", "http://[::1", "http://plug:99999", "http://plug/?x=1"]
)
@pytest.mark.parametrize("kind", ["shelly", "tasmota"])
def test_what_is_no_address_is_refused_with_an_example(kind: str, address: str) -> None:
    with pytest.raises(PowerError, match=f"expected {kind}:http://HOST; for example: {kind}:http://"):
        open_sensor(f"{kind}:{address}")


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serving_plug(lambda path: (200, json.dumps(shelly(7.0)).encode())) as plug:
        assert open_sensor(f"shelly:{plug.url}").read() == (7.0,)


def test_a_window_of_a_real_clock_is_refused_if_the_plug_is_slower() -> None:
    with (
        serving_plug(lambda path: (200, shelly(7.0))) as plug,
        Sampler(open_sensor(f"shelly:{plug.url}")) as sampler,
    ):
        window = sampler.idle(0.05)
    with pytest.raises(PowerError, match="gave 0 samples"):
        sampler.trace().joules_in(Window(window.start_s, window.stop_s))
