"""Nobody uninvited: no token, a wrong, revoked or foreign one gets nothing."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.enrolment_file import Enrolments, FactoryEnrolment, apply
from coordinator.http.app import RESOURCES
from coordinator.store.port import FACTORIES, OPERATORS, Address
from coordinator.store.queries import read_factory
from runtime.tokens import FACTORY, mint_token, token_hash
from schemas.errors import ErrorCode, FleetError
from schemas.factory import FactoryDoc, OperatorDoc
from tests.support.fleet import PRODUCT, manifest
from tests.support.rest import BANK, SHELL, RestWorld, problem_of
from tests.support.virtual import in_virtual_time

OPEN = {"/healthz", "/readyz"}
ROUTES = [
    (method, route.path.replace("{job_id}", "j1").replace("{action}", "ship"))
    for resource in RESOURCES
    for route in resource.router.routes
    for method in route.methods
]
TERM = {"leaseEpoch": 1}
OPERATORS_ONLY: list[tuple[str, str, Any]] = [
    ("POST", "/jobs", None),
    ("POST", "/jobs/batch", {"items": [{"manifest": manifest().decode()}]}),
    ("POST", "/jobs/j1/actions/ship", {}),
    ("POST", "/jobs/j1/review", {"verdict": "approve"}),
]
FACTORIES_ONLY: list[tuple[str, str, Any]] = [
    ("POST", "/claim", {"requestId": "r1"}),
    ("PATCH", "/jobs/j1", {**TERM, "stage": "building"}),
    ("POST", "/jobs/j1/lease/renew", TERM),
    ("POST", "/jobs/j1/lease/release", TERM),
    ("POST", "/jobs/j1/logs", {**TERM, "offset": 0, "text": "x"}),
    ("POST", "/factories/hello", {"sessionId": "s1", "sessionNo": 1}),
    ("POST", "/factories/heartbeat", {}),
    ("POST", "/factories/ended-jobs", {"jobIds": ["j1"], "forS": 1.0}),
]
READS = ["/jobs", "/jobs/{}", "/jobs/{}/runs", "/jobs/{}/events", "/jobs/{}/explain", "/jobs/{}/logs"]


def test_every_route_is_looked_at() -> None:
    assert len(ROUTES) == 23


@pytest.mark.parametrize(("method", "path"), [one for one in ROUTES if one[1] not in OPEN])
@in_virtual_time
async def test_every_route_but_the_probes_needs_a_token(world: RestWorld, method: str, path: str) -> None:
    await world.enrolled()
    answer = await world.ask(method, path, None, json={})
    problem_of(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Bearer gfo.shop.ann",
        "Bearer gfx.shop.ann.00",
        "Bearer gfo.shop.ann.0000000000000000000000000000000000000000",
        "Bearer gff.shop.f1.0000000000000000000000000000000000000000",
        "Bearer gfo.shop.nobody.00",
        "Bearer gfo.nowhere.ann.00",
        "Bearer gfo.Shop/../x.ann?.00",
        "Bearer gfo." + "a" * 400 + ".b.c",
        "Basic YW5uOnNlY3JldA==",
        "Bearer g\u00e4f.shop.ann.00",
    ],
)
@in_virtual_time
async def test_a_malformed_or_wrong_token_gets_nothing(world: RestWorld, header: str) -> None:
    await world.enrolled()
    answer = await world.get("/jobs", None, headers={"Authorization": header.encode("latin-1")})
    problem_of(answer, 401, "unauthorized")


@in_virtual_time
async def test_the_scheme_is_read_in_any_case(world: RestWorld) -> None:
    await world.enrolled()
    assert (await world.get("/jobs", None, headers={"Authorization": f"bearer  {world.ann}"})).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), OPERATORS_ONLY)
@in_virtual_time
async def test_a_factorys_token_does_not_do_what_operators_do(
    world: RestWorld, method: str, path: str, body: Any
) -> None:
    await world.enrolled()
    before = await world.everything()
    answer = await world.ask(method, f"/api/fleet{path}", world.f1, json=body)
    assert "factory's token" in problem_of(answer, 403, "forbidden")["detail"]
    assert await world.everything() == before


@pytest.mark.parametrize(("method", "path", "body"), FACTORIES_ONLY)
@in_virtual_time
async def test_an_operators_token_does_not_do_what_factories_do(
    world: RestWorld, method: str, path: str, body: Any
) -> None:
    await world.enrolled()
    answer = await world.ask(method, f"/api/fleet{path}", world.ann, json=body)
    assert "operator's token" in problem_of(answer, 403, "forbidden")["detail"]


@pytest.mark.parametrize("path", [*READS, "/jobs/{}/events/stream"])
@in_virtual_time
async def test_another_products_job_is_forbidden_under_its_name_and_unknown_under_ones_own(
    world: RestWorld, path: str
) -> None:
    await world.enrolled()
    path = path.format(await world.submitted())
    for token in (world.bob, world.b1):
        problem_of(await world.get(path, token, product=PRODUCT), 403, "forbidden")
    if path != "/jobs":
        problem_of(await world.get(path, world.bob), 404, "not_found")
    else:
        assert (await world.get(path, world.bob)).json()["jobs"] == []


@in_virtual_time
async def test_nothing_is_submitted_to_another_product_however_it_is_named(world: RestWorld) -> None:
    await world.enrolled()
    before = await world.everything()
    problem_of(await world.submit(product=BANK), 403, "forbidden")
    problem_of(await world.submit(manifest(product=BANK)), 403, "forbidden")
    items = [{"manifest": manifest(product=BANK).decode()}]
    (item,) = (await world.post("/jobs/batch", world.ann, json={"items": items})).json()["items"]
    assert item["error"]["code"] == "forbidden"
    assert await world.everything() == before


@in_virtual_time
async def test_no_action_reaches_another_products_job(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    problem_of(await world.post(f"/jobs/{job_id}/actions/cancel", world.bob), 404, "not_found")
    problem_of(await world.post(f"/jobs/{job_id}/actions/cancel", world.bob, product=PRODUCT), 403, "forbidden")
    assert (await world.job(job_id))["stage"] == "queued"


@in_virtual_time
async def test_a_token_for_all_products_names_one(world: RestWorld) -> None:
    await world.enrolled()
    problem = problem_of(await world.get("/jobs", world.root), 422, "invalid_request")
    assert "x-product-id" in problem["detail"]
    problem_of(await world.submit(token=world.root), 422, "invalid_request")
    assert (await world.submit(token=world.root, product=BANK)).json()["job"]["productId"] == BANK
    assert (await world.submit(manifest(product=BANK), token=world.root)).json()["job"]["productId"] == BANK
    assert (await world.get("/jobs", world.root, product=BANK)).status_code == 200


@pytest.mark.parametrize("named", ["Shop", "any", "a b", "../x", "a" * 33, "sh\u00f6p"])
@in_virtual_time
async def test_a_bad_product_id_is_told_with_what_is_allowed(world: RestWorld, named: str) -> None:
    await world.enrolled()
    header = {"x-product-id": named.encode("latin-1")}
    for answer in (
        await world.get("/jobs", world.root, headers=header),
        await world.submit(token=world.root, headers=header),
        await world.post("/claim", world.f1, json={**SHELL, "requestId": "r1"}, headers=header),
        await world.get("/factories", world.root, headers=header),
    ):
        problem = problem_of(answer, 422, "invalid_request")
        assert repr(named) in problem["detail"]
        assert "allowed is [a-z0-9]" in problem["detail"]


@in_virtual_time
async def test_a_revoked_factory_gets_nothing_from_the_next_request_on(world: RestWorld) -> None:
    await world.enrolled()
    await world.submitted()
    grant = await world.claimed()
    stored = await read_factory(world.store, PRODUCT, "f1")
    assert stored is not None
    revoked = stored.factory.model_copy(update={"token_hashes": (), "rev": stored.factory.rev + 1})
    assert (await world.store.update("fleet_factories", revoked.to_doc(), stored.etag)).ok
    body = {"leaseEpoch": grant["leaseEpoch"], "result": {"outcome": "ok"}}
    problem_of(await world.patch(grant["jobId"], world.f1, body), 401, "unauthorized")
    problem_of(await world.post("/claim", world.f1, json={**SHELL, "requestId": "r2"}), 401, "unauthorized")
    assert (await world.job(grant["jobId"]))["stage"] == "assigned"


@in_virtual_time
async def test_a_rotated_factory_is_heard_with_its_old_and_its_new_token(world: RestWorld) -> None:
    await world.enrolled()
    fresh = mint_token(FACTORY, PRODUCT, "f1")
    stored = await read_factory(world.store, PRODUCT, "f1")
    assert stored is not None
    both = (*stored.factory.token_hashes, token_hash(fresh))
    rotated = stored.factory.model_copy(update={"token_hashes": both})
    assert (await world.store.update("fleet_factories", rotated.to_doc(), stored.etag)).ok
    for token in (world.f1, fresh):
        assert (await world.get("/jobs", token)).status_code == 200


@in_virtual_time
async def test_a_revoked_operator_gets_nothing_from_the_next_request_on(world: RestWorld) -> None:
    await world.enrolled()
    stored = await world.store.read(Address(OPERATORS, PRODUCT, "ann"))
    assert stored is not None
    revoked = OperatorDoc.model_validate(stored.doc).model_copy(update={"token_hash": ""})
    assert (await world.store.update(OPERATORS, revoked.to_doc(), stored.etag)).ok
    problem_of(await world.get("/jobs", world.ann), 401, "unauthorized")


@in_virtual_time
async def test_a_factory_speaks_for_no_other_wherever_the_name_is_put(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    grant = await world.claimed(world.f1)
    before = await world.job(job_id)
    term = {"leaseEpoch": grant["leaseEpoch"], "factoryId": "f1"}
    saved = {"number": 1, "ref": "refs/x", "commit": "a" * 40}
    for path, body in (
        ("/claim", {**SHELL, "requestId": "r1", "factoryId": "f1"}),
        (f"/jobs/{job_id}/lease/renew", term),
        (f"/jobs/{job_id}/lease/release", term),
        ("/factories/hello", {"factoryId": "f1", "sessionId": "s9", "sessionNo": 9}),
        ("/factories/heartbeat", {"factoryId": "f1"}),
    ):
        assert (
            "cannot speak for f1" in problem_of(await world.post(path, world.f2, json=body), 403, "forbidden")["detail"]
        )
    problem_of(await world.patch(job_id, world.f2, {**term, "stage": "building"}), 403, "forbidden")
    smuggled = {**saved, "factoryId": "f1", "factory_id": "f1", "leaseEpoch": 1, "jobId": job_id}
    problem_of(await world.patch(job_id, world.f2, {"leaseEpoch": 1, "checkpoint": smuggled}), 409, "fenced")
    problem_of(
        await world.patch(job_id, world.f2, {"leaseEpoch": 1, "factory_id": "f1", "stage": "building"}),
        403,
        "forbidden",
    )
    assert await world.job(job_id) == before


@in_virtual_time
async def test_a_factory_has_one_name_in_the_fleet_and_the_second_product_to_use_it_is_told(world: RestWorld) -> None:
    await world.enrolled()
    await world.submitted()
    namesake = mint_token(FACTORY, BANK, "f1")
    enrolment = FactoryEnrolment(id="f1", product_id=BANK, products=(BANK,), token_hash=token_hash(namesake))
    with pytest.raises(FleetError) as refused:
        await apply(world.ctx, Enrolments(factories=(enrolment,)))
    assert (refused.value.code, refused.value.detail) == (ErrorCode.CONFLICT, {"productId": PRODUCT})
    problem_of(await world.post("/claim", namesake, json={**SHELL, "requestId": "r1"}), 401, "unauthorized")
    assert (await world.claimed(world.f1))["productId"] == PRODUCT


@in_virtual_time
async def test_a_namesake_that_came_in_while_nobody_looked_speaks_for_nobody(world: RestWorld) -> None:
    """Two coordinators may enrol one name for two products in the same instant: the later is not heard."""
    await world.enrolled()
    namesake = mint_token(FACTORY, BANK, "f1")
    doc = FactoryDoc(id="f1", product_id=BANK, products=(BANK,), token_hashes=(token_hash(namesake),))
    await world.store.create(FACTORIES, doc.to_doc())
    answer = await world.post("/claim", namesake, json={**SHELL, "requestId": "r1"})
    assert "another product has enrolled a factory f1" in problem_of(answer, 403, "forbidden")["detail"]


@in_virtual_time
async def test_the_file_of_enrolments_is_the_last_word_on_tokens(world: RestWorld) -> None:
    await world.enrolled()
    fresh = mint_token(FACTORY, PRODUCT, "f1")

    async def statuses(**hashes: str | None) -> list[int]:
        row = FactoryEnrolment(id="f1", product_id=PRODUCT, products=(PRODUCT,), **hashes)
        await apply(world.ctx, Enrolments(factories=(row,)))
        return [(await world.get("/jobs", token)).status_code for token in (world.f1, fresh)]

    assert await statuses(token_hash=token_hash(fresh), previous_token_hash=token_hash(world.f1)) == [200, 200]
    assert await statuses(token_hash=token_hash(fresh)) == [401, 200]
    assert await statuses() == [401, 401]


@in_virtual_time
async def test_of_a_shared_factory_each_tenant_sees_what_concerns_it(world: RestWorld) -> None:
    await world.enrolled()
    await world.submit(token=world.bob, key="secret")
    grant = await world.claimed(world.x1)
    assert grant["productId"] == BANK

    async def seen(token: str, **options: Any) -> dict[str, Any]:
        rows = (await world.get("/factories", token, **options)).json()["factories"]
        return {row["id"]: (row["products"], [held["jobId"] for held in row["holding"]]) for row in rows}

    assert await seen(world.ann) == {"f1": ([PRODUCT], []), "f2": ([PRODUCT], []), "x1": ([PRODUCT], [])}
    assert await seen(world.bob) == {"b1": ([BANK], []), "x1": ([BANK], [grant["jobId"]])}
    assert await seen(world.root, product=BANK) == await seen(world.bob)
    assert set(await seen(world.root)) == {"f1", "f2", "b1", "x1"}


@in_virtual_time
async def test_no_answer_tells_a_secret(world: RestWorld) -> None:
    await world.enrolled()
    text = (await world.get("/factories", world.root)).text
    assert "tokenHash" not in text
    assert "busKey" not in text
    assert token_hash(world.f1) not in text


@in_virtual_time
async def test_explain_names_no_factory_of_another_product(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    told = (await world.get(f"/jobs/{job_id}/explain", world.ann)).json()
    assert {one["factoryId"] for one in told["candidates"]} == {"f1", "f2", "x1"}
    told = (await world.get(f"/jobs/{job_id}/explain", world.root, product=PRODUCT)).json()
    assert {one["factoryId"] for one in told["candidates"]} == {"f1", "f2", "x1", "b1"}
