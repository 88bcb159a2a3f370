"""What is said of a run: nothing against a quiet one, and each disturbance by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from bench_results import a_result, changed, document, look

from tsm_edge.bench.result import AlarmCount, Core, Gpu, Refused, Result, Verdict, Verification
from tsm_edge.bench.result import Deadlines as Paced
from tsm_edge.bench.verdicts import headline, verdicts

QUIET = a_result()


def said(result: Result, name: str) -> list[Verdict]:
    return [verdict for verdict in verdicts(result) if verdict.name == name]


def test_nothing_speaks_against_a_quiet_run() -> None:
    found = verdicts(QUIET)
    assert {verdict.level for verdict in found} == {"good"}
    names = {"verified", "throttled", "clock", "shared", "speed", "stationary", "variation", "power", "bound"}
    assert {verdict.name for verdict in found} == names
    (judged,) = document(QUIET).results
    assert (
        headline(judged)
        == "12.00 ms a frame, p99 12.40 ms, 83.32 a second, 32.4 mJ above idle: nothing speaks against it"
    )


CORES = tuple(Core(number, True, "ondemand", 600.0, 1500.0, 1500.0, 1500.0) for number in range(4))
CUDA = dataclasses.replace(QUIET.model, device="cuda")
SLOW_GPU = (Gpu("57000000.gpu", "nvhost_podgov", 76.8, 460.8, 921.6, 921.6),)

DISTURBED: dict[str, tuple[str, Result, str]] = {
    "a bit that is set during the run": (
        "throttled",
        changed(QUIET, during={"throttled_now": ("under-voltage",)}),
        "held itself back during the run: under-voltage (41 °C before, 55 °C at most)",
    ),
    "a bit that was set meanwhile": (
        "throttled",
        changed(QUIET, after={"throttled_since_boot": ("throttled",)}),
        "held itself back during the run: throttled",
    ),
    "over-current alarms": (
        "throttled",
        changed(
            QUIET,
            before={"events": (AlarmCount("over-current (OC3)", 37),)},
            after={"events": (AlarmCount("over-current (OC3)", 40),)},
        ),
        "3 × over-current (OC3)",
    ),
    "a highest clock that sank": (
        "throttled",
        changed(QUIET, during={"cores": tuple(dataclasses.replace(core, max_mhz=1000.0) for core in CORES)}),
        "the highest clock sank from 1500 to 1000 MHz",
    ),
    "a clock that moves": (
        "clock",
        changed(QUIET, during={"firmware_mhz": 600.0}),
        "the clock moved between 600 and 1500 MHz",
    ),
    "a machine that gets slower by itself": (
        "speed",
        changed(
            QUIET,
            yardstick=tuple(
                dataclasses.replace(one, arithmetic_ms=one.arithmetic_ms * (1.5 if index % 2 else 1.0))
                for index, one in enumerate(QUIET.yardstick)
            ),
        ),
        "the machine's own speed changed during the run: fixed work within 5",
    ),
    "a GPU below its maximum": (
        "gpu",
        changed(QUIET, model=CUDA, during={"gpus": SLOW_GPU}),
        "the GPU ran at 461 MHz, not at its 922",
    ),
    "another run": (
        "shared",
        changed(QUIET, after={"others": ("tsm-edge run (process 7)",)}),
        "another run of this project was there: tsm-edge run (process 7)",
    ),
    "another program": (
        "shared",
        changed(QUIET, during={"busy_s": 155.0}),
        "other programs used 1.8 of 4 cores during the run",
    ),
    "another virtual machine": (
        "shared",
        changed(QUIET, after={"stolen_s": 1.0}),
        "the hypervisor gave 7.4 % of a core's time to other machines",
    ),
    "a quota": ("shared", changed(QUIET, after={"quota_waits": 9}), "the container used up its CPU quota 9 times"),
    "too few cores": (
        "shared",
        changed(QUIET, before={"affinity": (0, 1)}),
        "4 threads shared the 2 cores that the process may use",
    ),
    "a core that is switched off": (
        "shared",
        changed(QUIET, after={"cores": CORES[:3]}),
        "cores were switched on or off",
    ),
    "swapping": ("memory", changed(QUIET, after={"swap_used_mb": 50.0}), "the machine swapped 50 MB out"),
    "a restart": ("rebooted", changed(QUIET, after={"boot_id": "two"}), "the board restarted during the run"),
    "a drift": ("stationary", a_result(drift=0.08), "the latency rose by"),
    "wrong answers": (
        "verified",
        changed(QUIET, verification=Verification(False, 8, "golden frames", 0.3, 1e-4)),
        "the answers differ from golden frames",
    ),
    "missed deadlines": (
        "deadlines",
        changed(QUIET, deadlines=Paced(33.3, 800, 40, 21.0)),
        "40 of 800 frames missed 33.30 ms; the latest began 21.00 ms after it was due",
    ),
    "an early end": ("partial", changed(QUIET, partial="interrupted"), "the run ended early: interrupted"),
}


@pytest.mark.parametrize("what", DISTURBED)
def test_a_disturbance_is_said_loudly(what: str) -> None:
    name, result, text = DISTURBED[what]
    (verdict,) = said(result, name)
    assert verdict.level == "bad"
    assert text in verdict.text
    (judged,) = document(result).results
    assert "do not rely on it" in headline(judged)
    assert verdicts(result)[0].level == "bad", "what is bad stands first"


NOTES: dict[str, tuple[str, Result, str]] = {
    "a governor": (
        "governor",
        changed(QUIET, before={"cores": CORES}),
        "governor ondemand: the clock follows the load",
    ),
    "throttling long ago": (
        "throttled",
        changed(
            QUIET,
            before={"throttled_since_boot": ("under-voltage",)},
            after={"throttled_since_boot": ("under-voltage",)},
        ),
        "no throttling was seen; before the run there was, since boot: under-voltage",
    ),
    "nobody knows of throttling": (
        "throttled",
        changed(QUIET, before={"unknown": (Refused("throttled_now", "vcgencmd is not there"),)}),
        "whether it throttled cannot be told: vcgencmd is not there",
    ),
    "a power mode": (
        "clock",
        changed(
            QUIET,
            before={"power_mode": "5W (mode 1)"},
            environment_during=tuple(look(at, 45, 918.0, 100 + 4 * at) for at in (1, 2)),
        ),
        "the clock stood at 918 of 1500 MHz in power mode 5W (mode 1)",
    ),
    "no clock": (
        "clock",
        changed(QUIET, environment_during=(look(1, 45, 1500.0, 104, firmware_mhz=None, cores=()),)),
        "the clock cannot be seen",
    ),
    "a busy minute before": (
        "shared",
        changed(QUIET, before={"load_1min": 2.5}),
        "busy in the minute before: load 2.50",
    ),
    "no check": ("verified", changed(QUIET, verification=None), "the answers were not checked"),
    "no power": (
        "power",
        changed(QUIET, power=None, unavailable=(Refused("power", "no sensor here"),)),
        "power was not measured: no sensor here",
    ),
    "few frames": ("stationary", a_result(frames=20), "20 frames are too few to see a drift"),
    "much noise": (
        "stationary",
        dataclasses.replace(
            QUIET,
            samples=dataclasses.replace(QUIET.samples, step_ms=tuple(9.0 + 7 * (i // 80 % 2) for i in range(800))),
        ),
        "the frames vary too much to see a drift",
    ),
    "no look": (
        "shared",
        changed(QUIET, environment_before=None, environment_during=(), environment_after=None),
        "the machine was not looked at",
    ),
}


@pytest.mark.parametrize("what", NOTES)
def test_what_is_worth_knowing_is_a_note(what: str) -> None:
    name, result, text = NOTES[what]
    (verdict,) = said(result, name)
    assert verdict.level == "note"
    assert text in verdict.text
    (judged,) = document(result).results
    assert headline(judged).endswith("note") or headline(judged).endswith("notes")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda result: changed(result, peak_gflops=60.0), "bound by arithmetic: 51.7 GFLOP/s and 5.5 GB/s, 86 % of"),
        (lambda result: changed(result, peak_gflops=400.0), "bound by memory, or by layers too small"),
        (lambda result: changed(result, peak_gflops=None), "was not measured beside them"),
        (
            lambda result: changed(result, kernels_ms=None, kernels=result.kernels[:3]),
            "bound by launches and copies: 8",
        ),
    ],
)
def test_what_bounds_a_run(change: Callable[[Result], Result], text: str) -> None:
    (verdict,) = said(change(QUIET), "bound")
    assert text in verdict.text


def test_on_a_disturbed_machine_nothing_is_said_to_bound_a_run() -> None:
    """Step, kernels and peak are timed one after the other: others may take the cores from one of them only."""
    shared = changed(QUIET, kernels_ms=None, kernels=QUIET.kernels[:3], after={"stolen_s": 3.0})
    assert said(shared, "shared")[0].level == "bad"
    (verdict,) = said(shared, "bound")
    assert verdict.level == "note"
    assert "cannot be told" in verdict.text


def test_many_other_runs_are_counted_not_listed() -> None:
    runs = tuple(f"tsm_edge.cli run (process {number})" for number in range(9))
    (verdict, *_) = said(changed(QUIET, before={"others": runs}), "shared")
    assert verdict.text.endswith("(process 1) and 7 more")


@pytest.mark.parametrize(("own", "level"), [(4.0, "good"), (2.0, "bad")])
def test_the_cpu_time_of_a_run_is_not_taken_for_that_of_others(own: float, level: str) -> None:
    """Where the process that looks is the one that computes, its own time is known, not guessed."""
    first = QUIET.environment_during[0]
    during = tuple(dataclasses.replace(look, own_s=own * (look.at_s - first.at_s)) for look in QUIET.environment_during)
    assert said(changed(QUIET, environment_during=during), "shared")[0].level == level


def test_warming_up_is_not_taken_for_another_program() -> None:
    """Over ssh the looking process is not the one that computes; before and after the frames it computes, too."""
    busy = changed(QUIET, before={"busy_s": 50.0}, after={"busy_s": 190.0})
    assert said(busy, "shared")[0].level == "good"
    (unknown,) = said(changed(busy, environment_during=()), "shared")
    assert (unknown.level, unknown.text) == ("note", "how much others used the cores cannot be told")


def test_a_graphics_cards_clock_is_a_note() -> None:
    """How high it goes depends on its heat and load; what it may have is not told."""
    card = Gpu("NVIDIA A2", current_mhz=1440.0, limit_mhz=1770.0)
    (verdict,) = said(changed(QUIET, model=CUDA, during={"gpus": (card,)}), "gpu")
    assert (verdict.level, verdict.text) == ("note", "the GPU ran at 1440 MHz; the hardware can 1770")
    full = dataclasses.replace(card, current_mhz=1770.0)
    assert said(changed(QUIET, model=CUDA, during={"gpus": (full,)}), "gpu")[0].level == "good"


def test_a_run_of_nothing_has_a_headline() -> None:
    empty = a_result(frames=1)
    nothing = dataclasses.replace(
        empty, latency_ms=dataclasses.replace(empty.latency_ms, p50=None), partial="server died"
    )
    assert headline(nothing) == "raspberry-pi-4: nothing was measured (server died)"
