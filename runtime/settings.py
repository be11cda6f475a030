"""Every timing and its relations, in one value; feature flags by their environment names."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


class SettingsError(ValueError):
    """A setting that cannot work, said in a sentence."""


@dataclass(frozen=True)
class Timers:
    """Seconds throughout. The relations that the promises need are checked when the value is made."""

    lease_ttl_s: float = 60.0
    trust_margin_s: float = 5.0
    rest_renew_s: float = 20.0
    grant_start_s: float = 30.0
    stop_deadline_s: float = 30.0
    heartbeat_s: float = 5.0
    down_after_s: float = 15.0
    alive_within_s: float = 15.0  # a session heard of so lately is replaced only by a takeover
    vanished_s: float = 2.5  # from the end of a factory's connection, if it is not heard of on either way
    reaper_s: float = 5.0
    promoter_s: float = 5.0
    sweeper_s: float = 5.0
    offer_round_s: float = 0.25
    offer_ttl_s: float = 5.0
    offer_repeat_max_s: float = 5.0  # what only an offer can end (a product resumed elsewhere) ends within seconds
    long_poll_s: float = 20.0
    ready_refresh_s: float = 1.0
    roster_store_s: float = 20.0
    rpc_timeout_s: float = 0.5
    request_waits_s: float = 0.25  # of a request in a coordinator's queue: begun later, it is answered to nobody
    rest_timeout_s: float = 5.0
    checkpoint_every_s: float = 60.0
    drain_grace_s: float = 30.0
    keep_refs_s: float = 30 * 24 * 3600.0  # the fleet's refs of a job in its source, from its end
    keep_s: float = 7 * 24 * 3600.0  # what finished terms left on a factory's disk
    quota_gate_s: float = 15 * 60.0  # where nobody knows when a credential is good again
    store_timeout_s: float = 5.0
    skew_s: float = 2.0  # tolerated between coordinators: added to every deadline that ends a term

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{field.name} is {value}: it must be a number of seconds above 0")
        margin = self.trust_margin_s
        relations = {
            "2/3 of lease_ttl_s, less trust_margin_s, must exceed 2 heartbeats and rpc_timeout_s": (
                2 / 3 * self.lease_ttl_s - margin > 2 * self.heartbeat_s + self.rpc_timeout_s
            ),
            "rest_renew_s must be below lease_ttl_s less trust_margin_s": (
                self.rest_renew_s < self.lease_ttl_s - margin
            ),
            "long_poll_s, trust_margin_s and skew_s together must be below grant_start_s": (
                self.long_poll_s + margin + self.skew_s < self.grant_start_s
            ),
            "stop_deadline_s must be at least rest_renew_s and trust_margin_s": (
                self.stop_deadline_s >= self.rest_renew_s + margin
            ),
            "lease_ttl_s must exceed twice the store's timeout with its read-back": (
                self.lease_ttl_s > 2 * (2 * self.store_timeout_s)
            ),
        }
        for sentence, holds in relations.items():
            if not holds:
                raise SettingsError(sentence)

    @classmethod
    def for_lease_ttl(cls, lease_ttl_s: float) -> Timers:
        """The defaults scaled to another lease TTL; what bounds machines rather than terms stays.

        Below 60 s the heartbeat and the margin are a tenth of the TTL, so that a healthy holder keeps slack.
        """
        if lease_ttl_s == cls.lease_ttl_s:
            return cls()
        scale = lease_ttl_s / cls.lease_ttl_s
        short = min(lease_ttl_s / 10, 5.0)
        return cls(
            lease_ttl_s=lease_ttl_s,
            trust_margin_s=short,
            heartbeat_s=short,
            down_after_s=3 * short,
            rest_renew_s=20.0 * scale,
            grant_start_s=30.0 * scale + short,
            stop_deadline_s=max(30.0 * scale, 20.0 * scale + short),
            reaper_s=min(5.0, 5.0 * scale),
            promoter_s=min(5.0, 5.0 * scale),
            sweeper_s=min(5.0, 5.0 * scale),
            long_poll_s=min(20.0, 20.0 * scale - 2.0 * (1 - scale)) if scale < 1 else 20.0,
            roster_store_s=min(20.0, 20.0 * scale),
            store_timeout_s=min(5.0, lease_ttl_s / 5),
        )

    def with_values(self, **values: float) -> Timers:
        return replace(self, **values)


@dataclass(frozen=True)
class Flags:
    """Off unless their variable is 1, true, yes or on."""

    budgets: bool = False

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Flags:
        env = os.environ if env is None else env
        return cls(budgets=flag(env, "FLEET_BUDGETS"))


def flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "").strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("", "0", "false", "no", "off"):
        return False
    raise SettingsError(f"{name}={text!r}: write 1 or 0")
