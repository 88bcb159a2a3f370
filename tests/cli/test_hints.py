"""Commands and options that the package's own words name exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import tsm_edge
from tsm_edge.cli.main import root

PACKAGE = Path(tsm_edge.__file__).parent
# What other programs understand, in a command that is theirs.
OTHERS = (
    r"\b(pip|apt-get|python -m|git|iconv|ffmpeg|v4l2-ctl|ldd|qemu|ssh|adb|curl|systemctl|docker|zig|chmod|"
    r"jetson_clocks)\b"
)


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every line of text in a module that is no docstring, with what an f-string fills in as ``X``."""
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    inner |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if " " in text and "\n" not in text:
            yield node.lineno, text


def options_of(command: str) -> set[str]:
    found = root.get_command(click.Context(root), command)
    if found is None:
        return set()
    # Those of a group are its commands'.
    every = [found, *found.commands.values()] if isinstance(found, click.Group) else [found]
    return {name for one in every for parameter in one.params for name in parameter.opts} | {"--help"}


@pytest.fixture(scope="module")
def commands() -> dict[str, set[str]]:
    return {name: options_of(name) for name in root.list_commands(click.Context(root))}


def wrong_words(text: str, commands: dict[str, set[str]]) -> list[str]:
    """Commands in a text that tsm-edge does not have, and options that the command named before them does not."""
    wrong = [f"tsm-edge {name}" for name in re.findall(r": tsm-edge ([a-z]+)", text) if name not in commands]
    for command, rest in re.findall(r"tsm-edge ([a-z]+)\b([^;,)]*)", text):
        known = commands.get(command, set())
        wrong += [
            f"tsm-edge {command} {option}" for option in re.findall(r"--[a-z][a-z0-9-]*", rest) if option not in known
        ]
    every = set().union(*commands.values()) | {"--debug", "--version"}
    if not re.search(OTHERS, text):
        wrong += [option for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text) if option not in every]
    return wrong


def test_every_option_in_the_packages_words_exists(commands: dict[str, set[str]]) -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text in texts(ast.parse(path.read_text("utf-8"))):
            if wrong := wrong_words(text, commands):
                found[f"{path.relative_to(PACKAGE)}:{line}"] = (text, wrong)
    assert found == {}


def test_wrong_words_would_be_found(commands: dict[str, set[str]]) -> None:
    assert wrong_words("export it with: tsm-edge compile --mode offline", commands) == []
    assert wrong_words("try: tsm-edge compile --trained-online", commands) == [
        "tsm-edge compile --trained-online",
        "--trained-online",
    ]
    assert wrong_words("try: tsm-edge models --target native", commands) == ["tsm-edge models --target"]
    assert wrong_words("dance with: tsm-edge dance", commands) == ["tsm-edge dance"]
    assert wrong_words("accept them with --allow-wrong-weights", commands) == ["--allow-wrong-weights"]
    assert wrong_words("install it: pip install --force-reinstall tsm-edge", commands) == []
