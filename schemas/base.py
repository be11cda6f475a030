"""What every document and message shares: frozen, camelCase on the wire, UTC timestamps of fixed width."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic.alias_generators import to_camel


def in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a timestamp needs an offset, such as a final Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a timestamp lies between the years 1 and 9999, in UTC") from None


def timestamp_text(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds always written: the text sorts as the time does."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Timestamp = Annotated[
    datetime, AfterValidator(in_utc), PlainSerializer(timestamp_text, return_type=str, when_used="json")
]


Count = Annotated[int, Field(ge=0, le=2**53)]
Money = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]  # USD


def validation_sentence(error: ValidationError) -> str:
    """The first thing that is wrong with a message, with its place."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the message"
    return f"{place}: {first['msg']} (found {str(first.get('input'))[:80]!r})"


class Schema(BaseModel):
    """A frozen value. Unknown fields are ignored, so that the next version's optional fields do no harm."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        ser_json_inf_nan="strings",
    )

    def to_doc(self) -> dict[str, Any]:
        """The JSON-ready form, camelCase, as it is stored and sent."""
        return self.model_dump(mode="json", by_alias=True)
