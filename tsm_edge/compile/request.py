"""What to compile, for what, to where; refused where it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tsm_edge.cards import Ability, ModelCard, Preprocess, TargetCard, TemporalMode, load_target, target_names
from tsm_edge.cards.precision import FP16_SUMMED_IN_FP32, FP32, INT8, Precision
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.quantised import Calibration, no_frames
from tsm_edge.errors import CompileError


@dataclass(frozen=True)
class CompileRequest:
    """What to compile, for what, to where.

    Attributes
    ----------
    target : TargetCard
    output : Path
        Artifact directory to write; an existing artifact there is replaced.
    card : ModelCard or None
        The model; with ``onnx`` it may be None.
    checkpoint : Path or None
        Weights for ``card``; None: the card's own, or random ones where it has none.
    onnx : Path or None
        An ONNX file to compile instead of exporting ``card``.
    cache_names : mapping of str to str
        For a foreign ONNX file: cache input → cache output.
    trained_mode : str or None
        How the checkpoint was trained, where it does not say so itself.
    allow_offline_weights : bool
        See :class:`tsm_edge.export.onnx.ExportRequest`.
    temporal_mode : str or None
        Replaces the card's (``none``: the TSN baseline; ``offline``: whole clips).
    frames : int or None
        Of a clip: replaces the card's; with mode ``none``, a clip of so many frames instead of one frame.
    clips_per_batch : int
        Clips that a step takes, which it computes one after the other.
    seed : int or None
        Of random weights, even where the card has its own. None: no wish.
    intermediates : Path or None
        Directory to keep every stage's result in.
    runner : bool
        Also make ``tsm-runner``, a static program with the model inside, and its ``golden.bin``.
    precision : Precision
        Of activations, weights and sums.
    calibration : callable or None
        For integers: reads frames to calibrate with, preprocessed as it is told; None: of random weights noise.
    quantisation : Path or None
        For integers: a ``quantisation.json`` of the same model, instead.
    records : tuple of Path or None
        Files of tuning records, the later ones counting; None: those that come with the target's card.
    """

    target: TargetCard
    output: Path
    card: ModelCard | None = None
    checkpoint: Path | None = None
    onnx: Path | None = None
    cache_names: Mapping[str, str] = field(default_factory=dict)
    trained_mode: TemporalMode | None = None
    allow_offline_weights: bool = False
    temporal_mode: TemporalMode | None = None
    frames: int | None = None
    clips_per_batch: int = 1
    seed: int | None = None
    intermediates: Path | None = None
    runner: bool = True
    precision: Precision = FP32
    calibration: Callable[[Preprocess], Calibration] | None = None
    quantisation: Path | None = None
    records: tuple[Path, ...] | None = None

    def __post_init__(self) -> None:
        if self.card is None and self.onnx is None:
            raise CompileError("nothing to compile: expected a model name or --onnx FILE", "see: tsm-edge models")
        if self.onnx is not None and self.checkpoint is not None:
            raise CompileError(
                "--onnx already has its weights: --checkpoint cannot be given with it",
                "leave one of them out; a checkpoint is exported with: tsm-edge export MODEL --checkpoint FILE",
            )
        self._check_clips()
        decided = self.calibration is not None or self.quantisation is not None
        if self.precision.storage != "int8" and decided:
            given = "--calibrate" if self.calibration is not None else "--quantisation"
            raise CompileError(
                f"precision {self.precision.name} is not calibrated", f"add --precision int8, or leave {given} out"
            )
        if self.precision.storage == "int8" and self._is_trained and not decided:
            raise no_frames()
        if self.calibration is not None and self.quantisation is not None:
            raise CompileError(
                "a quantisation.json has been calibrated already", "leave out --calibrate, or --quantisation"
            )
        if self.target.device == "cuda":
            if self.precision.storage == "int8":
                raise CompileError(
                    f"target {self.target.name} is a GPU: precision int8 is for CPUs yet",
                    "leave --precision out, or choose fp16",
                )
            return
        if self.precision == FP16_SUMMED_IN_FP32:
            what = f"precision {self.precision.name} (halfs summed in fp32)"
            raise CompileError(
                f"target {self.target.name} is a CPU: {what} is for GPUs",
                "leave --precision out for fp32, or take fp16 alone",
            )
        needs = self.precision.needs
        if needs and not set(needs) & set(self.target.cpu.abilities):
            raise CompileError(
                f"target {self.target.name} has no {' or '.join(needs)}, which precision {self.precision.name} needs",
                f"leave --precision out, or choose another target of: {', '.join(_targets_with(needs))}",
            )

    @property
    def _is_trained(self) -> bool:
        """Whether the weights mean something; of an ONNX file only the file knows."""
        if self.onnx is not None or self.card is None:
            return False
        return self.checkpoint is not None or (self.seed is None and bool(self.card.weights_file))

    @property
    def mode(self) -> TemporalMode:
        """The temporal mode that was asked for, or the card's."""
        return self.temporal_mode or (self.card.network.temporal_mode if self.card else "online")

    @property
    def clips(self) -> bool:
        """Whether a model of whole clips is asked for."""
        return self.mode == "offline" or (self.mode == "none" and self.frames is not None)

    def check_frames(self, frames: int) -> None:
        """Refuse several clips a step of a model that takes no clips, and clips where only frames can be compiled.

        Parameters
        ----------
        frames : int
            That it takes at once.

        Raises
        ------
        CompileError
        """
        if frames == 1 and self.clips_per_batch > 1:
            raise CompileError(
                "--clips-per-batch is for models of clips, this one takes single frames",
                "add --mode offline, or leave --clips-per-batch out",
            )
        if frames > 1:
            self._check_takes_clips()

    def check_graph(self, graph: OnlineGraph) -> None:
        """Refuse what does not go with the model itself, once it is known.

        Raises
        ------
        CompileError
            Another mode was asked for than the file's, or what clips cannot be compiled for.
        """
        self.check_frames(graph.frames)
        takes = f"clips of {graph.frames} frames" if graph.frames > 1 else "one frame a step"
        takes += f" and {len(graph.caches)} shift caches" if graph.caches else ""
        wrong = {"offline": graph.frames == 1, "online": graph.frames > 1, "none": bool(graph.caches)}
        if self.temporal_mode is not None and wrong[self.temporal_mode]:
            raise CompileError(
                f"{self.onnx}: takes {takes}: it cannot be compiled with --mode {self.temporal_mode}",
                f"leave --mode out, or export another file: tsm-edge export --mode {self.temporal_mode}",
            )

    def _check_clips(self) -> None:
        if self.frames is not None and self.onnx is not None:
            raise CompileError("--onnx has its frames already: --frames cannot be given with it", "leave --frames out")
        if self.frames is not None and self.mode == "online":
            raise CompileError(
                "an online network takes one frame a step: --frames is for clips", "add --mode offline, or --mode none"
            )
        if not self.clips:
            if self.onnx is None:
                self.check_frames(1)
            return
        self._check_takes_clips()

    def _check_takes_clips(self) -> None:
        if self.records:
            raise CompileError("tuning records are of single frames, clips have none yet", "leave --records out")
        if self.target.device == "cuda":
            raise CompileError(
                f"target {self.target.name} is a GPU: clips are for CPUs yet", "choose another (see: tsm-edge targets)"
            )
        if self.precision != FP32:
            raise CompileError(
                f"precision {self.precision.name} is for single frames yet: clips are computed in fp32",
                "leave --precision out",
            )


def as_the_file_is(request: CompileRequest, graph: OnlineGraph) -> CompileRequest:
    """The request with the precision of a file that was quantised before.

    Raises
    ------
    CompileError
        Something else was asked for, or the target cannot compute in it.
    """
    if graph.scales is None:
        return request
    wanted = request.precision.name
    asked = next(
        (
            option
            for option, given in (
                ("--calibrate", request.calibration is not None),
                ("--quantisation", request.quantisation is not None),
                (f"--precision {wanted}", wanted not in (FP32.name, INT8.name)),
            )
            if given
        ),
        None,
    )
    if asked:
        raise CompileError(
            f"{request.onnx}: is quantised already, its own scales hold: {asked} cannot be given with it",
            f"leave {asked} out, or compile the float model it was made from",
        )
    try:
        return replace(request, precision=INT8)
    except CompileError as error:
        raise CompileError(
            f"{request.onnx}: is quantised, and {error.problem}",
            "choose another target (see: tsm-edge targets), or compile the float model it was made from",
        ) from None


def _targets_with(abilities: Collection[Ability]) -> list[str]:
    """Names of the cards that come with tsm-edge and have one of some abilities."""
    return [name for name in target_names() if set(abilities) & set(load_target(name).cpu.abilities)]
