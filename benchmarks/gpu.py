"""Models for GPUs on a real GPU: are they right, clean under compute-sanitizer, and how fast?

Two steps, because machines with a GPU are lent for minutes and have little installed. ``prepare`` compiles, where
tsm-edge is installed, for x86-64 hosts: the Jetson Nano's kernels (the very PTX that a Nano gets: every newer driver
takes it) and those for the GPUs named. ``run`` needs Python's standard library and the driver alone:

1. ``tsm-runner verify`` (all outputs and caches against ONNX Runtime's golden frames): with graphs, without, waiting
   for each launch, and with the machine code where it is for this GPU;
2. compute-sanitizer's four tools, where it is installed;
3. ``tsm-runner bench``, the ways of launching in turns; ONNX Runtime's CUDA provider and torch.compile with CUDA graphs
   beside it where they are installed;
4. one JSON file with the device, the driver, the date and every answer; what was left out for lack of time says so.

No figure of a Jetson follows from another GPU's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 460.0  # of `run`: eight minutes, less what starting and writing take
ROUNDS = 5
PLAN = "plan.json"
MODEL = "mobilenetv2-jester"
CARDS = ("cuda-sm80", "cuda-sm90")
WAYS = {
    "graph": {},
    "graph, spinning": {"TSM_EDGE_SPIN": "1"},
    "launches": {"TSM_EDGE_NO_GRAPH": "1"},
}
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def prepare(folder: Path) -> None:
    """Compile the artifacts, and write what they are into ``plan.json``."""
    import dataclasses

    from tsm_edge.cards import load_model, load_target
    from tsm_edge.cards.precision import precision_named
    from tsm_edge.compile.pipeline import CompileRequest, compile_model
    from tsm_edge.errors import TsmEdgeError

    folder.mkdir(parents=True, exist_ok=True)
    host = load_target(CARDS[-1])
    cards = [dataclasses.replace(host, name="jetson-nano-on-x86", gpu=load_target("jetson-nano").gpu)]
    cards += [load_target(name) for name in CARDS]
    artifacts = []
    for card in cards:
        for precision in ("fp32", "fp16"):
            name = f"{card.name}-{precision}"
            request = (card, folder / name, load_model(MODEL))
            try:
                compile_model(CompileRequest(*request, precision=precision_named(precision)))
            except TsmEdgeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            arch = card.gpu.compute_capability if card.gpu else ""
            artifacts.append({"name": name, "arch": arch, "precision": precision})
            print(f"{name}: compiled", file=sys.stderr)
    (folder / PLAN).write_text(json.dumps({"model": MODEL, "artifacts": artifacts}, indent=1), "utf-8")


class Clock:
    """What is left of the time."""

    def __init__(self, limit_s: float) -> None:
        self.end = time.monotonic() + limit_s

    def left(self, most_s: float) -> float:
        """Seconds for a step that may take ``most_s``; 0: none."""
        return max(0.0, min(most_s, self.end - time.monotonic()))


def execute(command: list[str], clock: Clock, most_s: float, variables: dict[str, str] | None = None) -> dict:
    """Run a program; its exit code and what it printed, or why it was not run to its end."""
    limit = clock.left(most_s)
    if limit < 1:
        return {"left_out": "no time was left"}
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env={**os.environ, **(variables or {})}
        )
    except subprocess.TimeoutExpired:
        return {"left_out": f"did not end within {limit:.0f} s"}
    except OSError as error:
        return {"left_out": f"{command[0]}: {error.strerror}"}
    return {
        "code": done.returncode,
        "seconds": round(time.monotonic() - started, 2),
        "output": done.stdout,
        "errors": done.stderr[-2000:],
    }


def ask_device(clock: Clock) -> dict:
    """Name, driver, clocks and heat of the GPU, as nvidia-smi says."""
    keys = ("name", "driver_version", "compute_cap", "clocks.sm", "clocks.max.sm", "temperature.gpu")
    answer = execute(["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader"], clock, 20)
    if answer.get("code") != 0:
        return {"name": "unknown", "why": answer.get("left_out") or answer["errors"]}
    values = answer["output"].splitlines()[0].split(", ")
    return dict(zip(keys, values, strict=True))


def verify(folder: Path, artifact: dict, device: dict, clock: Clock) -> dict:
    """The checks of one artifact, each way of launching."""
    runner = [str(folder / artifact["name"] / "tsm-runner"), "verify"]
    ways = {**WAYS, "each launch waited for": {"TSM_EDGE_SYNC": "1"}}
    if artifact["arch"] == device.get("compute_cap"):
        ways["machine code"] = {"TSM_EDGE_CUBIN": "1"}
    found = {}
    for way, variables in ways.items():
        answer = execute(runner, clock, 60, variables)
        if "code" in answer:
            answer["report"] = _json(answer.pop("output"))
            answer["passed"] = answer["code"] == 0
            if way == "machine code" and "taking the PTX" in answer["errors"]:
                answer["passed"] = False
        found[way] = answer
        print(f"{artifact['name']}, {way}: {_verdict(answer)}", file=sys.stderr)
    return found


def sanitize(folder: Path, artifact: dict, clock: Clock) -> dict:
    """compute-sanitizer's tools on the launches of the golden frames."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(program).exists():
        return {"left_out": "compute-sanitizer is not installed"}
    found = {}
    runner = str(folder / artifact["name"] / "tsm-runner")
    for tool in TOOLS:
        command = [program, "--tool", tool, "--error-exitcode", "9", runner, "verify"]
        answer = execute(command, clock, 60, {"TSM_EDGE_NO_GRAPH": "1"})
        if "code" in answer:
            summary = re.findall(r"ERROR SUMMARY: .*|RACECHECK SUMMARY: .*", answer["output"])
            answer["output"], answer["clean"] = summary, answer["code"] == 0
        found[tool] = answer
    return found


def measure(folder: Path, artifact: dict, clock: Clock) -> dict:
    """Median step of each way of launching, milliseconds: rounds in turns, the order turned round each time."""
    runner = str(folder / artifact["name"] / "tsm-runner")
    medians: dict[str, list[float]] = {way: [] for way in WAYS}
    problems: dict[str, str] = {}
    for index in range(ROUNDS):
        for way in list(WAYS)[:: 1 if index % 2 == 0 else -1]:
            options = ["--frames", "400", "--warmup", "0.3", "--idle", "0"]
            answer = execute([runner, "bench", *options], clock, 30, WAYS[way])
            document = _json(answer.get("output", ""))
            try:
                medians[way].append(document["results"][0]["latency_ms"]["p50"])
            except (KeyError, IndexError, TypeError):
                problems[way] = answer.get("left_out") or answer.get("errors", "")
    table = {
        way: {"rounds_ms": values, "median_ms": statistics.median(values)} for way, values in medians.items() if values
    }
    return {"ways": table, "problems": problems}


def run(folder: Path, results: Path) -> int:
    """All steps; returns an exit code: 1 where an answer was wrong."""
    clock = Clock(LIMIT_S)
    plan = json.loads((folder / PLAN).read_text("utf-8"))
    device = ask_device(clock)
    now = datetime.datetime.now(datetime.timezone.utc)
    found = {"date": now.isoformat(timespec="seconds"), "device": device, "model": plan["model"], "artifacts": {}}
    for artifact in plan["artifacts"]:
        found["artifacts"][artifact["name"]] = {"verify": verify(folder, artifact, device, clock)}
    for artifact in plan["artifacts"]:
        found["artifacts"][artifact["name"]]["bench"] = measure(folder, artifact, clock)
    for artifact in plan["artifacts"]:
        found["artifacts"][artifact["name"]]["sanitizer"] = sanitize(folder, artifact, clock)
    found["peers"] = _peers(folder, plan, clock)
    found["device_after"] = ask_device(Clock(20))
    results.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-")
    path = results / f"gpu-{slug}-{now:%Y-%m-%d}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(path)
    wrong = [
        f"{name}, {way}"
        for name, steps in found["artifacts"].items()
        for way, answer in steps["verify"].items()
        if answer.get("passed") is False
    ]
    print(f"WRONG: {'; '.join(wrong)}" if wrong else "all that ran is right", file=sys.stderr)
    return 1 if wrong else 0


def _peers(folder: Path, plan: dict, clock: Clock) -> dict:
    """Other engines on the same ONNX file, where they are installed."""
    script = Path(__file__).with_name("gpu_peers.py")
    onnx = next((folder / each["name"] / "model.onnx" for each in plan["artifacts"]), None)
    if onnx is None:
        return {"left_out": "nothing was compiled"}
    answer = execute([sys.executable, str(script), str(onnx)], clock, 90)
    return _json(answer["output"]) if answer.get("code") == 0 else answer


def _json(text: str) -> dict:
    try:
        return json.loads(text)
    except ValueError:
        return {"text": text[-2000:]}


def _verdict(answer: dict) -> str:
    if "left_out" in answer:
        return f"left out: {answer['left_out']}"
    return "right" if answer["passed"] else f"WRONG ({answer['errors'].strip() or 'outputs differ'})"


def main() -> int:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("prepare", help="compile; no GPU").add_argument("folder", type=Path)
    there = steps.add_parser("run", help="on the machine with the GPU")
    there.add_argument("folder", type=Path)
    there.add_argument("results", type=Path)
    given = parser.parse_args()
    if given.step == "run":
        return run(given.folder, given.results)
    prepare(given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
