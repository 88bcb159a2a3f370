"""The kernels: one rule a file, and the vocabulary they are written in."""
