"""Child processes that do not outlive their parent."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Asks the kernel to end this process with its parent, then becomes the program: unlike a preexec function,
# this is safe in a parent that has threads. The parent may have died before it asked.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def dying_with_parent(argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` (an absolute path first) and gets SIGTERM when the starting thread ends.

    Linux only; elsewhere it is `argv` itself, and a killed parent leaves its children running.
    """
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *argv]
