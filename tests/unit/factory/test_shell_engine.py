"""The shell engine runs the `sh` blocks of the body, in order, until one fails; without any it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from factory.engines.port import EngineRefusal
from factory.engines.shell import ShellEngine
from schemas.work import Engine
from tests.support.terms import grant

BODY = """Before.

```sh
echo one
```

```python
print("not for a shell")
```

```bash
echo two
```
"""


def ran(body: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    command = ShellEngine().command(grant(body_md=body), scratch)
    return subprocess.run(command.argv, capture_output=True, text=True, check=False, cwd=scratch)


def test_only_shell_blocks_are_run_and_in_order(tmp_path: Path) -> None:
    done = ran(BODY, tmp_path)
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")


def test_a_manifest_with_windows_line_ends_runs_as_any_other(tmp_path: Path) -> None:
    done = ran("Text.\r\n\r\n```sh\r\nprintf '%s|' one\r\nprintf two\r\n```\r\n", tmp_path)
    assert (done.returncode, done.stdout) == (0, "one|two")


def test_the_first_failing_command_ends_all_the_blocks(tmp_path: Path) -> None:
    done = ran("```sh\necho one\nfalse\necho never\n```\n\n```sh\necho nor this\n```\n", tmp_path)
    assert (done.returncode, done.stdout) == (1, "one\n")


@pytest.mark.parametrize("body", ["", "Do something nice.\n"])
def test_a_body_without_a_block_is_refused_in_a_sentence(body: str, tmp_path: Path) -> None:
    with pytest.raises(EngineRefusal, match="no ```sh block"):
        ShellEngine().command(grant(body_md=body), tmp_path)


def test_a_block_that_is_never_closed_is_refused_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(EngineRefusal, match="begins in line 3 of the body is never closed"):
        ShellEngine().command(grant(body_md="Text\n\n```sh\nnever closed\n"), tmp_path)


def test_each_block_runs_under_the_shell_that_it_names(tmp_path: Path) -> None:
    body = "```sh\nx=1\n```\n```sh\necho $x\n```\n```bash\nset -o pipefail\nfiles=(a b c)\necho ${#files[@]}\n```\n"
    assert ran(body, tmp_path).stdout == "1\n3\n"
    done = ran("```bash\n[[ a == b ]]\n```\n```sh\necho never\n```\n", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")


def test_a_shell_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineRefusal, match="this machine has no bash on PATH"):
        ShellEngine().command(grant(body_md="```bash\ntrue\n```\n"), tmp_path)


def test_text_of_any_script_reaches_the_shell_unchanged(tmp_path: Path) -> None:
    assert ran("```sh\nprintf 'żółw 🐢'\n```\n", tmp_path).stdout == "żółw 🐢"


def test_where_a_shell_is_on_the_path_nothing_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ShellEngine().name is Engine.SHELL
    assert ShellEngine().missing() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install a POSIX shell" in str(ShellEngine().missing())
