"""``tsm-runner bench`` on a board, over one connection that is silent while it runs.

Its result goes to a file there first: when this side is interrupted, or the connection is lost, it is fetched over
another connection.
"""

from __future__ import annotations

import secrets
import shlex
import time
from dataclasses import dataclass

from tsm_edge.artifact.folder import RUNNER
from tsm_edge.deploy.transport import Finished, Transport, last_line
from tsm_edge.errors import BenchError, DeployError

# How a document begins; what else a login shell prints does not.
_BEGINS = '{"schema"'
_MOST_BYTES = 1 << 27  # of a result
_COMMAND_S = 60.0
# After a lost connection: so often it is tried again, with a pause before.
_TRIES, _PAUSE_S = 3, 3.0
_NO_FOLDER = 9


@dataclass(frozen=True)
class Said:
    """What the runner answered.

    Attributes
    ----------
    text : str
        A document.
    seconds : float
        How long it ran, as seen from here.
    ended_s : float
        When it ended, on the clock of :func:`time.monotonic`.
    stopped : KeyboardInterrupt or None
        Who interrupted it here.
    """

    text: str
    seconds: float
    ended_s: float
    stopped: KeyboardInterrupt | None = None


class Errand:
    """One run of the runner.

    Parameters
    ----------
    transport : Transport
    folder : str
        Of the model there.
    """

    def __init__(self, transport: Transport, folder: str) -> None:
        self._transport = transport
        path = folder if folder.startswith("/") else f"./{folder}"
        token = secrets.token_hex(4)
        # A folder that somebody else deployed to may not be ours to write.
        self._enter = (
            f'cd -- {shlex.quote(path)} || exit {_NO_FOLDER}; w=.; [ -w . ] || w="${{TMPDIR:-/tmp}}"; '
            f'f="$w/.bench-{token}"'
        )

    def run(self, options: str, limit_s: float) -> Said:
        """Run it to its end, or until somebody interrupts it here: what was measured until then comes back, too.

        Raises
        ------
        BenchError
            It does not run there, or the connection is lost for good.
        KeyboardInterrupt
            Before a frame was measured.
        """
        script = (
            f'{self._enter}; ./{RUNNER} bench {options} --json "$f.json" 2> "$f.err" & p=$!; echo $p > "$f.pid"; '
            'wait $p; c=$?; cat "$f.err" >&2; cat "$f.json" 2> /dev/null; exit $c'
        )
        # The shell that runs it in the background must be the one that waits.
        began_s = time.monotonic()
        try:
            finished = self._transport.run(script, limit_s, _MOST_BYTES)
        except KeyboardInterrupt as stopped:
            return Said(self._stop(stopped), time.monotonic() - began_s, time.monotonic(), stopped)
        except DeployError as lost:
            return Said(self._fetch(lost), time.monotonic() - began_s, time.monotonic())
        ended_s = time.monotonic()
        self._transport.run(f'{self._enter}; rm -f "$f".*', _COMMAND_S)
        return Said(self._document(finished), ended_s - began_s, ended_s)

    def _stop(self, stopped: KeyboardInterrupt) -> str:
        """Interrupt it there, too, and fetch what it has."""
        finished = self._collect(f"kill -INT $p; {self._wait(10)}")
        text = _document_in(finished.output)
        if text is None:
            raise stopped
        return text

    def _fetch(self, lost: DeployError) -> str:
        """Wait until it has ended there by itself, over a new connection."""
        for _ in range(_TRIES):
            time.sleep(_PAUSE_S)
            try:
                return self._document(self._collect(self._wait(86400)))
            except DeployError:
                continue
        name = self._transport.name
        raise BenchError(
            f"{name}: the connection was lost while frames were measured ({lost.problem})",
            "check that the board is on, then measure again",
        )

    def _collect(self, wait: str) -> Finished:
        script = f'{self._enter}; p=$(cat "$f.pid"); {wait}; cat "$f.err" >&2; cat "$f.json"; rm -f "$f".*'
        return self._transport.run(script, 2 * 86400, _MOST_BYTES)

    def _wait(self, most_s: int) -> str:
        return f"i=0; while kill -0 $p 2> /dev/null && [ $i -lt {most_s} ]; do sleep 1; i=$((i + 1)); done"

    def _document(self, finished: Finished) -> str:
        text = _document_in(finished.output)
        if text is not None:
            return text
        name, said = self._transport.name, last_line(finished.errors)
        if finished.code == _NO_FOLDER:
            raise BenchError(f"{name}: the folder of the model is gone", "did somebody remove it? measure again")
        if finished.code in (126, 127):
            raise BenchError(
                f"{name}: {RUNNER} does not start there ({said})", "is the model compiled for this board? --target T"
            )
        if finished.code == 0:
            raise BenchError(
                f"{name}: {RUNNER} is gone without a result ({said})", "did the board restart? measure again"
            )
        raise BenchError(
            f"{name}: {RUNNER} bench ended with {finished.code} ({said.removeprefix('tsm-runner: error: ')})",
            _HINTS.get(finished.code, "measure again"),
        )


_HINTS = {2: "see what it can do: tsm-runner bench on the board", 137: "is there memory enough? see dmesg there"}


def _document_in(output: str) -> str | None:
    return next((line for line in output.splitlines() if line.startswith(_BEGINS)), None)
