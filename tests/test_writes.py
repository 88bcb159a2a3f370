"""Every file that users get is written by the one atomic writer: no other place in the package writes to their disk."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tsm_edge

PACKAGE = Path(tsm_edge.__file__).parent

# The atomic writers themselves.
_WRITERS = ("files/atomic.py", "files/folders.py", "files/stale.py")
# Places that write where nobody else looks, each with the reason.
_PRIVATE = {
    # Into the temporary folder that takes an artifact's place when it is whole, or into a scratch folder.
    "compile/pipeline.py": {"_link", "_model_file", "_write_folder", "_keep"},
    "compile/quantised.py": {"write_quantised"},
    "compile/package/output.py": {"writing_intermediates"},
    "compile/machine_code.py": {"generate", "keep"},
    "compile/trial_library.py": {"build", "and_others"},
    "compile/package/c_tables.py": {"write_sources", "write_constants", "write_weights"},
    "compile/package/device_tables.py": {"write_device_sources"},
    "compile/backends/cuda/ptxas.py": {"assemble"},
    "compile/package/runner.py": {"link_runner"},
    "compile/package/link.py": {"_link_for_android", "_write_at_once"},
    "verify/standin/build.py": {"_build"},
    "verify/standin/apart.py": {"gpu_apart"},
    "bench/peak.py": {"_compiled"},
    "bench/detected.py": {"detected_target"},
    "artifact/folder.py": {"_load"},
    # The lock of a cache.
    "files/bounded.py": {"bounded_folder"},
    # Into the temporary file of a NewFile.
    "video/writer.py": {"__init__"},
    "service/manage.py": {"install"},
    # Clips of a ring that the recorder names and deletes itself.
    "events/recorder.py": {"_check_folder"},
    # State in memory, which the atomic writer then stores.
    "training/loop.py": {"_save"},
    # An archive in memory, which the atomic writer then stores; an archive without a name.
    "deploy/bundle.py": {"_compressed"},
    "deploy/ssh.py": {"put"},
    # The kernel's file on what to end first.
    "priority.py": {"die_before_parent"},
    # The server's own folder of uploads.
    "rpc/uploads.py": {"upload", "keep", "find"},
}

_METHODS = {
    *("write_text", "write_bytes", "write_to_file", "symlink_to", "hardlink_to", "rename", "touch", "tofile"),
    *("save", "savez", "imwrite"),
}
_FUNCTIONS = {
    "os": {"replace", "rename", "renames", "link", "symlink"},
    "shutil": {"copy", "copy2", "copyfile", "copyfileobj", "copytree", "move"},
    "tempfile": {"mkdtemp", "mkstemp", "NamedTemporaryFile", "TemporaryDirectory"},
    "json": {"dump"},
    "cv2": {"VideoWriter"},
}


def writes(call: ast.Call) -> bool:
    """Whether a call may write to a file system."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "open" and opens_to_write(call)
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if owner in _FUNCTIONS:
        return function.attr in _FUNCTIONS[owner]
    return function.attr in _METHODS or (function.attr == "open" and opens_to_write(call))


def opens_to_write(call: ast.Call) -> bool:
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return any(set(mode) <= set("rwxabt+") and set(mode) & set("wxa+") for mode in modes)


def functions_that_write(source: str) -> Iterator[str]:
    """Names of the innermost functions with a call that writes."""

    def visit(node: ast.AST, name: str) -> Iterator[str]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = node.name
        if isinstance(node, ast.Call) and writes(node):
            yield name
        for child in ast.iter_child_nodes(node):
            yield from visit(child, name)

    return visit(ast.parse(source), "the module itself")


def test_nothing_else_writes() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        names = set(functions_that_write(path.read_text("utf-8")))
        module = path.relative_to(PACKAGE).as_posix()
        if names and module not in _WRITERS:
            found[module] = names
    assert found == _PRIVATE, "write files by tsm_edge.files.atomic.NewFile, or say here why not"


def test_every_way_to_write_is_seen() -> None:
    source = """
def one(): path.write_text("x")
def two(): open(path, "w")
def three(): path.open(mode="ab")
def four(): os.replace(a, b)
def five(): shutil.copytree(a, b)
def six():
    with tempfile.NamedTemporaryFile() as file: pass
def seven(): av.open(name, "w", format="mp4")
def reading():
    open(path); open(path, "rb"); path.open("r"); text.replace("w", "x"); path.read_text("utf-8")
"""
    assert list(functions_that_write(source)) == ["one", "two", "three", "four", "five", "six", "seven"]
