"""tsm-edge: Temporal Shift Module networks, compiled for and measured on edge devices."""

__version__ = "0.1.0"
