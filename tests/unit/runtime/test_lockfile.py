"""One process of a machine holds the lock; others are told its pid; the system gives it up when it dies, however."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.lockfile import AlreadyLocked, LockFile

HOLDS = "import sys; from pathlib import Path; from runtime.lockfile import LockFile; "
HOLDS += "lock = LockFile(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def refusal(path: Path) -> AlreadyLocked:
    with pytest.raises(AlreadyLocked) as refused:
        LockFile(path)
    return refused.value


def test_a_second_lock_is_refused_with_the_holders_pid(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "data" / "lock")
    refused = refusal(tmp_path / "data" / "lock")
    assert refused.pid == os.getpid()
    assert str(os.getpid()) in str(refused)
    lock.release()


def test_a_released_lock_can_be_had_again(tmp_path: Path) -> None:
    LockFile(tmp_path / "lock").release()
    again = LockFile(tmp_path / "lock")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    again.release()


def test_another_processs_lock_is_refused_with_that_processs_pid(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process:
        assert refusal(tmp_path / "lock").pid == process.pid
        process.communicate()
    LockFile(tmp_path / "lock").release()
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_lock_of_a_killed_process_is_free_though_its_pid_still_stands_there(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (tmp_path / "lock").read_text() == f"{process.pid}\n"
    lock = LockFile(tmp_path / "lock")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_program_that_was_started_meanwhile_does_not_inherit_the_lock(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock")
    program = [sys.executable, "-c", "print('up', flush=True); input()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(program, text=True, close_fds=False, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "up\n"
        lock.release()
        LockFile(tmp_path / "lock").release()
        assert process.poll() is None
        process.communicate("\n")


@pytest.mark.parametrize("text", ["", "not a pid\n", "\0\0\0", "9" * 50])
def test_a_file_that_tells_no_pid_is_refused_all_the_same(tmp_path: Path, text: str) -> None:
    lock = LockFile(tmp_path / "lock")
    (tmp_path / "lock").write_text(text)
    refused = refusal(tmp_path / "lock")
    assert refused.path == tmp_path / "lock"
    assert "is held by" in str(refused)
    lock.release()


def test_a_longer_pid_of_an_earlier_holder_leaves_no_digits_behind(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("99999999999999\n")
    lock = LockFile(tmp_path / "lock")
    assert refusal(tmp_path / "lock").pid == os.getpid()
    lock.release()


def test_released_twice_it_closes_nobody_elses_file(tmp_path: Path) -> None:
    """Numbers of closed files are given out again: a second close would hit whatever was opened since."""
    lock = LockFile(tmp_path / "lock")
    lock.release()
    read_fd, write_fd = os.pipe()
    try:
        lock.release()
        assert os.write(write_fd, b"still open") == 10
    finally:
        for fd in (read_fd, write_fd):
            if fd_is_open(fd):
                os.close(fd)


def fd_is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
