"""ONNX file to operator graph."""
