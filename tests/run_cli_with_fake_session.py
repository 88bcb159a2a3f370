"""The ``tsm-edge`` program with a :class:`fake_session.FakeSession` for every compiled model."""

import sys

import fake_session

from tsm_edge.cli.main import entry_point
from tsm_edge.session import open as session_open

session_open.open_session = fake_session.open_fake  # type: ignore[assignment]
sys.exit(entry_point())
