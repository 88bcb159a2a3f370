"""Steps one engine a few times, under an emulator: ``arm_worker.py JOB.json``, started by ``arm_instructions.py``.

Needs NumPy and the engine's own runtime only: what the model is comes with the job.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from engines import load_engine
from engines.base import CacheTensor, OnlineModel


def main(job_file: str) -> None:
    """Run the job; the logits of every frame are written beside it."""
    job = json.loads(Path(job_file).read_text())
    model = job["model"]
    caches = tuple(CacheTensor(cache["input"], cache["output"], tuple(cache["shape"])) for cache in model["caches"])
    path, shape = Path(model["path"]), tuple(model["frame_shape"])
    online = OnlineModel(path, model["frame"], model["logits"], shape, model["classes"], caches)
    stepper = load_engine(job["engine"], job["precision"]).open(online, Path(job["folder"]), 1, job["variant"])
    frames = np.load(job["frames_file"])[: job["frames"]]
    stepper.reset()
    logits = [np.array(stepper.step(np.ascontiguousarray(frame))) for frame in frames]
    np.save(job["logits_file"], np.concatenate(logits))


if __name__ == "__main__":
    main(sys.argv[1])
