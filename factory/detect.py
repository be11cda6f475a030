"""What a machine can do by the look of it: its system, its processor, and well-known programs on PATH.

In the words that manifests use. A factory only offers of it what its enrolment entitles it to. Run as a program, it
prints one capability a line.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable

SYSTEMS = {"linux": "os-linux", "darwin": "os-macos", "windows": "os-windows"}
MACHINES = {"x86_64": "arch-x86_64", "amd64": "arch-x86_64", "arm64": "arch-arm64", "aarch64": "arch-arm64"}
# A capability, and the programs of which any one means it. That they are on PATH is all that is asked of them.
TOOLS = {
    "cargo": ("cargo",),
    "clang": ("clang",),
    "cmake": ("cmake",),
    "docker": ("docker",),
    "dotnet": ("dotnet",),
    "gcc": ("gcc",),
    "git": ("git",),
    "go": ("go",),
    "java": ("java",),
    "kubectl": ("kubectl",),
    "make": ("make", "gmake"),
    "node": ("node", "nodejs"),
    "php": ("php",),
    "podman": ("podman",),
    "python": ("python3", "python"),
    "ruby": ("ruby",),
    "swift": ("swift",),
    "terraform": ("terraform",),
    "xcode": ("xcodebuild",),
}


def detected(which: Callable[[str], str | None], system: str, machine: str) -> tuple[str, ...]:
    """Sorted. `which` gives a program's path; `system` and `machine` are named as `platform` does."""
    around = (SYSTEMS.get(system.lower()), MACHINES.get(machine.lower()))
    tools = (name for name, programs in TOOLS.items() if any(which(program) for program in programs))
    return tuple(sorted({*(name for name in around if name is not None), *tools}))


def detected_here() -> tuple[str, ...]:
    return detected(shutil.which, platform.system(), platform.machine())


if __name__ == "__main__":
    sys.stdout.writelines(f"{name}\n" for name in detected_here())
