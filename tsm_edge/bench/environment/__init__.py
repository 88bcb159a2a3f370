"""What a measured machine is and what happens to it meanwhile: clocks, heat, throttling, others on its cores.

:func:`snapshot` looks at all of it, :func:`glance` at what moves; :func:`fix_clock_commands` says how to hold clocks.
``board``, ``clocks``, ``heat``, ``alarms`` and ``load`` know the files and programs behind. It needs the standard
library alone, and on the measured machine files and a shell. Nothing here judges: that is ``bench.verdicts``.
"""

from tsm_edge.bench.environment.pinning import fix_clock_commands as fix_clock_commands
from tsm_edge.bench.environment.snapshot import glance as glance
from tsm_edge.bench.environment.snapshot import snapshot as snapshot
