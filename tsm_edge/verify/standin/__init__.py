"""A stand-in for NVIDIA's driver library: the PTX of a model, as it is shipped, run on the CPU, every access checked.

``tsm-edge verify --emulate`` runs models for GPUs on it, and so do the tests: what both need is here. The PTX is
translated to C (one function for a thread of each kernel), compiled by zig and put under the name ``libcuda.so.1``.
NVRTC, the tables, the device layer in C and the launches are all inside the tested path. It says nothing about times.
"""
