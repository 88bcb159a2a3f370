"""The TSM paper's claims in small: small networks trained alike on the generated clips.

python benchmarks/paper_claims.py --work claims --seeds 3

- Tables 1 and 6: no shift (TSN) against offline against online.
- Figure 2b: the share of the channels that is shifted, 0 to 1, residual against in-place.
- Figure 6: accuracy after 10 to 100 % of a clip's frames.

All networks of a seed learn from the same clips, drawn once and kept in ``--work``. They start from random weights with
the detectors of motion of ``tsm_edge/training/start.py`` (none of fades), where the shift leaves channels for them: not
where all are shifted. What lies before the first shift is not trained.

Each network is a folder in ``--work``; what is there already is not trained again, and what was broken off goes on.
``--jobs`` of them are trained at once, each by one thread; ``--device cuda`` trains on an NVIDIA GPU. ``claims.html``,
``claims.json`` and a plot a figure hold the result, with 95 % intervals over seeds (Student's t, one spread for all).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from fractions import Fraction
from pathlib import Path
from typing import Any

from claims_report import PLACES, SHARES, Outcome, Results, figures, page, shifted, tables, verdicts
from safetensors.torch import save_file
from stored_clips import StoredClips, store

from tsm_edge.cards import NetworkSpec, load_model
from tsm_edge.files.atomic import write_atomic
from tsm_edge.networks import build_network
from tsm_edge.progress import Progress
from tsm_edge.training.generated import MotionData
from tsm_edge.training.output import FIGURES
from tsm_edge.training.place import TrainingPlace
from tsm_edge.training.recipe import FROM_SCRATCH, Recipe
from tsm_edge.training.start import start
from tsm_edge.training.train import TrainRequest, train

# Progress is only looked at.
VALIDATION_CLIPS = 120
# The first parts of a MobileNet-V2, up to the first shift.
NOT_SHIFTED = 3
# Between 1e-3 and 3e-3, which learn about as much in 300 steps; 6e-3 learns half of that.
RATE = 2e-3


def variants(width: float, size: int) -> dict[str, NetworkSpec]:
    """Name -> network, all of a width and a frame size (pixels)."""
    card = dataclasses.replace(load_model("motion").network, width=width, frame_size=size)
    found = {
        "tsn": dataclasses.replace(card, temporal_mode="none"),
        "offline": dataclasses.replace(card, temporal_mode="offline", shift_proportion=Fraction(1, 8)),
    }
    for place in PLACES:
        for share in SHARES if place == "residual" else SHARES[1:]:
            found[shifted(place, share)] = dataclasses.replace(
                card, shift_proportion=Fraction(share), shift_place=place
            )
    return found


NAMES = tuple(variants(1.0, 32))


@dataclasses.dataclass(frozen=True)
class Trial:
    """A network to train, of a seed."""

    name: str
    seed: int
    spec: NetworkSpec
    clips: StoredClips
    recipe: Recipe
    place: TrainingPlace

    def run(self, work: Path) -> dict[str, Any]:
        """Train, if it was not done yet, and return the figures of it."""
        folder = work / f"{self.name}-seed{self.seed}"
        done = folder / FIGURES
        if not done.exists():
            card = load_model("motion").with_frame_size(self.clips.data.size)
            card = dataclasses.replace(card, network=self.spec, weights_file="")
            begin = self._start(folder / "start.safetensors")
            request = TrainRequest(card, self.clips, folder, self.recipe, str(begin), NOT_SHIFTED, place=self.place)
            train(request, _tell(folder.name))
        found: dict[str, Any] = json.loads(done.read_text("utf-8"))
        return found

    def _start(self, path: Path) -> Path:
        """Write the weights that it starts from."""
        backbone = build_network(self.spec).backbone
        start(backbone, self.seed, fades=False)
        tensors = {name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, {"temporal_mode": self.spec.temporal_mode})
        return path


def _tell(name: str) -> Progress:
    """Progress on stderr, every twentieth."""
    shown = -1.0

    def tell(text: str, share: float) -> None:
        nonlocal shown
        if share - shown >= 0.05:
            shown = share
            print(f"{name}: [{100 * share:3.0f} %] {text}", file=sys.stderr, flush=True)

    return tell


def write_report(work: Path, found: Mapping[str, Mapping[int, Mapping[str, Any]]], trained: str) -> Results:
    """Write what is known so far, of each network's seeds; returns it."""
    results = {
        name: {seed: Outcome.read(found[name][seed]) for seed in sorted(found[name])} for name in NAMES if name in found
    }
    kept = {name: {seed: dataclasses.asdict(test) for seed, test in runs.items()} for name, runs in results.items()}
    write_atomic(work / "claims.json", (json.dumps({"trained": trained, "networks": kept}, indent=1) + "\n").encode())
    write_atomic(work / "claims.html", page(results, trained).encode())
    for name, drawn in figures(results).items():
        write_atomic(work / f"{name}.svg", drawn.encode())
    return results


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for clips, networks and the report")
    add("--seeds", type=int, default=3, choices=range(1, 9), help="of each network (%(default)s)")
    add("--epochs", type=int, default=10, help="of training (%(default)s)")
    add("--per-epoch", type=int, default=960, help="clips (%(default)s)")
    add("--width", type=float, default=0.5, help="of the networks (%(default)s)")
    add("--size", type=int, default=48, help="of a frame, pixels (%(default)s)")
    add("--test-clips", type=int, default=1200, help="(%(default)s)")
    add("--only", nargs="+", choices=NAMES, help="these networks")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="what computes (%(default)s)")
    add("--jobs", type=int, default=2, help="networks trained at once (%(default)s)")
    options = parser.parse_args()
    recipe = dataclasses.replace(FROM_SCRATCH, epochs=options.epochs, rate=RATE, thaw=0.0, workers=1)
    trials = list(_trials(options, recipe))
    trained = (
        f"MobileNet-V2 of width {options.width:g} at {options.size} × {options.size} pixels, each trained on "
        f"{options.epochs * options.per_epoch} clips."
    )
    found: dict[str, dict[int, Any]] = {}
    # Processes, for PyTorch computes on one thread each; not forked ones, for CUDA's sake.
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        asked = {pool.submit(trial.run, options.work): trial for trial in trials}
        for run in as_completed(asked):
            trial = asked[run]
            found.setdefault(trial.name, {})[trial.seed] = run.result()
            results = write_report(options.work, found, trained)
            print(
                f"{trial.name}, seed {trial.seed}: {100 * results[trial.name][trial.seed].share:.1f} % right",
                flush=True,
            )
    print(tables(results))
    print("\n".join(verdicts(results)))


def _trials(options: argparse.Namespace, recipe: Recipe) -> Iterator[Trial]:
    """All networks of the first seed, then of the next; their clips are drawn here."""
    networks = variants(options.width, options.size)
    place = TrainingPlace.named(options.device, 0)
    frames = networks["tsn"].frames
    for seed in range(options.seeds):
        data = MotionData(frames, options.size, options.per_epoch, seed, 0.5, VALIDATION_CLIPS, options.test_clips)
        clips = store(options.work / f"clips-seed{seed}", data, options.epochs, options.jobs)
        for name in options.only or networks:
            yield Trial(name, seed, networks[name], clips, dataclasses.replace(recipe, seed=seed), place)


if __name__ == "__main__":
    main()
