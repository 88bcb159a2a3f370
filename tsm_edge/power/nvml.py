"""NVIDIA's graphics cards, through their driver's library (NVML)."""

from __future__ import annotations

from typing import Any

from tsm_edge.errors import PowerError
from tsm_edge.power.sensor import LOOK, TRY, Quantity, Rail, SensorInfo, optional_module
from tsm_edge.power.system import System

_NAME = "nvml"


class NvmlSensor:
    """See :class:`tsm_edge.power.sensor.Sensor`.

    Parameters
    ----------
    library : module
        ``pynvml``, initialised.
    handle : object
        Of the card.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle
        self._quantity = self._first_quantity()
        name = library.nvmlDeviceGetName(handle)
        counter = self._quantity == "energy"
        self.info = SensorInfo(
            name=_NAME,
            rails=(Rail(name.decode() if isinstance(name, bytes) else str(name)),),
            boundary="board",
            covers="the graphics card alone: not the machine it is in",
            quantity=self._quantity,
            period_s=0.1,
            uncertainty_percent=None,
            uncertainty="of its counter not stated" if counter else "not stated; many cards show the mean of a second",
        )

    def read(self) -> tuple[float, ...]:
        """J since the driver was loaded where the card counts, else W."""
        try:
            if self._quantity == "energy":
                return (1e-3 * self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle),)
            return (1e-3 * self._library.nvmlDeviceGetPowerUsage(self._handle),)
        except self._library.NVMLError as error:
            raise PowerError(f"power sensor {_NAME} cannot be read any more ({error})", TRY) from None

    def close(self) -> None:
        """Release the library."""
        self._library.nvmlShutdown()

    def _first_quantity(self) -> Quantity:
        """What the card shows. One that shows nothing, or 0, has no sensor (Jetson's GPU, virtual cards)."""
        ways: tuple[tuple[str, Quantity], ...] = (
            ("nvmlDeviceGetTotalEnergyConsumption", "energy"),
            ("nvmlDeviceGetPowerUsage", "power"),
        )
        reason = "it answers 0"
        for function, quantity in ways:
            try:
                if getattr(self._library, function)(self._handle) > 0:
                    return quantity
            except self._library.NVMLError as error:
                reason = str(error)
        raise PowerError(f"power sensor {_NAME}: the card shows neither power nor energy ({reason})", LOOK)


def open_nvml(argument: str, system: System) -> NvmlSensor:
    """Find the card.

    Parameters
    ----------
    argument : str
        Its number; empty: the only one.

    Raises
    ------
    PowerError
        There is no library, driver or card, or it has no sensor.
    """
    library = optional_module("pynvml", "nvidia-ml-py", _NAME)
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise PowerError(
            f"power sensor {_NAME}: no NVIDIA driver here ({error})", "see whether it is there: nvidia-smi"
        ) from None
    try:
        return NvmlSensor(library, _handle(library, argument))
    except library.NVMLError as error:
        library.nvmlShutdown()
        raise PowerError(
            f"power sensor {_NAME}: the card cannot be asked ({error})", "see whether it answers: nvidia-smi"
        ) from None
    except PowerError:
        library.nvmlShutdown()
        raise


def _handle(library: Any, argument: str) -> Any:
    count = library.nvmlDeviceGetCount()
    if count == 0:
        raise PowerError(f"power sensor {_NAME}: no card here", "see whether the driver has one: nvidia-smi -L")
    if not argument and count > 1:
        raise PowerError(f"power sensor {_NAME}: {count} cards here", f"name one by its number: {_NAME}:0")
    index = argument or "0"
    if not index.isdecimal() or int(index) >= count:
        raise PowerError(
            f"power sensor {_NAME}: no card {argument!r}, expected a number below {count}", "see: nvidia-smi -L"
        )
    return library.nvmlDeviceGetHandleByIndex(int(index))
