"""Keeps TVM's own warnings from the user's terminal: they speak of its insides, and it has no switch for them."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_WARNING = re.compile(rb"\[\d+:\d+:\d+\] .*: Warning: ")


@contextmanager
def without_tvm_warnings() -> Iterator[None]:
    """While it lasts, what native code writes to stderr is held back; all but TVM's warnings is written afterwards."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        terminal = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            os.write(2, b"".join(line for line in held if not _WARNING.match(line)))
