"""Ids and everything derived from them. An id is safe in a bus subject, a path and a git ref."""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

ID_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,31}"
REQUEST_ID_PATTERN = r"[A-Za-z0-9_-]{1,64}"
KEY_LENGTH_MAX = 200

RESERVED = frozenset({"any"})
LEDGER_ID = "ledger"

_id = re.compile(ID_PATTERN)
_name = re.compile(NAME_PATTERN)


def check_id(value: str) -> str:
    if not _id.fullmatch(value) or value in RESERVED:
        raise ValueError(f"{value!r} is no id: allowed is {ID_PATTERN}, and not 'any'")
    return value


def check_name(value: str) -> str:
    """Products, factories and capabilities: as an id, but at most 32 characters."""
    if not _name.fullmatch(value) or value in RESERVED:
        raise ValueError(f"{value!r} is no name: allowed is {NAME_PATTERN}, and not 'any'")
    return value


Id = Annotated[str, AfterValidator(check_id)]
Name = Annotated[str, AfterValidator(check_name)]
RequestId = Annotated[str, Field(pattern=f"^{REQUEST_ID_PATTERN}$")]
Key = Annotated[str, Field(min_length=1, max_length=KEY_LENGTH_MAX)]


class JobKey(NamedTuple):
    product_id: str
    job_id: str


def job_id_for(product_id: str, idempotency_key: str) -> str:
    """The same key in the same product always names the same job, so a repeated submit finds the first."""
    digest = hashlib.sha256(f"{product_id}\0{idempotency_key}".encode()).digest()
    return "j" + b32encode(digest[:15]).decode().lower()


def event_id(job_id: str, seq: int) -> str:
    return f"{job_id}:{seq}"


def run_id(job_id: str, lease_epoch: int) -> str:
    return f"{job_id}:{lease_epoch}"


def lease_id(job_id: str, lease_epoch: int) -> str:
    return f"{job_id}:{lease_epoch}"


def lock_id(name: str) -> str:
    return f"lock:{name}"


def body_id(job_id: str, manifest_sha256: str) -> str:
    return f"body:{job_id}:{manifest_sha256[:16]}"


# Operation ids: what an event carries, so that a write of unknown outcome can be looked up.


def submit_op(idempotency_key: str) -> str:
    return f"submit:{idempotency_key}"


def claim_op(factory_id: str, session_no: int, session_id: str, request_id: str) -> str:
    return f"claim:{factory_id}:{session_no}:{session_id}:{request_id}"


def start_op(job_id: str, lease_epoch: int) -> str:
    return f"{job_id}:{lease_epoch}:start"


def checkpoint_op(job_id: str, lease_epoch: int, number: int) -> str:
    return f"{job_id}:{lease_epoch}:checkpoint:{number}"


def end_op(job_id: str, lease_epoch: int) -> str:
    """Shared by report and release: whichever commits first is the end of the term."""
    return f"{job_id}:{lease_epoch}:end"


def reap_op(job_id: str, lease_epoch: int, cause: str) -> str:
    return f"{job_id}:{lease_epoch}:{cause}"


def ship_op(job_id: str, lease_epoch: int) -> str:
    return f"{job_id}:{lease_epoch}:ship"


def follow_up_op(job_id: str, seq: int, action: str) -> str:
    """An action of the coordinator's own on a job as it stood at `seq` (unblock, retry, bury)."""
    return f"{job_id}:{seq}:{action}"


def action_op(action: str, actor: str, idempotency_key: str) -> str:
    """Keys are each asker's own: two people may use the same one."""
    return f"action:{action}:{actor}:{idempotency_key}"
