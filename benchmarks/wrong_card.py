"""How much tuning gives back where a card is wrong about its machine: half the L2 cache, wrong costs of loads.

python benchmarks/wrong_card.py --model resnet50-kinetics --budget 10m --json wrong.json

The model is compiled with this machine's card, and with one that lies. Both race in turns, which tells what the lies
cost. Then the second is tuned and compiled with its records, and all three race.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from race_command import run_in_folder, say
from report import SHARED, describe, machine_info, write_json

from tsm_edge.artifact.folder import load_artifact
from tsm_edge.bench.interleave import Samples, Schedule, race
from tsm_edge.bench.paired import Ratio, paired_ratio
from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards.threads import Threads
from tsm_edge.session.local import OnlineSession

FRAMES = 4
RIGHT, WRONG, TUNED = "right card", "wrong card", "wrong card, tuned"
# What the card says of the machine, beside half of its L2 cache: all weights come from memory, which is very slow.
# The rules then think that Winograd's algorithm pays nowhere, as it has more weights.
LIES: dict[str, Any] = {"l3_kib": 0, "memory_gb_s": 0.2, "clock_mhz": 2100}


def wrong(card: TargetCard, lies: dict[str, Any]) -> TargetCard:
    """The card with half the L2 cache, and loads that cost what they do not."""
    return dataclasses.replace(
        card, cpu=dataclasses.replace(card.cpu, **{"l2_kib": max(1, card.cpu.l2_kib // 2), **lies})
    )


def to_toml(card: TargetCard) -> str:
    """The card as a file."""
    head = {"description": f"wrong on purpose: {card.description}", "source": card.source, "libc": card.libc}
    cpu = {name: value for name, value in dataclasses.asdict(card.cpu).items() if value not in ("", ())}
    lines = [*_lines(head), "[cpu]", *_lines(cpu)]
    return "".join(f"{line}\n" for line in lines)


def _lines(table: dict[str, Any]) -> list[str]:
    # JSON's texts, numbers, lists and truth values are TOML's, too.
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items()]


def tsm_edge(*arguments: object) -> dict[str, Any]:
    """The program, as a user calls it; returns its JSON."""
    command = [sys.executable, "-m", "tsm_edge.cli", *map(str, arguments), "--json"]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    made: dict[str, Any] = json.loads(found.stdout)
    return made


def raced(artifacts: dict[str, Path], schedule: Schedule) -> dict[str, Samples]:
    """Compiled models in turns, one thread each."""
    with ExitStack() as stack:
        steppers = {
            name: stack.enter_context(OnlineSession(load_artifact(path), Threads(1)))
            for name, path in artifacts.items()
        }
        shape = next(iter(steppers.values())).manifest.frame.shape
        frames = np.random.default_rng(0).standard_normal((FRAMES, *shape), np.float32)
        return race(steppers, list(frames), schedule)


def over(samples: dict[str, Samples], name: str, base: str) -> Ratio:
    """The time of one over that of another, by the fastest frames of their turns, as the tuner compares."""
    fastest = {one: samples[one].seconds.min(axis=1, keepdims=True) for one in (name, base)}
    return paired_ratio(fastest[name], fastest[base])


def told(ratio: Ratio) -> str:
    """For people."""
    return f"{ratio.value:.3f} (95 %: {ratio.low:.3f} to {ratio.high:.3f})"


def _lie(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", default="resnet50-kinetics", help="model card (%(default)s)")
    add("--target", default="native", help="the card to distort (%(default)s)")
    add("--lie", action="append", type=_lie, metavar="NAME=VALUE", help=f"of the CPU, in JSON, instead of {LIES}")
    add("--budget", default="10m", help="of tuning; 0: only what the lies cost (%(default)s)")
    add("--rounds", type=int, default=40, help="turns of each that races (%(default)s)")
    add("--block", type=int, default=6, help="timed frames of a turn (%(default)s)")
    add("--work", type=Path, help="keep what was compiled in this folder")
    add("--json", type=Path, help="write the result here")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, work: Path) -> None:
    lies, schedule = dict(options.lie or LIES), Schedule(options.rounds, options.block)
    card, folders = work / "wrong.toml", {RIGHT: work / "right", WRONG: work / "wrong", TUNED: work / "tuned"}
    card.write_text(to_toml(wrong(load_target(options.target), lies)), "utf-8")
    build = ("compile", options.model, "--no-runner", "--target")
    say("compiling with both cards")
    tsm_edge(*build, options.target, "--no-records", "-o", folders[RIGHT])
    tsm_edge(*build, card, "--no-records", "-o", folders[WRONG])
    say("timing them in turns")
    samples = raced({name: folders[name] for name in (RIGHT, WRONG)}, schedule)
    result: dict[str, Any] = {"benchmark": "wrong_card", "model": options.model, "target": options.target, "lies": lies}
    result["machine"] = machine_info(["apache-tvm", "numpy"])
    result["untuned"] = dataclasses.asdict(over(samples, WRONG, RIGHT))
    print(f"{describe(result['machine'])}\n{SHARED}")
    print(f"{options.model}, {options.target} with half its L2 and {lies}, one thread")
    print(f"{RIGHT}: {samples[RIGHT].median * 1e3:.2f} ms; {WRONG}: {told(over(samples, WRONG, RIGHT))} of that")
    if options.budget != "0":
        _tune(options, work, card, folders, schedule, result)
    if options.json:
        write_json(options.json, result)
        say(f"wrote {options.json}")


def _tune(
    options: argparse.Namespace,
    work: Path,
    card: Path,
    folders: dict[str, Path],
    schedule: Schedule,
    result: dict[str, Any],
) -> None:
    """Tune what was compiled with the wrong card, compile it with what was found, and race again."""
    records = work / "records.jsonl"
    made = tsm_edge("tune", folders[WRONG], "--threads", 1, "--budget", options.budget, "-o", records)["tuned"]
    result["tuned"] = made
    print(
        f"tuned for {options.budget}: {made['tried']} candidates of {made['kernels']} kernels, "
        f"{len(made['accepted'])} accepted"
    )
    if made["whole"] is None or made["whole"]["high"] >= 1.0:
        print("nothing was faster beyond doubt")
        return
    build = ("compile", options.model, "--no-runner", "--target", card, "--records", records)
    tsm_edge(*build, "-o", folders[TUNED])
    say("timing all three in turns")
    samples = raced(folders, schedule)
    for base in (WRONG, RIGHT):
        ratio = over(samples, TUNED, base)
        result[f"tuned over {base}"] = dataclasses.asdict(ratio)
        print(f"{TUNED}: {told(ratio)} of the {base}'s time")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    options = _options(arguments)
    return run_in_folder(lambda folder: _run(options, folder), options.work)


if __name__ == "__main__":
    sys.exit(main())
