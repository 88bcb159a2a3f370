"""A run as a service: the unit, as systemd's own tools judge it, and what systemd hears while it runs."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from background import Background
from encoded_clips import clip
from mjpeg_server import wait_until
from running_page import PROGRAM, TESTS

import tsm_edge
from tsm_edge.artifact.folder import Artifact
from tsm_edge.cli.main import entry_point
from tsm_edge.errors import ServiceError
from tsm_edge.live.observer import Snapshot, Totals
from tsm_edge.live.result import FrameResult
from tsm_edge.service import manage
from tsm_edge.service.manage import install, remove
from tsm_edge.service.notify import Heartbeat, heartbeat_of
from tsm_edge.service.unit import CREDENTIAL, Unit, check_readable

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd: apt install systemd")
UNIT = Unit(
    "door",
    ("/bin/echo", "run", "/opt/a b/50%", "--camera", "rtsp://u:$x@h/1", "--page-token", f"{CREDENTIAL}page-token"),
    (("page-token", Path("/etc/my token")),),
)


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )


@needs_systemd
@pytest.mark.parametrize("unit", [UNIT, Unit("gpu", ("/bin/echo",), reads_home=True, gpu=True)])
def test_systemd_finds_nothing_wrong_with_the_unit(unit: Unit, tmp_path: Path) -> None:
    path = tmp_path / unit.file_name
    path.write_text(unit.text())
    done = analyze(tmp_path, "verify", "--man=no", str(path))
    own = [line for line in done.stderr.splitlines() if unit.file_name in line]
    assert (done.returncode, own) == (0, [])
    path.write_text(unit.text().replace("ProtectSystem", "ProtektSystem"))
    assert "ProtektSystem" in analyze(tmp_path, "verify", "--man=no", str(path)).stderr  # it would have said so


@needs_systemd
def test_systemd_calls_the_exposure_low(tmp_path: Path) -> None:
    path = tmp_path / UNIT.file_name
    path.write_text(UNIT.text())
    done = analyze(tmp_path, "security", "--offline=true", "--no-pager", str(path))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+) (\w+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= 2.0, done.stdout


def test_arguments_are_written_as_systemd_reads_them() -> None:
    (line,) = [line for line in UNIT.text().splitlines() if line.startswith("ExecStart=")]
    page = "--page-token ${CREDENTIALS_DIRECTORY}/page-token"
    assert line == f'ExecStart=/bin/echo run "/opt/a b/50%%" --camera rtsp://u:$$x@h/1 {page}'
    assert "LoadCredential=page-token:/etc/my token\n" in UNIT.text()


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "ä", "-x", "a" * 65])
def test_names_that_no_unit_can_have(name: str) -> None:
    with pytest.raises(ServiceError, match="expected letters"):
        Unit(name, ())


def test_a_unit_is_installed_and_removed(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []
    path = install(UNIT, tmp_path, asked.append)
    assert path.read_text() == UNIT.text()
    assert path.stat().st_mode & 0o777 == 0o600
    install(UNIT, tmp_path, asked.append)  # again: it is ours
    assert asked[:3] == [["daemon-reload"], ["enable", UNIT.file_name], ["restart", UNIT.file_name]]
    with pytest.raises(ServiceError, match="known are: door"):
        remove("window", tmp_path, asked.append)
    remove("door", tmp_path, asked.append)
    assert not path.exists()
    path.write_text("[Unit]\n")
    for action in (lambda: install(UNIT, tmp_path, asked.append), lambda: remove("door", tmp_path, asked.append)):
        with pytest.raises(ServiceError, match="was not written by tsm-edge"):
            action()
    assert path.read_text() == "[Unit]\n"


def test_nobody_else_can_read_the_unit_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        modes.append(os.stat(source).st_mode & 0o777)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    (tmp_path / UNIT.file_name).write_text(UNIT.text())
    (tmp_path / UNIT.file_name).chmod(0o644)
    assert install(UNIT, tmp_path, lambda _: None).stat().st_mode & 0o777 == 0o600
    assert modes == [0o600]


def test_a_run_that_does_not_start_yet_is_said_with_where_to_look(tmp_path: Path) -> None:
    def control(words: Sequence[str]) -> None:
        if words[0] == "restart":
            raise ServiceError("systemctl restart: Job failed", "unused")

    with pytest.raises(ServiceError, match=r"is written, but the run has not started: .*; see why: journalctl -u"):
        install(UNIT, tmp_path, control)
    assert (tmp_path / UNIT.file_name).exists()


def test_where_systemd_does_not_run_nothing_is_left(tmp_path: Path) -> None:
    def control(words: Sequence[str]) -> None:
        raise ServiceError("systemctl daemon-reload: not booted with systemd", "unused")

    with pytest.raises(ServiceError, match="not booted"):
        install(UNIT, tmp_path, control)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / UNIT.file_name).write_text(UNIT.text())  # one that runs already stays
    with pytest.raises(ServiceError, match="not booted"):
        install(UNIT, tmp_path, control)
    assert (tmp_path / UNIT.file_name).exists()


def test_a_systemctl_that_does_not_end_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "systemctl"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(manage, "_RUN_S", 0.2)
    with pytest.raises(ServiceError, match=r"systemctl restart x\.service: has not ended"):
        manage.systemctl(["restart", "x.service"])


def test_what_the_services_user_cannot_read_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "model").mkdir()
    with pytest.raises(ServiceError, match="is closed to other users"):
        check_readable(closed / "model")
    check_readable(Path("/usr/bin/env"))


def test_a_link_is_followed_to_what_the_services_user_cannot_read(tmp_path: Path) -> None:
    """As the Python of a virtual environment may lie in somebody's home folder."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python3").touch(0o755)
    open_folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        open_folder.chmod(0o755)
        (open_folder / "python3").symlink_to(closed / "python3")
        with pytest.raises(ServiceError, match="is closed to other users"):
            check_readable(open_folder / "python3")
    finally:
        shutil.rmtree(open_folder)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--events", "e.jsonl"], ["--events", "e.jsonl"]),  # written: not the file that lies here
        (["--events=e.jsonl", "--rules=rules.toml"], ["--events", "e.jsonl", "--rules", "{here}/rules.toml"]),
        (["--record", "/var/lib/tsm-edge-live/clips"], ["--record", "/var/lib/tsm-edge-live/clips"]),
        (["--name", "door", "--mqtt", "broker"], ["--name", "door", "--mqtt", "broker"]),  # files of that name or not
        (["--webhook", f"http://h/?{'x' * 300}"], ["--webhook", f"http://h/?{'x' * 300}"]),  # no file can be called so
        (
            ["--webhook-secret=secret", "--webhook", "http://h/"],
            ["--webhook-secret", "${CREDENTIALS_DIRECTORY}/webhook-secret", "--webhook", "http://h/"],
        ),
    ],
)
def test_files_are_named_where_the_service_finds_them(
    small_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], words: list[str], expected: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        "tsm_edge.cli.service.check_readable", lambda path, hint="": None
    )  # the tests' folders are closed
    monkeypatch.chdir(tmp_path)
    for name in ("e.jsonl", "rules.toml", "secret", "door", "broker"):
        Path(name).touch()
    assert entry_point(["service", "install", "--dry-run", str(small_artifact.path), "--camera", "0", *words]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ExecStart=")]
    found = shlex.split(line)
    begin = found.index("0") + 1
    assert found[begin : begin + len(expected)] == [word.replace("{here}", str(tmp_path)) for word in expected]


def test_a_python_that_the_services_user_cannot_run_is_refused(
    small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(path: Path, hint: str = "") -> None:
        if path == Path(sys.executable):
            raise ServiceError(f"{path} is closed", hint)

    monkeypatch.setattr("tsm_edge.cli.service.check_readable", check)
    assert entry_point(["service", "install", "--dry-run", str(small_artifact.path), "--camera", "0"]) == 2
    assert "is closed; install tsm-edge where all may read it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--events", "/srv/e.jsonl"], "--events /srv/e.jsonl"),
        (["--events", "../e.jsonl"], "--events ../e.jsonl"),
        (["-o/srv/e.mp4"], "-o /srv/e.mp4"),
    ],
)
def test_a_file_that_the_service_could_not_write_is_refused(
    small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], named: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("tsm_edge.cli.service.check_readable", lambda path, hint="": None)
    assert entry_point(["service", "install", "--dry-run", str(small_artifact.path), "--camera", "0", *words]) == 2
    assert f"{named}: the service may write in /var/lib/tsm-edge-live alone" in capsys.readouterr().err


def test_the_dry_run_shows_the_unit_and_changes_nothing(
    small_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "tsm_edge.cli.service.check_readable", lambda path, hint="": None
    )  # the tests' folders are closed
    monkeypatch.chdir(tmp_path)
    for name in ("0", "rules.toml", "secret"):
        Path(name).touch()
    words = f"service install --dry-run --service-name door {small_artifact.path} --camera 0 --rules rules.toml"
    hook = ("--events", "e.jsonl", "--webhook", "http://h/", "--webhook-secret", "secret")
    assert entry_point([*words.split(), *hook]) == 0
    out, err = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if line.startswith("ExecStart=")]
    found = shlex.split(line.removeprefix("ExecStart="))
    assert found[1:] == [
        "-m", "tsm_edge.cli", "run", str(small_artifact.path), "--camera", "0", "--rules", str(tmp_path / "rules.toml"),
        "--events", "e.jsonl", "--webhook", "http://h/", "--webhook-secret", "${CREDENTIALS_DIRECTORY}/webhook-secret",
        "--quiet", "--reconnect", "inf",
    ]  # fmt: skip
    assert f"LoadCredential=webhook-secret:{tmp_path}/secret" in out
    assert "would write /etc/systemd/system/tsm-edge-door.service" in err
    assert entry_point(["service", "install", "--dry-run", str(small_artifact.path), "--camra", "0"]) == 2
    assert re.search(r"--camra.*; try: tsm-edge run --help$", capsys.readouterr().err)


def test_a_network_of_clips_is_no_service(clip_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be started again and again, and refuse the camera each time."""
    assert entry_point(["service", "install", "--dry-run", str(clip_artifact.path), "--camera", "0"]) == 2
    assert "takes clips of recorded video, expected a model for a camera" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "expected what the service shall watch: --camera N|URL"),
        (("--camera", "0", "--name", "door"), "--name goes with --mqtt"),
        (("--camera", "0", "--rules", "rules.toml"), "--rules goes with --events"),
        (("--camera", "0", "--video", "a.mp4"), "expected either --video FILE|URL or --camera N|URL|FILE"),
        (("--camera", "0", "--loop"), "--loop plays a file again, and a camera is none"),
        (("--camera", "0", "--show"), "--show needs a screen, and a service has none"),
        (("--camera", "0", "--sliding", "2"), "--sliding is for networks of clips"),
    ],
)
def test_a_run_that_would_not_begin_is_no_service(
    small_artifact: Artifact, words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry_point(["service", "install", "--dry-run", str(small_artifact.path), *words]) == 2
    out, err = capsys.readouterr()
    assert expected in err
    assert (out, err.count("\n")) == ("", 1)


def snapshot() -> Snapshot:
    result = FrameResult(0, 0.0, "two\nlines", 0, 0.9, 1.0, 1.0, 1.0, 1.0, "", np.zeros(2, np.float32))
    return Snapshot(np.zeros((2, 2, 3), np.uint8), result, Totals(7, 1, 2, 0), time.time(), time.monotonic())


def heard(listener: socket.socket) -> list[str]:
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(listener.recv(4096).decode())
    return messages


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stream.bind(str(tmp_path / "notify"))
    stream.setblocking(False)
    return stream


def test_the_watchdog_hears_of_frames_and_of_silence_and_of_nothing_else(listener: socket.socket) -> None:
    with listener, Heartbeat(listener.getsockname(), 0.3) as heartbeat:
        assert heard(listener) == ["READY=1", "WATCHDOG=1"]
        heartbeat.see(snapshot())
        assert heard(listener) == ["STATUS=two lines; 7 frames, 2 dropped"]
        time.sleep(0.12)
        assert heard(listener) == []  # a loop that hangs says nothing
        heartbeat.idle()
        heartbeat.see(snapshot())
        assert heard(listener) == ["WATCHDOG=1"]
        listener.close()
        heartbeat.see(snapshot())  # nobody listens: no matter


def test_without_systemd_there_is_no_heartbeat() -> None:
    assert heartbeat_of({}) is None
    assert heartbeat_of({"NOTIFY_SOCKET": "vsock:2:1234"}) is None


def test_a_real_run_tells_systemd(listener: socket.socket, tmp_path: Path) -> None:
    package = str(Path(tsm_edge.__file__).resolve().parents[1])
    environment = {
        **os.environ, "PYTHONPATH": f"{package}:{TESTS}", "NOTIFY_SOCKET": listener.getsockname(),
        "WATCHDOG_USEC": "600000",
    }  # fmt: skip
    program = Background(
        [*PROGRAM, "run", "model", "--camera", str(clip("bikes.mp4")), "--loop"], tmp_path / "log", environment
    )
    messages: list[str] = []

    def beats() -> int:
        messages.extend(heard(listener))
        return messages.count("WATCHDOG=1")

    try:
        wait_until(lambda: beats() >= 4, 30)
        assert messages[0] == "READY=1"
        program.process.terminate()
        ended = program.process.wait(30)
        # Else systemd calls a service that was stopped one that failed.
        assert f"SuccessExitStatus={ended}\n" in UNIT.text()
        beats()
        assert messages[-1] == "STOPPING=1"
    finally:
        program.kill()
        listener.close()
