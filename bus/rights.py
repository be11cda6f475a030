"""What a bus user may say and hear: rendered into the real broker's configuration, enforced by the twin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bus.subjects import ANY, ctl_subject, inbox_prefix, logs_of_factory, offer_subject, rpc_of_factory


class Rights(NamedTuple):
    """Subject patterns; whatever is not listed is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def factory_rights(factory_id: str, products: Iterable[str], capabilities: Iterable[str]) -> Rights:
    """Its own requests and logs out; its own inbox and orders, and the offers that it could run, in."""
    products, keys = tuple(products), (*capabilities, ANY)
    logs = (logs_of_factory(product, factory_id) for product in products)
    offers = (offer_subject(product, key) for product in products for key in keys)
    return Rights(
        publish=(rpc_of_factory(factory_id), *logs),
        subscribe=(f"{inbox_prefix(factory_id)}.>", ctl_subject(factory_id), *offers),
    )
