"""tsm-edge: the artifact it compiles from the ONNX file for this machine, through its session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from streams import clips

from engines import PRECISIONS
from engines.base import Engine, OnlineModel, Stepper


@dataclass(frozen=True)
class _TsmEdge:
    precision: str
    packages = ("tsm_edge", "tvm")
    distributions = ("apache-tvm",)
    variants = ("session",)

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        from tsm_edge.cards import load_target
        from tsm_edge.cards.precision import precision_named
        from tsm_edge.compile.pipeline import CompileRequest, compile_model
        from tsm_edge.compile.quantised import Calibration

        # A folder that has an artifact already is one that the user named with --artifact.
        if (folder / "artifact").exists():
            return
        target, precision = load_target("native"), precision_named(self.precision)
        request = CompileRequest(target, folder / "artifact", onnx=model.path, precision=precision)
        if self.precision == "int8":
            frames = Calibration(tuple(np.concatenate(clip) for clip in clips(model.frame_shape)), "noise")
            request = replace(request, calibration=lambda preprocess: frames)
        compile_model(request)

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        from tsm_edge.session.open import open_session

        return open_session(folder / "artifact", threads=threads)


ENGINES: dict[str, Engine] = {precision: _TsmEdge(precision) for precision in PRECISIONS}
