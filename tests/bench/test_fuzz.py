"""The driver of ``benchmarks/fuzz`` sees what an input does to the process that handles it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from tsm_edge.errors import TsmEdgeError

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_driver_tells_outcomes_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT))
    monkeypatch.setenv("FUZZ_PROBE", str(tmp_path / "evil"))
    from benchmarks.fuzz.driver import Limits, fuzz

    refused: list[str] = []
    report = fuzz(
        "fuzz_probe",
        range(10),
        limits=Limits(seconds=1.0, memory_mib=256),
        show=lambda outcome: refused.append(outcome.text) if outcome.kind == "refused" else None,
    )
    assert report.counts == {"accepted": 2, "refused": 1, "failed": 7}
    assert refused == ["refused in words; give another seed"]
    found = {outcome.seed: outcome.text for outcome in report.failed}
    assert found.keys() == {2, 3, 4, 5, 6, 7, 8}
    assert found[2] == "ValueError: a defect"
    assert found[3].startswith("killed by SIGSEGV")
    assert "fuzz_probe.py" in found[3]  # where it was
    assert found[4] == "not done after 1 s"
    assert found[5].startswith("more memory than allowed")
    assert found[6] == "left a/evil"
    assert found[7] == f"changed {tmp_path / 'evil'}"
    assert found[8] == "printed: a native library speaks"


def test_answers_of_servers_are_taken_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT))
    monkeypatch.chdir(tmp_path)
    from benchmarks.fuzz.targets import rpc_client

    taken = {False: 0, True: 0}
    for seed in range(100):
        given = rpc_client.make(seed)
        with suppress(TsmEdgeError):
            rpc_client.run(given)
            taken[given.by_tracker] += 1
    # Else it would be refused for another reason than what is spoilt.
    assert all(0 < count < 50 for count in taken.values()), taken
