"""Calibration: scales, integer weights and biases for a network, and the same integers as standard ONNX."""
