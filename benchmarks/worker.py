"""One stage of a benchmark in its own process: ``worker.py JOB.json RESULT.json``, started by ``stages.py``.

Engines are converted, tried and raced in separate processes, so that none sees another's converter, a crash costs
one engine only, and the number of threads is set before any runtime starts.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from engines import load_engine
from engines.base import OnlineModel, Stepper, read_model
from streams import relative_error, run, signal_to_noise_db, video

from tsm_edge.bench.interleave import Samples, Schedule, race

FRAMES = 8
"""Different frames a race goes round; all are checked before."""
ERROR_LIMITS = {"fp32": 1e-3, "fp16": 3e-2, "int8": 0.15}
"""Largest errors relative to ONNX Runtime on the float model. For float32 above Winograd's rounding (about 1e-5), below
what bfloat16 leaves (about 1e-2). For int8 about what a signal-to-noise ratio of 20 dB is: of quantisers, not bugs."""


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Convert the model for one engine."""
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    load_engine(job["engine"], job["precision"]).prepare(read_model(Path(job["model"])), folder)
    return {}


def probe(job: dict[str, Any]) -> dict[str, Any]:
    """Check every variant of one engine and find the fastest: {"errors": {...}, "failed": {...}, "variant": ...}."""
    model = read_model(Path(job["model"]))
    engine, limit = load_engine(job["engine"], job["precision"]), ERROR_LIMITS[job["precision"]]
    steppers: dict[str, Stepper] = {}
    errors, failed = {}, {}
    for variant in engine.variants:
        try:
            stepper = engine.open(model, Path(job["folder"]), job["threads"], variant)
            errors[variant], _ = _differences(stepper, model, job)
        # Whatever a foreign engine raises is its reason for not taking part.
        except Exception as error:  # noqa: BLE001
            failed[variant] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        if errors[variant] > limit:
            failed[variant] = f"differs from ONNX Runtime by {errors[variant]:.1e}, allowed {limit:.0e}"
        else:
            steppers[variant] = stepper
    samples = race(steppers, video(model.frame_shape, FRAMES), _schedule(job)) if steppers else {}
    medians = {variant: result.median for variant, result in samples.items()}
    best = min(medians, key=medians.__getitem__) if medians else None
    return {"errors": errors, "failed": failed, "medians": medians, "variant": best}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Race the job's entries: name -> {"seconds": [[...]], "cores": x, "error": x, "signal_db": x}."""
    models = {name: read_model(Path(entry["model"])) for name, entry in job["entries"].items()}
    steppers = {name: _open(entry, models[name], job["threads"]) for name, entry in job["entries"].items()}
    found = {name: _differences(stepper, models[name], job["entries"][name]) for name, stepper in steppers.items()}
    limits = {name: ERROR_LIMITS[entry["precision"]] for name, entry in job["entries"].items()}
    wrong = {name: error for name, (error, _) in found.items() if error > limits[name]}
    if wrong:
        raise RuntimeError(f"outputs differ from ONNX Runtime in the common process: {wrong}")
    (shape,) = {model.frame_shape for model in models.values()}
    rounds = job["rounds"]
    results = race(steppers, video(shape, FRAMES), _schedule(job), lambda turn: _progress(f"round {turn} of {rounds}"))
    _progress("")
    return {
        name: _plain(samples) | dict(zip(("error", "signal_db"), found[name], strict=True))
        for name, samples in results.items()
    }


def _open(entry: dict[str, Any], model: OnlineModel, threads: int) -> Stepper:
    return load_engine(entry["engine"], entry["precision"]).open(
        model, Path(entry["folder"]), threads, entry["variant"]
    )


def _differences(stepper: Stepper, model: OnlineModel, entry: dict[str, Any]) -> tuple[float, float]:
    """Error and signal-to-noise ratio (dB). Frames run twice, so that a reset that does not reset is found too."""
    reference = np.load(entry["reference"])
    frames = video(model.frame_shape, FRAMES)
    runs = [run(stepper, frames) for _ in range(2)]
    return (
        max(relative_error(logits, reference) for logits in runs),
        min(signal_to_noise_db(logits, reference) for logits in runs),
    )


def _schedule(job: dict[str, Any]) -> Schedule:
    return Schedule(job["rounds"], job["block"])


def _plain(samples: Samples) -> dict[str, Any]:
    return {"seconds": np.round(samples.seconds, 8).tolist(), "cores": round(samples.cores, 3)}


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<30}", end="\r" if not text else "", file=sys.stderr, flush=True)


def _be_nice(level: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, level)
    # Linux may schedule sessions as groups; niceness then only counts among the processes of one session.
    group = Path("/proc/self/autogroup")
    if group.exists():
        group.write_text(f"{level}\n")


def main() -> None:
    """Run the job named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text())
    if job["cpus"]:
        os.sched_setaffinity(0, job["cpus"])
    if job["nice"]:
        _be_nice(job["nice"])
    stage = {"prepare": prepare, "probe": probe, "measure": measure}[job["stage"]]
    Path(sys.argv[2]).write_text(json.dumps(stage(job)))
    sys.stdout.flush()
    # Some engines crash when their objects are destroyed in the interpreter's order: the figures are in.
    os._exit(0)


if __name__ == "__main__":
    main()
