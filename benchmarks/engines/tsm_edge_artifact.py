"""tsm-edge: the artifact it compiles from the ONNX file for this machine, through its session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from streams import clips

from engines import PRECISIONS
from engines.base import Engine, Floats, OnlineModel, Stepper, read_model


def one_clip_of(path: Path) -> Path:
    """Of a network over several clips at once: the file of the same network over one, which is what tsm-edge takes."""
    return path.with_suffix(".clip.onnx")


class _ClipStepper:
    """The logits of every frame, as other engines return them; their mean is computed, too."""

    def __init__(self, folder: Path, threads: int) -> None:
        from tsm_edge.session.open import open_session

        self._session = open_session(folder, threads=threads)

    def reset(self) -> None:
        """A clip knows of no other."""

    def step(self, frame: Floats) -> Floats:
        self._session.step(frame)
        return self._session.frame_logits()


@dataclass(frozen=True)
class _TsmEdge:
    precision: str
    packages = ("tsm_edge", "tvm")
    distributions = ("apache-tvm",)
    variants = ("session",)

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        from tsm_edge.cards import TemporalMode, load_target
        from tsm_edge.cards.precision import precision_named
        from tsm_edge.compile.pipeline import CompileRequest, compile_model
        from tsm_edge.compile.quantised import Calibration

        # A folder that has an artifact already is one that the user named with --artifact.
        if (folder / "artifact").exists():
            return
        target, precision = load_target("native"), precision_named(self.precision)
        mode: TemporalMode = "offline" if model.frame_shape[0] > 1 else "online"
        where = folder / "artifact"
        request = CompileRequest(target, where, onnx=model.path, precision=precision, temporal_mode=mode)
        if (one := one_clip_of(model.path)).exists():
            clips_per_batch = model.frame_shape[0] // read_model(one).frame_shape[0]
            request = replace(request, onnx=one, clips_per_batch=clips_per_batch)
        if self.precision == "int8":
            frames = Calibration(tuple(np.concatenate(clip) for clip in clips(model.frame_shape)), "noise")
            request = replace(request, calibration=lambda preprocess: frames)
        compile_model(request)

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        from tsm_edge.session.open import open_session

        if model.frame_shape[0] > 1:
            return _ClipStepper(folder / "artifact", threads)
        return open_session(folder / "artifact", threads=threads)


ENGINES: dict[str, Engine] = {precision: _TsmEdge(precision) for precision in PRECISIONS}
