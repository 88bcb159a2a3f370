"""The linker's program where things are not as usual: no home, a cache that cannot be written, full disks, hanging."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx_graphs import small_network

from tsm_edge.cards import TargetCard
from tsm_edge.compile.package import zig
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.errors import CompileError, TsmEdgeError
from tsm_edge.files.bounded import bounded_folder

Script = Callable[[str], None]


@pytest.fixture
def as_zig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Put an sh script in zig's place."""

    def install(script: str) -> None:
        program = tmp_path / "zig"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(zig, "zig_command", lambda: (str(program),))

    return install


@pytest.fixture
def as_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let the disk of one folder be full, and no other."""

    def fill(full: Path) -> None:
        def usage(folder: Path) -> object:
            return SimpleNamespace(free=4096 if full in (folder, *folder.parents) else 1 << 40)

        monkeypatch.setattr("tsm_edge.files.disk.shutil.disk_usage", usage)

    return fill


def test_the_cache_is_the_environments_or_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    monkeypatch.setenv("HOME", str(home))
    assert zig.zig_cache({}) == zig.ZigCache(home / ".cache/tsm-edge/zig")
    assert zig.zig_cache({"XDG_CACHE_HOME": "relative"}) == zig.ZigCache(home / ".cache/tsm-edge/zig")
    assert zig.zig_cache({"XDG_CACHE_HOME": str(other)}) == zig.ZigCache(other / "tsm-edge/zig")
    assert zig.zig_cache({"ZIG_GLOBAL_CACHE_DIR": str(other)}) == zig.ZigCache(other)


def test_without_a_home_the_cache_is_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_uid: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    found = zig.zig_cache({})
    assert found.folder.is_dir()
    assert found.note == (
        "there is no home folder (HOME): zig builds its C libraries anew, a minute each; "
        "keep them with XDG_CACHE_HOME=FOLDER"
    )
    assert zig.zig_cache({}) == found


def test_a_cache_that_cannot_be_written_is_replaced_and_said(
    as_zig: Script, native: TargetCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It writes down what it is given, and then works where everything is built already.
    kept = shlex.quote(str(zig.zig_cache().folder))
    as_zig(
        f'echo "$ZIG_GLOBAL_CACHE_DIR" >> {tmp_path}/caches; echo "$ZIG_LOCAL_CACHE_DIR" >> {tmp_path}/caches\n'
        f"export ZIG_GLOBAL_CACHE_DIR={kept} ZIG_LOCAL_CACHE_DIR={kept}\n"
        f'exec {shlex.quote(zig.zig_command()[0])} "$@"'
    )
    (tmp_path / "no-folder").touch()
    for name in ("XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "no-folder"))
    onnx.save(small_network(), str(tmp_path / "small.onnx"))
    warnings: list[str] = []
    request = CompileRequest(native, tmp_path / "small", onnx=tmp_path / "small.onnx", runner=False)
    assert compile_model(request, warn=warnings.append).library.is_file()
    (warning,) = warnings
    assert warning.startswith(f"{tmp_path}/no-folder/.cache/tsm-edge/zig cannot be written (Not a directory): zig ")
    cache, work = sorted({Path(line) for line in (tmp_path / "caches").read_text().splitlines()})
    assert cache.name.startswith("tsm-edge-scratch-")
    assert work == cache / "work"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Zig's cache, empty."""
    monkeypatch.delenv("ZIG_LOCAL_CACHE_DIR", raising=False)
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_linked_does_not_fill_the_disk(as_zig: Script, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten links of 1000 bytes each; C libraries stay."""
    monkeypatch.setattr(zig, "_MOST_WORK_BYTES", 3500)
    as_zig('mkdir -p "$ZIG_LOCAL_CACHE_DIR/o/$$"; head -c 1000 /dev/zero > "$ZIG_LOCAL_CACHE_DIR/o/$$/model.so"')
    (cache / "o").mkdir(parents=True)
    (cache / "o" / "libc.a").write_bytes(bytes(9000))
    for _ in range(10):
        zig.run_zig(["cc"], "linking", None)
        assert 1 <= len(list((cache / "work").glob("o/*/model.so"))) <= 4
    assert (cache / "o" / "libc.a").stat().st_size == 9000


def test_a_work_folder_that_is_somebody_elses_is_replaced(as_zig: Script, cache: Path) -> None:
    as_zig('printf %s "$ZIG_LOCAL_CACHE_DIR"')
    cache.mkdir()
    (cache / "work").touch()
    assert Path(zig.run_zig(["cc"], "linking", None)).name.startswith("tsm-edge-scratch-")


def test_nothing_is_taken_from_under_a_zig_that_works(
    as_zig: Script, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zig, "_MOST_WORK_BYTES", 500)
    as_zig(
        f'[ "$1" = quick ] || while [ ! -e {tmp_path}/go ]; do sleep 0.01; done\n'
        'mkdir -p "$ZIG_LOCAL_CACHE_DIR/o"; head -c 1000 /dev/zero > "$ZIG_LOCAL_CACHE_DIR/o/$1"'
    )
    kept = cache / "work" / "o"
    with ThreadPoolExecutor(1) as pool:
        zig.run_zig(["quick"], "linking", None)
        with bounded_folder(cache / "work", 1 << 20):
            slow = pool.submit(zig.run_zig, ["slow"], "linking", None)
            zig.run_zig(["quick"], "linking", None)
            assert (kept / "quick").exists()
            (tmp_path / "go").touch()
            slow.result(30)
        assert {path.name for path in kept.iterdir()} == {"quick", "slow"}
        zig.run_zig(["quick"], "linking", None)
        assert {path.name for path in kept.iterdir()} == {"quick"}


def test_a_zig_that_hangs_is_ended_with_what_it_started(
    as_zig: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zig, "_LIMIT_S", 0.3)
    as_zig(f"sleep 60 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(CompileError, match=r"^linking: zig did not end within 0 s; .* remove its cache: /"):
        zig.run_zig(["cc"], "linking", None)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_full_disk_is_named(as_zig: Script, as_disk: Callable[[Path], None], tmp_path: Path) -> None:
    as_zig("echo 'error: unable to write: NoSpaceLeft' >&2; exit 1")
    cache = zig.zig_cache().folder
    as_disk(cache)
    with pytest.raises(TsmEdgeError) as full:
        zig.run_zig(["cc"], "linking", tmp_path / "model.so")
    assert str(full.value) == (
        f"{cache}: no room is left for zig's cache (0.0 MB free); "
        "make room there, or choose another folder: XDG_CACHE_HOME=FOLDER"
    )
    (tmp_path / "out").mkdir()
    as_disk(tmp_path / "out")
    with pytest.raises(OSError, match="No space left on device"):
        zig.run_zig(["cc"], "linking", tmp_path / "out" / "model.so")
    as_disk(tmp_path / "elsewhere")
    with pytest.raises(CompileError, match="linking failed: error: unable to write: NoSpaceLeft"):
        zig.run_zig(["cc"], "linking", tmp_path / "model.so")


def test_zigs_own_words(as_zig: Script) -> None:
    as_zig("echo 'warning: -D _GNU_SOURCE: error is unused' >&2; echo 'note: see above' >&2; exit 3")
    with pytest.raises(CompileError, match="linking failed: note: see above; "):
        zig.run_zig(["cc"], "linking", None)
    as_zig("kill -9 $$")
    with pytest.raises(CompileError, match="linking failed: stopped by SIGKILL; "):
        zig.run_zig(["cc"], "linking", None)


def test_a_zig_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zig, "zig_command", lambda: (str(tmp_path / "zig"),))
    with pytest.raises(CompileError, match=r"/zig cannot be run \(No such file or directory\); try: pip install "):
        zig.run_zig(["cc"], "linking", None)
    shutil.copy(__file__, tmp_path / "zig")
    with pytest.raises(CompileError, match=r"/zig cannot be run \(Permission denied\); "):
        zig.run_zig(["cc"], "linking", None)
