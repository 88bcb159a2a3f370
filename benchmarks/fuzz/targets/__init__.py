"""One module a target; see :mod:`benchmarks.fuzz`."""
