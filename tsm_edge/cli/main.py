"""The ``tsm-edge`` program: finds the command, runs it, turns every error into one line and an exit code.

Exit codes: 0 success; 1 a check the user asked for failed; 2 user error (usage, a bad file, the operating system
refused); 70 a defect of tsm-edge itself (``EX_SOFTWARE`` of ``sysexits.h``); 128 + the signal's number when one ended
it: 130 interrupted (``SIGINT``), 143 ``SIGTERM``, 129 ``SIGHUP``, 141 the reader of a pipe went away (``SIGPIPE``).
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import click

import tsm_edge
from tsm_edge.cli.group import EXIT_USER_ERROR, CommandGroup, show_help
from tsm_edge.cli.signals import Stopped, stopped_by_signals
from tsm_edge.cli.streams import prepare_streams, print_to_stderr, stdout_fails, stdout_is_gone
from tsm_edge.errors import TsmEdgeError
from tsm_edge.extras import line_for
from tsm_edge.files.paths import not_utf8, printable
from tsm_edge.redact import redacted

PROGRAM = "tsm-edge"
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

# Summaries live here, not in the command modules, so that --help imports none of them.
COMMANDS = {
    "demo": "Export, compile, verify and run the default model on this machine.",
    "models": "List the model cards.",
    "targets": "List the target cards.",
    "train": "Train a network on clips.",
    "teach": "Teach a model classes of your own from a few clips.",
    "export": "Write a model as ONNX with its shift caches as inputs and outputs.",
    "compile": "Compile a model for a target: one self-contained model.so.",
    "verify": "Check a compiled model against ONNX Runtime.",
    "run": "Predict live on a video file, stream or camera.",
    "label": "Label recorded videos with a network of clips.",
    "service": "Run a model as a service of this system, by systemd.",
    "evaluate": "Measure how often a compiled model is right.",
    "profile": "Time every kernel of a compiled model.",
    "bench": "Measure latency and power, here or on boards, and whether to believe it.",
    "tune": "Find what is faster on a board than the rules' choices, and keep it as records.",
    "records": "List, merge and prune files of tuning records.",
    "power": "List the power sensors here or on a board, and read them.",
    "serve": "Let other machines run compiled models here.",
    "deploy": "Copy a compiled model to a device, and verify it there.",
}


@dataclass
class Settings:
    """What the global options decide (``ctx.obj`` of every command)."""

    debug: bool = False


def _turn_on_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Settings).debug = True


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_turn_on_debug, help="Show a traceback on errors."
    )


class LazyGroup(CommandGroup):
    """A click group whose commands are modules of ``tsm_edge.cli``, imported when one is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in :data:`COMMANDS`, in that order: each is a module here."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; ``--debug`` is understood after its name, too."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__package__}.{cmd_name}").command
        if not any("--debug" in parameter.opts for parameter in command.params):
            command.params.append(_debug_option())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command ``args`` begins with; empty values are refused, too."""
        found = super().resolve_command(ctx, args)
        if found[1] is not None:
            _refuse_empty(found[2], click.Context(found[1], ctx, args[0]))
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _refuse_empty(args: Sequence[str], ctx: click.Context) -> None:
    """Refuse empty values, which are shell variables that were never set: no default may stand in for them."""
    for before, text in zip(["", *args], args, strict=False):
        option, sign, value = text.partition("=")
        if text.startswith("--") and sign and not value:
            raise click.UsageError(f"{option} is empty: expected a value, or leave the option out", ctx)
        if not text and before.startswith("-"):
            raise click.UsageError(f"{before} is empty: expected a value, or leave the option out", ctx)
        if not text:
            raise click.UsageError("an argument is empty: expected a name or path, or leave it out", ctx)


@click.group(
    PROGRAM,
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(tsm_edge.__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def root(ctx: click.Context) -> None:
    """Temporal Shift Module video recognition, compiled with Apache TVM for edge devices.

    Start with `tsm-edge demo`. `tsm-edge COMMAND --help` explains one command.
    """
    if ctx.invoked_subcommand is None:
        show_help(ctx)


root.params.append(_debug_option())


def entry_point(args: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code (see the top of this module).

    Parameters
    ----------
    args : sequence of str, optional
        The arguments after the program's name; by default those of this process.
    """
    if "_TSM_EDGE_COMPLETE" in os.environ:  # a shell asks for tab completion
        root.main(prog_name=PROGRAM)
    prepare_streams()
    settings = Settings()
    words = list(sys.argv[1:] if args is None else args)
    try:
        with stopped_by_signals():
            code = _run(words, settings)
            sys.stdout.flush()
    except Stopped as stopped:
        return _report(settings, str(stopped), stopped.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _report(settings, "interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        return _report(settings, _usage_line(error, words), EXIT_USER_ERROR)
    except TsmEdgeError as error:
        return _report(settings, f"error: {error}", error.exit_code)
    except ModuleNotFoundError as error:
        line = line_for(error.name)
        if line is None:
            return _report(settings, _defect_line(error), EXIT_DEFECT)
        return _report(settings, f"error: {line}", EXIT_USER_ERROR)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and stdout_is_gone():
            return EXIT_BROKEN_PIPE
        return _report(settings, f"error: {_os_error_line(error)}", EXIT_USER_ERROR)
    except Exception as error:  # noqa: BLE001 - the outermost frame: one line instead of a traceback
        return _report(settings, _defect_line(error), EXIT_DEFECT)
    return code


def _run(args: list[str], settings: Settings) -> int:
    """Run one command; a command ends with another code than 0 by ``ctx.exit(code)`` or by raising."""
    for argument in args:
        if printable(argument) != argument:
            raise not_utf8(argument)
    try:
        with root.make_context(PROGRAM, args, obj=settings) as ctx:
            root.invoke(ctx)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    return 0


def _report(settings: Settings, message: str, code: int) -> int:
    """Print the error being handled to stderr: its traceback if asked for, then one line. Return ``code``."""
    stdout_fails()  # what it still holds must not decide the exit code
    if settings.debug:
        print_to_stderr(redacted(traceback.format_exc()), nl=False)
    one_line = " ".join(line.strip() for line in message.splitlines() if line.strip())
    print_to_stderr(f"{PROGRAM}: {redacted(one_line)}")
    return code


def _defect_line(error: Exception) -> str:
    return f"internal error: {type(error).__name__}: {error}; run again with --debug for the traceback"


def _usage_line(error: click.ClickException, words: Sequence[str]) -> str:
    ctx = getattr(error, "ctx", None)
    # click's parser does not say in which command a value is missing.
    named = [f"{PROGRAM} {word}" for word in words if word in COMMANDS] or [PROGRAM]
    path = ctx.command_path if ctx is not None else named[0]
    return f"error: {error.format_message().removesuffix('.')}; try: {path} --help"


def _os_error_line(error: OSError) -> str:
    thing = "standard output: " if stdout_fails() else f"{error.filename}: " if error.filename is not None else ""
    return f"{thing}{error.strerror or error}; run again with --debug for the traceback"
