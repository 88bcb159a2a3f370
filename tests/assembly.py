"""A compact reader of what LLVM writes as assembly: functions as basic blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

STORE = r"(st[rpu1]|vst|str|push)"


@dataclass(frozen=True)
class Block:
    """A run of instructions that is entered and left as a whole."""

    label: str
    body: tuple[str, ...]

    def count(self, pattern: str) -> int:
        """Instructions whose text begins with a match."""
        return sum(bool(re.match(pattern, line)) for line in self.body)

    @property
    def loops(self) -> bool:
        """Whether it ends by jumping to its own beginning: an innermost loop."""
        return bool(self.body) and bool(re.match(rf"(b\.?\w+|cbn?z \w+,|j\w+) {re.escape(self.label)}$", self.body[-1]))


def blocks(assembly: str, function: str) -> list[Block]:
    """The basic blocks of a function, comments and directives left out."""
    lines = [" ".join(re.split(r"//|@ ", line)[0].split()) for line in assembly.splitlines()]
    start = lines.index(f"{function}:")
    end = next(index for index in range(start, len(lines)) if lines[index].startswith(".size"))
    found, label, body = [], function, []
    for line in lines[start + 1 : end]:
        begins = re.match(r"^(\.LBB\w+):$", line)  # other labels are the debugger's
        if begins:
            found.append(Block(label, tuple(body)))
            label, body = begins[1], []
        elif line and not line.startswith(".") and not line.endswith(":"):
            body.append(line)
            if re.match(r"b(\.?(eq|ne|l[eost]|g[et]|h[is]|mi|pl|cc|cs))? \.L|cbn?z|tbn?z|j\w+ \.L", line):
                found.append(Block(label, tuple(body)))
                label, body = "", []
    return [*found, Block(label, tuple(body))]
