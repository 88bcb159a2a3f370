"""The fallback rule: any function TVM can express in blocks → plain kernels over ranges of work items.

Each block becomes a kernel of its own, with its spatial loops outside as the work items, its reduction below them and
the innermost spatial loop last, where it runs over consecutive memory and LLVM turns it into vectors. Where TVM
cannot prove that the outer loop's iterations are independent, the kernel is one work item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any, Literal

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.schedule import ScheduleError

from tsm_edge.compile.backends.operators.statements import NotPlain, buffer_bytes, refuse_calls, walk
from tsm_edge.compile.ir.kernel import FALLBACK_RULE, Argument, Items, Role, Stage
from tsm_edge.runtime import most_buffers

Grain = Literal["runs", "elements"]
# Longest run of consecutive elements in one work item.
MAX_RUN = 4096
# Characters of what TVM says: it may print whole functions.
LONGEST_REASON = 200


@dataclass(frozen=True)
class GenericSpec:
    """A kernel made from a TVM function (a ``KernelSpec``); equal code makes equal specs.

    Attributes
    ----------
    operator : str
        The ONNX operator it came from.
    code : str
        The kernel as TVM script: what equality means.
    arguments : tuple of Argument
        In order: those read, then those written.
    parallel : Items
    flops, bytes : int
        Floating-point operations, and bytes of the buffers touched.
    function : tvm.tirx.PrimFunc
        The kernel, still without a symbol name.
    """

    operator: str
    code: str
    arguments: tuple[Argument, ...]
    parallel: Items
    flops: int
    bytes: int
    function: Any = field(compare=False, repr=False)

    @property
    def rule(self) -> str:
        """The fallback."""
        return FALLBACK_RULE

    @property
    def warp_slots(self) -> float:
        """Not modelled."""
        return 0

    @property
    def scratch_bytes(self) -> int:
        """None: what it needs is on the stack."""
        return 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """None."""
        return ()

    def describe(self) -> str:
        """The operator."""
        return self.operator

    def write(self, name: str) -> Any:
        """See :func:`generic`."""
        return generic(name, self)


@dataclass(frozen=True)
class Part:
    """One kernel of a function.

    Attributes
    ----------
    spec : GenericSpec
    reads, writes : tuple of str
        Its buffers: names of the function's parameters (``p0``, ``p1``, …) and of its temporaries.
    """

    spec: GenericSpec
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """A function as kernels in execution order, and the bytes of each temporary they hand on."""

    parts: tuple[Part, ...]
    temporaries: dict[str, int]


def by_tvm(work: Callable[[], Any]) -> Any:
    """Let TVM do something it may not know how to do; its many kinds of error become one."""
    try:
        return work()
    except NotPlain:
        raise
    except Exception as error:  # noqa: BLE001 - TVM's errors have no common base below Exception
        lines = str(error).strip().splitlines()
        reason = shorten(lines[-1], LONGEST_REASON, placeholder=" …") if lines else type(error).__name__
    # Without the error, whose frames keep alive what TVM left unfinished.
    raise NotPlain(reason)


def generic(name: str, spec: GenericSpec) -> Any:
    """Give the kernel its symbol, and its buffers one dimension; returns its PrimFunc."""
    attributes = {"global_symbol": name, "calling_conv": 1, "tirx.noalias": True}
    module = tvm.IRModule({name: spec.function.with_attr(attributes)})
    return tirx.transform.FlattenBuffer()(module)[name]


def parts_of(function: Any, operator: str, items: Grain = "runs") -> Parts:
    """Schedule a TVM function and split it into kernels.

    Parameters
    ----------
    function : tvm.tirx.PrimFunc
        In blocks, as ``relax.transform.LegalizeOps`` makes it.
    operator : str
        The ONNX operator, for the specs.
    items : str
        What a work item is: ``runs`` of consecutive elements (threads of a CPU), or single ``elements`` (of a GPU).

    Raises
    ------
    NotPlain
        It calls a TVM runtime function, or its shapes are not static.
    """
    schedule = s_tir.Schedule(tvm.IRModule({"main": function}))
    _inline(schedule)
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        _schedule_block(schedule, block, items)
    return _split(_lowered(schedule.mod), operator)


def _lowered(module: Any) -> Any:
    """The function as plain loops, with all indices in 32 bits."""
    loops = by_tvm(lambda: _LOWERING(module))
    try:
        narrow = tirx.transform.ForceNarrowIndexToInt32()(loops)
    except tvm.error.InternalError:
        # It refuses functions that read int64 tensors (Gather). The other pass leaves index arithmetic in int64 where
        # its result is used as a number, which 32-bit ARM converts to float by a library call.
        narrow = tirx.transform.NarrowDataType(32)(loops)
    return tirx.transform.StmtSimplify()(narrow)["main"]


_LOWERING = tvm.ir.transform.Sequential(
    [
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.LowerOpaqueBlock(),
    ]
)


def _inline(schedule: Any) -> None:
    """Inline element-wise blocks into their only consumer, unless that one would compute them again and again."""
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        consumers = schedule.get_consumers(block)
        if len(consumers) != 1 or _has_reduction(schedule, block) or _has_reduction(schedule, consumers[0]):
            continue
        try:
            schedule.compute_inline(block)
        except ScheduleError:
            continue


def _has_reduction(schedule: Any, block: Any) -> bool:
    return any(axis.iter_type != tirx.IterVar.DataPar for axis in schedule.get(block).iter_vars)


def _schedule_block(schedule: Any, block: Any, items: Grain) -> None:
    """Work items outside, reduction loops next, a run over consecutive memory innermost."""
    axes = schedule.get(block).iter_vars
    loops = schedule.get_loops(block)
    kinds = [axis.iter_type for axis in axes]
    known = {tirx.IterVar.DataPar, tirx.IterVar.CommReduce}
    if len(loops) != len(axes) or not set(kinds) <= known or tirx.IterVar.DataPar not in kinds:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
    reduction = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.CommReduce]
    try:
        if items == "elements":
            _fuse_all(schedule, block, spatial, reduction)
        else:
            _reorder(schedule, block, spatial, reduction)
    except ScheduleError:
        return  # as written, one work item


def _fuse_all(schedule: Any, block: Any, spatial: list[Any], reduction: list[Any]) -> None:
    outer = schedule.fuse(*spatial) if len(spatial) > 1 else spatial[0]
    schedule.reorder(outer, *reduction)
    schedule.parallel(outer)
    if reduction:
        schedule.decompose_reduction(block, reduction[0])


def _reorder(schedule: Any, block: Any, spatial: list[Any], reduction: list[Any]) -> None:
    if not reduction and _is_flat(schedule.get(block)):
        outer, inner = _split_run(schedule, schedule.fuse(*spatial))
    else:
        wide = [loop for loop in spatial if int(schedule.get(loop).extent) > 1] or spatial[-1:]
        rest = [loop for loop in spatial if loop not in wide[-1:]]
        if reduction and not _is_contiguous(schedule, block, wide[-1]):
            outer, inner = schedule.fuse(*spatial) if len(spatial) > 1 else spatial[0], None
        elif math.prod(int(schedule.get(loop).extent) for loop in rest) > 1:
            schedule.reorder(*rest, wide[-1])
            outer, inner = schedule.fuse(*rest) if len(rest) > 1 else rest[0], wide[-1]
        else:
            outer, inner = _split_run(schedule, wide[-1])
    schedule.reorder(outer, *reduction, *([inner] if inner is not None else []))
    schedule.parallel(outer)
    if reduction:
        schedule.decompose_reduction(block, reduction[0])


def _split_run(schedule: Any, loop: Any) -> tuple[Any, Any]:
    """Split a long loop into work items of whole runs."""
    extent = int(schedule.get(loop).extent)
    fitting = [run for run in range(1, MAX_RUN + 1) if extent % run == 0]
    run = fitting[-1] if fitting[-1] * 8 >= min(extent, MAX_RUN) else MAX_RUN
    outer, inner = schedule.split(loop, [None, run])
    return outer, inner


def _is_flat(block: Any) -> bool:
    """Whether the block maps element i of every buffer to element i, so that its loops are one loop."""
    axes = [axis.var for axis in block.iter_vars]
    extents = [int(axis.dom.extent) for axis in block.iter_vars]
    plain: list[bool] = []

    def visit(buffer: Any, indices: Any) -> None:
        same = len(indices) == len(axes) and all(map(_same_variable, indices, axes))
        plain.append(same and [int(extent) for extent in buffer.shape] == extents)

    walk(
        block.body,
        (tvm.ir.TensorLoad, lambda load: visit(load.source, load.indices)),
        (tirx.BufferStore, lambda store: visit(store.buffer, store.indices)),
    )
    return all(plain)


def _same_variable(index: Any, variable: Any) -> bool:
    return bool(index.same_as(variable))


def _is_contiguous(schedule: Any, block: Any, loop: Any) -> bool:
    """Whether neighbouring iterations of a loop read neighbouring elements (or the same), never distant ones."""
    body = schedule.get(block)
    position = next(index for index, item in enumerate(schedule.get_loops(block)) if _loop_is(schedule, item, loop))
    variable = body.iter_vars[position].var
    last: list[bool] = []
    others: list[bool] = []

    def uses(index: Any) -> bool:
        return any(item.same_as(variable) for item in tirx.analysis.undefined_vars(index, []))

    def visit(load: Any) -> None:
        if load.indices and not any(load.source.same_as(region.source) for region in body.writes):
            others.extend(uses(index) for index in load.indices[:-1])
            last.append(uses(load.indices[-1]))

    walk(body.body, (tvm.ir.TensorLoad, visit))
    return any(last) and not any(others)


def _loop_is(schedule: Any, a: Any, b: Any) -> bool:
    return bool(schedule.get(a).loop_var.same_as(schedule.get(b).loop_var))


def _split(function: Any, operator: str) -> Parts:
    """Cut the lowered body into its loop nests; what they hand on becomes pointer arguments."""
    body = list(function.body.seq) if isinstance(function.body, tirx.SeqStmt) else [function.body]
    names = {parameter: f"p{index}" for index, parameter in enumerate(function.params)}
    temporaries: dict[str, int] = {}
    groups: list[list[Any]] = []
    for statement in body:
        if isinstance(statement, tirx.AllocBuffer):
            name = f"t{len(temporaries)}"
            names[statement.buffer] = name
            temporaries[name] = buffer_bytes(statement.buffer)
        elif groups and _may_join(groups[-1], statement, names):
            groups[-1].append(statement)
        else:
            groups.append([statement])
    return Parts(tuple(_part(group, names, operator) for group in groups), temporaries)


def _may_join(group: list[Any], statement: Any, names: Mapping[Any, str]) -> bool:
    """Nests of one work item each are one kernel, as long as it has few buffers."""
    if _is_parallel(group[-1]) or _is_parallel(statement):
        return False
    return len(_buffers(tirx.stmt_seq(*group, statement), names)) <= most_buffers()


def _is_parallel(statement: Any) -> bool:
    return isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.PARALLEL


def _buffers(statement: Any, names: Mapping[Any, str]) -> list[Any]:
    return [buffer for buffer in tirx.analysis.undefined_vars(statement, []) if buffer in names]


def _part(group: list[Any], names: Mapping[Any, str], operator: str) -> Part:
    statement = tirx.stmt_seq(*group)
    refuse_calls(statement)
    written: list[Any] = []
    walk(statement, (tirx.BufferStore, lambda store: written.append(store.buffer)))
    writes = tuple(dict.fromkeys(names[buffer] for buffer in written if buffer in names))
    reads = tuple(names[buffer] for buffer in _buffers(statement, names) if names[buffer] not in writes)
    if len(reads) + len(writes) > most_buffers():
        raise NotPlain(f"one of its kernels has {len(reads) + len(writes)} buffers, and {most_buffers()} is the most")
    by_name = {name: buffer for buffer, name in names.items()}
    order = [by_name[name] for name in (*reads, *writes)]
    function, items = _kernel(statement, order)
    roles: list[Role] = ["input" if name in reads else "output" for name in (*reads, *writes)]
    spec = GenericSpec(
        operator=operator,
        code=function.script(),
        arguments=tuple(
            Argument(f"b{index}", role, str(buffer.dtype))
            for index, (role, buffer) in enumerate(zip(roles, order, strict=True))
        ),
        parallel=Items(items),
        flops=int(s_tir.analysis.estimate_tir_flops(statement)),
        bytes=sum(map(buffer_bytes, order)),
        function=function,
    )
    return Part(spec, reads, writes)


def _kernel(statement: Any, buffers: list[Any]) -> tuple[Any, int]:
    """``void kernel(begin, end, buffers…)`` around one loop nest, and its number of work items."""
    begin, end, step = (tirx.Var(name, "int32") for name in ("begin", "end", "step"))
    pointers = [
        tirx.Var(f"b{index}_ptr", tvm.ir.PointerType(tvm.ir.PrimType(buffer.dtype), "global"))
        for index, buffer in enumerate(buffers)
    ]
    items, body = 1, [statement]
    if _is_parallel(statement):
        index = (begin + step).astype(str(statement.loop_var.ty.dtype))
        items, body = int(statement.extent), [tirx.Bind(statement.loop_var, index), statement.body]
    declared = [tirx.DeclBuffer(buffer, data=pointer) for buffer, pointer in zip(buffers, pointers, strict=True)]
    loop = tirx.For(step, 0, end - begin, tirx.ForKind.SERIAL, tirx.stmt_seq(*body))
    function = tirx.PrimFunc([begin, end, *pointers], tirx.stmt_seq(*declared, loop))
    loose = tirx.analysis.undefined_vars(function.body, list(function.params))
    if loose:
        raise NotPlain(f"a kernel of it needs {loose[0].name} from outside")
    return function, items
