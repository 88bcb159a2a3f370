"""Accuracy of the default model in float32, int8 and fp16, on the generated test clips.

python benchmarks/precisions.py
python benchmarks/precisions.py --clips 200 --half-clips 50 --json precisions.json

float32 and int8 are compiled for this machine and measured by ``tsm-edge evaluate`` on the whole test set. int8 is
calibrated as a user would: pictures of training clips, ``--calibrate FOLDER`` for each. fp16 runs as compiled for a
Raspberry Pi 5, under QEMU, which computes halves in software: on some of the clips, beside float32 on the same ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from report import table, write_json

from tsm_edge.artifact.folder import Artifact, load_artifact
from tsm_edge.cards import load_model
from tsm_edge.training.generated import MotionData
from tsm_edge.verify.emulated import emulator_command

MODEL, BOARD = "motion", "raspberry-pi-5"
CALIBRATION_CLIPS = 16
Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One precision: what was right, of how many clips, and how it was run."""

    precision: str
    right: int
    clips: int
    how: str

    @property
    def percent(self) -> float:
        """Of clips."""
        return 100 * self.right / self.clips


def tsm_edge(*arguments: object) -> dict[str, Any]:
    """The program, as a user calls it; returns its JSON."""
    command = [sys.executable, "-m", "tsm_edge.cli", *map(str, arguments), "--json"]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    made: dict[str, Any] = json.loads(found.stdout)
    return made


def write_calibration(folder: Path, data: MotionData) -> list[Path]:
    """Training clips as folders of pictures."""
    frames, _ = data.train().training_batch(0, range(CALIBRATION_CLIPS))
    folders = []
    for index, clip in enumerate(frames):
        folders.append(folder / f"clip-{index:02d}")
        folders[-1].mkdir(parents=True)
        for place, frame in enumerate(clip):
            cv2.imwrite(str(folders[-1] / f"{place:03d}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return folders


def evaluated(artifact: Path, precision: str, clips: int, frames: int) -> Row:
    """On this machine."""
    result = tsm_edge("evaluate", artifact, "--clips", clips, "--frames", frames)
    overall = result["measures"]["overall"]
    return Row(
        precision, overall["right"], overall["clips"], "measured here, mean of the logits of a clip's second half"
    )


def last_label(artifact: Artifact, clip: Pictures) -> int:
    """The label of a clip's last frame, by its ``tsm-runner``: here, or under QEMU."""
    command = [*emulator_command(artifact.manifest.target), str(artifact.runner), "stream"]
    found = subprocess.run(command, input=clip.tobytes(), check=True, stdout=subprocess.PIPE, cwd=artifact.path)
    return int(json.loads(found.stdout.splitlines()[-1])["index"])


def beside_half(floats: Artifact, half: Artifact, data: MotionData, clips: int) -> tuple[list[Row], int]:
    """float32 and fp16 on the same clips, and on how many both say the same."""
    frames, labels = data.test().batch(range(clips))
    truth = labels[:, -1]
    found = [np.array([last_label(artifact, clip) for clip in frames]) for artifact in (floats, half)]
    rows = [
        Row(name, int((labels == truth).sum()), clips, "label of a clip's last frame")
        for name, labels in zip(("fp32", "fp16"), found, strict=True)
    ]
    return rows, int((found[0] == found[1]).sum())


def main() -> None:
    """Compile, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1200, help="test clips of float32 and int8 (1200: all)")
    parser.add_argument("--half-clips", type=int, default=100, help="test clips under QEMU (100; 0: none)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    card = load_model(MODEL)
    data = MotionData(card.network.frames, int(card.preprocess.short_side))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        calibrate = [word for clip in write_calibration(folder / "clips", data) for word in ("--calibrate", clip)]
        tsm_edge("compile", MODEL, "-o", folder / "fp32")
        tsm_edge("compile", MODEL, "--precision", "int8", *calibrate, "-o", folder / "int8")
        quality = tsm_edge("verify", folder / "int8")["signal_to_noise_db"]
        rows = [evaluated(folder / name, name, given.clips, data.frames) for name in ("fp32", "int8")]
        print(f"int8: {quality:.1f} dB to the float model; {rows[1].percent - rows[0].percent:+.1f} points of accuracy")
        same = 0
        if given.half_clips:
            tsm_edge("compile", MODEL, "--precision", "fp16", "--target", BOARD, "-o", folder / "fp16")
            artifacts = (load_artifact(folder / "fp32"), load_artifact(folder / "fp16"))
            half, same = beside_half(*artifacts, data, given.half_clips)
            rows += half
    print(
        table(
            ("precision", "right", "%", "how"),
            [(r.precision, f"{r.right}/{r.clips}", f"{r.percent:.1f}", r.how) for r in rows],
        )
    )
    if given.half_clips:
        print(f"fp16 (as {BOARD}, under QEMU): the same label as float32 on {same} of {given.half_clips} clips")
    if given.json:
        write_json(given.json, {"rows": [asdict(row) for row in rows], "int8_db": quality, "fp16_same": same})


if __name__ == "__main__":
    main()
