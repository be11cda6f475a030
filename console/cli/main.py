"""`gigafactory`: what operators do from a shell.

Exit codes: 0 done; 1 refused by the fleet, or a job that was waited for did not ship; 2 wrong usage;
3 no coordinator answered.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from console import view
from console.cli import doctor as doctor_checks
from console.cli.services import add_services
from console.client import Client, CoordinatorUnreachable, Target, find_target
from schemas.errors import FleetError
from schemas.manifest import MANIFEST_BYTES_MAX, parse_manifest

EXIT_REFUSED, EXIT_USAGE, EXIT_UNREACHABLE = 1, 2, 3
LOOK_S = 0.5

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, rich_markup_mode=None)
add_services(app)
out = Console(highlight=False, soft_wrap=True)


@dataclass
class Options:
    url: str | None = None
    token_file: Path | None = None
    product: str | None = None


options = Options()

Json = Annotated[bool, typer.Option("--json", help="Print the API's answer as JSON.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Reason = Annotated[str | None, typer.Option(help="Kept in the job's history.")]
Key = Annotated[str | None, typer.Option("--key", help="Idempotency key: the same key does it once.")]


@app.callback()
def common(
    url: Annotated[str | None, typer.Option(help="The coordinator; or AQ_FLEET_API.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with an operator's token; or AQ_FLEET_TOKEN.")] = None,
    product: Annotated[str | None, typer.Option(help="The product; or AQ_PRODUCT_ID.")] = None,
) -> None:
    options.url, options.token_file, options.product = url, token_file, product


@contextmanager
def asking() -> Iterator[Client]:
    """Turns what goes wrong into a sentence and an exit code."""
    try:
        with Client(find_target(options.url, options.token_file, options.product)) as client:
            yield client
    except FleetError as error:
        _fail(f"{error.code}: {error.message}", EXIT_REFUSED)
    except CoordinatorUnreachable as error:
        _fail(str(error), EXIT_UNREACHABLE)
    except ValueError as error:
        _fail(str(error), EXIT_USAGE)


def _fail(sentence: str, code: int) -> None:
    typer.echo(f"gigafactory: {sentence}", err=True)
    raise typer.Exit(code)


def _print_json(answer: Any) -> None:
    typer.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())


def _print_table(columns: Sequence[str], rows: Sequence[tuple[str, ...]], badge: int) -> None:
    """A table for people; in a pipe a line each, with tabs between, so that nothing is cut."""
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(row))
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        cut = column in view.CUT_COLUMNS
        table.add_column(column, overflow="ellipsis" if cut else "fold", no_wrap=cut or column in view.WHOLE_COLUMNS)
    for row in rows:
        cells = [escape(cell) for cell in row]
        colour = view.BADGES.get(cells[badge].split(" ")[0], "white")
        cells[badge] = f"[{colour}]{cells[badge]}[/]"
        table.add_row(*cells)
    out.print(table)


def _path(job_id: str, more: str = "") -> str:
    return f"/api/fleet/jobs/{quote(job_id, safe='')}{more}"


def _manifests(files: Sequence[Path]) -> list[tuple[str, bytes]]:
    """(name, content) of every file; `-` is standard input, a folder stands for its *.md in order."""
    found: list[tuple[str, bytes]] = []
    for path in files:
        if str(path) == "-":
            found.append(("standard input", sys.stdin.buffer.read(MANIFEST_BYTES_MAX + 1)))
        elif path.is_dir():
            inside = sorted(path.glob("*.md"))
            if not inside:
                raise ValueError(f"{path}: the folder has no *.md")
            found += [(str(one), one.read_bytes()) for one in inside]
        else:
            try:
                found.append((str(path), path.read_bytes()))
            except OSError as error:
                raise ValueError(f"{path}: {error.strerror}") from error
    return found


@app.command()
def submit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Manifests, folders of them, or -.")],
    key: Key = None,
    wait: Annotated[bool, typer.Option(help="Wait until all are finished; exit 1 unless all shipped.")] = False,
    as_json: Json = False,
) -> None:
    """Submit manifests. Several go as one batch, whose deps may name each other by idempotencyKey."""
    with asking() as client:
        manifests = _manifests(files)
        if key is not None and len(manifests) > 1:
            raise ValueError("--key is for one manifest: write idempotencyKey into each of several")
        keys = [_own_key(name, raw, key) for name, raw in manifests]
        if len(manifests) == 1:
            answers = [client.submit(manifests[0][1], keys[0])]
        else:
            items = [
                {"manifest": raw.decode(), "idempotencyKey": one} for (_, raw), one in zip(manifests, keys, strict=True)
            ]
            answers = client.post("/api/fleet/jobs/batch", {"items": items}, str(uuid.uuid4()))["items"]
        if as_json:
            _print_json(answers)
        refused = _say_submitted(manifests, answers, quiet=as_json)
        if wait and not refused:
            refused = not _all_shipped(client, [answer["job"]["id"] for answer in answers], quiet=as_json)
        if refused:
            raise typer.Exit(EXIT_REFUSED)


def _own_key(name: str, raw: bytes, key: str | None) -> str | None:
    """The key to send: a submit of ours is always safe to repeat. None: the manifest brings its own."""
    try:
        manifest = parse_manifest(raw)
    except FleetError as error:
        raise FleetError(error.code, f"{name}: {error.message}") from None
    return key or (None if manifest.idempotency_key else str(uuid.uuid4()))


def _say_submitted(manifests: list[tuple[str, bytes]], answers: list[dict[str, Any]], *, quiet: bool) -> bool:
    """Whether any was refused."""
    refused = False
    for (name, _), answer in zip(manifests, answers, strict=True):
        if "error" in answer:
            refused = True
            typer.echo(f"{name}: {answer['error']['code']}: {answer['error']['message']}", err=True)
            continue
        for warning in answer["warnings"]:
            typer.echo(f"{name}: {warning}", err=True)
        if not quiet:
            job = answer["job"]
            again = " (known already)" if answer["repeated"] else ""
            typer.echo(f"{job['id']}  {job['stage']:<8} {view.plain(job['title'])}{again}")
    return refused


def _all_shipped(client: Client, ids: list[str], *, quiet: bool) -> bool:
    waiting, shipped = dict.fromkeys(ids, ""), True
    while waiting:
        for job_id in list(waiting):
            job = client.get(_path(job_id))["job"]
            if job["stage"] != waiting[job_id] and not quiet:
                typer.echo(f"{job_id}  {job['stage']}")
                if wanted := view.wanted_of_a_person(job):
                    typer.echo(wanted, err=True)
            waiting[job_id] = job["stage"]
            if view.is_finished(job):
                shipped = shipped and job["stage"] == "shipped"
                del waiting[job_id]
        time.sleep(LOOK_S)
    return shipped


@app.command()
def jobs(
    stage: Annotated[str | None, typer.Option(help="Only jobs of this stage.")] = None,
    capability: Annotated[str | None, typer.Option(help="Only jobs that need it.")] = None,
    q: Annotated[str | None, typer.Option("--query", "-q", help="Only with this in title or id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with asking() as client:
        answer = client.get("/api/fleet/jobs", stage=stage, capability=capability, q=q, limit=limit, cursor=cursor)
        if as_json:
            _print_json(answer)
            return
        _print_table(view.JOB_COLUMNS, [view.job_row(job) for job in answer["jobs"]], badge=1)
        if answer["nextCursor"]:
            typer.echo(f"more: --cursor '{answer['nextCursor']}'", err=True)


@app.command()
def job(job_id: JobId, as_json: Json = False) -> None:
    """Show one job and its runs."""
    with asking() as client:
        answer = client.get(_path(job_id))
        found = answer["job"]
        runs = client.get(_path(job_id, "/runs"))["runs"]
        if as_json:
            _print_json({**answer, "runs": runs})
            return
        for name, value in view.job_facts(found, runs, answer.get("phase")):
            typer.echo(f"{name:<11} {value}")


@app.command()
def events(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    as_json: Json = False,
) -> None:
    """Show the job's history. With --json one document, or, following, one event a line."""

    def show(event: dict[str, Any]) -> None:
        typer.echo(orjson.dumps(event).decode() if as_json else view.event_line(event))

    with asking() as client:
        found: list[dict[str, Any]] = []
        while True:
            page = client.get(_path(job_id, "/events"), cursor=found[-1]["seq"] if found else 0)
            found += page["events"]
            if page["nextCursor"] is None:
                break
        if as_json and not follow:
            _print_json({"events": found, "nextCursor": None})
            return
        for event in found:
            show(event)
        if follow:
            _follow(client, job_id, str(found[-1]["seq"] if found else 0), show)


def _follow(client: Client, job_id: str, last_event_id: str, show: Callable[[dict[str, Any]], None]) -> None:
    """Reconnects where it broke off; says when it is live and when it only polls. Ends with the job."""
    path = _path(job_id, "/events/stream")
    try:
        while True:
            try:
                for name, data, event_id in client.stream(path, last_event_id):
                    if name == "mode":
                        typer.echo(f"-- {data['mode']}", err=True)
                    elif name == "event":
                        show(data)
                        last_event_id = event_id or last_event_id
                    if name in ("mode", "event") and _is_over(client, job_id, last_event_id):
                        return
            except CoordinatorUnreachable as error:
                typer.echo(f"-- {error}; trying again", err=True)
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        return


def _is_over(client: Client, job_id: str, last_event_id: str) -> bool:
    """Whether nothing more will happen to the job, and its last event was shown."""
    job = client.get(_path(job_id))["job"]
    return view.is_finished(job) and job["seq"] <= int(last_event_id)


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the term ends.")] = False,
    epoch: Annotated[int | None, typer.Option(help="The term; without it the latest.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a term's engine printed, in a pipe byte for byte. With --json one document, or one piece a line."""
    with asking() as client:
        path = _path(job_id, "/logs")
        if follow:
            query = f"?follow=true{f'&epoch={epoch}' if epoch else ''}"
            for name, data, _ in client.stream(path + query):
                if name == "log":
                    typer.echo(orjson.dumps(data).decode() if as_json else _shown(data["text"]), nl=as_json)
                elif name == "end" and not as_json:
                    _say_if_cut(complete=data.get("complete", True))
            return
        whole = page = client.get(path, epoch=epoch)
        while page["nextOffset"] != page["offset"]:
            if not as_json:
                typer.echo(_shown(page["text"]), nl=False)
            page = client.get(path, epoch=page["leaseEpoch"], offset=page["nextOffset"])
            if as_json:
                whole = {**whole, "text": whole["text"] + page["text"], "nextOffset": page["nextOffset"]}
        if as_json:
            _print_json({**whole, "complete": page.get("complete", True)})
        else:
            _say_if_cut(complete=page.get("complete", True))


def _shown(text: str) -> str:
    """As it came into a pipe; on a terminal, nothing of it steers that."""
    return view.harmless(text) if sys.stdout.isatty() else text


def _say_if_cut(*, complete: bool) -> None:
    if not complete:
        typer.echo("this log goes on: its term runs, or its factory has not sent the rest yet", err=True)


@app.command()
def explain(job_id: JobId, as_json: Json = False) -> None:
    """Say why a job is where it is, and what would start it."""
    with asking() as client:
        answer = client.get(_path(job_id, "/explain"))
        if as_json:
            _print_json(answer)
            return
        for line in view.explanation_lines(answer):
            typer.echo(line)


@app.command()
def factories(as_json: Json = False) -> None:
    """List the factories."""
    with asking() as client:
        answer = client.get("/api/fleet/factories")
        if as_json:
            _print_json(answer)
            return
        _print_table(view.FACTORY_COLUMNS, [view.factory_row(one) for one in answer["factories"]], badge=1)


def _act(path: str, body: dict[str, Any], key: str | None, as_json: bool) -> None:
    with asking() as client:
        answer = client.post(path, body, key or str(uuid.uuid4()))
        if as_json:
            _print_json(answer)
            return
        again = " (done already)" if answer["repeated"] else ""
        typer.echo(f"{answer['job']['id']}  {answer['job']['stage']}{again}")


def _action(name: str, help_text: str) -> None:
    @app.command(name, help=help_text)
    def command(job_id: JobId, reason: Reason = None, key: Key = None, as_json: Json = False) -> None:
        _act(_path(job_id, f"/actions/{name}"), {"reason": reason}, key, as_json)


_action("ship", "Ship a job that is done.")
_action("requeue", "Put a job back into the queue, with all its retries.")
_action("reject", "Fail a job that is done or under review.")
_action("cancel", "Cancel a job; a running one is told to stop.")


@app.command()
def approve(job_id: JobId, reason: Reason = None, key: Key = None, as_json: Json = False) -> None:
    """Approve a job that waits for review."""
    _act(_path(job_id, "/review"), {"verdict": "approve", "reason": reason}, key, as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is reachable, and what to do. Exit 1 if something needed is missing."""
    target: Target | None
    try:
        target = find_target(options.url, options.token_file, options.product)
        url, token = target.url, doctor_checks.accepted(target)
    except ValueError as error:
        target = None
        url = options.url or os.environ.get("AQ_FLEET_API") or "http://127.0.0.1:8080"
        token = doctor_checks.Finding("token", False, str(error))
    found = [*doctor_checks.installed(), token, *doctor_checks.reachable(url)]
    found += [*doctor_checks.capabilities(target), doctor_checks.sandboxes(), *doctor_checks.kept_trees()]
    if as_json:
        _print_json([one._asdict() for one in found])
    else:
        for one in found:
            mark = {True: "ok", False: "MISSING", None: "-"}[one.ok]
            typer.echo(f"{mark:<8} {one.what:<12} {one.says}")
    if any(one.ok is False for one in found):
        raise typer.Exit(EXIT_REFUSED)


def cli() -> None:
    app(prog_name="gigafactory")
