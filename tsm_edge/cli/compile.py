"""``tsm-edge compile``: a model, or an ONNX file, for a target."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.artifact.folder import OUTPUT_FOLDER, RUNNER
from tsm_edge.artifact.manifest import MOST_CLIPS, RANDOM_WEIGHTS
from tsm_edge.cards import (
    DEFAULT_MODEL,
    Extent,
    ModelCard,
    TemporalMode,
    load_model,
    load_target,
    model_files,
    target_file,
)
from tsm_edge.cards.architecture import runs_here
from tsm_edge.cards.precision import FP16_SUMMED_IN_FP32, PRECISIONS, Precision, precision_named
from tsm_edge.cli.explain import explanation_of, explanation_table, print_explanation
from tsm_edge.cli.frame_size import frame_size_option
from tsm_edge.cli.output import json_option, note, print_json, print_table, status, warn
from tsm_edge.cli.weights import weight_options
from tsm_edge.deploy.files import deployed_paths
from tsm_edge.errors import CompileError
from tsm_edge.extras import require
from tsm_edge.files.paths import refuse_replacing_folder

if TYPE_CHECKING:
    from tsm_edge.artifact.folder import Artifact
    from tsm_edge.artifact.manifest import CacheInfo, Manifest
    from tsm_edge.cards import Preprocess
    from tsm_edge.cli.explain import AnyExplanation
    from tsm_edge.compile.ir.device_code import DeviceCode
    from tsm_edge.compile.ir.program import Program
    from tsm_edge.compile.quantised import Calibration


def _cache_pairs(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, sign, output in pairs:
        if not (name and sign and output):
            raise click.BadParameter(f"{name!r}: expected INPUT=OUTPUT, two tensor names of the ONNX file")
    return {name: output for name, _, output in pairs}


@click.command("compile")
@click.argument("model", required=False)
@click.option("--target", metavar="T", default="native", show_default=True, help="Target card, by name or path.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder to write.  [default: out/MODEL-TARGET]",
)
@click.option(
    "--onnx", metavar="FILE", type=click.Path(path_type=Path), help="Compile this ONNX file instead of exporting MODEL."
)
@click.option(
    "--cache",
    "cache_names",
    multiple=True,
    metavar="IN=OUT",
    callback=_cache_pairs,
    help="For an ONNX file of another tool: a cache input and its output; again for each cache.",
)
@weight_options
@click.option(
    "--mode",
    type=click.Choice(["online", "offline", "none"]),
    help="Temporal mode; offline: whole clips.  [default: the model card's]",
)
@click.option("--frames", metavar="N", type=click.IntRange(2, 128), help="Of a clip (modes offline and none).")
@click.option(
    "--clips-per-batch",
    metavar="B",
    type=click.IntRange(1, MOST_CLIPS),
    default=1,
    show_default=True,
    help="Clips that a step takes.",
)
@frame_size_option
@click.option(
    "--precision",
    metavar="P",
    default="fp32",
    show_default=True,
    help=f"Of weights, activations and sums: {', '.join(PRECISIONS)}.",
)
@click.option(
    "--accumulate",
    type=click.Choice(["fp32"]),
    help=f"With --precision fp16 on a GPU: halfs are only stored, as with --precision {FP16_SUMMED_IN_FP32.name}.",
)
@click.option(
    "--calibrate",
    "clips",
    multiple=True,
    metavar="CLIP",
    type=click.Path(path_type=Path),
    help="For int8: a video file or a folder of pictures with what the model will see; again for more.",
)
@click.option(
    "--quantisation",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="For int8: the quantisation.json of the same model compiled before, instead of --calibrate.",
)
@click.option(
    "--records",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Tuning records (tsm-edge tune), instead of those that come with the target; again for more.",
)
@click.option("--no-records", is_flag=True, help="The rules choose every kernel.")
@click.option("--keep-intermediates", is_flag=True, help="Keep every stage's result in DIR-intermediates.")
@click.option("--explain", is_flag=True, help="Show each kernel: rule, tile, FLOP, bytes, modelled time on the target.")
@click.option("--no-runner", is_flag=True, help="Leave out tsm-runner, which verifies and runs the model on a device.")
@json_option
def command(
    model: str | None,
    target: str,
    output: Path | None,
    checkpoint: Path | None,
    onnx: Path | None,
    cache_names: dict[str, str],
    trained_mode: TemporalMode | None,
    allow_offline_weights: bool,
    mode: TemporalMode | None,
    frames: int | None,
    clips_per_batch: int,
    frame_size: Extent | None,
    seed: int | None,
    precision: str,
    accumulate: str | None,
    clips: tuple[Path, ...],
    quantisation: Path | None,
    records: tuple[Path, ...],
    no_records: bool,
    keep_intermediates: bool,
    explain: bool,
    no_runner: bool,
    as_json: bool,
) -> None:
    """Compile MODEL for a target: a folder with model.so, manifest.json and labels.txt.

    MODEL is a model card's name or path (default: motion). With --onnx it only lends its preprocessing
    and labels to a file that tsm-edge did not export.
    """
    started_s = time.monotonic()
    if records and no_records:
        raise click.UsageError("--records names records and --no-records wants none: expected one of them")
    require("compile", "tsm-edge compile")
    from tsm_edge.compile.pipeline import CompileRequest, compile_model

    model = _model(model, onnx)
    card = _card(model, onnx, frame_size)
    target_card = load_target(target)
    name = _name(card, onnx, mode)
    folder = output or OUTPUT_FOLDER / f"{name}-{target_card.name}"
    cards = [target_file(target), *(model_files(model, card) if card and model else ())]
    refuse_replacing_folder(folder, cards, "-o DIR")
    request = CompileRequest(
        target=target_card,
        output=folder,
        card=card,
        checkpoint=checkpoint,
        onnx=onnx,
        cache_names=cache_names,
        trained_mode=trained_mode,
        allow_offline_weights=allow_offline_weights,
        temporal_mode=mode,
        frames=frames,
        clips_per_batch=clips_per_batch,
        seed=seed,
        intermediates=Path(f"{folder}-intermediates") if keep_intermediates else None,
        runner=not no_runner,
        precision=_precision(precision, accumulate),
        calibration=_calibration(clips),
        quantisation=quantisation,
        records=() if no_records else records or None,
    )
    inspected: list[tuple[Program, DeviceCode | None]] = []
    with status(f"compiling {name} for {target_card.name}") as show:
        artifact = compile_model(
            request,
            lambda stage, done: show(f"{name} for {target_card.name}: {stage}", done),
            lambda program, code: inspected.append((program, code)),
            warn,
        )
    seconds = time.monotonic() - started_s
    explanation = explanation_of(*inspected[0], target_card) if explain else None
    if as_json:
        _print_json(artifact, explanation, seconds)
        return
    _print(artifact, seconds)
    if explanation is not None:
        print_explanation(explanation, target_card)
    if request.intermediates is not None:
        note(f"intermediates: {request.intermediates}")
    if artifact.manifest.random_weights:
        warn(RANDOM_WEIGHTS)
    note(f"next: {_next_command(artifact)}")


def _model(model: str | None, onnx: Path | None) -> str | None:
    """The model card to use: the default where nothing is named, None where an ONNX file needs none."""
    if onnx is not None:
        return model
    if model is not None and model.lower().endswith(".onnx"):
        raise CompileError(
            f"{model}: an ONNX file is not a model card",
            f"compile it with: tsm-edge compile --onnx {shlex.quote(model)}",
        )
    return DEFAULT_MODEL if model is None else model


def _card(model: str | None, onnx: Path | None, frame_size: Extent | None) -> ModelCard | None:
    """The model's card, of the frame size that was asked for."""
    if frame_size is not None and onnx is not None:
        raise CompileError(
            "--onnx has its frame size already: --frame-size cannot be given with it", "leave --frame-size out"
        )
    card = None if model is None else load_model(model)
    return card if card is None or frame_size is None else card.with_frame_size(frame_size)


def _name(card: ModelCard | None, onnx: Path | None, mode: TemporalMode | None) -> str:
    """What is compiled; with its mode where that is not the card's, so that neither replaces the other."""
    if card is None:
        return onnx.stem if onnx else ""
    return card.name if mode in (None, card.network.temporal_mode) else f"{card.name}-{mode}"


def _precision(name: str, accumulate: str | None) -> Precision:
    precision = precision_named(name)
    if accumulate is None:
        return precision
    if precision.storage != "float16":
        raise CompileError(
            "--accumulate is for --precision fp16", f"leave it out: sums of {name} are {precision.accumulator}"
        )
    return FP16_SUMMED_IN_FP32


def _calibration(clips: tuple[Path, ...]) -> Callable[[Preprocess], Calibration] | None:
    """How frames of these clips are read; clips that cannot be read are refused now."""
    if not clips:
        return None
    from tsm_edge.compile.quantised import Calibration
    from tsm_edge.video.places import frames_at_places, open_clip

    for clip in clips:
        open_clip(clip).close()

    def read(preprocess: Preprocess) -> Calibration:
        frames = [part for clip in clips for part in frames_at_places(clip, preprocess)]
        return Calibration(tuple(frames), ", ".join(clip.name for clip in clips))

    return read


def _next_command(artifact: Artifact) -> str:
    """How this model can be tried: here, under an emulator, or only on the device."""
    path = shlex.quote(str(artifact.path))
    if runs_here(artifact.manifest.target):
        return f"tsm-edge verify {path}"
    deploy = f"tsm-edge deploy {path} {'--adb' if artifact.manifest.target.android else 'USER@HOST'}"
    emulate = f"tsm-edge verify {path} --emulate, or on the device: "
    return f"{emulate if (artifact.path / RUNNER).exists() else ''}{deploy}"


def _print_json(artifact: Artifact, explanation: AnyExplanation | None, seconds: float) -> None:
    deployed = [{"name": path.name, "size": path.stat().st_size} for path in deployed_paths(artifact)]
    table: dict[str, object] = {
        "path": artifact.path,
        "manifest": artifact.manifest,
        "seconds": round(seconds, 1),
        "deployed": deployed,
    }
    if explanation is not None:
        table["explain"] = explanation_table(explanation)
    print_json(table)


def _print(artifact: Artifact, seconds: float) -> None:
    manifest = artifact.manifest
    target, memory = manifest.target, manifest.memory
    flops, taken = sum(kernel.flops for kernel in manifest.kernels), _taken(manifest)
    rows = [
        ("model", manifest.model),
        ("target", f"{target.name} ({target.cpu.triple}, {target.cpu.cpu}, {target.libc})"),
        (taken, f"{manifest.frame.dtype} {list(manifest.frame.shape)}"),
        ("logits", f"{manifest.logits.dtype} {list(manifest.logits.shape)}{_made_by(manifest.activation)}"),
        *(_clip_rows(manifest) if manifest.clip else _cache_rows(manifest)),
        ("weights", f"{memory.weight_bytes / 1e6:.1f} MB, {manifest.weights}"),
        ("workspace", f"{memory.workspace_bytes / 1e6:.1f} MB, planned at compile time"),
        *([("memory", f"{_memory(manifest)} with weights")] if target.device == "cpu" else []),
        (
            "kernels",
            f"{len(manifest.kernels)} calls, {flops / 1e9:.3f} GFLOP a {'step' if manifest.clips > 1 else taken}",
        ),
        *([("tuned", f"{manifest.tuned} kernels as tuning records say")] if manifest.tuned else []),
        *([("threads", f"{manifest.threads}, as tuning records say")] if manifest.threads else []),
        ("model.so", _size(artifact.library)),
        *_runner_row(artifact),
        ("on a device", _on_a_device(artifact)),
        ("compile time", f"{seconds:.1f} s, everything included"),
    ]
    print_table(str(artifact.path), ("", ""), rows)


def _memory(manifest: Manifest) -> str:
    """What the model takes, planned: `tests/runtime/test_memory.py` measures it."""
    threads = manifest.threads.count if manifest.threads else 1
    of_one = "1 thread" if threads == 1 else f"{threads} threads"
    return f"{manifest.memory.with_stream(threads) / 1e6:.1f} MB, a stream of {of_one}"


def _taken(manifest: Manifest) -> str:
    """What a step takes."""
    return "frame" if not manifest.clip else "clip" if manifest.clips == 1 else f"{manifest.clips} clips"


def _clip_rows(manifest: Manifest) -> list[tuple[str, str]]:
    frames = manifest.outputs[1]
    return [(frames.name.replace("_", " "), f"{frames.dtype} {list(frames.shape)}, of every frame")]


def _cache_rows(manifest: Manifest) -> list[tuple[str, str]]:
    caches, size = manifest.caches, manifest.memory.cache_bytes / 2 / 1e3
    return [
        ("shift caches", f"{len(caches)}, {size:.0f} kB (kept twice: read one, write the other)"),
        *_fed_back(caches),
    ]


def _fed_back(caches: Sequence[CacheInfo]) -> list[tuple[str, str]]:
    """Which output becomes which input of the next frame: a line for each, or one where all are named alike."""
    if not caches or all(cache.output == f"{cache.input}_next" for cache in caches):
        return [("fed back", f"{cache.output} to {cache.input}, and so on") for cache in caches[:1]]
    return [("fed back", f"{cache.output} to {cache.input}, {list(cache.shape)}") for cache in caches]


def _made_by(activation: str) -> str:
    return f", probabilities: the model ends in a {activation}" if activation else ""


def _runner_row(artifact: Artifact) -> list[tuple[str, str]]:
    path = artifact.runner
    if path is None:
        return []
    how = "static, with the model inside" if artifact.manifest.target.static_runner else "opens the model.so beside it"
    return [(RUNNER, f"{_size(path)}, {how}")]


def _on_a_device(artifact: Artifact) -> str:
    """What ``deploy`` copies, and its size."""
    paths = deployed_paths(artifact)
    return f"{_size(*paths)}: {', '.join(path.name for path in paths)}"


def _size(*paths: Path) -> str:
    size = sum(path.stat().st_size for path in paths)
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
