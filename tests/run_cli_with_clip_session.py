"""The ``tsm-edge`` program with a :class:`clip_session.ClipSession` for every compiled model."""

import sys

import clip_session

from tsm_edge.cli.main import entry_point
from tsm_edge.session import open as session_open

session_open.open_session = clip_session.open_clip_session  # type: ignore[assignment]
sys.exit(entry_point())
