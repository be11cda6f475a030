"""The documentation that the service gives of itself: complete, and true."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from coordinator.http.app import RESOURCES
from coordinator.http.bodies import SubmitBody
from coordinator.http.examples import common, jobs, runs
from coordinator.http.problems import Problem
from schemas.errors import ERRORS, ErrorCode
from schemas.manifest import parse_manifest
from tests.support.rest import RestWorld
from tests.support.virtual import in_virtual_time

ROUTES = {
    (method.lower(), route.path): route
    for resource in RESOURCES
    for route in resource.router.routes
    if isinstance(route, APIRoute)
    for method in route.methods
}
EACH = pytest.mark.parametrize(("method", "path"), sorted(ROUTES), ids=str)
RAW = ("post", "/api/fleet/jobs")  # reads its body itself


@cache
def paths() -> dict[str, Any]:
    """Of the document, which is the same for every application, and long in the making."""
    told: dict[str, Any] = RestWorld(Path("nowhere")).app.openapi()["paths"]
    return told


def test_the_document_tells_of_every_route_and_no_other() -> None:
    assert {(method, path) for path, methods in paths().items() for method in methods} == set(ROUTES)


@EACH
def test_each_operation_has_a_summary_a_tag_and_the_problem_that_it_may_answer(method: str, path: str) -> None:
    told = paths()[path][method]
    assert told["summary"]
    assert told["tags"]
    assert "422" not in told["responses"]
    (kind,) = told["responses"]["default"]["content"].items()
    assert kind[0] == "application/problem+json"
    Problem.model_validate(kind[1]["example"])


@EACH
def test_each_request_has_examples_that_its_own_model_takes(method: str, path: str) -> None:
    told = paths()[path][method].get("requestBody")
    if method == "get":
        assert told is None
        return
    assert told is not None
    if (method, path) == RAW:
        content = told["content"]
        SubmitBody.model_validate(content["application/json"]["example"])
        parse_manifest(content["text/markdown"]["example"].encode())
        return
    field = ROUTES[method, path].body_field
    assert field is not None
    found = told["content"]["application/json"]["examples"]
    assert found
    for example in found.values():
        unknown = set(example["value"]) - properties(field.field_info.annotation)
        assert not unknown, "the model would ignore what the example shows"
        TypeAdapter(field.field_info.annotation).validate_python(example["value"])


def properties(annotation: Any) -> set[str]:
    schema = TypeAdapter(annotation).json_schema(by_alias=True)
    options = [schema, *schema.get("anyOf", ())]
    named = [schema["$defs"][one["$ref"].split("/")[-1]] for one in options if "$ref" in one]
    return {name for one in [*options, *named] for name in one.get("properties", ())}


@EACH
def test_each_answer_has_an_example_that_its_own_model_takes(method: str, path: str) -> None:
    route = ROUTES[method, path]
    told = paths()[path][method]["responses"]
    if route.status_code == 204:
        assert "content" not in told["204"]
        return
    content = told[str(route.status_code or 200)]["content"]
    shown = [kind["example"] for kind in content.values() if "example" in kind]
    assert shown
    if route.response_model is None:
        assert issubclass(route.response_class, Response | StreamingResponse)
        return
    for example in shown:
        TypeAdapter(route.response_model).validate_python(example)


@EACH
def test_each_parameter_says_what_it_is(method: str, path: str) -> None:
    for parameter in paths()[path][method].get("parameters", ()):
        assert parameter["schema"]
        assert parameter["name"]


def test_the_examples_name_errors_of_the_registry() -> None:
    spec = ERRORS[ErrorCode(common.PROBLEM["code"])]
    assert (common.PROBLEM["status"], common.PROBLEM["title"]) == (spec.status, spec.title)
    assert ErrorCode(jobs.REFUSAL["code"]) is ErrorCode.INVALID_MANIFEST


@in_virtual_time
async def test_a_real_answer_has_the_shape_of_the_examples(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    job = await world.job(job_id)
    assert set(jobs.JOB_ANSWER["job"]) == set(job)
    page = (await world.get("/jobs", world.ann)).json()
    assert set(common.JOB) == set(page["jobs"][0])
    (event,) = (await world.get(f"/jobs/{job_id}/events", world.ann)).json()["events"]
    assert set(common.EVENT) == set(event)
    explained = (await world.get(f"/jobs/{job_id}/explain", world.ann)).json()
    assert set(runs.EXPLANATION) == set(explained)


@in_virtual_time
async def test_the_document_is_served_to_anybody(world: RestWorld) -> None:
    answer = await world.ask("GET", "/openapi.json", None)
    assert answer.status_code == 200
    assert answer.json() == world.app.openapi()
