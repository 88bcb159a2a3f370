"""Throws seeded damaged input at the parts of tsm-edge that read what others made.

A target is a module in ``targets/``, named as it is called on the command line, with

- ``name: str``, the module's name;
- ``make(seed) -> input``, anything, always the same for a seed;
- ``run(input) -> None``, which may raise ``TsmEdgeError`` and nothing else.

``run`` finds itself in an empty folder and may write into ``out/`` there and nowhere else. What it needs is imported
at the top of the module: memory is limited from then on, and an import is not counted into an input's time.
"""
