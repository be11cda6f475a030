"""Which blocks of a body are a shell's, by the rules of CommonMark."""

from __future__ import annotations

import pytest

from schemas.shell_blocks import OpenBlock, ShellBlock, shell_blocks


@pytest.mark.parametrize(
    ("opening", "shell"),
    [
        ("```sh", "sh"),
        ("```shell", "sh"),
        ("```bash", "bash"),
        ("```zsh", "zsh"),
        ("```SH", "sh"),
        ("``` sh", "sh"),
        ("```sh  ", "sh"),
        ("```sh\t", "sh"),
        ('```sh title="x"', "sh"),
        ("   ```sh", "sh"),
    ],
)
def test_the_first_word_behind_a_fence_names_the_shell(opening: str, shell: str) -> None:
    assert shell_blocks(f"{opening}\ntrue\n```\n") == [ShellBlock(shell, "true\n")]


@pytest.mark.parametrize("opening", ["```", "```shellfish", "```text", "```python", "    ```sh", "``sh", "```sh`"])
def test_any_other_is_left_alone(opening: str) -> None:
    assert shell_blocks(f"{opening}\ntrue\n```\n") == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("````sh\ncat <<X\n```sh\nmake\n```\nX\n````\n", "cat <<X\n```sh\nmake\n```\nX\n"),
        ("~~~sh\n```\n~~~\n", "```\n"),
        ("```sh\n~~~\n`````\n", "~~~\n"),
        ("```sh\necho '```' > x\n```\n", "echo '```' > x\n"),
        ("```sh\n``` x\n```\n", "``` x\n"),
        ("  ```sh\n  if true; then\n    echo x\n  fi\n  ```\n", "if true; then\n  echo x\nfi\n"),
        ("```sh\r\necho x\r\n```\r\n", "echo x\n"),
        ("```sh\n```", ""),
    ],
)
def test_a_fence_ends_at_one_of_its_kind_and_at_least_its_length(body: str, text: str) -> None:
    assert shell_blocks(body) == [ShellBlock("sh", text)]


def test_what_stands_in_another_block_is_no_block() -> None:
    assert shell_blocks("````text\n```sh\nexit 9\n```\n````\n\n```sh\ntrue\n```\n") == [ShellBlock("sh", "true\n")]


def test_a_shells_block_without_an_end_is_told_by_its_line() -> None:
    with pytest.raises(OpenBlock, match="line 2"):
        shell_blocks("x\n```sh\ntrue\n")
    assert shell_blocks("```text\nopen\n") == []
