"""Models for GPUs on a real GPU: are they right, clean under compute-sanitizer, and how fast?

Two steps, because machines with a GPU are lent for minutes and nothing can be fetched there. ``prepare`` compiles,
where tsm-edge is installed, for x86-64 hosts: the Jetson Nano's kernels (the very PTX that a Nano gets: every newer
driver takes it) and those for the GPUs named. ``run`` needs Python's standard library and the driver alone:

1. ``tsm-runner verify`` (all outputs and caches against ONNX Runtime's golden frames): with graphs, without, waiting
   for each launch, and with the machine code where it is for this GPU;
2. ``tsm-runner bench``, the ways of launching in turns; ONNX Runtime's CUDA provider and torch.compile with CUDA graphs
   beside it where they are installed;
3. compute-sanitizer's four tools, where it is installed;
4. one JSON file with the device, the driver, the date and every answer. It is written after each step; what was left
   out, for lack of time or of a program, says so, and so does what could not run.

Exit codes: 0, 1 where an answer was wrong or never came, 2 where nothing could be asked.

No figure of a Jetson follows from another GPU's.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tsm_edge.cards import TargetCard

LIMIT_S = 460.0  # of `run`: eight minutes, less what starting and writing take
VERIFY_S = 60.0  # in which the golden frames must be through
ROUNDS = 5
PLAN, ONNX = "plan.json", "model.onnx"
MODEL = "mobilenetv2-jester"
CARDS = ("cuda-sm90",)
NANO = "jetson-nano-on-x86"
WAYS = {
    "graph": {},
    "graph, spinning": {"TSM_EDGE_SPIN": "1"},
    "launches": {"TSM_EDGE_NO_GRAPH": "1"},
}
STEPS = ("bench", "peers", "sanitizer")  # after the checks
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Of tsm-runner: it could not run, which it also says where a kernel failed.
COULD_NOT_RUN, A_KERNEL_FAILED = 2, "error: step: "
# Of gpu_peers.py.
PEERS = (
    "ONNX Runtime CUDA",
    "ONNX Runtime CUDA, CUDA graphs",
    "torch.compile reduce-overhead",
    "torch.compile in a CUDA graph",
    "torch.compile in a CUDA graph, fp16",
)


class Unusable(Exception):
    """What was given cannot be used: one line, with what to do."""


def prepare(folder: Path, cards: list[str], onnx: Path | None = None) -> int:
    """Compile the artifacts, and write what they are into ``plan.json``; the ONNX file is kept once. An exit code."""
    from tsm_edge.errors import TsmEdgeError

    is_new = not folder.exists()
    try:
        targets = targets_of(cards)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN).unlink(missing_ok=True)  # without it nobody takes the folder for a whole one
        plan = {"model": onnx.stem if onnx else MODEL, "artifacts": compile_all(folder, targets, onnx)}
        (folder / PLAN).write_text(json.dumps(plan, indent=1), "utf-8")
    except BaseException as error:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, TsmEdgeError):
            raise Unusable(str(error)) from None
        raise
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.0f} MB", file=sys.stderr)
    return 0


def targets_of(cards: list[str]) -> list[TargetCard]:
    """The cards of these names, and the Nano's GPU in an x86-64 machine; all of them can be compiled for here."""
    import dataclasses

    from tsm_edge.cards import load_target
    from tsm_edge.compile.machine_code import backend_for

    targets = [load_target(name) for name in cards]
    for target in targets:
        if target.gpu is None:
            raise Unusable(f"--cards {target.name}: has no GPU; choose a CUDA target of: tsm-edge targets")
    targets.insert(0, dataclasses.replace(load_target("cuda-sm90"), name=NANO, gpu=load_target("jetson-nano").gpu))
    for target in targets:
        backend_for(target).check()
    return targets


def compile_all(folder: Path, targets: list[TargetCard], onnx: Path | None) -> list[dict]:
    """Each target in each precision; what ``plan.json`` says of them."""
    from tsm_edge.cards import load_model
    from tsm_edge.cards.precision import precision_named
    from tsm_edge.compile.pipeline import CompileRequest, compile_model

    artifacts = []
    for target in targets:
        for precision in ("fp32", "fp16"):
            name = f"{target.name}-{precision}"
            made = compile_model(
                CompileRequest(
                    target,
                    folder / name,
                    None if onnx else load_model(MODEL),
                    onnx=onnx,
                    precision=precision_named(precision),
                )
            )
            shutil.move(made.reference, folder / ONNX)
            arch = target.gpu.compute_capability if target.gpu else ""
            artifacts.append({"name": name, "arch": arch, "precision": precision})
            print(f"{name}: compiled", file=sys.stderr)
    return artifacts


class Clock:
    """What is left of the time."""

    def __init__(self, limit_s: float) -> None:
        self.end = time.monotonic() + limit_s

    def left(self, most_s: float) -> float:
        """Seconds for a step that may take ``most_s``; 0: none."""
        return max(0.0, min(most_s, self.end - time.monotonic()))


def execute(command: list[str], clock: Clock, most_s: float, variables: dict[str, str] | None = None) -> dict:
    """Run a program; its exit code and what it printed, or why it was not run to its end.

    ``hung``: it took all of ``most_s``.
    """
    limit = clock.left(most_s)
    if limit < 1:
        return {"left_out": "no time was left"}
    started = time.monotonic()
    try:
        # A session of its own: what it has started itself (compute-sanitizer's program, torch.compile's) ends with it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(variables or {})},
            start_new_session=True,
        )
    except OSError as error:
        return {"left_out": f"{command[0]}: {error.strerror}"}
    with process:
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            left_out = {"left_out": f"did not end within {limit:.0f} s"}
            return left_out if limit < most_s else {**left_out, "hung": True}
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    seconds = round(time.monotonic() - started, 2)
    return {"code": process.returncode, "seconds": seconds, "output": output, "errors": errors[-2000:]}


def at_once(asked: dict[str, tuple]) -> dict[str, dict]:
    """Execute programs beside each other (their time is not measured): name → the answer of ``execute``."""
    with ThreadPoolExecutor(len(asked)) as pool:
        return dict(zip(asked, pool.map(lambda of: execute(*of), asked.values()), strict=True))


def ask_device(clock: Clock) -> dict:
    """Name, driver, clocks and heat of the first GPU, as nvidia-smi says; drivers before 510 do not tell them all."""
    keys = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "temperature.gpu", "compute_cap")
    answer = {}
    for asked in (keys, keys[:-1]):
        answer = execute(["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"], clock, 20)
        lines = answer.get("output", "").splitlines()
        if answer.get("code") == 0 and lines:
            return dict(zip(asked, lines[0].split(", "), strict=False))
    return {"name": "unknown", "why": answer.get("left_out") or answer["errors"] or answer["output"]}


def verify(folder: Path, artifact: dict, device: dict, clock: Clock) -> dict:
    """The checks of one artifact, each way of launching."""
    runner = [str(folder / artifact["name"] / "tsm-runner"), "verify"]
    ways = {**WAYS, "each launch waited for": {"TSM_EDGE_SYNC": "1"}}
    if artifact["arch"] == device.get("compute_cap"):
        ways["machine code"] = {"TSM_EDGE_CUBIN": "1"}
    found = {}
    asked = {way: (runner, clock, VERIFY_S, variables) for way, variables in ways.items()}
    for way, answer in at_once(asked).items():
        found[way] = answer = _judged(answer)
        if way == "machine code" and "taking the PTX" in answer.get("errors", ""):
            answer["passed"] = False
        print(f"{artifact['name']}, {way}: {_verdict(answer)}", file=sys.stderr)
    return found


def _judged(answer: dict) -> dict:
    """What a verification ended with, ``passed`` where there is an answer; one that hangs is a wrong one."""
    if answer.get("hung"):
        return {"passed": False, "errors": answer["left_out"]}
    if "code" not in answer:
        return answer
    if answer["code"] == COULD_NOT_RUN and A_KERNEL_FAILED not in answer["errors"]:
        return {**answer, "left_out": _last_line(answer)}
    report = _json(answer.pop("output"))
    return {**answer, "report": report, "passed": answer["code"] == 0}


def _last_line(answer: dict) -> str:
    return (answer["errors"].strip().splitlines() or ["could not run"])[-1]


def sanitize(folder: Path, artifact: dict, clock: Clock) -> dict:
    """compute-sanitizer's tools on the launches of the golden frames."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(program).exists():
        return {"left_out": "compute-sanitizer is not installed"}
    found = {}
    runner = str(folder / artifact["name"] / "tsm-runner")
    commands = {tool: [program, "--tool", tool, "--error-exitcode", "9", runner, "verify"] for tool in TOOLS}
    asked = {tool: (command, clock, 120, {"TSM_EDGE_NO_GRAPH": "1"}) for tool, command in commands.items()}
    for tool, answer in at_once(asked).items():
        if answer.get("code") == COULD_NOT_RUN:
            answer["left_out"] = _last_line(answer)
        elif "code" in answer:
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
            options = ["--duration", "0.5", "--warmup", "0.2", "--idle", "0"]
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


def compare_peers(folder: Path, clock: Clock) -> dict:
    """Other engines on the same ONNX file, each in a process of its own."""
    script = Path(__file__).with_name("gpu_peers.py")
    found = {}
    for name in PEERS:
        answer = execute([sys.executable, str(script), name, str(folder / ONNX)], clock, 60)
        found[name] = _json(answer["output"]) if answer.get("code") == 0 else answer
        print(f"{name}: {_peer_verdict(found[name])}", file=sys.stderr)
    return found


def read_plan(folder: Path) -> dict:
    """What ``prepare`` wrote down."""
    again = f"prepare it with: python -m benchmarks.gpu prepare {folder}"
    try:
        plan = json.loads((folder / PLAN).read_text("utf-8"))
        if plan["artifacts"] and all(artifact["name"] and "arch" in artifact for artifact in plan["artifacts"]):
            return {"model": str(plan["model"]), "artifacts": plan["artifacts"]}
    except OSError as error:
        raise Unusable(f"{folder / PLAN}: {error.strerror}; {again}") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise Unusable(f"{folder / PLAN}: is no plan of prepared models; {again}")


def run(folder: Path, results: Path, chosen: list[str]) -> int:
    """The checks and the chosen steps; an exit code: 1 where an answer was wrong, 2 where nothing could be asked."""
    clock = Clock(LIMIT_S)
    plan = read_plan(folder)
    results.mkdir(parents=True, exist_ok=True)
    device = ask_device(clock)
    now = datetime.datetime.now(datetime.timezone.utc)
    found = {"date": now.isoformat(timespec="seconds"), "device": device, "model": plan["model"], "artifacts": {}}
    slug = re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-")
    path = results / f"gpu-{slug}-{plan['model']}-{now:%Y-%m-%d}.json"

    def keep() -> None:
        path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")

    steps = {name: {} for name in (artifact["name"] for artifact in plan["artifacts"])}
    found["artifacts"] = steps
    for artifact in plan["artifacts"]:
        steps[artifact["name"]]["verify"] = verify(folder, artifact, device, clock)
        keep()
    for artifact in plan["artifacts"] if "bench" in chosen else ():
        steps[artifact["name"]]["bench"] = measure(folder, artifact, clock)
        print(f"{artifact['name']}: {_speed(steps[artifact['name']]['bench'])}", file=sys.stderr)
        keep()
    if "peers" in chosen:
        found["peers"] = compare_peers(folder, clock)
        keep()
    for artifact in plan["artifacts"] if "sanitizer" in chosen else ():
        steps[artifact["name"]]["sanitizer"] = sanitize(folder, artifact, clock)
        print(
            f"{artifact['name']}, compute-sanitizer: {_cleanness(steps[artifact['name']]['sanitizer'])}",
            file=sys.stderr,
        )
        keep()
    found["device_after"] = ask_device(Clock(20))
    keep()
    print(path)
    return conclude(steps)


def conclude(steps: dict) -> int:
    """Say what was wrong; an exit code."""
    answers = {f"{name}, {way}": each for name, of in steps.items() for way, each in of["verify"].items()}
    wrong = [name for name, answer in answers.items() if answer.get("passed") is False]
    unclean = [
        f"{name}, {tool}"
        for name, of in steps.items()
        for tool, answer in of.get("sanitizer", {}).items()
        if isinstance(answer, dict) and answer.get("clean") is False
    ]
    if wrong or unclean:
        print(f"WRONG: {'; '.join(wrong + unclean)}", file=sys.stderr)
        return 1
    if not any(answer.get("passed") for answer in answers.values()):
        print("NOTHING RAN: see the file", file=sys.stderr)
        return 2
    print("all that ran is right", file=sys.stderr)
    return 0


def _json(text: str) -> dict:
    try:
        return json.loads(text)
    except ValueError:
        return {"text": text[-2000:]}


def _verdict(answer: dict) -> str:
    if "left_out" in answer:
        return f"left out: {answer['left_out']}"
    return "right" if answer["passed"] else f"WRONG ({answer['errors'].strip() or 'outputs differ'})"


def _peer_verdict(answer: dict) -> str:
    if "median_ms" in answer:
        return f"{answer['median_ms']:.3f} ms a frame"
    if "right" in answer:
        return f"not measured, its logits are {answer['error']:.1e} off"
    return f"left out: {answer.get('left_out') or answer.get('errors', '')[-300:].strip()}"


def _speed(bench: dict) -> str:
    ways = ", ".join(f"{way} {table['median_ms']:.3f} ms" for way, table in bench["ways"].items())
    return ways or f"not measured: {next(iter(bench['problems'].values()), '')}"


def _cleanness(answers: dict) -> str:
    if "left_out" in answers:
        return f"left out: {answers['left_out']}"
    return ", ".join(f"{tool} {_tool_verdict(answer)}" for tool, answer in answers.items())


def _tool_verdict(answer: dict) -> str:
    if "left_out" in answer:
        return f"left out ({answer['left_out']})"
    return "clean" if answer["clean"] else "NOT CLEAN"


def main() -> int:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    here = steps.add_parser("prepare", help="compile; no GPU")
    here.add_argument("folder", type=Path)
    here.add_argument("--cards", nargs="*", default=list(CARDS), help=f"targets, by default {' '.join(CARDS)}")
    here.add_argument("--onnx", type=Path, help=f"an online model, by default {MODEL}'s with random weights")
    there = steps.add_parser("run", help="on the machine with the GPU")
    there.add_argument("folder", type=Path)
    there.add_argument("results", type=Path)
    there.add_argument(
        "--steps", nargs="*", choices=STEPS, default=list(STEPS), help="beside the checks, by default all"
    )
    given = parser.parse_args()
    try:
        if given.step == "run":
            return run(given.folder, given.results, given.steps)
        return prepare(given.folder, given.cards, given.onnx)
    except Unusable as error:
        print(f"gpu.py: error: {error}", file=sys.stderr)
    except OSError as error:
        place = error.filename or given.folder
        print(f"gpu.py: error: {place}: {error.strerror}; choose another folder", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
