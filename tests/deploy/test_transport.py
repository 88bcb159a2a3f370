from __future__ import annotations

import sys
import time

import pytest

from tsm_edge.deploy.transport import Finished, run_program
from tsm_edge.errors import DeployError


def test_what_a_program_prints() -> None:
    code = "import sys; sys.stdout.write('o' * 200_000); sys.stderr.write('e' * 200_000); sys.exit(3)"
    assert run_program([sys.executable, "-c", code], 20, "pi") == Finished(3, "o" * 200_000, "e" * 200_000)


@pytest.mark.real_time
def test_a_program_that_does_not_end() -> None:
    began_s = time.monotonic()
    with pytest.raises(DeployError, match="pi does not finish within 0 s; check the connection"):
        run_program([sys.executable, "-c", "import time; print('x', flush=True); time.sleep(60)"], 0.3, "pi")
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_that_prints_without_end(stream: str) -> None:
    code = f"import sys\nwhile True: sys.{stream}.write('y' * 65536)"
    with pytest.raises(DeployError, match="pi prints more than 16 MiB, expected a few lines; look at what"):
        run_program([sys.executable, "-c", code], 60, "pi")
