"""Builders of what a factory is granted, and of the repositories that it works on."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.messages import Grant, StopOrder, TermTimes
from schemas.work import Checkpoint, Engine

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def term_times(lease_left_s: float = 60.0, start_within_s: float = 30.0) -> TermTimes:
    return TermTimes(lease_left_s=lease_left_s, renew_every_s=20.0, start_within_s=start_within_s, now=NOW)


def grant(job_id: str = "job1", lease_epoch: int = 1, **fields: Any) -> Grant:
    known: dict[str, Any] = {
        "product_id": "shop",
        "job_id": job_id,
        "lease_epoch": lease_epoch,
        "request_id": "r1",
        "run_id": f"{job_id}:{lease_epoch}",
        "attempt": lease_epoch,
        "title": "a job",
        "engine": Engine.SHELL,
        "manifest_snapshot": "",
        "body_md": "```sh\ntrue\n```\n",
        "timeout_s": 600.0,
        "term": term_times(),
    }
    return Grant(**{**known, **fields})


def stop_order(kind: str, by_s: float = 30.0) -> StopOrder:
    return StopOrder.model_validate({"kind": kind, "byS": by_s})


def checkpoint(ref: str, commit: str) -> Checkpoint:
    return Checkpoint(ref=ref, commit=commit, at=NOW, number=1)


def git(where: Path, *args: str) -> str:
    """git as a person would run it there; stdout, stripped."""
    who = {
        "GIT_AUTHOR_NAME": "Ann",
        "GIT_AUTHOR_EMAIL": "ann@example.invalid",
        "GIT_COMMITTER_NAME": "Ann",
        "GIT_COMMITTER_EMAIL": "ann@example.invalid",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    done = subprocess.run(
        ["git", *args], cwd=where, env={**os.environ, **who}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"git {' '.join(args)}: {done.stderr}"
    return done.stdout.strip()


def make_repo(where: Path, files: dict[str, str] | None = None) -> Path:
    """A repository with one commit on `main`; pushes to other refs are taken."""
    where.mkdir(parents=True)
    git(where, "init", "--quiet", "--initial-branch=main")
    for name, text in (files or {"README.md": "hello\n"}).items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text)
    git(where, "add", "--all")
    git(where, "commit", "--quiet", "--message", "first")
    return where


def refs(repo: Path) -> dict[str, str]:
    """Every ref of the repository and its commit."""
    lines = git(repo, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ") for line in lines)
