"""Network to ONNX, and what an exported file carries for later stages."""
