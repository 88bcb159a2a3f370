"""README, docs and CONTRIBUTING cannot promise commands, options, models, targets or files that do not exist."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tsm_edge.cards import model_names, target_names
from tsm_edge.cli.main import root

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text("utf-8")
TEXTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]


def shell_blocks(text: str) -> list[str]:
    return re.findall(r"^```(?:sh|bash|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


SHELL_BLOCKS = shell_blocks(README)


def tsm_edge_commands() -> Iterator[list[str]]:
    """Yield the words after ``tsm-edge`` of each such command in the shell blocks."""
    for block in (block for path in TEXTS for block in shell_blocks(path.read_text("utf-8"))):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            command: list[str] = []
            for word in [*words, ";"]:
                if word in ("&&", "||", "|", ";", "&"):
                    if command and Path(command[0]).name == "tsm-edge":
                        yield command[1:]
                    command = []
                else:
                    command.append(word)


def parse(words: list[str]) -> None:
    """Check a command line without running anything or needing its files."""
    assert words, "no command is named"
    group = click.Context(root, info_name="tsm-edge")
    name, command, rest = root.resolve_command(group, words)
    assert command is not None
    if isinstance(command, click.Group):
        name, command, rest = command.resolve_command(click.Context(command, parent=group), rest)
        assert command is not None
    with click.Context(command, info_name=name, parent=group) as ctx:
        values, extra, _ = command.make_parser(ctx).parse_args(list(rest))
        assert not extra, f"{extra} are no arguments of {name}"
        for parameter in command.get_params(ctx):
            given = values.get(parameter.name or "")
            if isinstance(parameter, click.Option) and isinstance(parameter.type, click.Choice) and given:
                parameter.type_cast_value(ctx, given)


@pytest.mark.parametrize("words", list(tsm_edge_commands()), ids=" ".join)
def test_every_command_in_the_texts_parses(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("words", [["modls"], ["models", "--jsn"], ["models", "extra"], []])
def test_a_wrong_command_would_be_noticed(words: list[str]) -> None:
    with pytest.raises((click.UsageError, click.exceptions.Exit, AssertionError)):
        parse(words)


def test_the_readme_opens_with_two_commands() -> None:
    demo, tests = SHELL_BLOCKS[:2]
    assert demo.rstrip().endswith("tsm-edge demo")
    assert tests.rstrip().endswith("pytest -n 2 --dist worksteal")


def test_ci_runs_exactly_the_readmes_test_command() -> None:
    shown = subprocess.run([PROJECT / ".ci/run", "--show"], capture_output=True, text=True, check=True).stdout
    assert shown == SHELL_BLOCKS[1]


@pytest.mark.parametrize(("section", "names"), [("Models", model_names()), ("Targets", target_names())])
def test_the_readme_lists_every_card(section: str, names: list[str]) -> None:
    text = re.search(rf"^## {section}\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    assert text is not None
    cells = re.findall(r"^\| (`[^|]+) \|", text[1], re.MULTILINE)
    assert sorted(name for cell in cells for name in re.findall(r"`([^`]+)`", cell)) == names


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_everything_in_docs_is_reached_from_the_readme() -> None:
    assert [path.name for path in TEXTS if path.parent == PROJECT / "docs" and f"docs/{path.name}" not in README] == []
