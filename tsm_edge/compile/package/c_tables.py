"""The program as C tables (``model.c``) and its constants as an assembler file (``constants.s``)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np

from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards.normalisation import scale_and_offset
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.memory_plan import ALIGNMENT, MemoryPlan, plan_memory
from tsm_edge.compile.ir.program import BufferRef, KernelCall, Program, StoredLevels

WEIGHTS_FILE = "weights.bin"
MANIFEST_FILE = "embedded-manifest.json"


def block_offsets(sizes: Sequence[int], alignment: int = ALIGNMENT) -> tuple[list[int], int]:
    """Aligned byte offsets of consecutive parts, and the size of the block."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += ceil_div(size, alignment) * alignment
    return offsets, end


def cache_bytes(program: Program, alignment: int = ALIGNMENT) -> int:
    """Size of one set of shift caches in a stream."""
    return block_offsets([image.bytes for image in program.caches], alignment)[1]


def write_sources(
    folder: Path, graph: OnlineGraph, programs: Sequence[Program], plans: Sequence[MemoryPlan], manifest: Manifest
) -> tuple[Path, Path]:
    """Write ``model.c``, ``constants.s`` and the two binary files it includes; returns the two to compile.

    Several programs are of one network, with the same shift caches; weights that they share are there once.
    """
    arrays, numbers = shared_weights(programs)
    offsets, _ = write_weights(folder / WEIGHTS_FILE, arrays)
    constants = write_constants(folder, manifest)
    source = folder / "model.c"
    weight_offsets = [[offsets[number] for number in of_program] for of_program in numbers]
    source.write_text(_model_source(graph, programs, plans, weight_offsets, manifest), "utf-8")
    return source, constants


def shared_weights(programs: Sequence[Program]) -> tuple[Sequence[np.ndarray], Sequence[Sequence[int]]]:
    """The weights of all programs, each once, and the numbers of every program's own."""
    of_programs = [(*program.weights, *(program.newer.weights if program.newer else ())) for program in programs]
    return _unique(of_programs) if len(programs) > 1 else (of_programs[0], [range(len(of_programs[0]))])


def _unique(groups: Sequence[Sequence[np.ndarray]]) -> tuple[list[np.ndarray], list[list[int]]]:
    """Arrays without those that are there already, and the number of each in every group."""
    arrays: list[np.ndarray] = []
    known: dict[bytes, int] = {}
    same: dict[int, int] = {}

    def number(array: np.ndarray) -> int:
        if id(array) not in same:
            same[id(array)] = by_content(array)
        return same[id(array)]

    def by_content(array: np.ndarray) -> int:
        found = known.setdefault(hashlib.sha256(str(array.dtype).encode() + array.tobytes()).digest(), len(arrays))
        if found == len(arrays):
            arrays.append(array)
        return found

    return arrays, [[number(array) for array in group] for group in groups]


def write_constants(folder: Path, manifest: Manifest, others: Mapping[str, Path] | None = None) -> Path:
    """Write ``constants.s``, which has the weights, the manifest and other files inside, under their symbols.

    What is text ends with a zero.
    """
    (folder / MANIFEST_FILE).write_bytes(manifest.embedded().to_json().encode("utf-8") + b"\0")
    files = {"tsm_weights": folder / WEIGHTS_FILE, "tsm_manifest_json": folder / MANIFEST_FILE, **(others or {})}
    parts = [_CONSTANT.format(symbol=symbol, path=path) for symbol, path in files.items()]
    constants = folder / "constants.s"
    constants.write_text("".join([_BEGIN, *parts, _END]), "utf-8")
    return constants


_BEGIN = """\
    .section .rodata,"a",%progbits
"""
_CONSTANT = """\
    .p2align 6
    .globl {symbol}
    .hidden {symbol}
{symbol}:
    .incbin "{path}"
"""
_END = """\
    .section .note.GNU-stack,"",%progbits
"""


def write_weights(path: Path, weights: Sequence[np.ndarray], alignment: int = ALIGNMENT) -> tuple[list[int], int]:
    """Write the weights one after the other; returns their offsets and the size of all."""
    offsets, total = block_offsets([array.nbytes for array in weights], alignment)
    with path.open("wb") as stream:
        for offset, array in zip(offsets, weights, strict=True):
            stream.write(b"\0" * (offset - stream.tell()))
            stream.write(array.tobytes())
        stream.write(b"\0" * (max(total, alignment) - stream.tell()))
    return offsets, total


def cache_lines(graph: OnlineGraph, program: Program, alignment: int) -> list[str]:
    """C of the table of caches that :func:`model_lines` names."""
    cache_offsets, _ = block_offsets([image.bytes for image in program.caches], alignment)
    caches = [
        f"    {{{c_string(pair.input)}, {c_string(pair.output)}, {image.channels}, {image.height}, {image.width}, "
        f"{image.pixel}, {image.channel}, {offset}u, {_FORMS[image.dtype]}, {c_float(levels.step)}, {levels.zero}, "
        f"{levels.flip}}},"
        for pair, image, offset, levels in zip(
            graph.caches, program.caches, cache_offsets, program.cache_levels or repeat(_NO_LEVELS), strict=False
        )
    ]
    return ["static const tsm_cache caches[] = {", *(caches or ["    {0},"]), "};", ""]


def _output_lines(program: Program, plan: MemoryPlan, manifest: Manifest) -> list[str]:
    """What a ``tsm_model`` says of its outputs: the logits, and of a clip those of every frame."""
    places = [program.logits, *([] if program.frame_logits is None else [program.frame_logits])]
    return [
        f"    .n_outputs = {len(places)},",
        "    .outputs = (const tsm_output_info[]){",
        *(
            f"        {{{c_string(output.name)}, {{{', '.join(map(str, output.shape))}}}, {len(output.shape)}, "
            f"{plan.offsets[index]}u}},"
            for output, index in zip(manifest.outputs, places, strict=True)
        ),
        "    },",
    ]


def model_lines(
    graph: OnlineGraph,
    program: Program,
    plan: MemoryPlan,
    manifest: Manifest,
    alignment: int,
    declared: str = "const tsm_model tsm_the_model",
) -> list[str]:
    """C of a ``tsm_model`` (see ``model.h``), but for its calls."""
    logits_shape = manifest.logits.shape
    scale, offset = scale_and_offset(manifest.preprocess)
    return [
        f"{declared} = {{",
        "    .manifest = tsm_manifest_json,",
        f"    .frame_name = {c_string(graph.frame)},",
        f"    .logits_name = {c_string(graph.logits)},",
        f"    .frame_shape = {{{', '.join(map(str, manifest.frame_shape))}}},",
        f"    .logits_shape = {{{', '.join(map(str, logits_shape))}}},",
        f"    .logits_rank = {len(logits_shape)},",
        f"    .classes = {logits_shape[-1]},",
        f"    .clips = {manifest.clips},",
        f"    .scale = {{{', '.join(map(c_float, scale.tolist()))}}},",
        f"    .offset = {{{', '.join(map(c_float, offset.tolist()))}}},",
        f"    .workspace_bytes = {plan.bytes}u,",
        f"    .cache_bytes = {cache_bytes(program, alignment)}u,",
        f"    .logits_offset = {plan.offsets[program.logits]}u,",
        *_output_lines(program, plan, manifest),
        f"    .n_calls = {len(program.calls)},",
        f"    .n_caches = {len(program.caches)},",
        "    .caches = caches,",
        "    .weights = tsm_weights,",
    ]


def _model_source(
    graph: OnlineGraph,
    programs: Sequence[Program],
    plans: Sequence[MemoryPlan],
    weight_offsets: Sequence[Sequence[int]],
    manifest: Manifest,
) -> str:
    first = programs[0]
    calls = [call for program in programs for call in (*program.calls, *program.byte_calls)]
    lines = [
        "/* Generated by tsm-edge: the program as tables (see model.h). */",
        '#include "model.h"',
        "",
        "extern const unsigned char tsm_weights[];",
        "extern const char tsm_manifest_json[];",
        "",
        *cache_lines(graph, first, ALIGNMENT),
    ]
    newer, needed = first.newer, manifest.target.newer
    if newer is not None and needed is not None:
        memory = plan_memory(newer.workspace, ALIGNMENT)
        lines += _wrappers((*newer.calls, *newer.byte_calls))
        lines += _call_lines(newer, memory, weight_offsets[0][len(first.weights) :], "newer_calls")
        lines += model_lines(graph, newer, memory, manifest, ALIGNMENT, "static const tsm_model newer_model")
        lines += [*_step_lines(newer, "newer_calls"), f"    .needs = {needed.needs}ul,", "};", ""]
    lines += _wrappers(calls)
    names = ["tsm_the_model", *(f"other_model_{number}" for number in range(1, len(programs)))]
    for name, program, plan, offsets in zip(names, programs, plans, weight_offsets, strict=True):
        of_first = program is first
        table = "calls" if of_first else f"{name}_calls"
        lines += _call_lines(program, plan, offsets, table)
        declared = f"{'' if of_first else 'static '}const tsm_model {name}"
        lines += model_lines(graph, program, plan, manifest, ALIGNMENT, declared)
        lines += _step_lines(program, table)
        lines += [*(["    .newer = &newer_model,"] if of_first and newer else []), "};", ""]
    listed = ", ".join(f"&{name}" for name in names)
    lines += [f"const tsm_model *const tsm_programs[] = {{{listed}}};", f"const int32_t tsm_n_programs = {len(names)};"]
    return "\n".join([*lines, ""])


def _wrappers(calls: Iterable[KernelCall]) -> list[str]:
    return [*map(_wrapper, {call.kernel: call for call in calls}.values()), ""]


def _call_lines(program: Program, plan: MemoryPlan, weight_offsets: Sequence[int], table: str) -> list[str]:
    """The table of calls."""
    cache_offsets, _ = block_offsets([image.bytes for image in program.caches])
    offsets = {"workspace": plan.offsets, "weights": weight_offsets, "cache": cache_offsets}
    calls = (*program.calls, *program.byte_calls)
    return [
        f"static const tsm_call {table}[] = {{",
        *(
            f"    {{run_{call.kernel}, {call.items.count}, {call.items.grain}, {int(call.items.resumes)}, "
            f"{len(call.spec.stages)}, {len(call.buffers)}, "
            f"{{{', '.join(c_buffer(ref, offsets) for ref in call.buffers)}}}}}, "
            f"/* {c_comment(call.layer)} */"
            for call in calls
        ),
        "};",
        "",
    ]


def _step_lines(program: Program, table: str) -> list[str]:
    """What a ``tsm_model`` says of its calls."""
    return [
        f"    .scratch_bytes = {block_offsets([program.scratch_bytes])[1]}u,",
        f"    .n_byte_calls = {len(program.byte_calls)},",
        f"    .replaced_calls = {program.replaced_calls},",
        f"    .calls = {table},",
    ]


def _wrapper(call: KernelCall) -> str:
    resumes, stages = call.items.resumes, call.spec.stages
    numbers = ["begin", "end", *(["resumed"] if resumes else [])]
    pointers = [*(["clock"] if stages else []), *(f"buffers[{index}]" for index in range(len(call.buffers)))]
    parameters = [*["int32_t"] * len(numbers), *["void *"] * len(pointers)]
    lines = [
        f"extern void {call.kernel}({', '.join(parameters)});",
        f"static void run_{call.kernel}(void *const *buffers, int32_t begin, int32_t end, int32_t resumed, "
        "tsm_clock *clock) {",
        *([] if resumes else ["  (void)resumed;"]),
        *([] if stages else ["  (void)clock;"]),
        f"  {call.kernel}({', '.join([*numbers, *pointers])});",
        "}",
    ]
    return "\n".join(lines)


_FORMS = {"float32": "TSM_FLOAT", "float16": "TSM_HALF", "uint8": "TSM_BYTE"}
_NO_LEVELS = StoredLevels(0.0, 0, 0)
SPACES = {
    "frame": "TSM_FRAME",
    "frame_bytes": "TSM_FRAME",
    "workspace": "TSM_WORKSPACE",
    "weights": "TSM_WEIGHTS",
    "cache": "TSM_CACHE",
    "next_cache": "TSM_NEXT_CACHE",
    "scratch": "TSM_SCRATCH",
}


def c_buffer(ref: BufferRef, offsets: Mapping[str, Sequence[int]], spaces: Mapping[str, str] = SPACES) -> str:
    """C of where a buffer is, by the names that a device has for memory."""
    table = offsets.get("cache" if ref.space == "next_cache" else ref.space)
    return f"{{{spaces[ref.space]}, {table[ref.index] if table else 0}u}}"


def c_float(value: float) -> str:
    """A C literal of exactly that float32 value."""
    return f"{value.hex()}f"


def c_string(text: str) -> str:
    """A C string literal; every byte that is not plain is written in octal (a question mark could be a trigraph)."""
    plain = b"".join(bytes([byte]) if _is_plain(byte) else b"\\%03o" % byte for byte in text.encode("utf-8"))
    return f'"{plain.decode("ascii")}"'


def _is_plain(byte: int) -> bool:
    return 0x20 <= byte < 0x7F and byte not in b'"\\?'


def c_comment(text: str) -> str:
    """The text as it may stand in a C comment."""
    return text.replace("*/", "* /")
