"""Each subject as a function, its wildcard beside it. No subject is ever spelled anywhere else."""

from __future__ import annotations

from typing import NamedTuple

from schemas.ids import check_id, check_name

PREFIX = "fleet.v1"
ANY = "any"  # the capability of an offer that needs none; reserved, so no capability has this name
EVENT_STREAM = "FLEET_EVENTS"
COORDINATORS = "coordinators"  # the queue group that serves requests

RPC_OPS = ("hello", "claim", "start", "checkpoint", "report", "renew", "release", "heartbeat")


def offer_subject(product_id: str, capability: str) -> str:
    return f"{PREFIX}.offers.{check_name(product_id)}.{capability if capability == ANY else check_name(capability)}"


def rpc_subject(factory_id: str, op: str) -> str:
    assert op in RPC_OPS, op
    return f"{PREFIX}.rpc.{check_name(factory_id)}.{op}"


def rpc_of_factory(factory_id: str) -> str:
    return f"{PREFIX}.rpc.{check_name(factory_id)}.>"


def rpc_wildcard() -> str:
    return f"{PREFIX}.rpc.*.*"


class RpcAddress(NamedTuple):
    factory_id: str
    op: str


def parse_rpc(subject: str) -> RpcAddress | None:
    parts = subject.split(".")
    if len(parts) != 5 or ".".join(parts[:3]) != f"{PREFIX}.rpc" or parts[4] not in RPC_OPS:
        return None
    return RpcAddress(parts[3], parts[4])


def ctl_subject(factory_id: str) -> str:
    return f"{PREFIX}.ctl.{check_name(factory_id)}"


def roster_subject(factory_id: str) -> str:
    return f"{PREFIX}.roster.{check_name(factory_id)}"


def roster_wildcard() -> str:
    return f"{PREFIX}.roster.*"


def client_name(factory_id: str, session_id: str) -> str:
    """How a factory's connection calls itself, so that the broker's word of its end names the session."""
    return f"{check_name(factory_id)}/{session_id}"


def session_of_client(name: str) -> str:
    """Empty where the name is not a factory's."""
    return name.partition("/")[2]


def came_subject() -> str:
    """The broker tells here of each client that connects: `{"client": {"user": its public key, "name": …}}`."""
    return f"{PREFIX}.presence.came"


def gone_subject() -> str:
    """The broker tells here, in the same form, of each client whose connection has ended."""
    return f"{PREFIX}.presence.gone"


def event_subject(product_id: str, job_id: str) -> str:
    return f"{PREFIX}.events.{check_name(product_id)}.{check_id(job_id)}"


def event_wildcard() -> str:
    return f"{PREFIX}.events.>"


def log_subject(product_id: str, factory_id: str, job_id: str) -> str:
    return f"{PREFIX}.logs.{check_name(product_id)}.{check_name(factory_id)}.{check_id(job_id)}"


def logs_of_factory(product_id: str, factory_id: str) -> str:
    return f"{PREFIX}.logs.{check_name(product_id)}.{check_name(factory_id)}.>"


def log_wildcard() -> str:
    return f"{PREFIX}.logs.*.*.*"


class LogAddress(NamedTuple):
    product_id: str
    factory_id: str
    job_id: str


def parse_log(subject: str) -> LogAddress:
    return LogAddress(*subject.split(".")[3:6])


def logs_of_job(product_id: str, job_id: str) -> str:
    return f"{PREFIX}.logs.{check_name(product_id)}.*.{check_id(job_id)}"


def inbox_prefix(factory_id: str) -> str:
    """Where answers to this factory go; the broker lets it listen nowhere else."""
    return f"_INBOX_{check_name(factory_id)}"


def is_own_inbox(factory_id: str, reply: str) -> bool:
    """A factory could name another's subject as its reply: only its own inbox is ever answered."""
    return reply.startswith(f"_INBOX_{factory_id}.")
