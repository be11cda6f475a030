"""The shell engine runs the `sh` blocks of the body, in order, until one fails; without any it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from factory.engines.port import EngineRefusal
from factory.engines.shell import ShellEngine, shell_blocks
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
    assert shell_blocks(BODY) == ["echo one\n", "echo two\n"]
    done = ran(BODY, tmp_path)
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")


@pytest.mark.parametrize("name", ["sh", "bash", "shell", "sh  ", "sh\t"])
def test_a_block_may_have_any_of_the_names_of_a_shell(name: str) -> None:
    assert shell_blocks(f"```{name}\ntrue\n```\n") == ["true\n"]


@pytest.mark.parametrize("name", ["", "shellfish", "zsh", "text", "sh title=x"])
def test_a_block_of_another_language_is_left_alone(name: str) -> None:
    assert shell_blocks(f"```{name}\ntrue\n```\n") == []


def test_a_manifest_with_windows_line_ends_runs_as_any_other(tmp_path: Path) -> None:
    done = ran("Text.\r\n\r\n```sh\r\nprintf '%s|' one\r\nprintf two\r\n```\r\n", tmp_path)
    assert (done.returncode, done.stdout) == (0, "one|two")


def test_the_first_failing_command_ends_all_the_blocks(tmp_path: Path) -> None:
    done = ran("```sh\necho one\nfalse\necho never\n```\n\n```sh\necho nor this\n```\n", tmp_path)
    assert (done.returncode, done.stdout) == (1, "one\n")


def test_fences_inside_a_line_do_not_end_a_block() -> None:
    assert shell_blocks("```sh\necho '```' > x\n```\n") == ["echo '```' > x\n"]


@pytest.mark.parametrize("body", ["", "Do something nice.\n", "```sh\nnever closed\n"])
def test_a_body_without_a_block_is_refused_in_a_sentence(body: str, tmp_path: Path) -> None:
    with pytest.raises(EngineRefusal, match="no ```sh block"):
        ShellEngine().command(grant(body_md=body), tmp_path)


def test_text_of_any_script_reaches_the_shell_unchanged(tmp_path: Path) -> None:
    assert ran("```sh\nprintf 'żółw 🐢'\n```\n", tmp_path).stdout == "żółw 🐢"


def test_where_a_shell_is_on_the_path_nothing_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ShellEngine().name is Engine.SHELL
    assert ShellEngine().missing() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install a POSIX shell" in str(ShellEngine().missing())
