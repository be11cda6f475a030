"""Submitting jobs. The job's id is the hash of product and key, so a repeat finds the first and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.context import Context
from coordinator.domain.dag import first_cycle
from coordinator.domain.ops import Submit
from coordinator.handlers.answers import check_applied
from coordinator.store.change import settle, unknown
from coordinator.store.port import JOBS, Doc, StoreError, Written
from coordinator.store.queries import read_job
from schemas.errors import ERRORS, ErrorCode, FleetError
from schemas.guards import LedgerGuard
from schemas.ids import LEDGER_ID, JobKey, body_id, job_id_for
from schemas.job import Job
from schemas.manifest import BODY_INLINE_MAX, Manifest, parse_manifest
from schemas.shell_blocks import OpenBlock, shell_blocks
from schemas.work import Engine

BATCH_MAX = 100


@dataclass(frozen=True)
class Submitted:
    job: Job
    repeated: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """A manifest with what came beside it: the product and key of the request, where it named them."""

    raw: bytes
    product_id: str | None
    idempotency_key: str | None


def _agreed(what: str, outer: str | None, inner: str | None) -> str | None:
    if outer is not None and inner is not None and outer != inner:
        raise FleetError(
            ErrorCode.CONFLICT,
            f"the request's {what} is '{outer}', the manifest's is '{inner}'",
            found=inner,
            wanted=outer,
        )
    return outer if outer is not None else inner


def _any_product(product_id: str) -> str:
    return product_id


CheckProduct = Callable[[str], str]
"""Gives the product back, or raises forbidden where the asker may not use it."""


def placed(
    submission: Submission, only_product: str | None, made_key: str, check_product: CheckProduct = _any_product
) -> tuple[Manifest, JobKey, str, tuple[str, ...]]:
    """The parsed manifest, where it goes, its key and warnings. `only_product`: the token's, where it has one."""
    manifest = parse_manifest(submission.raw)
    check_can_run(manifest)
    product_id = _agreed("product", submission.product_id, manifest.product) or only_product
    if product_id is None:
        raise FleetError(
            ErrorCode.INVALID_REQUEST,
            "no product is named: send x-product-id, or write 'product:' in the manifest",
        )
    key = _agreed("idempotency key", submission.idempotency_key, manifest.idempotency_key)
    warnings = manifest.warnings
    if key is None:
        key = made_key
        warnings += ("no idempotency key was sent: this submit is not safe to repeat",)
    return manifest, JobKey(check_product(product_id), job_id_for(product_id, key)), key, warnings


async def submit(
    ctx: Context,
    submission: Submission,
    actor: str,
    only_product: str | None = None,
    check_product: CheckProduct = _any_product,
) -> Submitted:
    manifest, key, idempotency_key, warnings = placed(submission, only_product, ctx.entropy.token(), check_product)
    known = await _known(ctx, key, manifest)
    if known is not None:
        return Submitted(known, True, warnings)
    deps = await _resolved(ctx, key, manifest.deps, within={})
    return await _create(ctx, manifest, key, idempotency_key, deps, actor, warnings)


async def submit_batch(
    ctx: Context,
    submissions: list[Submission],
    actor: str,
    only_product: str | None = None,
    check_product: CheckProduct = _any_product,
) -> list[Submitted | FleetError]:
    """One answer per item; deps may name items of the batch. An item whose dep was refused is refused too."""
    if len(submissions) > BATCH_MAX:
        raise FleetError(ErrorCode.TOO_LARGE, f"{len(submissions)} manifests in one batch; allowed are {BATCH_MAX}")
    answers: dict[int, Submitted | FleetError] = {}
    items: dict[int, tuple[Manifest, JobKey, str, tuple[str, ...]]] = {}
    for index, submission in enumerate(submissions):
        try:
            items[index] = placed(submission, only_product, ctx.entropy.token(), check_product)
        except FleetError as error:
            answers[index] = error
    of_job: dict[JobKey, int] = {}
    for index, (_, key, _, _) in items.items():
        of_job.setdefault(key, index)  # of several items under one key the first is the job, if any is
    needs = {index: _within(items[index], of_job) for index in items}
    cycle = first_cycle(needs)
    for index in cycle:
        names = " -> ".join(items[one][0].title for one in [*cycle, cycle[0]])
        answers[index] = FleetError(ErrorCode.INVALID_MANIFEST, f"the deps form a cycle: {names}", key="deps")
    pending = [index for index in items if index not in answers]
    while pending:
        ready = [index for index in pending if all(dep in answers for dep in needs[index])]
        if not ready:
            for index in pending:
                answers[index] = FleetError(ErrorCode.INVALID_MANIFEST, "the deps form a cycle", key="deps")
            break
        for index in ready:
            answers[index] = await _submit_item(ctx, items[index], [answers[dep] for dep in needs[index]], actor)
        pending = [index for index in pending if index not in answers]
    return [answers[index] for index in range(len(submissions))]


def check_can_run(manifest: Manifest) -> None:
    """What can be seen before any machine has it. Raises invalid_manifest."""
    if manifest.engine is not Engine.SHELL:
        return
    try:
        blocks = shell_blocks(manifest.body)
    except OpenBlock as error:
        raise FleetError(ErrorCode.INVALID_MANIFEST, str(error), key="engine") from error
    if not blocks:
        sentence = "engine: shell runs the ```sh and ```bash blocks of the body, and the body has none"
        raise FleetError(ErrorCode.INVALID_MANIFEST, sentence, key="engine")


def _within(item: tuple[Manifest, JobKey, str, tuple[str, ...]], of_job: dict[JobKey, int]) -> list[int]:
    manifest, key, _, _ = item
    return sorted({of_job[dep] for name in manifest.deps for dep in _names(key, name) if dep in of_job})


def _names(key: JobKey, name: str) -> tuple[JobKey, JobKey]:
    """What a dep's name may mean: a job id, or an idempotency key of the same product."""
    return JobKey(key.product_id, name), JobKey(key.product_id, job_id_for(key.product_id, name))


async def _submit_item(
    ctx: Context,
    item: tuple[Manifest, JobKey, str, tuple[str, ...]],
    needed: list[Submitted | FleetError],
    actor: str,
) -> Submitted | FleetError:
    manifest, key, idempotency_key, warnings = item
    refused = [answer for answer in needed if isinstance(answer, FleetError)]
    if any(ERRORS[error.code].definite for error in refused):
        return FleetError(ErrorCode.INVALID_MANIFEST, "a dep in the same batch was refused", key="deps")
    if refused:
        return FleetError(ErrorCode.UNAVAILABLE, "whether a dep in the same batch was stored is not known: ask again")
    try:
        known = await _known(ctx, key, manifest)
        if known is not None:
            return Submitted(known, True, warnings)
        deps = await _resolved(
            ctx, key, manifest.deps, {one.job.key: one.job for one in needed if isinstance(one, Submitted)}
        )
        return await _create(ctx, manifest, key, idempotency_key, deps, actor, warnings)
    except FleetError as error:
        return error
    except StoreError as error:
        return FleetError(ErrorCode.UNAVAILABLE, f"the store did not answer: {error}")


async def _known(ctx: Context, key: JobKey, manifest: Manifest) -> Job | None:
    stored = await read_job(ctx.store, key)
    if stored is None:
        return None
    if stored.job.manifest_sha256 != manifest.sha256:
        raise FleetError(
            ErrorCode.CONFLICT,
            f"the key names job {key.job_id}, submitted with another manifest",
            jobId=key.job_id,
        )
    return stored.job


async def _resolved(ctx: Context, key: JobKey, names: tuple[str, ...], within: dict[JobKey, Job]) -> list[Job]:
    deps: list[Job] = []
    for name in names:
        meant = _names(key, name)
        if key in meant:
            raise FleetError(
                ErrorCode.INVALID_MANIFEST,
                f"deps: the job waits for itself ('{name}')",
                key="deps",
                found=name,
            )
        dep = next((within[one] for one in meant if one in within), None)
        for one in meant:
            if dep is None:
                stored = await read_job(ctx.store, one)
                dep = stored.job if stored else None
        if dep is None:
            raise FleetError(
                ErrorCode.INVALID_MANIFEST,
                f"deps: found '{name}'; allowed is the id or idempotencyKey of a job of product {key.product_id}",
                key="deps",
                found=name,
            )
        deps.append(dep)
    return deps


async def _create(
    ctx: Context,
    manifest: Manifest,
    key: JobKey,
    idempotency_key: str,
    deps: list[Job],
    actor: str,
    warnings: tuple[str, ...],
) -> Submitted:
    if len(manifest.body.encode()) > BODY_INLINE_MAX:
        await _write_first(ctx, _body_doc(key, manifest))
    if ctx.flags.budgets:
        await _write_first(ctx, LedgerGuard(id=LEDGER_ID, product_id=key.product_id).to_doc())
    submit = Submit.of(key, manifest, idempotency_key, deps, actor)
    applied = check_applied(await ctx.transactor.transact(key, submit))
    return Submitted(applied.job, applied.repeated, warnings)


def _body_doc(key: JobKey, manifest: Manifest) -> Doc:
    """A long body has a document of its own, written first. Its id has the content's hash: a repeat is the same."""
    return {
        "id": body_id(key.job_id, manifest.sha256),
        "productId": key.product_id,
        "type": "body",
        "bodyMd": manifest.body,
    }


async def _write_first(ctx: Context, doc: Doc) -> None:
    """Writes a document that must exist before the job does. It may exist already."""

    async def attempt(_number: int) -> Written:
        return await ctx.store.create(JOBS, doc)

    sentence = "what the job needs could not be stored: submit again with the same key"
    await settle(attempt, ctx.entropy, unknown(sentence))
