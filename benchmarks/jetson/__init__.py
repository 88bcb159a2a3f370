"""A cycle-level model of Jetson Nano and TX2 for ``jetson_model.py``: ptxas's machine code, warp by warp."""
