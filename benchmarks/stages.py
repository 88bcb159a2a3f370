"""Run stages of a benchmark in worker processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tsm_edge.bench.interleave import Samples


class StageError(Exception):
    """A worker process failed; the message says why."""


@dataclass(frozen=True)
class Place:
    """Where a worker runs.

    Attributes
    ----------
    cpus : tuple of int
        It may use these logical CPUs only, and as many threads; empty: any.
    nice : int
        Niceness; below 0 takes the CPUs from other processes, as root only.
    onednn_isa : str
        The most that oneDNN, which OpenVINO computes with, may use of the CPU, in its words; empty: everything.
    """

    cpus: tuple[int, ...] = ()
    nice: int = 0
    onednn_isa: str = ""


ANYWHERE = Place()


def run_stage(job: dict[str, Any], place: Place, scratch: Path, timeout: float | None = None) -> dict[str, Any]:
    """Run one job in a worker process and return its result.

    Raises
    ------
    StageError
        It failed, crashed or took longer than ``timeout`` seconds.
    """
    job_file, result_file, log = scratch / "job.json", scratch / "result.json", scratch / "log.txt"
    job_file.write_text(json.dumps(job | {"cpus": place.cpus, "nice": place.nice, "threads": len(place.cpus) or 1}))
    result_file.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(job_file), str(result_file)]
    environment = os.environ | {"OMP_NUM_THREADS": str(len(place.cpus) or 1), "TF_CPP_MIN_LOG_LEVEL": "2"}
    if place.onednn_isa:
        environment["ONEDNN_MAX_CPU_ISA"] = place.onednn_isa
    quiet = job["stage"] != "measure" or not sys.stderr.isatty()
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdout=output,
                stderr=output if quiet else None,
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise StageError(f"{job['stage']} took more than {timeout:.0f} s") from None
    if done.returncode < 0:
        raise StageError(f"{job['stage']} crashed with signal {-done.returncode}")
    if done.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise StageError(f"{job['stage']}: {lines[-1][:300] if lines else 'no message'}")
    result: dict[str, Any] = json.loads(result_file.read_text())
    return result


def results_of(results: dict[str, Any]) -> dict[str, Samples]:
    """Return a measuring stage's samples by entry."""
    return {name: Samples(np.array(result["seconds"]), result["cores"]) for name, result in results.items()}
