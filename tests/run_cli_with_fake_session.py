"""The ``tsm-edge`` program with a :class:`fake_session.FakeSession` for every compiled model."""

import sys
import types

import fake_session

from tsm_edge.cli.main import entry_point

stand_in = types.ModuleType("tsm_edge.session")
stand_in.OnlineSession = fake_session.FakeSession  # type: ignore[attr-defined]
sys.modules["tsm_edge.session"] = stand_in
sys.exit(entry_point())
