"""Hands seeds to worker processes, and notices those that crash or do not come back."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz.worker import Outcome, work

# A worker may import TVM and PyTorch on a busy machine.
START_SECONDS = 300.0


@dataclass(frozen=True)
class Limits:
    """What one input may use: seconds, and MiB of memory beyond what the imports took."""

    seconds: float = 60.0
    memory_mib: int = 2048


@dataclass(frozen=True)
class Report:
    """The outcomes of a run.

    Attributes
    ----------
    counts : dict of str to int
        Inputs of each kind.
    failed : tuple of Outcome
        By seed.
    seconds : float
    memory_mib : int
        The largest worker's resident memory, its imports included.
    """

    counts: dict[str, int]
    failed: tuple[Outcome, ...]
    seconds: float
    memory_mib: int


def fuzz(
    module: str,
    seeds: Iterable[int],
    jobs: int = 1,
    limits: Limits | None = None,
    show: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Run the inputs of ``seeds`` in ``jobs`` worker processes.

    Parameters
    ----------
    module : str
        The target's.
    seeds : iterable of int
    jobs : int
    limits : Limits, optional
    show : callable, optional
        Called with every outcome, from one thread at a time.
    """
    limits = limits or Limits()
    started = time.monotonic()
    waiting, lock = iter(seeds), threading.Lock()
    counts: Counter[str] = Counter()
    failed: list[Outcome] = []
    memory = [0]
    problems: list[BaseException] = []

    def serve(folder: Path) -> None:
        worker = _Worker(module, folder, limits)
        try:
            for seed in _shared(waiting, lock):
                outcome, used = worker.outcome(seed)
                with lock:
                    counts[outcome.kind] += 1
                    memory.append(used)
                    if outcome.kind == "failed":
                        failed.append(outcome)
                    show(outcome)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            problems.append(error)
        finally:
            worker.end()

    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        threads = [threading.Thread(target=serve, args=(Path(root) / str(index),)) for index in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if problems:
        raise problems[0]
    failed.sort(key=lambda outcome: outcome.seed)
    return Report(dict(counts), tuple(failed), time.monotonic() - started, max(memory))


def _shared(waiting: Iterator[int], lock: threading.Lock) -> Iterator[int]:
    while True:
        with lock:
            seed = next(waiting, None)
        if seed is None:
            return
        yield seed


class _Worker:
    """A worker process, started again after it was lost."""

    def __init__(self, module: str, folder: Path, limits: Limits) -> None:
        self.module, self.folder, self.limits = module, folder, limits
        self.starts = 0
        self.process: multiprocessing.process.BaseProcess | None = None

    def outcome(self, seed: int) -> tuple[Outcome, int]:
        """The outcome of a seed, and the worker's largest memory in MiB (0: lost)."""
        if self.process is None:
            self._start()
        self.connection.send(seed)
        if not self.connection.poll(self.limits.seconds):
            self.end()
            return Outcome(seed, "failed", f"not done after {self.limits.seconds:.0f} s"), 0
        try:
            found: tuple[Outcome, int] = self.connection.recv()
        except EOFError:
            return Outcome(seed, "failed", self._why_lost()), 0
        return found

    def end(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.starts += 1
        place = self.folder / str(self.starts)
        place.mkdir(parents=True)
        self.output = place / "output.txt"
        self.connection, theirs = context.Pipe()
        arguments = (theirs, self.module, place / "place", self.output, self.limits.memory_mib)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        try:
            if not self.connection.poll(START_SECONDS):
                raise RuntimeError(f"the worker of {self.module} did not start within {START_SECONDS:.0f} s")
            self.connection.recv()
        except EOFError:
            raise RuntimeError(f"the worker of {self.module} did not start: {self._why_lost()}") from None

    def _why_lost(self) -> str:
        """How the process ended by itself, and the last it printed."""
        if self.process is None:
            return "it is not there"
        self.process.join()
        code = self.process.exitcode or 0
        self.process = None
        printed = self.output.read_text("utf-8", "replace").strip() if self.output.exists() else ""
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{how}; {printed[-2000:]}" if printed else how
