"""A terminal for programs that look whether they have one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys


def run_on_terminal(code: str, environment: dict[str, str]) -> str:
    """Run Python code with a pseudo-terminal as its stdout and stderr; return what appeared on it."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    text = b""
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:  # Linux reports the closed other end as an error
            break
        if not chunk:
            break
        text += chunk
    os.close(controller)
    assert process.wait(30) == 0
    return text.decode()
