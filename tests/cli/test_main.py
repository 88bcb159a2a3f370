import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import tsm_edge
from tsm_edge.cards import DEFAULT_MODEL
from tsm_edge.cli import main
from tsm_edge.cli.numbers import RealRange
from tsm_edge.errors import CheckFailed, TsmEdgeError

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make the command ``models`` raise."""

    def make(error: BaseException) -> None:
        def fail() -> list[str]:
            raise error

        monkeypatch.setattr("tsm_edge.cli.models.model_names", fail)

    return make


def test_help_takes_less_than_300_ms_of_the_processor(program_environment: dict[str, str]) -> None:
    """Processor time: what a person waits for on an idle machine, whatever else runs beside the tests."""
    times = []
    for _ in range(4):
        command = [sys.executable, "-m", "tsm_edge.cli", "--help"]
        process = subprocess.Popen(command, env=program_environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        times.append(usage.ru_utime + usage.ru_stime)
    assert min(times) < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models"], ["targets", "--json"]])
def test_light_commands_import_nothing_heavy(program_environment: dict[str, str], arguments: list[str]) -> None:
    code = (
        "import json, sys; from tsm_edge.cli.main import entry_point; code = entry_point(sys.argv[1:]);"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=program_environment, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "tsm_edge.cli.main" in loaded
    assert not loaded & {"torch", "tvm", "cv2", "numpy", "onnx", "onnxruntime"}


def test_help_lists_every_command_and_what_it_does(run_program: RunProgram) -> None:
    done = run_program("--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    assert f" models {main.COMMANDS['models']} targets {main.COMMANDS['targets']}" in words
    assert all(f"\n  {name} " in done.stdout for name in main.COMMANDS)


def test_every_command_has_a_module_and_every_module_with_a_command_is_one() -> None:
    modules = Path(main.__file__).parent.glob("*.py")
    command = re.compile(r'\n@click\.(command|group)\("')
    found = {path.stem for path in modules if command.search(path.read_text("utf-8"))}
    assert set(main.COMMANDS) == found


@pytest.mark.parametrize("name", main.root.list_commands(main.root.make_context("tsm-edge", ["models"])))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.entry_point([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: tsm-edge {name}")
    assert "--debug" in text


@pytest.mark.parametrize("name", ["export", "compile", "demo"])
def test_the_default_model_is_named_where_it_is_used(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.entry_point([name, "--help"]) == 0
    assert f"default: {DEFAULT_MODEL}" in " ".join(capsys.readouterr().out.split())


def test_version(run_program: RunProgram) -> None:
    done = run_program("--version")
    assert (done.returncode, done.stdout) == (0, f"tsm-edge {tsm_edge.__version__}\n")


def test_no_command_shows_help_and_is_a_user_error(run_program: RunProgram) -> None:
    done = run_program()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr


@pytest.mark.parametrize("name", sorted(main.COMMANDS))
def test_help_names_values_and_defaults_alike(name: str) -> None:
    """A value by what it is (N, FILE, DIR), not by click's type; a default as ``[default: …]``, nowhere else."""
    found = main.root.get_command(click.Context(main.root), name)
    assert found is not None
    for command in [found, *(found.commands.values() if isinstance(found, click.Group) else ())]:
        for option in command.params:
            if not isinstance(option, click.Option):
                continue
            is_choice = isinstance(option.type, click.Choice)
            assert option.is_flag or option.metavar or is_choice, f"{option.opts}: no metavar"
            real = isinstance(option.type, click.types.FloatParamType)
            assert not real or isinstance(option.type, RealRange), f"{option.opts}: takes what is not a number"
            text = option.help or ""
            assert not re.search(r"\((else|default|the card)[^)]*\)|\(\d+(; \d+)?\)", text), f"{option.opts}: {text}"
            brackets = re.findall(r"\[([^\]]*)\]", text)
            assert all(inside.startswith("default: ") for inside in brackets), f"{option.opts}: {text}"
            assert "None" not in str(option.get_help_record(click.Context(command))), f"{option.opts}: [x<=None]"


@pytest.mark.parametrize("name", ["records", "service"])
def test_no_command_of_a_group_shows_its_help(run_program: RunProgram, name: str) -> None:
    done = run_program(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Usage: tsm-edge {name}" in done.stderr
    assert "Commands:" in done.stderr
    assert "..." not in done.stderr.partition("Commands:")[2]  # each is explained to the end


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["modls"], r"unknown command 'modls' \(did you mean 'models'\?\): known are .*; try: tsm-edge --help"),
        # The words between are click's.
        (["--versoin"], r"--versoin.* mean .*--version.*; try: tsm-edge --help"),
        (["models", "--jsn"], r"--jsn.* mean .*--json.*; try: tsm-edge models --help"),
        (["compile", ""], r"an argument is empty: expected a name or path.*; try: tsm-edge compile --help"),
        (["compile", "--target="], r"--target is empty: expected a value.*; try: tsm-edge compile --help"),
        (["deploy", "--adb", ""], r"--adb is empty: expected a value.*; try: tsm-edge deploy --help"),
        (["models", "extra"], r"unexpected extra argument \(extra\).*; try: tsm-edge models --help"),
        (
            ["records", "lst"],
            r"unknown command 'lst' \(did you mean 'list'\?\): known are .*; try: tsm-edge records --help",
        ),
        (["run", "--video"], r"requires an argument; try: tsm-edge run --help"),
        (["export"], r"Missing option.*[^.]; try: tsm-edge export --help"),
    ],
)
def test_usage_errors_are_one_line_with_the_closest_match(
    run_program: RunProgram, arguments: list[str], expected: str
) -> None:
    done = run_program(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tsm-edge: error: ")
    assert done.stderr.count("\n") == 1
    assert re.search(expected, done.stderr)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (TsmEdgeError("no such board", "see: tsm-edge targets"), 2, "error: no such board; see: tsm-edge targets"),
        (TsmEdgeError("first\n  second", "third"), 2, "error: first second; third"),
        (CheckFailed("logits differ", "see: it"), 1, "error: logits differ; see: it"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            PermissionError(13, "Permission denied", "/x/model.so"),
            2,
            "error: /x/model.so: Permission denied; run again",
        ),
        (BrokenPipeError(32, "Broken pipe"), 2, "error: Broken pipe; run again with --debug"),
        (ZeroDivisionError("division by zero"), 70, "internal error: ZeroDivisionError: division by zero; run again"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    failing_command: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    failing_command(error)
    assert main.entry_point(["models"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"tsm-edge: {line}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--debug", "models"], ["models", "--debug"]])
def test_debug_shows_the_traceback_before_the_line(
    failing_command: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    failing_command(TsmEdgeError("no such board", "see: tsm-edge targets"))
    assert main.entry_point(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("Traceback (most recent call last):")
    assert text.endswith("\ntsm-edge: error: no such board; see: tsm-edge targets\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_ends_the_program_quietly(program_environment: dict[str, str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tsm_edge.cli", "models", "--json"],
            env={**program_environment, "PYTHONUNBUFFERED": unbuffered},
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_or_broken_stream_does_not_change_how_a_command_ends(
    program_environment: dict[str, str], tmp_path: Path, unbuffered: str
) -> None:
    environment = {**program_environment, "PYTHONUNBUFFERED": unbuffered}

    def code(command: str) -> int:
        script = ["sh", "-c", f"{shlex.quote(sys.executable)} -m tsm_edge.cli {command}"]
        return subprocess.run(script, env=environment, capture_output=True, cwd=tmp_path).returncode

    assert code("models >&-") == 0
    assert code("models 2>&-") == 0
    assert code("models <&- >&- 2>&-") == 0
    assert code("modls 2>&-") == 2
    assert code("modls 2>/dev/full") == 2
    assert code("models >/dev/full") == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_on_a_full_disk_is_one_line(program_environment: dict[str, str], unbuffered: str) -> None:
    command = [sys.executable, "-m", "tsm_edge.cli", "models"]
    environment = {**program_environment, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "tsm-edge: error: standard output: No space left on device; run again with --debug for the traceback"
    ]


def test_an_error_that_nobody_reads_keeps_its_exit_code(program_environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tsm_edge.cli", "modls"]
    done = subprocess.run(command, env=program_environment, stdout=subprocess.PIPE, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 2


@pytest.mark.parametrize("number", [1, 2])
def test_a_file_never_takes_the_place_of_a_closed_stream(number: int, program_environment: dict[str, str]) -> None:
    code = (
        "import os; from tsm_edge.cli.streams import prepare_streams; prepare_streams();"
        "opened = os.open('/dev/zero', os.O_RDONLY); os.write(0, str(opened).encode())"
    )
    reader, writer = os.pipe()
    script = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {number}>&-"
    subprocess.run(["sh", "-c", script], env=program_environment, stdin=writer, check=True)
    os.close(writer)
    with os.fdopen(reader) as told:
        assert int(told.read()) > 2


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_characters_that_stdout_cannot_show_are_replaced(program_environment: dict[str, str], encoding: str) -> None:
    code = (
        "from tsm_edge.cli.streams import prepare_streams; prepare_streams()\n"
        "from tsm_edge.cli.output import *\n"
        "name = 'スワイプ \\udcff'\n"
        "print_table(name, ['é'], [[name]]); print_json_line({'label': name}); print_json({'label': name}); warn(name)"
    )
    environment = {**program_environment, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    lines = done.stdout.decode(encoding).splitlines()
    assert json.loads(lines[3]) == {"label": "スワイプ \udcff"}
    assert json.loads("".join(lines[4:])) == {"label": "スワイプ \udcff"}
    if encoding == "latin-1":
        assert lines[:3] == ["???? ?", "é", "???? ?"]
    assert done.stderr.startswith(b"warning: ")
