"""Brings together the state, whoever waits for news of it, and how many look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tsm_edge.page.state import State

# After a program has asked for a picture, so many seconds count as if somebody looked.
_LOOKED_AT_S = 5.0


class Hub:
    """For one event loop.

    Parameters
    ----------
    state : State
    ask : callable
        Tells the run that a message is wanted; True: with a picture.

    Attributes
    ----------
    state : State
    """

    def __init__(self, state: State, ask: Callable[[bool], None]) -> None:
        self.state = state
        self._ask = ask
        self._news = asyncio.Event()
        self._asked_until_s = 0.0

    @property
    def looked_at(self) -> bool:
        """Whether anybody wants pictures."""
        return self.state.viewers > 0 or asyncio.get_running_loop().time() < self._asked_until_s

    def take(self, news: dict[str, Any], picture: bytes) -> None:
        """Take a message of the run, tell who waits, and ask for the next one."""
        self.state.take(news, picture)
        self._news.set()
        self._news = asyncio.Event()
        self._ask(self.looked_at)

    async def newer_than(self, version: int) -> int:
        """Wait for a message after that one; returns the number of the newest."""
        while self.state.version <= version:
            await self._news.wait()
        return self.state.version

    async def fresh_picture(self) -> None:
        """Wait for a picture that is asked for now; one that came while others look will do."""
        if self.looked_at and self.state.picture:
            return
        known = self.state.picture_version
        self._asked_until_s = asyncio.get_running_loop().time() + _LOOKED_AT_S
        self._ask(True)
        while self.state.picture_version <= known:
            await self._news.wait()

    def add_viewer(self) -> None:
        """Count a browser."""
        self.state.viewers += 1
        self._ask(True)

    def remove_viewer(self) -> None:
        """Count one less."""
        self.state.viewers -= 1
