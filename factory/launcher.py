"""Stands between a factory and an engine, and ends the engine when nobody vouches for it any more.

A process of its own, of the standard library alone. On stdin it is told, line by line (JSON): first what to run and
until when it is trusted (seconds on the clock since boot), then later deadlines, or to end it. The whole process group
and every descendant is killed when the deadline passes, when stdin closes (the factory died), or when told. A stopped
factory moves no deadline, so silence ends the same way. The engine's output is this process's own. How it ended is
written to the `ended` file, and this process exits only when nothing of the engine is left.

On Linux it is a child subreaper: what leaves the process group is still its descendant.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

LOOK_S = 1.0  # a waiting select does not see the machine sleep: look at the clock at least this often
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SAYS_THAT_IT_BEGINS = ("/bin/sh", "-c", 'say=$1; shift; eval "echo >&$say; exec $say>&-"; exec "$@"', "sh")
LINUX = sys.platform.startswith("linux")


def boot_s() -> float:
    if sys.platform == "win32":
        return time.monotonic()
    clock = time.CLOCK_MONOTONIC if sys.platform == "darwin" else getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def prctl(option: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Every living descendant of `root`, deepest last; read from /proc, so empty where there is none."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stat:
                    fields = stat.read().rpartition(")")[2].split()
                if fields[0] != "Z":
                    children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [root]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


class ProcessGroup:
    """The engine's process group and whatever came out of it. `sandboxed`: its first process is only what keeps it in a
    sandbox.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        argv: list[str] = order["argv"]
        said: tuple[int, ...] = ()
        self.sandboxed = bool(order.get("around"))
        if self.sandboxed:  # a sandbox that cannot be made must not look like an engine that failed
            self._begins, say = os.pipe()
            argv, said = [*order["around"], "--", *SAYS_THAT_IT_BEGINS, str(say), *argv], (say,)
        self.process = subprocess.Popen(
            argv,
            pass_fds=said,
            cwd=order["cwd"],
            env=order["env"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=sys.platform != "win32",
            preexec_fn=(lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)) if LINUX else None,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        for end in said:
            os.close(end)

    def has_begun(self) -> bool:
        """Of a program that has ended: whether the sandbox ever ran it."""
        return not self.sandboxed or os.read(self._begins, 1) != b""

    def signal_all(self, number: int) -> None:
        if sys.platform == "win32":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(self.process.pid)], capture_output=True, check=False)
            return
        keeps = self.sandboxed and number != signal.SIGKILL  # asked to end, it would end the engine without asking
        if not keeps:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, number)
        for pid in descendants(os.getpid()):
            if keeps and pid == self.process.pid:
                continue
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def reap(self) -> bool:
        """Collects what has ended; whether anything is left."""
        self.process.poll()
        if LINUX:
            with contextlib.suppress(OSError):
                while (ended := os.waitpid(-1, os.WNOHANG))[0] > 0:
                    if ended[0] == self.process.pid:  # collected here, Popen would take it for a clean end
                        self.process.returncode = os.waitstatus_to_exitcode(ended[1])
            return self.process.returncode is None or bool(descendants(os.getpid()))
        return self.process.returncode is None

    def end(self, grace_s: float) -> None:
        """Asks, then kills; returns when nothing is left."""
        if grace_s > 0:
            self.signal_all(signal.SIGTERM)
            until = time.monotonic() + grace_s
            while time.monotonic() < until and self.reap():
                time.sleep(0.01)
        while True:
            self.signal_all(getattr(signal, "SIGKILL", signal.SIGTERM))
            if not self.reap():
                return
            time.sleep(0.01)


class Orders:
    """Lines from the factory; reading never waits. `closed` once the factory is gone."""

    def __init__(self) -> None:
        self.fd = sys.stdin.fileno()
        self.closed = False
        self._rest = b""

    def first(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            data = os.read(self.fd, 65536)
            if not data:
                sys.exit(0)
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))  # what came with it is read with what comes next

    def read(self, *, ready: bool) -> list[dict[str, Any]]:
        if ready:
            data = os.read(self.fd, 65536)
            self.closed = not data
            self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]


def watch(engine: ProcessGroup, orders: Orders, deadline_s: float) -> str:
    """Waits until the engine ends or must; gives the reason."""
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, lambda *_: None)
    ready: list[int] = []
    while True:
        if engine.process.poll() is not None:
            return "exited"
        if boot_s() >= deadline_s:
            return "trust_lost"
        for order in orders.read(ready=orders.fd in ready):
            if "end" in order:
                engine.end(min(float(order["end"]), deadline_s - boot_s()))  # no grace beyond trust
                return "told"
            deadline_s = float(order["deadline"])
        if orders.closed:
            return "factory_gone"
        ready, _, _ = select.select([orders.fd, wake], [], [], max(0.0, min(deadline_s - boot_s(), LOOK_S)))
        if wake in ready:
            os.read(wake, 4096)


def run(order: dict[str, Any], orders: Orders) -> dict[str, Any]:
    try:
        engine = ProcessGroup(order)
    except OSError as error:
        return {"reason": "not_started", "rc": 127, "error": f"{order['argv'][0]}: {error.strerror}"}
    reason = watch(engine, orders, float(order["deadline"]))
    rc = engine.process.returncode if reason == "exited" else None
    engine.end(0.0)  # also what an engine that has exited left behind
    if reason == "exited" and not engine.has_begun():
        return {"reason": "not_started", "rc": 126, "error": "the sandbox could not be made; its words are in the log"}
    return {"reason": reason, "rc": rc if rc is not None else engine.process.returncode}


def main() -> None:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            # Only its factory ends it. Not ignored, though: an engine would inherit that, and never heed a TERM.
            signal.signal(getattr(signal, name), lambda *_: None)
    orders = Orders()
    order = orders.first()
    if boot_s() >= float(order["deadline"]):
        ended: dict[str, Any] = {"reason": "trust_lost", "rc": -9}
    else:
        ended = run(order, orders)
    with open(order["ended"] + ".part", "w", encoding="utf-8") as file:
        json.dump(ended, file)
    os.replace(order["ended"] + ".part", order["ended"])


if __name__ == "__main__":
    main()
