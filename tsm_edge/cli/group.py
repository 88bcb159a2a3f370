"""A command with commands of its own: how it answers where none of them, or an unknown one, is named."""

from __future__ import annotations

from typing import NoReturn

import click

from tsm_edge.cli.streams import print_to_stderr
from tsm_edge.errors import unknown_name

EXIT_USER_ERROR = 2


def show_help(ctx: click.Context) -> NoReturn:
    """End with the help on stderr, as a user error: a command was expected."""
    print_to_stderr(ctx.get_help())
    ctx.exit(EXIT_USER_ERROR)


class CommandGroup(click.Group):
    """A click group that shows its help where no command is named, and the closest match of an unknown one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command: the help, and a user error."""
        if not args and not ctx.resilient_parsing:
            show_help(ctx)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command ``args`` begins with; refuse an unknown one."""
        name, known = args[0], self.list_commands(ctx)
        if not ctx.resilient_parsing and not name.startswith("-") and name not in known:
            raise click.UsageError(unknown_name("command", name, known), ctx)
        return super().resolve_command(ctx, args)
