"""The process that NVRTC works in: CUDA C on standard input, PTX on standard output, or what is wrong with it.

NVRTC orders instructions by the addresses of its own objects. So that the same CUDA C is the same PTX every time, what
moves them is left out: they are not drawn at random, and NVRTC works in a thread of its own. The C library gives that a
heap of its own, whatever the names of folders have left in the first thread's.

Nothing is imported but the standard library: this file is run by itself, away from any folder of the user's.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

_ASK, _FIXED_ADDRESSES = 0xFFFFFFFF, 0x0040000  # <sys/personality.h>
# Of the thread, whatever ``ulimit -s`` says.
_STACK_BYTES = 64 << 20


def load(library: Path) -> ctypes.CDLL:
    """NVRTC, with what it looks for by name."""
    for builtins in sorted(library.parent.glob("libnvrtc-builtins.so*")):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(library))


def _compile(nvrtc: ctypes.CDLL, arch: str, source: bytes) -> tuple[int, bytes]:
    """What NVRTC returns, and the PTX; where that is not 0, its log."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None)
    options = [f"--gpu-architecture={arch}", "--std=c++17", "--use_fast_math", "-default-device"]
    values = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = int(nvrtc.nvrtcCompileProgram(program, len(options), values))
    kind = "ProgramLog" if failed else "PTX"
    getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
    made = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{kind}")(program, made)
    return failed, made.value


def _settle() -> None:
    """Begin this process again at addresses that are not drawn at random.

    Where that is not allowed (in some containers), the same source may give other instructions the next time.
    """
    libc = ctypes.CDLL(None)
    now = libc.personality(_ASK)
    if not now & _FIXED_ADDRESSES and libc.personality(now | _FIXED_ADDRESSES) != -1:
        os.execv(sys.executable, sys.orig_argv)


def _main() -> int:
    nvrtc, arch, source = load(Path(sys.argv[1])), sys.argv[2], sys.stdin.buffer.read()
    answers: list[tuple[int, bytes]] = []
    threading.stack_size(_STACK_BYTES)
    worker = threading.Thread(target=lambda: answers.append(_compile(nvrtc, arch, source)))
    worker.start()
    worker.join()
    if not answers:  # its traceback has been written
        return 1
    sys.stdout.buffer.write(answers[0][1])
    return answers[0][0]


if __name__ == "__main__":
    _settle()
    sys.exit(_main())
