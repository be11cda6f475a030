"""Jobs as they are listed and looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from coordinator.context import Context
from coordinator.store.port import JOBS, Query, Where
from coordinator.store.queries import read_job
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey
from schemas.job import Job, Stage

FILTERED_PAGE = 200
PAGES_MAX = 20  # looked through for one answer; who wants more asks on with the cursor

Row = TypeVar("Row", bound=Job)


@dataclass(frozen=True)
class JobFilter:
    """`text` is looked for in title and id."""

    stage: Stage | None = None
    capability: str | None = None
    text: str | None = None

    def takes(self, job: Job) -> bool:
        if self.capability is not None and self.capability not in job.capabilities:
            return False
        return self.text is None or self.text.lower() in job.title.lower() or self.text in job.id


@dataclass(frozen=True)
class Page(Generic[Row]):
    """`cursor` is None on the last page."""

    rows: tuple[Row, ...]
    cursor: str | None


async def read_found(ctx: Context, key: JobKey) -> Job:
    """Raises not_found."""
    stored = await read_job(ctx.store, key)
    if stored is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"there is no job {key.job_id} in product {key.product_id}")
    return stored.job


async def list_page(
    ctx: Context, product_id: str, wanted: JobFilter, limit: int, cursor: str | None, row: type[Row]
) -> Page[Row]:
    """A product's jobs, newest first, from the cursor on. A page may be short, or empty, where filters leave little."""
    where = (Where("stage", "=", str(wanted.stage)),) if wanted.stage else ()
    size = FILTERED_PAGE if wanted.capability or wanted.text else limit + 1
    rows: list[Row] = []
    for _ in range(PAGES_MAX):
        query = Query(JOBS, product_id, where, order="sortKey", descending=True, after=cursor, limit=size)
        page = await ctx.store.query(query)
        for stored in page:
            job = row.model_validate(stored.doc)
            is_wanted = wanted.takes(job)
            if is_wanted and len(rows) == limit:
                return Page(tuple(rows), cursor)
            if is_wanted:
                rows.append(job)
            cursor = job.sort_key
        if len(page) < size:
            return Page(tuple(rows), None)
    return Page(tuple(rows), cursor)
