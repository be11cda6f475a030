from __future__ import annotations

from typing import Any

import pytest

from tests.unit.chaos.builder import COMMIT, OTHER, Told, found, whole_life

NAME = "work_kept"


def held() -> tuple[Told, str]:
    told = Told()
    told.up("f1")
    told.up("f2", "s2")
    job = told.submit()
    told.at(1).granted(job, "f1")
    told.started(job, "f1")
    return told, job


def pushed(told: Told, job: str, epoch: int = 1, factory: str = "f1", **more: Any) -> None:
    said = {"ref": f"refs/gigafactory/{job}/{epoch}", "commit": COMMIT, **more}
    told.tree("pushed", factory, job, epoch, **said)


def succeeded(told: Told, job: str, cause: str = "expired") -> None:
    told.at(70).reaped(job, cause)
    told.at(71).granted(job, "f2", "s2", "r2")


def test_work_that_is_handed_on() -> None:
    assert found(NAME, whole_life()) == []


@pytest.mark.parametrize(
    ("clean", "is_pushed", "count"), [(True, True, 0), (False, True, 1), (True, False, 1), (False, False, 1)]
)
def test_a_tree_that_is_deleted(clean: bool, is_pushed: bool, count: int) -> None:
    told, job = held()
    told.tree("deleted", "f1", job, clean=clean, pushed=is_pushed)
    assert len(found(NAME, told)) == count


def test_a_push_to_anothers_ref() -> None:
    told, job = held()
    pushed(told, job, ref=f"refs/gigafactory/{job}/2")
    pushed(told, job, ref="refs/heads/main")
    assert len(found(NAME, told)) == 2


def test_a_push_in_anothers_term() -> None:
    told, job = held()
    pushed(told, job, factory="f2")
    assert len(found(NAME, told)) == 1


@pytest.mark.parametrize("does", ["pushed", "published", "deleted"])
def test_a_superseded_holder(does: str) -> None:
    told, job = held()
    succeeded(told, job)
    said: dict[str, Any] = {
        "ref": f"refs/gigafactory/{job}/1",
        "commit": COMMIT,
        "branch": "b",
        "clean": True,
        "pushed": True,
    }
    told.at(72).tree(does, "f1", job, **said)
    assert len(found(NAME, told)) == 1


def test_a_superseded_holder_that_was_recovered_early() -> None:
    for at_s, count in ((72.0, 0), (140.0, 1)):
        told, job = held()
        told.at(60).asked("hello", {"factoryId": "f1", "sessionId": "s3", "sessionNo": 2}, "factory:f1")
        succeeded(told, job, "session_gone")
        pushed(told.at(at_s), job)
        assert len(found(NAME, told)) == count


def test_a_superseded_holder_that_puts_its_tree_aside() -> None:
    told, job = held()
    succeeded(told, job)
    told.tree("quarantined", "f1", job)
    assert found(NAME, told) == []


def test_a_holder_tidies_after_its_own_end() -> None:
    told, job = held()
    pushed(told, job)
    told.at(5).reported(job, "f1", "released")
    told.at(6).granted(job, "f2", "s2", "r2")
    told.tree("deleted", "f1", job, clean=True, pushed=True)
    assert found(NAME, told) == []
    pushed(told.at(7), job)
    told.note("calm", "world")
    assert len(found(NAME, told)) == 1


def test_a_checkpoint_that_is_told_before_it_is_pushed() -> None:
    told, job = held()
    told.tree("made", "f1", job, base=None)
    told.checkpointed(job, "f1")
    pushed(told, job)
    assert len(found(NAME, told)) == 1


def test_a_checkpoint_that_is_never_pushed_and_comes_with_a_report() -> None:
    for local, count in ((None, 1), ("f1", 0)):
        told, job = held()
        told.tree("made", "f1", job, base=None)
        checkpoint = {"ref": f"refs/gigafactory/{job}/1", "commit": OTHER, "local": local}
        ask = told.report_asked(job, "f1", checkpoint=checkpoint)
        told.report_stored(job, "f1")
        told.answered(ask, "factory:f1", report={"stage": "shipped", "repeated": False}, next=None)
        assert len(found(NAME, told)) == count


def test_a_checkpoint_of_a_machine_that_shows_no_trees() -> None:
    told, job = held()
    told.checkpointed(job, "f1")
    assert found(NAME, told) == []


@pytest.mark.parametrize(("base", "count"), [(COMMIT, 0), (OTHER, 1), (None, 1)])
def test_the_next_tree_is_made_from_the_checkpoint(base: str | None, count: int) -> None:
    told, job = held()
    pushed(told, job)
    told.checkpointed(job, "f1")
    succeeded(told, job)
    told.tree("made", "f2", job, 2, base=base)
    assert len(found(NAME, told)) == count
