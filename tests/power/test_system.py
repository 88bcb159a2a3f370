"""Files of a machine, read here or through a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from power_fakes import write_tree

from tsm_edge.errors import PowerError
from tsm_edge.power.system import LocalSystem, ShellSystem, System


def shell_of(root: Path) -> ShellSystem:
    """A real sh, for which ``root`` stands for the root of the tree."""

    def run(script: str) -> str:
        moved = script.replace("/sys/", f"{root}/sys/").replace("/proc/", f"{root}/proc/")
        done = subprocess.run(["sh", "-c", moved], capture_output=True, check=True)
        return done.stdout.decode().replace(str(root), "")

    return ShellSystem(run)


@pytest.fixture(params=["files", "shell"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> System:
    return LocalSystem(tmp_path) if request.param == "files" else shell_of(tmp_path)


def test_all_files_that_match_are_gathered_in_one_go(system: System, tmp_path: Path) -> None:
    tree = {
        "/sys/a/zone0/temp": 41000,
        "/sys/a/zone1/temp": 52000,
        "/sys/a/zone1/empty": "",
        "/proc/7/cmdline": "a\0b\0",
    }
    write_tree(tmp_path, {**tree, "/proc/two": "one\n\ntwo\n"})
    (tmp_path / "sys/a/zone2/temp").mkdir(parents=True)
    gathered = system.gather(["/sys/a/zone*/temp", "/sys/a/zone*/*", "/proc/[0-9]*/cmdline", "/proc/two", "/proc/none"])
    assert gathered == {
        "/sys/a/zone0/temp": "41000",
        "/sys/a/zone1/temp": "52000",
        "/proc/7/cmdline": "a\0b\0",
        "/proc/two": "one\n\ntwo",
    }


def test_what_a_file_holds_is_not_taken_for_another_file(tmp_path: Path) -> None:
    seen: list[str] = []

    def run(script: str) -> str:
        seen.append(script)
        return subprocess.run(["sh", "-c", script], capture_output=True, check=True, text=True).stdout

    path = tmp_path / "liar"
    path.write_text("tsm-0123456789abcdef /sys/secret\n42\n")
    assert ShellSystem(run).gather([str(path)]) == {str(path): "tsm-0123456789abcdef /sys/secret\n42"}
    ShellSystem(run).gather([str(path)])
    assert seen[0] != seen[1]


def test_a_shell_that_breaks_off_while_files_are_gathered_is_an_error() -> None:
    with pytest.raises(PowerError, match="shell broke off while files were read"):
        ShellSystem(lambda script: "41000\n").gather(["/sys/a"])
