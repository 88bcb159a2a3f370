"""Changing bytes at random."""

from __future__ import annotations

import random


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bytes replaced, left out, doubled or cut off in a few places."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        start = chance.randrange(len(found) + 1)
        length = min(len(found) - start, chance.choice((1, 2, 8, 100)))
        match chance.randrange(5):
            case 0:
                found[start : start + length] = chance.randbytes(length)
            case 1:
                del found[start : start + length]
            case 2:
                found[start:start] = found[start : start + length]
            case 3 if length:
                found[start] ^= 1 << chance.randrange(8)
            case _ if chance.random() < 0.2:
                del found[start:]
    return bytes(found)
