"""Options that would be ignored where they were given, or that could mean two things."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click
from click.core import ParameterSource


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether a parameter stands on the command line."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def refuse_given(ctx: click.Context, options: Mapping[str, str], why: str) -> None:
    """Refuse options that would be ignored.

    Parameters
    ----------
    ctx : click.Context
    options : mapping of str to str
        Parameter to option.
    why : str
        Goes on after the option's name: ``is for networks of clips: leave it out``.

    Raises
    ------
    UsageError
        Naming the first.
    """
    for name, option in options.items():
        if is_given(ctx, name):
            raise click.UsageError(f"{option} {why}", ctx)


def one_meaning(
    words: Mapping[str, str], is_other: Callable[[Path], bool]
) -> Callable[[click.Context, click.Parameter, str], str]:
    """A callback for an option of words or paths: it refuses a word where a path of that name could be meant.

    Parameters
    ----------
    words : mapping of str to str
        Word to what it stands for.
    is_other : callable
        Whether a path is what the option takes beside words.

    Returns
    -------
    callable
        Raises UsageError, which says how to name either.
    """

    def check(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
        if value in words and is_given(ctx, parameter.name or "") and is_other(Path(value)):
            option = parameter.opts[0]
            other = f"leave {option} out" if value == parameter.get_default(ctx) else "rename it"
            raise click.UsageError(
                f"{option} {value} means {words[value]}, and there is a ./{value} here: for that give {option} "
                f"./{value}, else {other}",
                ctx,
            )
        return value

    return check


data_option = click.option(
    "--data",
    metavar="DIR|CSV",
    default="motion",
    show_default=True,
    callback=one_meaning({"motion": "generated clips"}, Path.exists),
    help="Clips; motion: generated ones.",
)
