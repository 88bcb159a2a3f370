"""Packets of TVM's RPC, written with whatever values are wanted: for the targets that speak it wrongly."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.fuzz.damage import damaged

NUMBERS = (0, 1, 2, 3, 4, 12, 255, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**62, 2**63, 2**64 - 1)
KINDS = (*range(-1, 17), 64, 65, 66, 67, 68, 70, 71, 72, 73, 74, 128, 2**31 - 1)
TEXTS = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"\x1b[2J",
    b"../../../evil",
    b"/etc/passwd",
    b"a\nb",
    b"{",
    b"[" * 10_000,
    b"e" * 3000,
)


@dataclass(frozen=True)
class Value:
    """A value of a packet: its type index, and its bytes."""

    kind: int
    data: bytes = b""

    def written(self) -> bytes:
        """As it travels."""
        return struct.pack("<i", self.kind) + self.data


@dataclass(frozen=True)
class Message:
    """A packet: a code, a head of bytes, values with their number, and more bytes.

    ``size`` is what it claims to have; None: the truth.
    """

    code: int
    head: bytes = b""
    values: tuple[Value, ...] | None = ()
    rest: bytes = b""
    count: int | None = None
    size: int | None = None

    def written(self) -> bytes:
        """As it travels."""
        body = self.head
        if self.values is not None:
            count = len(self.values) if self.count is None else self.count
            body += struct.pack("<I", count % 2**32) + b"".join(value.written() for value in self.values)
        body += self.rest
        size = 4 + len(body) if self.size is None else self.size
        return struct.pack("<QI", size % 2**64, self.code % 2**32) + body


NONE = Value(0)


def number(value: int, kind: int = 1) -> Value:
    """An integer (1), a truth value (2), a float's bits (3) or a pointer (4)."""
    return Value(kind, struct.pack("<Q", value % 2**64))


def text(value: bytes, kind: int = 8) -> Value:
    """A text (8) or bytes (9)."""
    return Value(kind, struct.pack("<Q", len(value)) + value)


def out_of_order(messages: Sequence[Message], chance: random.Random) -> list[Message]:
    """One message is left out or sent twice, or something about it is changed."""
    found = list(messages)
    at = chance.randrange(len(found))
    match chance.randrange(10):
        case 0:
            del found[at]
        case 1:
            found.insert(at, chance.choice(found))
        case _:
            found[at] = spoilt(found[at], chance)
    return found


def spoilt(message: Message, chance: random.Random) -> Message:
    """Something about a message is changed."""
    match chance.randrange(8):
        case 0:
            return replace(message, code=chance.choice((*range(18), 2**31, 2**32 - 1)))
        case 1:
            return replace(message, size=chance.choice(NUMBERS))
        case 2:
            return replace(message, count=chance.choice(NUMBERS))
        case 3:
            return replace(message, head=damaged(message.head, chance), rest=damaged(message.rest, chance))
        case _ if message.values:
            return _with_a_spoilt_value(message, chance)
    return Message(chance.randrange(18), values=(chance.choice((NONE, number(1), text(b"x"))),))


def _with_a_spoilt_value(message: Message, chance: random.Random) -> Message:
    values = list(message.values or ())
    at = chance.randrange(len(values))
    values[at] = chance.choice(
        (
            replace(values[at], kind=chance.choice(KINDS)),
            replace(values[at], data=damaged(values[at].data, chance)),
            number(chance.choice(NUMBERS), chance.choice((1, 2, 3, 4))),
            text(chance.choice(TEXTS), chance.choice((8, 9))),
            NONE,
        )
    )
    return replace(message, values=tuple(values))
