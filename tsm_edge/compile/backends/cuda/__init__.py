"""Fused layers to CUDA kernels, and those to PTX and machine code. No GPU and no CUDA toolkit is needed."""
