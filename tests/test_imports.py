"""The rooms of the package and the arrows between them (CONTRIBUTING.md draws them), read from the imports.

Imports inside functions count; those for type checkers alone do not.
"""

from __future__ import annotations

import ast
import functools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "tsm_edge"

# Rooms inside other rooms; the others are the folders and modules right below the package.
INNER_ROOMS = (
    "compile.backends.common",
    "compile.backends.cpu",
    "compile.backends.cuda",
    "compile.backends.operators",
    "compile.frontend",
    "compile.ir",
    "compile.package",
    "compile.passes",
    "compile.quantize",
)
# Every room may import what everybody may, and its own modules.
EVERYBODY = {"errors", "files", "redact", "progress", "priority", "extras", "__version__"}
ALLOWED = {
    "cards": set(),
    "files": set(),
    "runtime": set(),
    "networks": {"cards"},
    "export": {"networks", "cards"},
    "artifact": {"cards", "runtime"},
    "session": {"artifact", "cards", "rpc"},
    "rpc": {"artifact", "cards", "power", "session"},
    "video": {"cards"},
    "live": {"video", "artifact", "session", "cards"},
    "label": {"live", "video", "session", "artifact", "cards"},
    "events": {"live", "video", "cards"},
    "service": {"live"},
    "page": {"live", "video", "artifact", "power", "machine"},
    "power": set(),
    "machine": set(),
    "verify": {"session", "artifact", "cards", "compile.package"},
    "bench": {
        "compile",
        "deploy",
        "session",
        "rpc",
        "verify",
        "video",
        "artifact",
        "cards",
        "power",
        "machine",
        "compile.backends.cpu",
        "compile.ir",
        "compile.package",
    },
    "tune": {
        "bench",
        "compile",
        "compile.ir",
        "session",
        "rpc",
        "power",
        "machine",
        "artifact",
        "cards",
    },
    "deploy": {"artifact", "cards"},
    "compile.ir": {"cards"},
    "compile.passes": {"compile.ir"},
    "compile.frontend": {"compile.ir", "artifact"},
    "compile.backends.operators": {"compile.ir", "runtime"},
    "compile.backends.common": {"compile.backends.operators", "compile.ir", "cards"},
    "compile.backends.cpu": {"compile.backends.common", "compile.ir", "cards", "runtime"},
    "compile.backends.cuda": {"compile.backends.common", "compile.backends.operators", "compile.ir", "cards"},
    "compile.package": {"compile.ir", "artifact", "cards", "runtime"},
    "compile.quantize": {"compile.ir", "artifact"},
    "compile": {
        "compile.frontend",
        "compile.passes",
        "compile.backends.cpu",
        "compile.backends.cuda",
        "compile.ir",
        "compile.package",
        "compile.quantize",
        "export",
        "artifact",
        "cards",
        "runtime",
    },
    "demo": {"compile", "verify", "session", "live", "video", "artifact", "cards", "training"},
    "training": {"networks", "cards", "video", "session", "artifact", "rpc", "compile", "verify"},
}
# Programs and libraries that only some rooms may touch.
TOOLS = {
    "torch": {"networks", "export", "training"},
    "tvm": {
        "compile.backends.common",
        "compile.backends.cpu",
        "compile.backends.cuda",
        "compile.backends.operators",
    },
    "tvm_ffi": {"compile.backends.cpu", "compile.backends.cuda", "compile.backends.operators", "compile"},
    "onnx": {"export", "compile.frontend", "compile.quantize", "compile.backends.operators"},
    "onnxruntime": {"artifact"},
    "click": {"cli"},
    "rich": {"cli"},
    "av": {"video"},
    "tornado": {"page"},
    "paho": {"events"},
    "sqlite3": {"events"},
    "cv2": {"video", "live", "training"},
}
# What runs on a device, where none of these is installed.
ON_A_DEVICE = (
    "session",
    "artifact",
    "live",
    "label",
    "video",
    "page",
    "events",
    "service",
    "power",
    "machine",
    "rpc",
    "deploy",
)
NOT_ON_A_DEVICE = ("compile", "networks", "export", "training")


@dataclass(frozen=True)
class Import:
    """Module ``importer`` of the package imports ``name``: another of its modules, or a tool."""

    importer: str
    name: str

    def __str__(self) -> str:
        return f"{self.importer} imports {self.name}"


def imports(package: Path) -> Iterator[Import]:
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        yield from (Import(module, name) for name in _names(path.read_text("utf-8")))


@functools.cache
def _names(text: str) -> tuple[str, ...]:
    """What a module imports."""
    tree = ast.parse(text)
    unseen = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _is_for_type_checkers(node)]
    skipped = {id(inner) for node in unseen for inner in ast.walk(node)}
    seen = (node for node in ast.walk(tree) if id(node) not in skipped)
    return tuple(name.removeprefix("tsm_edge.") for node in seen for name in _imported(node))


def _is_for_type_checkers(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"tsm_edge.{alias.name}" for alias in node.names] if node.module == "tsm_edge" else [node.module]
    return []


def room_of(module: str) -> str:
    """``compile.ir`` of ``compile.ir.kernel``, ``cards`` of ``cards.load``."""
    inner = next((room for room in INNER_ROOMS if module == room or module.startswith(f"{room}.")), None)
    return inner or module.split(".")[0]


def wrong_arrows(package: Path) -> list[str]:
    """Imports of another room that the table does not allow."""
    rooms = {path.stem if path.is_file() else path.name for path in package.iterdir()} | {"__version__"}
    found = []
    for item in imports(package):
        source, target = room_of(item.importer), room_of(item.name)
        if target.split(".")[0] not in rooms or source in ("cli", "__init__", target):
            continue
        if target not in ALLOWED.get(source, set()) | EVERYBODY:
            found.append(str(item))
    return found


def test_every_arrow_is_allowed() -> None:
    assert wrong_arrows(PACKAGE) == []


def test_nothing_imports_the_command_line() -> None:
    assert [
        str(item) for item in imports(PACKAGE) if room_of(item.name) == "cli" and room_of(item.importer) != "cli"
    ] == []


def test_tools_stay_in_their_rooms() -> None:
    wrong = [
        str(item)
        for item in imports(PACKAGE)
        if item.name.split(".")[0] in TOOLS and room_of(item.importer) not in TOOLS[item.name.split(".")[0]]
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ON_A_DEVICE)
def test_what_runs_on_a_device_never_reaches_the_compiler(room: str) -> None:
    reach: dict[str, set[str]] = {}
    for item in imports(PACKAGE):
        reach.setdefault(room_of(item.importer), set()).add(room_of(item.name))
    seen, waiting = {room}, [room]
    while waiting:
        fresh = reach.get(waiting.pop(), set()) - seen
        seen |= fresh
        waiting += fresh
    assert [name for name in seen if name.split(".")[0] in (*NOT_ON_A_DEVICE, "torch", "onnx", "tvm", "tvm_ffi")] == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("session", "from tsm_edge.compile.pipeline import compile_model"),
        ("compile/ir/kernel", "from tsm_edge.compile.backends.cpu.lower import lower"),
        ("compile/backends/cpu/lower", "from tsm_edge.compile.backends.cuda.lower import lower"),
        ("compile/backends/common/step", "from tsm_edge.compile.backends.cpu.core import Core"),
        ("video/source", "import tsm_edge.networks"),
        ("artifact/folder", "from tsm_edge.cli.output import note"),
        ("compile/pipeline", "def late():\n    from tsm_edge.bench.profile import profile_artifact"),
    ],
)
def test_an_arrow_that_is_not_allowed_is_found(module: str, line: str, tmp_path: Path) -> None:
    copy = tmp_path / "tsm_edge"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / f"{module}.py"
    if not path.exists():
        path = copy / module / "__init__.py"
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"\n\n{line}\n")
    (wrong,) = wrong_arrows(copy)
    assert wrong.startswith(f"{module.replace('/', '.')} imports ")


def test_the_map_shows_every_room_and_its_arrows() -> None:
    """What stands in parentheses there explains; a room inside another is called by its last name."""
    text = (PROJECT / "CONTRIBUTING.md").read_text("utf-8")
    table = re.search(r"^## Rooms\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert table
    rows = re.findall(r"^\| `([\w/.]+?)/?` \|.*\| ?(.*?) ?\|$", table[1], re.MULTILINE)
    drawn = {room.replace("/", "."): set(re.findall(r"\w+", re.sub(r"\(.*?\)", "", cell))) for room, cell in rows}
    assert drawn.pop("cli") == {"everything"}
    assert drawn == {room: {target.split(".")[-1] for target in targets} for room, targets in ALLOWED.items()}


def test_no_arrow_is_allowed_that_nobody_takes() -> None:
    taken = {(room_of(item.importer), room_of(item.name)) for item in imports(PACKAGE)}
    assert [(room, target) for room in ALLOWED for target in ALLOWED[room] if (room, target) not in taken] == []
