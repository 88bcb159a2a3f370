"""tsm-edge: the artifact it compiles from the ONNX file for this machine, through its session."""

from __future__ import annotations

from pathlib import Path

from engines.base import Engine, OnlineModel, Stepper


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
        from tsm_edge.session.open import open_session

        return open_session(folder / "artifact", threads=threads)


ENGINE: Engine = _TsmEdge()
