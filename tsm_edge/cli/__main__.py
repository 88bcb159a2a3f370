"""``python -m tsm_edge.cli``: the same program as ``tsm-edge``."""

import sys

from tsm_edge.cli.main import entry_point

sys.exit(entry_point())
