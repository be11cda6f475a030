"""The factory document: what a machine may do (enrolment), what it says it can do, and its latest session."""

from __future__ import annotations

from enum import StrEnum

from schemas.base import Schema, Timestamp
from schemas.work import Engine

REST_SESSION = "rest"  # the session of clients that open none
REST_SESSION_NO = 0


class Health(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DOWN = "down"


class Transport(StrEnum):
    BUS = "bus"
    REST = "rest"


class FactoryDoc(Schema):
    id: str
    product_id: str  # its home product, which is its partition
    products: tuple[str, ...]
    enrolled_capabilities: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    engines: tuple[Engine, ...] = ()
    workspaces: tuple[str, ...] = ()  # roots of the paths that its workspace map knows
    seat_limit: int = 1
    seats_used: int = 0
    load: float = 0.0
    health: Health = Health.HEALTHY
    transport: Transport = Transport.REST
    draining: bool = False
    unfit: str | None = None  # why it takes no work for now, in a sentence
    gated: dict[Engine, Timestamp] = {}  # engines whose credential is used up, until when
    session_id: str = REST_SESSION
    session_no: int = REST_SESSION_NO
    token_hashes: tuple[str, ...] = ()
    bus_key: str | None = None  # public nkey; the broker's configuration is made from these
    last_heartbeat_at: Timestamp | None = None
    version: str = ""
    os: str = ""
    free_disk_bytes: int | None = None
    rev: int = 0


class OperatorDoc(Schema):
    """An operator's token, hashed; `products` empty means all."""

    id: str
    product_id: str
    token_hash: str
    products: tuple[str, ...] = ()
    created_at: Timestamp
