"""Clips made by processes of their own while a GPU trains: Python makes them too slowly beside it."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from tsm_edge.training.data import Frames, Labels

Batch = tuple[Frames, Labels]
Make = Callable[..., Batch]
_AHEAD = 4  # batches of a process that may wait for the training

_make: Make | None = None  # in a process of these


@contextmanager
def made_ahead(make: Make, asked: Iterable[tuple[Any, ...]], processes: int) -> Iterator[Iterator[Callable[[], Batch]]]:
    """What gives each batch that is asked for, in order.

    Parameters
    ----------
    make : callable
        Makes a batch; it is pickled where there are processes.
    asked : iterable of tuple
        Its arguments.
    processes : int
        0: a batch is made by whoever calls.

    Yields
    ------
    iterator of callable
        Each returns its batch.
    """
    if not processes:
        yield (partial(make, *arguments) for arguments in asked)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (make,))
    try:
        yield _in_order(pool, iter(asked), processes * _AHEAD)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, asked: Iterator[tuple[Any, ...]], ahead: int) -> Iterator[Callable[[], Batch]]:
    waiting: deque[Future[Batch]] = deque()
    for arguments in asked:
        waiting.append(pool.submit(_made, arguments))
        if len(waiting) == ahead:
            yield waiting.popleft().result
    while waiting:
        yield waiting.popleft().result


def _begin(make: Make) -> None:
    global _make
    import cv2

    cv2.setNumThreads(1)
    _make = make


def _made(arguments: tuple[Any, ...]) -> Batch:
    if _make is None:
        raise RuntimeError("this process was not begun")
    return _make(*arguments)
