"""How much tuning gives back where a card is wrong about its machine: half the L2 cache, wrong costs of loads."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tsm_edge.cards import TargetCard, load_target

# What the card says of the machine. The rules then think that arithmetic is nearly free, so that loads are what counts,
# and that loads and multiply-adds cannot overlap.
LIES: dict[str, Any] = {"fma_per_cycle": 16.0, "in_order": True}


def wrong(card: TargetCard) -> TargetCard:
    """The card with half the L2 cache, and loads that cost what they do not."""
    return dataclasses.replace(card, cpu=dataclasses.replace(card.cpu, l2_kib=max(1, card.cpu.l2_kib // 2), **LIES))


def to_toml(card: TargetCard) -> str:
    """The card as a file."""
    head = {"description": f"wrong on purpose: {card.description}", "source": card.source, "libc": card.libc}
    cpu = {name: value for name, value in dataclasses.asdict(card.cpu).items() if value not in ("", ())}
    lines = [*_lines(head), "[cpu]", *_lines(cpu)]
    return "".join(f"{line}\n" for line in lines)


def _lines(table: dict[str, Any]) -> list[str]:
    # JSON's texts, numbers, lists and truth values are TOML's, too.
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items()]


def main() -> int:
    """Tune with a wrong card; print what it gained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobilenetv2-jester")
    parser.add_argument("--target", default="native", help="The card to distort.")
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--json", type=Path, help="Write the result here.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        card = Path(folder) / "wrong.toml"
        card.write_text(to_toml(wrong(load_target(options.target))), "utf-8")
        command = [sys.executable, "-m", "tsm_edge.cli", "tune", options.model, "--target", str(card)]
        command += ["--threads", "1", "--budget", options.budget, "-o", f"{folder}/records.jsonl", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)["tuned"]
    whole = result["whole"]
    print(f"{options.model}, {options.target} with half its L2 and {LIES}: {result['step_ms']:.2f} ms by the rules")
    if whole is None:
        print("nothing was faster beyond doubt")
    else:
        print(f"tuned: {whole['value']:.3f} of that (95 %: {whole['low']:.3f} to {whole['high']:.3f})")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
