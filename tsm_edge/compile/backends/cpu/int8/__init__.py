"""Fused layers to kernels on 8-bit levels (``ir/quantisation.py`` has the arithmetic)."""
