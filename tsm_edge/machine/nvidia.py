"""Clock and heat of an NVIDIA graphics card: its driver shows them in no file, nvidia-smi does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tsm_edge.machine.clocks import Gpu
from tsm_edge.machine.files import Files, ask, to_number
from tsm_edge.machine.heat import Temperature

_DRIVER = "/proc/driver/nvidia/version"
PATTERNS = (_DRIVER,)
_ASKED = ("name", "clocks.sm", "clocks.max.sm", "temperature.gpu")


@dataclass(frozen=True)
class Card:
    """A graphics card at a moment; what it does not tell is None."""

    clock: Gpu
    temperature: Temperature | None


def ask_card(run: Callable[..., str], files: Files) -> Card | None:
    """The machine's card; None where there is none, or are several: which of them a model runs on is not told.

    Parameters
    ----------
    run : callable
        Runs a program of the machine.
    files : Files
        Its :data:`PATTERNS`: no program is started where the driver is not loaded.
    """
    if _DRIVER not in files:
        return None
    said = ask(run, "nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits")
    lines = said.strip().splitlines()
    fields = [field.strip() for field in lines[0].split(",")] if len(lines) == 1 else []
    if len(fields) != len(_ASKED):
        return None
    name, now, most, heat = fields[0], *(to_number(field) for field in fields[1:])
    return Card(
        # Under load most cards stay below the clock that they can reach: no reason to doubt a figure.
        Gpu(name, current_mhz=now or None, limit_mhz=most or None),
        None if heat is None else Temperature(name, heat),
    )
