"""A tuner on a simulated board without noise, as a program of its own: ``tuning_process.py FILE FOLDER``."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulated_board import SimulatedBuilder, simulated_board, small_network

from tsm_edge.tune.fleet import Fleet
from tsm_edge.tune.ledger import Ledger
from tsm_edge.tune.state import Budget
from tsm_edge.tune.tuner import Tuner

path, folder = map(Path, sys.argv[1:])
network = small_network(folder)
board = simulated_board(sigma=0.0, on_measure=lambda: time.sleep(0.0005))
with Ledger(path, go_on=True) as ledger:
    builder, budget = SimulatedBuilder(network), Budget(1e6)
    Tuner(network, Fleet([board]), ledger, builder, budget, {"machine": "simulated"}).run("conv_*")
