"""Operators that no rule knows: to plain loop nests by TVM's own definition of them, for every backend."""
