"""Laboratory meters and supplies that understand SCPI, through VISA."""

from __future__ import annotations

from typing import Any

from tsm_edge.errors import PowerError
from tsm_edge.power.sensor import Rail, SensorInfo, number, optional_module
from tsm_edge.power.system import System

_ANSWER_MS = 3000
_CHECK = "check that it is on, lets itself be controlled, and that no other program asks it"
_POWER = ("MEAS:POW?",)
_VOLTS_AMPS = ("MEAS:VOLT?", "MEAS:CURR?")
# SCPI's way to say "too much" and "no number".
_OVERFLOW = 9.9e37


class ScpiSensor:
    """See :class:`tsm_edge.power.sensor.Sensor`.

    Parameters
    ----------
    name : str
    instrument : object
        Of pyvisa, open.
    errors : type
        What pyvisa raises.
    """

    def __init__(self, name: str, instrument: Any, errors: type[Exception]) -> None:
        self._name = name
        self._instrument = instrument
        self._errors = errors
        maker = ", ".join(part.strip() for part in self._ask("*IDN?").split(",")[:2])
        self._queries = self._first_queries()
        self.info = SensorInfo(
            name=name,
            rails=(Rail("supply"),),
            boundary="unknown",
            covers=f"what {maker} is wired to",
            quantity="power",
            period_s=0.1,
            uncertainty_percent=None,
            uncertainty="see the instrument's data sheet",
        )

    def read(self) -> tuple[float, ...]:
        """W, asked for as such, or as voltage and current."""
        return (self._measure(self._queries),)

    def close(self) -> None:
        """Close the connection."""
        self._instrument.close()

    def _first_queries(self) -> tuple[str, ...]:
        """Meters know power; most supplies know voltage and current only, and do not answer the rest."""
        try:
            self._measure(_POWER)
        except PowerError:
            self._instrument.clear()
            self._measure(_VOLTS_AMPS)
            return _VOLTS_AMPS
        return _POWER

    def _measure(self, queries: tuple[str, ...]) -> float:
        product = 1.0
        for query in queries:
            value = number(self._ask(query), f"answer of {self._name} to {query}")
            if abs(value) >= _OVERFLOW:
                raise PowerError(f"power sensor {self._name}: {query} is out of range", "choose a wider range on it")
            product *= value
        return product

    def _ask(self, query: str) -> str:
        try:
            return str(self._instrument.query(query)).strip()
        except (self._errors, OSError, UnicodeDecodeError) as error:
            raise PowerError(
                f"power sensor {self._name} does not answer {query} ({_one_line(error)})", _CHECK
            ) from None


def open_scpi(argument: str, system: System) -> ScpiSensor:
    """Open an instrument.

    Parameters
    ----------
    argument : str
        Its VISA resource (``TCPIP::192.168.1.5::5025::SOCKET``).

    Raises
    ------
    PowerError
        pyvisa or its backend is missing, or the instrument does not answer.
    """
    name = f"scpi:{argument}"
    visa = optional_module("pyvisa", "pyvisa pyvisa-py", name)
    try:
        manager = visa.ResourceManager()
    except (ValueError, OSError):
        raise PowerError(f"power sensor {name}: pyvisa finds no VISA library", "pip install pyvisa-py") from None
    try:
        instrument = manager.open_resource(argument)
    except (visa.errors.Error, ValueError, OSError) as error:
        raise PowerError(
            f"power sensor {name} cannot be opened ({_one_line(error)})",
            "look with: pyvisa-shell list; over the network: scpi:TCPIP::HOST::5025::SOCKET",
        ) from None
    instrument.timeout = _ANSWER_MS
    instrument.read_termination = instrument.write_termination = "\n"
    try:
        return ScpiSensor(name, instrument, visa.errors.Error)
    except PowerError:
        instrument.close()
        raise


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
