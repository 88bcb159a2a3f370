"""Frames in, labels out: the run, smoothing, and what people look at."""
