"""One PTX instruction as one C statement.

The approximate functions (``ex2.approx`` and the like) are those of the C library, which are more exact; numbers below
the smallest normal one stay as they are (``.ftz`` flushes them to zero on a GPU).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tsm_edge.verify.standin.instruction import Instruction, Names, c_type, register
from tsm_edge.verify.standin.ptx import PtxError, operands, type_bytes

_COMPARE = {
    **{"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="},
    **{"lo": "<", "ls": "<=", "hi": ">", "hs": ">="},
}
_FUNCTIONS = {
    **{"ex2": "exp2f({0})", "lg2": "log2f({0})", "rcp": "1.f / {0}", "rsqrt": "1.f / sqrtf({0})", "sqrt": "sqrtf({0})"},
    **{"sin": "sinf({0})", "cos": "cosf({0})", "tanh": "tanhf({0})", "abs": "fabsf({0})", "neg": "-{0}"},
}
_ROUND = {"rmi": "floor", "rpi": "ceil", "rzi": "trunc", "rni": "nearbyint"}


def translate(text: str, line: int, names: Names) -> str:
    """C of an instruction, its predicate included.

    Raises
    ------
    PtxError
        The instruction is not known.
    """
    guard = ""
    predicate = re.match(r"@(!?)(%[\w]+)\s+", text)
    if predicate:
        guard, text = f"if ({predicate[1]}{register(predicate[2])}) ", text[predicate.end() :]
    opcode, _, rest = text.partition(" ")
    words = opcode.split(".")
    writer = _WRITERS.get(words[0])
    if writer is None:
        raise PtxError(f"line {line}: no instruction {opcode}")
    try:
        return f"{guard}{{ {writer(Instruction(words, operands(rest), line, names))} }}"
    except (IndexError, KeyError):
        raise PtxError(f"line {line}: no form {text!r}") from None


def _binary(sign: str) -> Callable[[Instruction], str]:
    def write(i: Instruction) -> str:
        if i.kind in ("f32", "f64", "f16"):
            if i.has("rz"):
                return i.write(f"standin_toward_zero((double){i.read(1)} {sign} (double){i.read(2)})")
            return i.write(f"{i.read(1)} {sign} {i.read(2)}")
        if i.kind == "f16x2":
            value = f"standin_f16(a) {sign} standin_f16(b)"
            value = f"standin_saturate({value})" if i.has("sat") else value
            return i.write(_halves(i, f"standin_bits_f16({value})", 2))
        if sign == "/" or sign == "%":
            zero = f"{i.read(2)} == 0 ? ({c_type(i.kind)})-1 : "
            return i.write(f"{zero}{i.read(1)} {sign} {i.read(2)}")
        if i.has("hi"):
            wide = "int64_t" if i.kind.startswith("s") else "uint64_t"
            bits = 8 * type_bytes(i.kind)
            if bits == 64:
                wide = wide.replace("int64_t", "__int128").replace("u__int128", "unsigned __int128")
            return i.write(f"(({wide}){i.read(1)} * ({wide}){i.read(2)}) >> {bits}")
        if i.has("wide"):
            wide = f"{i.kind[0]}{16 * type_bytes(i.kind)}"
            return i.write(f"({c_type(wide)}){i.read(1)} * ({c_type(wide)}){i.read(2)}", wide)
        return i.write(f"(uint64_t){i.read(1)} {sign} (uint64_t){i.read(2)}")

    return write


def _halves(i: Instruction, expression: str, count: int) -> str:
    """Of two halves in a word: the expression of a, b (and c) for the lower and for the upper."""
    results = []
    for shift in (0, 16):
        part = expression
        for position, name in enumerate("abc"[:count]):
            part = re.sub(rf"\b{name}\b", f"(uint16_t)({i.read(1 + position, 'b32')} >> {shift})", part)
        results.append(part)
    return f"standin_pair({', '.join(results)})"


def _fma(i: Instruction) -> str:
    if i.kind in ("f16", "f16x2") and i.has("sat"):
        raise KeyError("a saturated product of halves")
    if i.kind == "f16x2":
        return i.write(f"standin_fma_f16x2({', '.join(i.read(n, 'b32') for n in (1, 2, 3))})")
    if i.kind == "f16":
        values = ", ".join(f"(uint16_t){i.read(n, 'b16')}" for n in (1, 2, 3))
        return i.write(f"standin_fma_f16({values})", "b16")
    if i.has("rz"):
        return i.write(f"standin_toward_zero((double){i.read(1)} * (double){i.read(2)} + (double){i.read(3)})")
    return i.write(f"{'fmaf' if i.float32 else 'fma'}({i.read(1)}, {i.read(2)}, {i.read(3)})")


def _mad(i: Instruction) -> str:
    if i.kind in ("f32", "f64"):
        return _fma(i)
    if i.has("wide"):
        wide = f"{i.kind[0]}{16 * type_bytes(i.kind)}"
        product = f"({c_type(wide)}){i.read(1)} * ({c_type(wide)}){i.read(2)}"
        return i.write(f"(uint64_t)({product}) + (uint64_t){i.read(3, wide)}", wide)
    if i.has("hi"):
        wide = "int64_t" if i.kind.startswith("s") else "uint64_t"
        return i.write(f"((({wide}){i.read(1)} * ({wide}){i.read(2)}) >> 32) + {i.read(3)}")
    return i.write(f"(uint64_t){i.read(1)} * (uint64_t){i.read(2)} + (uint64_t){i.read(3)}")


def _function(name: str) -> Callable[[Instruction], str]:
    def write(i: Instruction) -> str:
        if i.float32:
            return i.write(_FUNCTIONS[name].format(i.read(1)))
        if i.kind == "f16x2" and name in ("neg", "abs"):
            return i.write(f"{i.read(1)} {'^ 0x80008000u' if name == 'neg' else '& 0x7fff7fffu'}")
        if name == "neg":
            return i.write(f"0 - (uint64_t){i.read(1)}") if i.kind[0] in "su" else i.write(f"-{i.read(1)}")
        if name == "abs" and i.kind.startswith("s"):
            return i.write(f"{i.read(1)} < 0 ? 0 - (uint64_t){i.read(1)} : (uint64_t){i.read(1)}")
        raise KeyError(name)

    return write


def _extreme(name: str) -> Callable[[Instruction], str]:
    def write(i: Instruction) -> str:
        function = f"standin_{name}_nan" if i.has("NaN") else f"f{name}f"
        if i.float32:
            return i.write(f"{function}({i.read(1)}, {i.read(2)})")
        if i.kind == "f16":
            return i.write(f"{function}({i.read(1)}, {i.read(2)})")
        if i.kind == "f16x2":
            return i.write(_halves(i, f"standin_bits_f16({function}(standin_f16(a), standin_f16(b)))", 2))
        sign = "<" if name == "min" else ">"
        return i.write(f"{i.read(1)} {sign} {i.read(2)} ? {i.read(1)} : {i.read(2)}")

    return write


def _logic(sign: str) -> Callable[[Instruction], str]:
    return lambda i: i.write(f"{i.read(1)} {sign} {i.read(2)}")


def _not(i: Instruction) -> str:
    return i.write(f"!{i.read(1)}" if i.kind == "pred" else f"~{i.read(1)}")


def _shift(i: Instruction) -> str:
    bits = 8 * type_bytes(i.kind)
    if i.words[0] == "shl":
        return i.write(f"standin_left({i.read(1)}, {i.read(2, 'u32')}, {bits})")
    signed = "_signed" if i.kind.startswith("s") else ""
    return i.write(f"standin_right{signed}({i.read(1)}, {i.read(2, 'u32')}, {bits})")


def _compare(i: Instruction) -> str:
    sign, kind = i.words[1], i.kind
    left, right = i.read(1), i.read(2)
    if kind in ("f32", "f64", "f16"):
        unordered = f"isnan({left}) || isnan({right})"
        if sign == "nan":
            test = unordered
        elif sign == "num":
            test = f"!({unordered})"
        elif sign.endswith("u"):
            test = f"{unordered} || {left} {_COMPARE[sign[:-1]]} {right}"
        else:
            ordered = f"!({unordered}) && " if sign == "ne" else ""
            test = f"{ordered}{left} {_COMPARE[sign]} {right}"
    else:
        test = f"{left} {_COMPARE[sign]} {right}"
    both = next((word for word in i.words[2:-1] if word in ("and", "or", "xor")), None)
    second = i.operands[0].split("|")[1:]
    if second:
        raise PtxError(f"line {i.line}: a comparison with two results")
    if both is None:
        return i.write(f"({test})", "pred")
    c = {"and": "&&", "or": "||", "xor": "!="}[both]
    third = re.sub(r"^!", "", i.operands[3])
    negation = "!" if i.operands[3].startswith("!") else "!!"
    return i.write(f"!!({test}) {c} {negation}{register(third)}", "pred")


def _select(i: Instruction) -> str:
    # Bits, not numbers: a NaN keeps its own.
    kind = f"b{8 * type_bytes(i.kind)}"
    return i.write(f"{register(i.operands[3])} ? {i.read(1, kind)} : {i.read(2, kind)}", kind)


def _move(i: Instruction) -> str:
    kind = f"b{8 * type_bytes(i.kind)}" if i.kind != "pred" else "pred"
    if i.operands[0].startswith("{"):
        parts = i.vector(0)
        bits = 8 * type_bytes(i.kind) // len(parts)
        lines = [f"uint64_t bits_ = {i.read(1, kind)};"]
        for index, name in enumerate(parts):
            if name != "_":
                lines.append(f"{register(name)} = (uint{bits}_t)(bits_ >> {bits * index});")
        return " ".join(lines)
    if i.operands[1].startswith("{"):
        parts = i.vector(1)
        bits = 8 * type_bytes(i.kind) // len(parts)
        terms = [f"(uint64_t){i.value(name, f'b{bits}')} << {bits * index}" for index, name in enumerate(parts)]
        return i.write(" | ".join(terms), kind)
    return i.write(i.read(1, kind), kind)


def _convert(i: Instruction) -> str:
    to, source = i.words[-2], i.words[-1]
    floats = ("f16", "f32", "f64")
    value = i.read(1, source)
    rounding = next((_ROUND[word] for word in i.words if word in _ROUND), None)
    if source in floats and rounding:
        value = f"{rounding}((double){value})"
    if to in floats or source not in floats:
        return i.write(value, to)
    sign = "signed" if to.startswith("s") else "unsigned"
    return i.write(f"standin_to_{sign}({value}, {8 * type_bytes(to)})", to)


_SPACES = {"global": "global", "shared": "shared", "const": "global"}


def _access(i: Instruction) -> tuple[str, str, int]:
    """C space of a load or store, its element type, and how many elements."""
    words = [word for word in i.words[1:] if word not in ("nc", "volatile", "weak", "relaxed", "cta", "gpu", "")]
    count = next((int(word[1:]) for word in words if word in ("v2", "v4")), 1)
    space = next((word for word in words if word in (*_SPACES, "param", "local")), "generic")
    return _SPACES.get(space, space), i.kind, count


def _checked(i: Instruction, function: str, address: str, size: int) -> str:
    if function.endswith("local"):
        if i.names.local is None:
            raise PtxError(f"line {i.line}: local memory that is not declared")
        return f"standin_local({address}, {size}, {i.line}, {i.names.local[0]}, {i.names.local[1]})"
    return f"{function}({address}, {size}, {i.line})"


def _load(i: Instruction) -> str:
    space, kind, count = _access(i)
    size = type_bytes(kind)
    if space == "param":
        match = re.fullmatch(r"\[\s*([\w$]+)\s*(?:\+\s*(\d+))?\s*\]", i.operands[1])
        if match is None:
            raise PtxError(f"line {i.line}: parameter {i.operands[1]}")
        source = f"arguments + {i.names.parameters[match[1]] + int(match[2] or 0)}"
    else:
        source = _checked(i, f"standin_load_{space}", i.address(1), size * count)
    names = i.vector(0) if count > 1 else [i.operands[0]]
    lines = [f"const uint8_t *from_ = {source};", f"{c_type(kind)} value_;"]
    for index, name in enumerate(names):
        lines.append(f"memcpy(&value_, from_ + {size * index}, {size}); {register(name)} = value_;")
    return " ".join(lines)


def _store(i: Instruction) -> str:
    space, kind, count = _access(i)
    size = type_bytes(kind)
    values = i.vector(1) if count > 1 else [i.operands[1]]
    integer = f"b{8 * size}"
    to = _checked(i, f"standin_store_{space}", i.address(0), size * count)
    lines = [f"uint8_t *to_ = {to};", f"{c_type(integer)} value_;"]
    for index, value in enumerate(values):
        lines.append(f"value_ = {i.value(value, integer)}; memcpy(to_ + {size * index}, &value_, {size});")
    return " ".join(lines)


def _barrier(i: Instruction) -> str:
    if i.operands != ["0"]:
        raise PtxError(f"line {i.line}: a barrier of some threads only")
    return f"standin_barrier({i.line});"


def _bits(function: str) -> Callable[[Instruction], str]:
    def write(i: Instruction) -> str:
        count = len(i.operands) - 1
        return i.write(f"{function}({', '.join(i.read(1 + n, 'u32') for n in range(count))})", "u32")

    return write


def _funnel(i: Instruction) -> str:
    if not i.has("wrap"):
        raise PtxError(f"line {i.line}: a funnel shift that clamps")
    return i.write(f"standin_funnel({', '.join(i.read(n, 'u32') for n in (1, 2, 3))}, {int(i.has('l'))})", "u32")


_WRITERS: dict[str, Callable[[Instruction], str]] = {
    **{name: _binary(sign) for name, sign in {"add": "+", "sub": "-", "mul": "*", "div": "/", "rem": "%"}.items()},
    **{name: _function(name) for name in _FUNCTIONS},
    **{name: _extreme(name) for name in ("min", "max")},
    **{name: _logic(sign) for name, sign in {"and": "&", "or": "|", "xor": "^"}.items()},
    **dict.fromkeys(("shl", "shr"), _shift),
    **dict.fromkeys(("ret", "exit"), lambda i: "return;"),
    **dict.fromkeys(("bar", "barrier"), _barrier),
    **dict.fromkeys(("membar", "fence"), lambda i: ";"),
    "bra": lambda i: f"goto {register(i.operands[0])};",
    "fma": _fma,
    "mad": _mad,
    "not": _not,
    "setp": _compare,
    "selp": _select,
    "mov": _move,
    "cvt": _convert,
    "cvta": lambda i: i.write(i.read(1)),
    "ld": _load,
    "st": _store,
    "prmt": _bits("standin_permute"),
    "lop3": _bits("standin_lop3"),
    "bfe": _bits("standin_extract"),
    "bfi": _bits("standin_insert"),
    "shf": _funnel,
    "popc": _bits("(uint32_t)__builtin_popcount"),
    "clz": lambda i: i.write(f"{i.read(1, 'u32')} ? __builtin_clz({i.read(1, 'u32')}) : 32", "u32"),
}
