"""The one table of legal transitions: from which stage, by which action, who may, whereto, and if it ends the term."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from schemas.job import Stage


class Actor(StrEnum):
    HOLDER = "holder"
    OPERATOR = "operator"
    COORDINATOR = "coordinator"


class Action(StrEnum):
    SUBMIT = "submit"  # from nothing: of no stage, and so not in the table
    UNBLOCK = "unblock"
    EXPLAIN_BLOCK = "explain_block"
    CLAIM = "claim"
    START = "start"
    CHECKPOINT = "checkpoint"
    REPORT = "report"
    RELEASE = "release"
    REAP = "reap"
    CANCEL = "cancel"
    PREEMPT = "preempt"
    SHIP = "ship"
    APPROVE = "approve"
    REQUEST_CHANGES = "request_changes"
    REJECT = "reject"
    REQUEUE = "requeue"
    RETRY = "retry"
    BURY = "bury"


class Rule(NamedTuple):
    actors: frozenset[Actor]
    targets: frozenset[Stage]
    ends_term: bool = False


S, A, W = Stage, Action, Actor


def _rule(actors: set[Actor], targets: set[Stage], ends_term: bool = False) -> Rule:
    return Rule(frozenset(actors), frozenset(targets), ends_term)


_stoppable = {W.OPERATOR, W.COORDINATOR}
_reported = {S.REVIEW, S.TESTING, S.SHIPPED, S.BLOCKED, S.FAILED, S.QUEUED}

TABLE: dict[tuple[Stage, Action], Rule] = {
    (S.BLOCKED, A.UNBLOCK): _rule({W.COORDINATOR}, {S.QUEUED}),
    (S.BLOCKED, A.EXPLAIN_BLOCK): _rule({W.COORDINATOR}, {S.BLOCKED}),
    (S.BLOCKED, A.REQUEUE): _rule({W.OPERATOR}, {S.QUEUED}),  # not one that waits for its deps
    (S.BLOCKED, A.CANCEL): _rule(_stoppable, {S.FAILED}),
    (S.QUEUED, A.CLAIM): _rule({W.HOLDER}, {S.ASSIGNED}),
    (S.QUEUED, A.CANCEL): _rule(_stoppable, {S.FAILED}),
    (S.ASSIGNED, A.START): _rule({W.HOLDER}, {S.BUILDING}),
    (S.ASSIGNED, A.CHECKPOINT): _rule({W.HOLDER}, {S.ASSIGNED}),
    (S.ASSIGNED, A.REPORT): _rule({W.HOLDER}, _reported, ends_term=True),
    (S.ASSIGNED, A.RELEASE): _rule({W.HOLDER}, {S.QUEUED, S.FAILED}, ends_term=True),
    (S.ASSIGNED, A.REAP): _rule({W.COORDINATOR}, {S.QUEUED, S.FAILED, S.DEAD_LETTER}, ends_term=True),
    (S.ASSIGNED, A.CANCEL): _rule(_stoppable, {S.ASSIGNED}),
    (S.ASSIGNED, A.PREEMPT): _rule(_stoppable, {S.ASSIGNED}),
    (S.BUILDING, A.CHECKPOINT): _rule({W.HOLDER}, {S.BUILDING}),
    (S.BUILDING, A.REPORT): _rule({W.HOLDER}, _reported, ends_term=True),
    (S.BUILDING, A.RELEASE): _rule({W.HOLDER}, {S.QUEUED, S.FAILED}, ends_term=True),
    (S.BUILDING, A.REAP): _rule({W.COORDINATOR}, {S.QUEUED, S.FAILED, S.DEAD_LETTER}, ends_term=True),
    (S.BUILDING, A.CANCEL): _rule(_stoppable, {S.BUILDING}),
    (S.BUILDING, A.PREEMPT): _rule(_stoppable, {S.BUILDING}),
    (S.REVIEW, A.APPROVE): _rule({W.OPERATOR}, {S.REVIEW, S.TESTING, S.SHIPPED}),
    (S.REVIEW, A.REQUEST_CHANGES): _rule({W.OPERATOR}, {S.QUEUED}),
    (S.REVIEW, A.REJECT): _rule({W.OPERATOR}, {S.FAILED}),
    (S.REVIEW, A.CANCEL): _rule(_stoppable, {S.FAILED}),
    (S.TESTING, A.SHIP): _rule({W.OPERATOR}, {S.SHIPPED}),
    (S.TESTING, A.REJECT): _rule({W.OPERATOR}, {S.FAILED}),
    (S.TESTING, A.REQUEUE): _rule({W.OPERATOR}, {S.QUEUED}),
    (S.TESTING, A.CANCEL): _rule(_stoppable, {S.FAILED}),
    (S.FAILED, A.REQUEUE): _rule({W.OPERATOR}, {S.QUEUED}),
    (S.FAILED, A.RETRY): _rule({W.COORDINATOR}, {S.QUEUED}),
    (S.FAILED, A.BURY): _rule({W.COORDINATOR}, {S.DEAD_LETTER}),
    (S.FAILED, A.CANCEL): _rule(_stoppable, {S.FAILED}),  # only one that waits for its retry
    (S.DEAD_LETTER, A.REQUEUE): _rule({W.OPERATOR}, {S.QUEUED}),
}
