"""The command with which a new model is watched at work."""

from __future__ import annotations

import shlex
from pathlib import Path


def watch_command(artifact: Path, camera: str = "0") -> str:
    """``tsm-edge run`` on a camera, in a window where there can be one."""
    from tsm_edge.live.window import why_no_window

    show = "" if why_no_window() else " --show"
    return f"tsm-edge run {shlex.quote(str(artifact))} --camera {shlex.quote(camera)} --every 2 --smooth{show}"
