"""Whole clips: offline TSM and TSN beside other engines (TSM paper, table 5), and what the shift costs (figure 2a).

python benchmarks/clips.py --model resnet50-kinetics --threads 1 2 --json clips.json
python benchmarks/clips.py --model mobilenetv2-kinetics --batch 16 --threads 1
python benchmarks/clips.py --model mobilenetv2-kinetics --shift --threads 1
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from engines import load_engine
from engines.base import read_model
from engines.tsm_edge_artifact import one_clip_of
from peers import US, Race, choose_variants, contenders_of, not_in, prepare_engines, race_engines, race_json
from race_command import add_race_options, run_in_folder, say
from report import SHARED, describe, machine_info, physical_cpus, table, write_json
from stages import Place
from streams import reference_logits, video
from worker import FRAMES

from tsm_edge.bench.interleave import Schedule
from tsm_edge.cards import ModelCard, NetworkSpec, TemporalMode, height_width, load_model
from tsm_edge.export.onnx import OPSET, ExportRequest, export_onnx

ENGINES = (US, "onnxruntime", "openvino", "executorch", "pytorch")
# Shares of the channels shifted each way; at 0 nothing is, though the network is the same.
PROPORTIONS = (Fraction(0), Fraction(1, 8), Fraction(1, 4))


@dataclass(frozen=True)
class Case:
    """One network over clips."""

    mode: TemporalMode
    frames: int
    proportion: Fraction = Fraction(1, 8)
    clips: int = 1

    @property
    def name(self) -> str:
        """As in the paper's table."""
        name = f"{'TSM' if self.mode == 'offline' else 'TSN'}-{self.frames}f"
        name += f" x{self.clips}" if self.clips > 1 else ""
        return name if self.proportion == Fraction(1, 8) else f"{name} {self.proportion}"

    def export(self, card: ModelCard, folder: Path) -> Path:
        """Write it as ONNX, with random weights; several clips a step as one batch, and a clip alone beside it."""
        network = dataclasses.replace(card.network, temporal_mode=self.mode, shift_proportion=self.proportion)
        path = folder / f"{card.name}-{self.name.replace('/', '-').replace(' ', '-')}.onnx"
        if path.exists():
            return path
        say(f"exporting {self.name}")
        one = one_clip_of(path) if self.clips > 1 else path
        export_onnx(ExportRequest(dataclasses.replace(card, network=network), one, seed=0, frames=self.frames))
        if self.clips > 1:
            write_batch(dataclasses.replace(network, frames=self.frames), self.clips, path)
        return path


def write_batch(network: NetworkSpec, clips: int, path: Path) -> None:
    """Write a network over several clips at once, as other engines take them."""
    import torch

    from tsm_edge.networks import build_network

    frames = torch.zeros(clips * network.frames, network.channels, *height_width(network.frame_size))
    names = {"input_names": ["clip"], "output_names": ["logits"], "verbose": False}
    torch.onnx.export(
        build_network(network, 0), (frames,), path, dynamo=True, opset_version=OPSET, external_data=False, **names
    )


def race_case(card: ModelCard, case: Case, options: argparse.Namespace, work: Path) -> list[Race]:
    """One race a number of threads: every engine on the same file and clips, in turns."""
    model = read_model(case.export(card, work))
    folder = work / model.path.stem
    folder.mkdir(exist_ok=True)
    np.save(folder / "reference.npy", reference_logits(model, video(model.frame_shape, FRAMES)))
    absent = not_in("fp32", options.engines)
    ready = prepare_engines(contenders_of(options.engines, model, "fp32", folder), folder, None, absent)
    races = []
    for threads in options.threads:
        place, unfit = Place(physical_cpus(threads), options.nice), dict(absent)
        entries = choose_variants(ready, folder, place, unfit)
        schedule = Schedule(options.rounds, options.block)
        races.append(race_engines(entries, "fp32", folder, place, schedule, unfit))
    return races


def race_proportions(card: ModelCard, options: argparse.Namespace, work: Path) -> list[Race]:
    """tsm-edge alone: the same network with other shares of its channels shifted, in turns."""
    entries: dict[str, dict[str, Any]] = {}
    for proportion in PROPORTIONS:
        case = Case("offline", options.frames[0], proportion)
        model = read_model(case.export(card, work))
        folder = work / model.path.stem
        folder.mkdir(exist_ok=True)
        np.save(folder / "reference.npy", reference_logits(model, video(model.frame_shape, FRAMES)))
        (contender,) = prepare_engines(contenders_of([US], model, "fp32", folder), folder, None, {})
        reference = {"reference": str(folder / "reference.npy"), "variant": load_engine(US).variants[0]}
        entries[str(proportion)] = contender.job(folder) | reference
    schedule = Schedule(options.rounds, options.block)
    places = [Place(physical_cpus(threads), options.nice) for threads in options.threads]
    return [race_engines(entries, "fp32", work, place, schedule, {}) for place in places]


def print_races(card: ModelCard, races: dict[Case, list[Race]]) -> None:
    """As the paper's table 5: a line an engine and network."""
    rows = []
    for case, race in ((case, race) for case, of_case in races.items() for race in of_case):
        for engine in sorted(race.samples, key=lambda engine: race.samples[engine].median):
            samples, ratio = race.samples[engine], race.ratio(engine)
            rows.append(
                (
                    f"{case.name}, {engine}",
                    str(len(race.place.cpus)),
                    f"{samples.median * 1e3:.1f}",
                    f"{case.clips / samples.median:.1f}",
                    f"{ratio.value:.2f}",
                    f"{ratio.low:.2f}-{ratio.high:.2f}",
                    f"{race.errors[engine]:.0e}",
                )
            )
    (batch,) = {case.clips for case in races}
    print(f"\n{card.name}, {batch} {'clip' if batch == 1 else 'clips'} a step, float32")
    print(table(("network, engine", "threads", "median ms", "clips/s", f"x {US}", "95 %", "error"), rows))
    for case, of_case in races.items():
        for engine, reason in {key: value for race in of_case for key, value in race.absent.items()}.items():
            print(f"not measured: {case.name}, {engine}: {reason}")


def print_proportions(card: ModelCard, races: list[Race]) -> None:
    """As the paper's figure 2a: latency over that of no shift."""
    rows = []
    for race in races:
        for proportion, samples in race.samples.items():
            ratio = race.ratio(proportion, "0")
            overhead = "" if proportion == "0" else f"{ratio.value - 1:+.1%}"
            interval = "" if proportion == "0" else f"{ratio.low - 1:+.1%} to {ratio.high - 1:+.1%}"
            rows.append((proportion, str(len(race.place.cpus)), f"{samples.median * 1e3:.2f}", overhead, interval))
    print(f"\n{card.name}, channels shifted each way, float32")
    print(table(("share", "threads", "median ms", "over 0", "95 %"), rows))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", default="mobilenetv2-kinetics", help="model card, exported with random weights (%(default)s)")
    add("--frames", nargs="*", type=int, default=[8, 16], help="of TSM's clips (%(default)s)")
    add("--tsn", nargs="*", type=int, default=[8], help="of TSN's clips (%(default)s)")
    add("--batch", metavar="B", type=int, default=1, help="clips of a step (%(default)s)")
    add("--engines", nargs="+", default=list(ENGINES), metavar="NAME", help=", ".join(ENGINES))
    add("--shift", action="store_true", help="measure shares of shifted channels instead of engines")
    add_race_options(parser, [1, 2], rounds=20, block=2, timed="clips")
    add("--work", type=Path, help="keep exported and converted models in this folder and use them again")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, work: Path) -> None:
    card = load_model(options.model)
    data: dict[str, Any] = {}
    if options.shift:
        shares = race_proportions(card, options, work)
        data["shift"] = [race_json(race) for race in shares]
    else:
        cases = [Case("offline", frames, clips=options.batch) for frames in options.frames]
        cases += [Case("none", frames, clips=options.batch) for frames in options.tsn]
        races = {case: race_case(card, case, options, work) for case in cases}
        data |= {case.name: [race_json(race) for race in of_case] for case, of_case in races.items()}
    machine = machine_info(["apache-tvm", "numpy", "onnxruntime", "openvino", "executorch", "torch"])
    print(f"{describe(machine)}\n{SHARED}")
    if options.shift:
        print_proportions(card, shares)
    else:
        print_races(card, races)
    if options.json:
        write_json(options.json, {"benchmark": "clips", "model": card.name, "machine": machine} | data)
        say(f"wrote {options.json}")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    options = _options(arguments)
    return run_in_folder(lambda folder: _run(options, folder), options.work)


if __name__ == "__main__":
    sys.exit(main())
