"""``tsm-edge deploy`` as a real process, to a real sshd and to a stand-in for adb."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import RunProgram

from tsm_edge.cli.main import entry_point
from tsm_edge.deploy.deploy import DeployResult

Json = dict[str, Any]
Result = subprocess.CompletedProcess[str]
NAMES = ["golden.bin", "manifest.json", "model.so", "tsm-runner", "tsm_edge.h"]


@pytest.fixture
def over_ssh(run_program: RunProgram, board: Any, model: Path) -> Callable[..., Result]:
    """Deploy the model to the board."""

    def deploy(*options: str, to: str = "board", **settings: Any) -> Result:
        return run_program("deploy", str(model), to, "--ssh-config", str(board.config), *options, **settings)

    return deploy


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def expected(model: Path) -> dict[str, str]:
    return {name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in NAMES}


def told(result: Result) -> Json:
    assert result.returncode == 0, result.stderr
    found: Json = json.loads(result.stdout)
    return found


def refusal(result: Result) -> str:
    assert result.returncode == 2, result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("tsm-edge: error: ")
    return line.removeprefix("tsm-edge: error: ")


def test_everything_is_copied_and_verified_with_the_real_runner(
    over_ssh: Callable[..., Result], board: Any, model: Path
) -> None:
    result = over_ssh(to="board-anew")
    assert result.returncode == 0, result.stderr
    there = board.home / "tsm-edge/gestures"
    assert content(there) == expected(model)
    assert os.access(there / "tsm-runner", os.X_OK)
    assert result.stdout.startswith("board-anew (x86_64): tsm-edge/gestures\n")
    table = result.stdout.partition("tsm-runner verify there: ")[2].splitlines()
    assert re.fullmatch(r"\d+ frames, tolerance 1e-04", table[0])
    assert re.fullmatch(r"logits  .* (\d\.\de-\d\d|0\.0e\+00) +ok", table[2])
    assert all(line.endswith("  ok") for line in table[2:])
    assert len(table) > 3
    assert re.search(r"5 of 5 files copied in \d+\.\d s, \d+\.\d MB there; verified there", result.stderr)


def test_what_is_there_is_not_copied_again(over_ssh: Callable[..., Result], board: Any, model: Path) -> None:
    folder = f"{board.home}/some folder/with 'quotes' & $HOME"
    assert sorted(told(over_ssh("--json", to=f"board:{folder}"))["copied"]) == NAMES
    assert told(over_ssh("--json", to=f"board:{folder}"))["copied"] == []
    (Path(folder) / "model.so").write_bytes(b"damaged")
    (Path(folder) / ".model.so.0123456789ab.part").write_bytes(b"left over from another model")
    report = told(over_ssh("--json", to=f"board:{folder}"))
    assert report["copied"] == ["model.so"]
    assert (report["verified"], report["machine"], report["folder"]) == (True, "x86_64", folder)
    assert content(Path(folder)) == expected(model)


def test_a_copy_that_was_cut_off_goes_on(over_ssh: Callable[..., Result], board: Any, model: Path) -> None:
    there = board.home / "tsm-edge/gestures"
    # The connection breaks in the middle of the second file: a header and padding of 512 bytes come with each.
    size = (model / "model.so").stat().st_size + 2000
    board.add_program("tar", f'head -c {size} | /bin/tar "$@" 2>/dev/null; kill -9 $(ps -o ppid= $PPID)')
    problem = refusal(over_ssh(to="board-anew"))
    assert problem.startswith(("board-anew: ssh failed (", "board-anew cannot be reached (", "board-anew: copying to "))
    assert not any(path.name in NAMES for path in there.iterdir())
    (board.programs / "tar").unlink()
    assert sorted(told(over_ssh("--json"))["copied"]) == sorted(set(NAMES) - {"model.so"})
    assert content(there) == expected(model)


def test_a_disk_that_fills_up(over_ssh: Callable[..., Result], board: Any) -> None:
    board.add_program(
        "tar", 'head -c 70000 | /bin/tar "$@" 2>/dev/null; echo "tar: No space left on device" >&2; exit 2'
    )
    assert refusal(over_ssh()) == (
        "board: the disk of tsm-edge/gestures is full; make room there, or name another folder"
    )
    assert list((board.home / "tsm-edge/gestures").iterdir()) == []
    board.add_program("df", "echo Filesystem; echo '/dev/root 100 90 10 90% /'")
    assert re.fullmatch(
        r"board: 0\.0 MB are free in tsm-edge/gestures, the model needs \d+\.\d MB; make room there, .*",
        refusal(over_ssh()),
    )


def test_a_copy_that_arrives_damaged_is_not_used(over_ssh: Callable[..., Result], board: Any) -> None:
    board.add_program("tar", '/bin/tar "$@"; for f in .model.so.*.part; do echo more >> $f; done')
    problem = refusal(over_ssh())
    assert problem == "board: tsm-edge/gestures/model.so does not have the hash of the file here; deploy again"
    assert not (board.home / "tsm-edge/gestures/model.so").exists()


@pytest.mark.parametrize(
    ("report", "shown"),
    [
        ("no JSON\x1b[2J\nat all", ["no JSON?[2J", "at all"]),
        ('{"checks": [], "frames": Infinity, "tolerance": 0}', ['{"checks": [], "frames": Infinity, "tolerance": 0}']),
        ("[1]", ["[1]"]),
    ],
)
def test_what_is_no_report_of_the_runner_is_shown_as_it_is_but_for_what_does_not_print(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: str, shown: list[str]
) -> None:
    result = DeployResult("board", "gestures", "x86_64", (), (), 0.0, True, report)
    monkeypatch.setattr("tsm_edge.deploy.deploy.deploy", lambda *_arguments: result)
    assert entry_point(["deploy", str(model), "board"]) == 0
    assert capsys.readouterr().out.splitlines()[-len(shown) :] == shown


def test_another_machine_is_refused_before_anything_is_written(over_ssh: Callable[..., Result], board: Any) -> None:
    board.add_program("uname", "echo aarch64")
    message = r"board is aarch64, the model is compiled for native \(x86_64\); see the targets with: .*"
    assert re.fullmatch(message, refusal(over_ssh()))
    board.add_program("getconf", "echo 32")
    assert "board is arm, " in refusal(over_ssh())
    (board.programs / "uname").unlink()
    board.add_program("grep", "echo 'flags : fpu sse2'")
    assert re.search(r"board's CPU lacks .*, the model is compiled for native \(x86-64-v\d\)", refusal(over_ssh()))
    assert list(board.home.iterdir()) == []


def test_an_arm_board_without_neon_is_refused_with_and_without_verifying(
    run_program: RunProgram, board: Any, for_32_bit_arm: Path
) -> None:
    board.add_program("uname", "echo armv6l")
    board.add_program("grep", "echo 'Features : half thumb fastmult vfp edsp java tls'")
    for options in ([], ["--no-verify"]):
        problem = refusal(
            run_program("deploy", str(for_32_bit_arm), "board", "--ssh-config", str(board.config), *options)
        )
        assert problem.startswith(
            "board's CPU lacks neon, vfpv4, crc32, the model is compiled for raspberry-pi-3-32bit (cortex-a53); "
        )
    assert list(board.home.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("stranger", "stranger: its host key is not known here; look at it and accept it once with: ssh stranger"),
        ("changed", "changed: its host key is not the one known here: another machine, or a new system on it; "),
        ("locked", "locked: permission denied: no key of yours is accepted, and passwords are not asked for; "),
        ("off", "off cannot be reached (connect to host 127.0.0.1 port 1: Connection refused); "),
        ("nobody@no-such-host.invalid", "nobody@no-such-host.invalid: the host name is unknown; "),
    ],
)
def test_one_line_for_every_way_not_to_get_in(over_ssh: Callable[..., Result], host: str, message: str) -> None:
    assert refusal(over_ssh(to=host)).startswith(message)


def test_a_port_is_given_in_a_url(over_ssh: Callable[..., Result], board: Any, model: Path) -> None:
    port = int(re.search(r"^Port (\d+)$", board.config.read_text(), re.MULTILINE)[1])  # type: ignore[index]
    folder = board.home / "of the port"
    report = told(over_ssh("--json", to=f"ssh://board-by-number:{port}/~/of%20the%20port"))
    assert (report["device"], report["folder"]) == (f"board-by-number, port {port}", "of the port")
    assert content(folder) == expected(model)
    problem = refusal(over_ssh(to="ssh://board-by-number:1"))
    assert problem.startswith("board-by-number, port 1 cannot be reached (")
    assert refusal(over_ssh(to=f"ssh://changed:{port}")).endswith(f"ssh-keygen -R '[changed]:{port}'")
    problem = refusal(over_ssh(to=f"board-by-number:{port}"))
    assert problem.endswith(f"for the port: ssh://board-by-number:{port}, for the folder: board-by-number:./{port}")
    assert [path.name for path in board.home.iterdir()] == [folder.name]


def test_folders_that_cannot_be_used(over_ssh: Callable[..., Result], board: Any) -> None:
    (board.home / "file").touch()
    assert "board: file/below cannot be written (mkdir: " in refusal(over_ssh(to="board:file/below"))
    assert refusal(over_ssh(to="board:.")).startswith(
        "board: . has files in it and is not a deployed model; name another folder: USER@HOST:PATH"
    )
    assert [path.name for path in board.home.iterdir()] == ["file"]


def test_a_runner_that_finds_a_difference_ends_in_exit_code_1(
    over_ssh: Callable[..., Result], board: Any, model: Path
) -> None:
    replace_runner(model, "#!/bin/sh\necho '{\"passed\": false}'\nexit 1\n")
    result = over_ssh()
    assert result.returncode == 1
    assert "verifying there FAILED" in result.stderr
    replace_runner(model, "#!/no/such/interpreter\n")
    problem = refusal(over_ssh())
    assert "everything is in tsm-edge/gestures, but tsm-runner verify does not run there (exit code 12" in problem
    result = over_ssh("--no-verify")
    assert result.returncode == 0
    assert "not verified there" in result.stderr


def test_a_model_without_a_runner_replaces_one_with(over_ssh: Callable[..., Result], board: Any, model: Path) -> None:
    told(over_ssh("--json"))
    for name in ("tsm-runner", "golden.bin"):
        forget(model, name)
    report = told(over_ssh("--json"))
    assert (report["copied"], report["verified"]) == (["manifest.json"], None)
    there = board.home / "tsm-edge/gestures"
    assert sorted(path.name for path in there.iterdir()) == ["manifest.json", "model.so", "tsm_edge.h"]


def test_a_dry_run_contacts_nothing(run_program: RunProgram, model: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path / "no-programs")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    result = run_program("deploy", str(model), "pi@board:x", "--dry-run", "--json", env=environment)
    plan = told(result)
    assert (plan["device"], plan["folder"]) == ("pi@board", "x")
    assert sorted(file["name"] for file in plan["files"]) == NAMES
    assert len(plan["commands"]) == 5
    assert all("ssh -o BatchMode=yes " in line and " -- pi@board " in line for line in plan["commands"])
    text = run_program("deploy", str(model), "--dry-run", "--adb", env=environment).stdout
    assert "Android device: /data/local/tmp/tsm-edge/gestures (nothing is contacted)" in text
    assert f"adb push {model}/model.so /data/local/tmp/tsm-edge/gestures/.model.so." in text


def test_over_adb(run_program: RunProgram, adb: Any, model: Path) -> None:
    first = told(run_program("deploy", str(model), "--json", "--adb", env=adb.environment))
    assert sorted(first["copied"]) == NAMES
    assert (first["verified"], first["device"]) == (True, "Android device emulator-5554")
    there = adb.root / "data/local/tmp/tsm-edge/gestures"
    assert content(there) == expected(model)
    calls = [call.split() for call in adb.calls]
    assert calls[0] == ["devices"]
    assert [call[:3] for call in calls[1:]] == (
        [["-s", "emulator-5554", "shell"]] * 2
        + [["-s", "emulator-5554", "push"]] * len(NAMES)
        + [["-s", "emulator-5554", "shell"]] * 2
    )
    again = told(run_program("deploy", str(model), "--json", "--adb", "emulator-5554", env=adb.environment))
    assert (again["copied"], again["verified"]) == ([], True)


@pytest.mark.parametrize(
    ("devices", "serial", "message"),
    [
        ([], [], "adb has no Android device; plug one in, and turn on USB debugging in its developer options"),
        (["a\tdevice", "b\toffline"], [], "adb has 2 devices: a (device), b (offline); choose one with: --adb SERIAL"),
        (["a\tdevice"], ["b"], "no Android device 'b' (--adb), adb has: a (device); look with: adb devices"),
        (["a\tunauthorized"], [], "Android device a does not trust this machine; unlock it and accept its question"),
        (["a\toffline"], [], "Android device a is not ready (offline); plug it in again"),
        (
            [
                "a\tno permissions (user in plugdev group; are your udev rules wrong?); see [http://developer.android.com]"
            ],
            [],
            "Android device a: your user may not open its USB device (adb: no permissions); let your user in with ",
        ),
        (
            ["a\trecovery"],
            [],
            "Android device a is in recovery mode, expected Android to run; start it with: adb reboot",
        ),
    ],
)
def test_android_devices_that_cannot_be_used(
    run_program: RunProgram, adb: Any, model: Path, devices: list[str], serial: list[str], message: str
) -> None:
    adb.set_devices(*devices)
    problem = refusal(run_program("deploy", str(model), "--adb", *serial, env=adb.environment))
    assert problem.startswith(message)
    assert adb.calls[0] == "devices"
    assert adb.calls[1:] in ([], ["-s b get-serialno"])


def test_the_android_device_is_the_one_adb_would_take(run_program: RunProgram, adb: Any, model: Path) -> None:
    absent = {**adb.environment, "ANDROID_SERIAL": "absent"}
    assert refusal(run_program("deploy", str(model), "--adb", env=absent)).startswith(
        "no Android device 'absent' (ANDROID_SERIAL), adb has: emulator-5554 (device); "
    )
    adb.set_devices("emulator-5554\tdevice", "other\tdevice")
    present = {**adb.environment, "ANDROID_SERIAL": "emulator-5554"}
    assert told(run_program("deploy", str(model), "--json", "--adb", env=present))["device"].endswith("emulator-5554")
    dry = run_program("deploy", str(model), "--dry-run", "--adb", env=absent).stdout
    assert "adb -s absent push " in dry
    # An option goes before the environment, and adb knows devices by more than their serials.
    by_model = run_program("deploy", str(model), "--json", "--adb", "model:Pixel_8", env=absent)
    assert told(by_model)["device"] == "Android device emulator-5554"
    assert "-s model:Pixel_8 get-serialno" in adb.calls
    assert not any(call.startswith(("-s absent shell", "-s absent push", "-s other")) for call in adb.calls)


def test_the_adb_server_elsewhere_is_named_when_it_is_not_there(run_program: RunProgram, adb: Any, model: Path) -> None:
    (adb.root / "refuses").touch()
    elsewhere = {**adb.environment, "ADB_SERVER_SOCKET": "tcp:lab:5037"}
    assert refusal(run_program("deploy", str(model), "--adb", env=elsewhere)) == (
        "adb devices failed (error: cannot connect to daemon at tcp:lab:5037); "
        "check that the server is there: ADB_SERVER_SOCKET=tcp:lab:5037"
    )


def test_android_failures(run_program: RunProgram, adb: Any, model: Path) -> None:
    adb.add_program("uname", "echo aarch64")
    problem = refusal(run_program("deploy", str(model), "--adb", env=adb.environment))
    assert problem.startswith("Android device emulator-5554 is aarch64, the model is compiled for native (x86_64); ")
    adb.add_program("uname", "echo x86_64")
    shutil.rmtree(adb.root / "data/local")
    (adb.root / "data/local").touch()
    problem = refusal(run_program("deploy", str(model), "--adb", env=adb.environment))
    assert "tsm-edge/gestures cannot be written (mkdir: " in problem


def test_programs_that_are_not_installed(run_program: RunProgram, model: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    ssh = refusal(run_program("deploy", str(model), "board", env=environment))
    assert ssh.startswith("the program ssh is not installed here; install it, ")
    adb = refusal(run_program("deploy", str(model), "--adb", env=environment))
    assert adb.startswith("the program adb is not installed here; install Android's platform tools, ")


def test_wrong_arguments(run_program: RunProgram, model: Path, tmp_path: Path) -> None:
    assert refusal(run_program("deploy")).startswith("expected a destination: USER@HOST[:PATH], --adb [SERIAL] or ")
    assert refusal(run_program("deploy", str(model))).startswith(f"{model} is a folder here: expected a destination")
    assert refusal(run_program("deploy", str(model), "board", "--adb")).startswith("expected one destination: ")
    assert refusal(run_program("deploy", str(model), "--bundle", "a.tar.gz", "--adb")).startswith("expected one dest")
    assert refusal(run_program("deploy", "--adb", str(model))).startswith(
        f"--adb {model}: a folder, expected a serial; write: tsm-edge deploy {model} --adb"
    )
    assert "is not a destination, expected [USER@]HOST[:PATH]" in refusal(
        run_program("deploy", str(model), "--", "-oX")
    )
    missing = refusal(run_program("deploy", str(tmp_path / "none"), "board"))
    assert missing.startswith(f"{tmp_path}/none: no such directory, expected a compiled artifact")
    (model / "model.so").write_bytes(b"changed")
    assert "does not match its manifest" in refusal(run_program("deploy", str(model), "board"))


def replace_runner(model: Path, script: str) -> None:
    (model / "tsm-runner").write_text(script)
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["files"]["tsm-runner"] = hashlib.sha256(script.encode()).hexdigest()
    (model / "manifest.json").write_text(json.dumps(manifest))


def forget(model: Path, name: str) -> None:
    (model / name).unlink()
    manifest = json.loads((model / "manifest.json").read_text())
    del manifest["files"][name]
    (model / "manifest.json").write_text(json.dumps(manifest))


# Whose files are there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "before", "problem"),
    [
        ("manifest.json", "", "has a file manifest.json in it that tsm-edge did not put there"),
        ("manifest.json", "deployed", "has a file manifest.json in it that tsm-edge did not put there"),
        ("labels.txt", "deployed", "has a file labels.txt in it that tsm-edge did not put there"),
        ("tsm-runner", "deployed", "has a file tsm-runner in it that tsm-edge did not put there"),
        ("model.so", "", "has a file model.so in it that tsm-edge did not put there"),
        ("notes", "", "has files in it and is not a deployed model"),
    ],
)
def test_what_tsm_edge_did_not_put_there_is_not_replaced(
    over_ssh: Callable[..., Result], board: Any, name: str, before: str, problem: str
) -> None:
    there = board.home / "there"
    if before:
        told(over_ssh("--json", "--no-verify", to="board:there"))
    else:
        there.mkdir()
    (there / name).write_text('{"name": "mine"}')
    old = content(there)
    assert refusal(over_ssh(to="board:there")) == f"board: there {problem}; name another folder: USER@HOST:PATH"
    assert content(there) == old


def test_files_of_the_users_beside_a_deployed_model_stay(
    over_ssh: Callable[..., Result], board: Any, model: Path
) -> None:
    told(over_ssh("--json", "--no-verify", to="board:there"))
    there = board.home / "there"
    (there / "start.sh").write_text("mine")
    forget(model, "tsm-runner")
    told(over_ssh("--json", to="board:there"))
    assert (there / "start.sh").read_text() == "mine"
    assert not (there / "tsm-runner").exists()


@pytest.mark.parametrize("renamed", [1, 4])
def test_a_device_that_loses_power_while_files_are_renamed(
    over_ssh: Callable[..., Result], board: Any, model: Path, renamed: int
) -> None:
    """The next deployment goes on, with this model or with another one."""
    there = board.home / "there"
    board.add_program("mv", f'[ $(ls | wc -l) -lt {renamed} ] && exec /bin/mv "$@"; kill -9 $PPID')
    assert over_ssh("--no-verify", to="board:there").returncode == 2
    (board.programs / "mv").unlink()
    assert len([path for path in there.iterdir() if path.name in NAMES]) == renamed
    (model / "tsm_edge.h").write_text("/* another model's */")
    edit_hash(model, "tsm_edge.h")
    told(over_ssh("--json", to="board:there"))
    assert content(there) == expected(model)


def test_a_lost_connection_does_not_stop_the_renames(over_ssh: Callable[..., Result], board: Any, model: Path) -> None:
    there = board.home / "there"
    board.add_program("mv", 'kill -HUP $PPID; kill -PIPE $PPID; exec /bin/mv "$@"')
    told(over_ssh("--json", to="board:there"))
    assert content(there) == expected(model)


def edit_hash(model: Path, name: str) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256((model / name).read_bytes()).hexdigest()
    (model / "manifest.json").write_text(json.dumps(manifest))
