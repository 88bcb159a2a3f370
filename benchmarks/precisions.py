"""Accuracy of the default model in float32, int8 and fp16, on the generated test clips.

python benchmarks/precisions.py
python benchmarks/precisions.py --clips 200 --half-clips 20 --json precisions.json

float32 and int8 are compiled for this machine and measured by ``tsm-edge evaluate`` on the whole test set. int8 is
calibrated as a user would: pictures of training clips, ``--calibrate FOLDER`` for each. fp16 is what a Raspberry Pi 5
gets. QEMU computes halfs in software, so it runs some of the clips. Where this CPU has AVX512-FP16, the same kernels
are compiled for it and measured on the whole test set; on QEMU's clips it is counted how often both agree in every bit
of the logits and the shift caches.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from report import table, write_json

from tsm_edge.artifact.folder import Artifact, load_artifact
from tsm_edge.artifact.golden import Golden, network_input
from tsm_edge.artifact.reference import Reference
from tsm_edge.cards import load_model, target_file
from tsm_edge.cards.architecture import cpu_flags
from tsm_edge.training.generated import MotionData
from tsm_edge.verify.emulated import emulated_outputs

MODEL, BOARD = "motion", "raspberry-pi-5"
# The board's card, with another processor: rules see the same vectors, registers and caches, and choose the same.
PROCESSOR = {'"aarch64-unknown-linux-gnu"': '"x86_64-unknown-linux-gnu"', '"cortex-a76"': '"sapphirerapids"'}
CALIBRATION_CLIPS = 16
Pictures = npt.NDArray[np.uint8]
Outputs = list[list[npt.NDArray[np.float32]]]


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


def evaluated(artifact: Path, precision: str, clips: int, frames: int, how: str = "") -> Row:
    """On this machine."""
    result = tsm_edge("evaluate", artifact, "--clips", clips, "--frames", frames)
    overall = result["measures"]["overall"]
    return Row(precision, overall["right"], overall["clips"], how or "measured here")


def write_card_of_this_processor(path: Path) -> Path:
    """The board's card with a processor of this machine's kind."""
    text = target_file(BOARD).read_text("utf-8")
    for board, here in PROCESSOR.items():
        if text.count(board) != 1:
            raise ValueError(f"{BOARD}: expected {board} once in its card")
        text = text.replace(board, here)
    path.write_text(text, "utf-8")
    return path


@dataclass(frozen=True)
class Emulated:
    """What QEMU made of some clips.

    Attributes
    ----------
    half, floats : int
        Clips that fp16 under QEMU, and float32 here, have right.
    same : int
        Clips on which both say the same.
    bits : int
        Clips on which fp16 has the same bits under QEMU and here, of every output of every frame.
    clips : int
    """

    half: int
    floats: int
    same: int
    bits: int
    clips: int


def emulate(floats: Artifact, half: Artifact, here: Artifact | None, data: MotionData, clips: int) -> Emulated:
    """Run clips in fp16 under QEMU, beside float32 and, where there is any, the same kernels on this machine."""
    reference = Reference(floats.reference, floats.manifest)
    frames, labels = data.test().batch(range(clips))
    half_right = floats_right = same = bits = 0
    for index, (clip, truth) in enumerate(zip(frames, labels[:, -1], strict=True)):
        given = _without_reset(clip, reference, floats)
        emulated = emulated_outputs(half, given)
        said, expected = (_label([outputs[0] for outputs in made]) for made in (emulated, given.outputs))
        half_right, floats_right = half_right + int(said == truth), floats_right + int(expected == truth)
        same += int(said == expected)
        if here is not None:
            bits += int(_equal(emulated, emulated_outputs(here, given)))
        print(f"clip {index + 1} of {clips}: {same} as in float32, {bits} with equal bits", file=sys.stderr)
    return Emulated(half_right, floats_right, same, bits, clips)


def _without_reset(clip: Pictures, reference: Reference, artifact: Artifact) -> Golden:
    reference.reset()
    outputs = [reference.step(network_input(picture, artifact.manifest.preprocess)) for picture in clip]
    return Golden(clip, len(clip), outputs)


def _label(logits: Sequence[npt.NDArray[np.float32]]) -> int:
    """By the mean of the second half, as ``tsm-edge evaluate`` has it."""
    return int(np.mean(logits[len(logits) // 2 :], axis=0).argmax())


def _equal(one: Outputs, other: Outputs) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.tobytes() == b.tobytes() for x, y in pairs for a, b in zip(x, y, strict=True))


def main() -> None:
    """Compile, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1200, help="test clips (1200: all)")
    parser.add_argument("--half-clips", type=int, default=20, help="test clips under QEMU (20; 0: none)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = load_model(MODEL)
    data = MotionData(model.network.frames, int(model.preprocess.short_side))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        calibrate = [word for clip in write_calibration(folder / "clips", data) for word in ("--calibrate", clip)]
        tsm_edge("compile", MODEL, "-o", folder / "fp32")
        tsm_edge("compile", MODEL, "--precision", "int8", *calibrate, "-o", folder / "int8")
        quality = tsm_edge("verify", folder / "int8")["signal_to_noise_db"]
        rows = [evaluated(folder / name, name, given.clips, data.frames) for name in ("fp32", "int8")]
        print(f"int8: {quality:.1f} dB to the float model; {rows[1].percent - rows[0].percent:+.1f} points of accuracy")
        here, emulated = None, None
        if "avx512_fp16" in cpu_flags():
            card = write_card_of_this_processor(folder / "this-processor.toml")
            tsm_edge("compile", MODEL, "--precision", "fp16", "--target", card, "-o", folder / "fp16-here")
            here = load_artifact(folder / "fp16-here")
            how = f"kernels of {BOARD}, compiled for this processor"
            rows.append(evaluated(here.path, "fp16", given.clips, data.frames, how))
        if given.half_clips:
            tsm_edge("compile", MODEL, "--precision", "fp16", "--target", BOARD, "-o", folder / "fp16")
            artifacts = (load_artifact(folder / "fp32"), load_artifact(folder / "fp16"))
            emulated = emulate(*artifacts, here, data, given.half_clips)
    print(
        table(
            ("precision", "right", "%", "how"),
            [(r.precision, f"{r.right}/{r.clips}", f"{r.percent:.1f}", r.how) for r in rows],
        )
    )
    if emulated:
        print(
            f"fp16 as {BOARD} under QEMU, {emulated.clips} clips: {emulated.half} right, float32 {emulated.floats}; "
            f"the same label on {emulated.same}"
        )
        compared = f"{emulated.bits} clips" if here else "not compared, no AVX512-FP16"
        print(f"the same bits under QEMU and on this processor: {compared}")
    if given.json:
        found = {"rows": [asdict(row) for row in rows], "int8_db": quality}
        write_json(given.json, found | {"emulated": asdict(emulated) if emulated else None})


if __name__ == "__main__":
    main()
