"""tsm-edge: the artifact it compiles from the ONNX file for this machine, through ``OnlineSession``."""

from __future__ import annotations

from pathlib import Path

from engines.base import Engine, Floats, OnlineModel, Stepper


class _TsmEdgeStepper:
    def __init__(self, artifact: Path, threads: int) -> None:
        from tsm_edge.session import OnlineSession

        self._session = OnlineSession(artifact, threads=threads)

    def reset(self) -> None:
        self._session.reset()

    def step(self, frame: Floats) -> Floats:
        return self._session.step(frame)


class _TsmEdge:
    packages = ("tsm_edge", "tvm")
    distributions = ("apache-tvm",)
    variants = ("session",)

    def prepare(self, model: OnlineModel, folder: Path) -> None:
        from tsm_edge.cards import load_target
        from tsm_edge.compile.pipeline import CompileRequest, compile_model

        # A folder that has an artifact already is one that the user named with --artifact.
        if not (folder / "artifact").exists():
            compile_model(CompileRequest(load_target("native"), folder / "artifact", onnx=model.path))

    def open(self, model: OnlineModel, folder: Path, threads: int, variant: str) -> Stepper:
        return _TsmEdgeStepper(folder / "artifact", threads)


ENGINE: Engine = _TsmEdge()
