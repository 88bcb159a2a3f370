"""Frames in, logits out: one protocol, here and on another machine.

The public names are here; everything else is imported from its module.
"""

from tsm_edge.session.base import Session
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession
from tsm_edge.session.open import open_session

__all__ = ["Library", "OnlineSession", "Session", "open_session"]
