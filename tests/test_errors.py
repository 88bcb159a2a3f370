import ast
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

import tsm_edge
from tsm_edge import errors
from tsm_edge.errors import CheckFailed, TsmEdgeError, closest, unknown_name


def test_message_is_the_problem_and_the_next_step() -> None:
    error = TsmEdgeError("model.so is missing", "make it with: tsm-edge compile")
    assert str(error) == "model.so is missing; make it with: tsm-edge compile"
    assert (error.problem, error.hint) == ("model.so is missing", "make it with: tsm-edge compile")


def kinds_of(trees: Iterable[ast.AST]) -> set[str]:
    """Names of the errors a user can cause: those of errors.py, and classes made from them."""
    found = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, TsmEdgeError)}
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for _ in range(3):  # classes of classes
        found |= {node.name for node in classes if found & {getattr(base, "id", "") for base in node.bases}}
    return found


def may_be_empty(hint: ast.expr | None, tree: ast.AST) -> bool:
    """Whether an expression can be no text, as far as it is written there or where its variable is set."""
    if isinstance(hint, ast.Name):
        values = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == hint.id for target in node.targets)
        ]
        return any(may_be_empty(value, tree) for value in values)
    if isinstance(hint, ast.IfExp):
        return may_be_empty(hint.body, tree) or may_be_empty(hint.orelse, tree)
    return hint is None or (isinstance(hint, ast.Constant) and not hint.value)


def errors_without_a_next_step(tree: ast.AST, kinds: set[str]) -> list[int]:
    """Lines where an error is made that does not say what to try."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in kinds:
            hints = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "hint")]
            if may_be_empty(hints[0] if hints else None, tree):
                lines.append(node.lineno)
    return lines


def test_every_error_of_the_package_says_what_to_try() -> None:
    package = Path(tsm_edge.__file__).parent
    files = sorted(package.rglob("*.py"))
    assert len(files) > 100
    trees = {str(path.relative_to(package)): ast.parse(path.read_text("utf-8")) for path in files}
    kinds = kinds_of(trees.values())
    found = {name: errors_without_a_next_step(tree, kinds) for name, tree in trees.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_an_error_that_does_not_say_what_to_try_would_be_found() -> None:
    source = """
class Own(CardError): ...
raise CardError("wrong")
raise errors.VideoError("wrong", "")
raise Own("wrong", hint="")
hint = "try this" if something else ""
raise Own("wrong", hint)
raise Own("wrong", "try this")
raise CardError("wrong", error.hint)
raise ValueError("wrong")
"""
    tree = ast.parse(source)
    assert errors_without_a_next_step(tree, kinds_of([tree])) == [3, 4, 5, 7]
    with pytest.raises(TypeError):
        TsmEdgeError("wrong")  # type: ignore[call-arg]


def test_every_error_is_a_user_error_except_a_failed_check() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TsmEdgeError)]
    assert CheckFailed in kinds
    assert {kind.__name__: kind.exit_code for kind in kinds if kind is not CheckFailed} == {
        kind.__name__: 2 for kind in kinds if kind is not CheckFailed
    }
    assert CheckFailed.exit_code == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x86_64", "unknown target 'x86_64' (did you mean 'x86-64'?): known are native, x86-64"),
        ("zzz", "unknown target 'zzz': known are native, x86-64"),
    ],
)
def test_unknown_name_suggests_the_closest_and_lists_all(name: str, expected: str) -> None:
    assert unknown_name("target", name, ["x86-64", "native"]) == expected


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("jetson-nona", ["jetson-nano", "jetson-orin", "jetson-xavier"], "jetson-nano"),
        ("jetson-orni", ["jetson-nano", "jetson-orin", "jetson-xavier"], "jetson-orin"),
        ("cuda-sm98", ["cuda-sm75", "cuda-sm80", "cuda-sm86", "cuda-sm89", "cuda-sm90"], "cuda-sm90"),
        ("pose", {"pose"}, "pose"),
        ("zzz", ["native"], None),
        ("native", [], None),
        ("x" * 100_000, ["native"], None),
    ],
)
def test_the_closest_name_takes_the_fewest_edits(name: str, known: Collection[str], expected: str | None) -> None:
    assert closest(name, known) == expected


def test_unknown_name_says_when_nothing_is_known() -> None:
    assert unknown_name("label", "a", []) == "unknown label 'a': known are none"
