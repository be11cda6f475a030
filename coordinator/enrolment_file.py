"""Who may take part, read from a file at start: operators and factories with the hashes of their tokens.

Applying it twice is applying it once. An operator or factory that the file does not name stays as it is in the store.
For those that it names the file wins: a token hash that is no longer in it is revoked.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from coordinator.context import Context
from coordinator.handlers.enrolment import enroll, read_homes
from coordinator.store.port import OPERATORS, Address, StoreError
from schemas.base import Schema, validation_sentence
from schemas.factory import FactoryDoc, OperatorDoc
from schemas.ids import Name


class OperatorEnrolment(Schema):
    id: Name
    product_id: Name
    token_hash: str
    products: tuple[Name, ...] = ()


class FactoryEnrolment(Schema):
    id: Name
    product_id: Name
    products: tuple[Name, ...]
    capabilities: tuple[Name, ...] = ()
    token_hash: str | None = None  # None: revoked
    previous_token_hash: str | None = None  # still good, while the factory moves to the new one
    bus_key: str | None = None


class Enrolments(Schema):
    operators: tuple[OperatorEnrolment, ...] = ()
    factories: tuple[FactoryEnrolment, ...] = ()


def read_enrolments(path: Path) -> Enrolments:
    """Raises ValueError with a sentence."""
    try:
        return Enrolments.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"the enrolments {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ValueError(f"the enrolments {path} are not valid: {validation_sentence(error)}") from None


async def apply(ctx: Context, enrolments: Enrolments) -> None:
    for operator in enrolments.operators:
        await _put_operator(ctx, operator)
    homes = await read_homes(ctx) if enrolments.factories else {}
    for factory in enrolments.factories:
        doc = FactoryDoc(
            id=factory.id,
            product_id=factory.product_id,
            products=factory.products,
            enrolled_capabilities=tuple(sorted(set(factory.capabilities))),
            token_hashes=tuple(known for known in (factory.token_hash, factory.previous_token_hash) if known),
            bus_key=factory.bus_key,
        )
        await enroll(ctx, doc, homes)
        homes[factory.id] = factory.product_id


async def _put_operator(ctx: Context, operator: OperatorEnrolment) -> None:
    doc = OperatorDoc(
        id=operator.id,
        product_id=operator.product_id,
        token_hash=operator.token_hash,
        products=operator.products,
        created_at=ctx.clock.now(),
    )
    stored = await ctx.store.read(Address(OPERATORS, operator.product_id, operator.id))
    if stored is None:
        written = await ctx.store.create(OPERATORS, doc.to_doc())
    else:
        known = OperatorDoc.model_validate(stored.doc)
        wanted = doc.model_copy(update={"created_at": known.created_at})
        if wanted == known:
            return
        written = await ctx.store.update(OPERATORS, wanted.to_doc(), stored.etag)
    if not written.ok:
        raise StoreError(f"operator {operator.id} was changed by somebody else meanwhile: start again")
