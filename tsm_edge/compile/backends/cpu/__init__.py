"""Fused layers to CPU kernels, by rules that read the target card."""
