"""A tuner on a simulated board without noise, as a program of its own: ``tuning_process.py FILE FOLDER [AFTER DELAY]``.

It is killed ``DELAY`` seconds after so many measurements, wherever it is then. Its last line says how many it made.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulated_board import SimulatedBuilder, simulated_board, small_network

from tsm_edge.tune.fleet import Fleet
from tsm_edge.tune.ledger import Ledger
from tsm_edge.tune.state import Budget
from tsm_edge.tune.tuner import Tuner

path, folder = map(Path, sys.argv[1:3])
after, delay_s = (int(sys.argv[3]), float(sys.argv[4])) if len(sys.argv) > 3 else (-1, 0.0)
measurements = 0


def measured() -> None:
    global measurements
    measurements += 1
    time.sleep(0.0005)
    if measurements == after:
        threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()


network = small_network(folder)
board = simulated_board(sigma=0.0, on_measure=measured)
with Ledger(path, go_on=True) as ledger:
    builder, budget = SimulatedBuilder(network), Budget(1e6)
    Tuner(network, Fleet([board]), ledger, builder, budget, {"machine": "simulated"}).run("conv_*")
print(measurements)
