"""What each command of `gigafactory` does and prints."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.ids import job_id_for
from tests.support.fleet import SHELL_BLOCK, manifest
from tests.support.service import Operator, Service, Tenants, serving, until
from tests.support.shell import REFUSED, Holder, Shell

pytestmark = pytest.mark.xdist_group("commands")

PRODUCTS = [f"p{number}" for number in range(80)]  # one for each test


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    tenants = Tenants()
    for name in PRODUCTS:
        tenants.product(name, [f"{name}-f"], ["python"])
    with serving(tmp_path_factory.mktemp("c"), tenants) as service:
        yield service


unused = iter(PRODUCTS)


@pytest.fixture
def product() -> str:
    return next(unused)


@pytest.fixture
def operator(service: Service, product: str) -> Operator:
    return service.operator(product)


@pytest.fixture
def shell(service: Service, product: str, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path, service.url, service.tenants.operators[product], product)
    yield shell
    shell.end()


@pytest.fixture
def holder(service: Service, product: str) -> Holder:
    return Holder(service, product)


def test_a_file_is_submitted_and_its_job_named(shell: Shell, operator: Operator) -> None:
    line = shell.ok("submit", shell.write("job.md", manifest(f"Do it well.\n{SHELL_BLOCK}")))
    job_id, stage, title = line.split(maxsplit=2)
    assert (stage, title.strip()) == ("queued", "Do it well.")
    assert operator.job(job_id)["stage"] == "queued"


def test_standard_input_is_submitted(shell: Shell, operator: Operator) -> None:
    job_id = shell.ok("submit", "-", stdin=manifest(f"From a pipe.\n{SHELL_BLOCK}")).split()[0]
    assert operator.job(job_id)["bodyMd"] == f"From a pipe.\n{SHELL_BLOCK}"


def test_a_folder_is_submitted_as_one_batch_with_deps_among_its_files(shell: Shell, operator: Operator) -> None:
    shell.write("jobs/2-second.md", manifest(deps="[first]", idempotencyKey="second"))
    shell.write("jobs/1-first.md", manifest(idempotencyKey="first"))
    shell.write("jobs/notes.txt", b"no job")
    lines = shell.ok("submit", "jobs").splitlines()
    assert [line.split()[1] for line in lines] == ["queued", "blocked"]
    assert operator.job(lines[1].split()[0])["deps"] == [lines[0].split()[0]]


def test_the_same_key_submits_once(shell: Shell, product: str) -> None:
    shell.write("job.md", manifest())
    first = shell.ok("submit", "job.md", "--key", "k")
    again = shell.ok("submit", "job.md", "--key", "k")
    assert first.split()[0] == again.split()[0] == job_id_for(product, "k")
    assert "(known already)" in again
    assert "(known already)" not in first


def test_the_same_key_for_another_manifest_is_refused(shell: Shell) -> None:
    shell.ok("submit", shell.write("a.md", manifest()), "--key", "k")
    done = shell("submit", shell.write("b.md", manifest(f"other\n{SHELL_BLOCK}")), "--key", "k")
    assert done.returncode == REFUSED
    assert "conflict: the key names job" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (manifest(timeout="soon"), "bad.md: line 3, key 'timeout': found 'soon'; allowed is a duration"),
        (b"---\nengine: vim\n---\n", "bad.md: line 2, key 'engine': found 'vim'; allowed is claude | codex"),
        (b"no front matter\n", "bad.md: line 1: found no front matter"),
        (b"---\nengine: shell\n---\n\xff", "bad.md: line 4: found the byte 0xff"),
        (manifest("x" * 300_000), "bad.md: the manifest has"),
    ],
)
def test_a_bad_manifest_is_refused_naming_file_and_line_and_nothing_is_sent(
    shell: Shell, operator: Operator, content: bytes, words: str
) -> None:
    shell.write("good.md", manifest())
    done = shell("submit", "good.md", shell.write("bad.md", content))
    assert done.returncode == REFUSED
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert operator.http.get("/api/fleet/jobs").json()["jobs"] == []


def test_of_several_what_the_fleet_refuses_is_named_and_the_others_are_taken(shell: Shell) -> None:
    shell.write("jobs/a.md", manifest(idempotencyKey="a"))
    shell.write("jobs/b.md", manifest(deps="[nobody]"))
    done = shell("submit", "jobs")
    assert done.returncode == REFUSED
    assert "jobs/b.md: invalid_manifest: deps: found 'nobody'" in done.stderr
    assert done.stdout.count("queued") == 1


def test_warnings_are_told_with_the_file(shell: Shell) -> None:
    done = shell("submit", shell.write("job.md", manifest(colour="red")))
    assert done.returncode == 0
    assert "job.md: line 3: unknown key 'colour'" in done.stderr


def test_waiting_ends_when_all_are_shipped(shell: Shell, holder: Holder, operator: Operator) -> None:
    shell.write("job.md", manifest(verify="true", idempotencyKey="k"))
    waiting = shell.begin("submit", "job.md", "--wait")
    until(lambda: "queued" in shell.out())
    holder.report(holder.claim(shell.out().split()[0]), verify=[{"command": "true", "rc": 0}])
    assert waiting.wait(20) == 0
    assert shell.out().splitlines()[-1].split()[1] == "shipped"


def test_waiting_for_what_fails_is_exit_code_1(shell: Shell) -> None:
    shell.write("job.md", manifest(idempotencyKey="k"))
    waiting = shell.begin("submit", "job.md", "--wait")
    until(lambda: "queued" in shell.out())
    shell.ok("cancel", shell.out().split()[0])
    assert waiting.wait(20) == REFUSED


def test_jobs_are_listed_filtered_and_paged(shell: Shell, operator: Operator) -> None:
    for number in range(3):
        operator.submit(manifest(title=f"t{number}"), f"k{number}")
    operator.submit(manifest(title="'[red] [/] paint'", capabilities="[gpu]"), "gpu")
    table = shell.ok("jobs")
    assert {len(line.split("\t")) for line in table.splitlines()} == {7}, "in a pipe a line each, without a header"
    assert len({line.split("\t")[0] for line in table.splitlines()}) == 4
    assert all(f"t{number}" in table for number in range(3))
    assert "[red] [/] paint" in table, "a title is no markup"
    assert "t0" not in shell.ok("jobs", "--capability", "gpu")
    assert len(shell.json("jobs", "-q", "T1")["jobs"]) == 1
    assert shell.json("jobs", "--stage", "blocked") == {"jobs": [], "nextCursor": None}
    page = shell.json("jobs", "--limit", "3")
    assert [job["title"] for job in page["jobs"]] == ["[red] [/] paint", "t2", "t1"]
    assert f"more: --cursor '{page['nextCursor']}'" in shell("jobs", "--limit", "3").stderr
    assert [job["title"] for job in shell.json("jobs", "--cursor", page["nextCursor"])["jobs"]] == ["t0"]


def test_a_job_is_shown_with_its_facts_and_runs(shell: Shell, operator: Operator, holder: Holder) -> None:
    job = operator.submit(manifest(capabilities="[python]"))
    evidence = [{"command": "make test", "rc": 0}]
    holder.report(holder.claim(job["id"]), summary="all well", branch="b", verify=evidence)
    text = shell.ok("job", job["id"])
    for words in ("needs       python", "result      ok: all well", "branch      b", "make test -> 0", "term 1 on"):
        assert words in text
    answer = shell.json("job", job["id"])
    assert (answer["job"]["id"], answer["runs"][0]["outcome"]) == (job["id"], "ok")


def test_a_failure_is_shown_with_its_end_and_no_more_retries_than_there_are(
    shell: Shell, operator: Operator, holder: Holder
) -> None:
    job = operator.submit(manifest(retries=0))
    summary = "the engine ended with 1\n" + "".join(f"line {number} \x1b[2J\n" for number in range(50)) + "ERROR: here"
    holder.report(holder.claim(job["id"]), outcome="engine_failed", summary=summary)
    text = shell.ok("job", job["id"])
    assert "result      engine_failed: the engine ended with 1" in text
    assert "ERROR: here" in text
    assert "\x1b" not in text
    assert "retries     0 of 0 used" in text


def test_following_events_ends_with_the_job(shell: Shell, operator: Operator) -> None:
    job = operator.submit(manifest())
    following = shell.begin("events", job["id"], "--follow")
    until(lambda: "submitted" in (shell.directory / "out").read_text(), 30, "the first event")
    assert following.poll() is None
    shell.ok("cancel", job["id"])
    assert following.wait(30) == 0
    assert "cancelled" in (shell.directory / "out").read_text()
    assert "cancelled" in shell.ok("events", job["id"], "-f"), "one that is over already ends at once"


def test_who_waits_for_a_job_is_told_what_a_person_must_do(shell: Shell, operator: Operator, holder: Holder) -> None:
    waiting = shell.begin("submit", str(shell.write("job.md", manifest(review=1))), "--wait")
    until(lambda: "queued" in (shell.directory / "out").read_text(), 30, "the job")
    job_id = (shell.directory / "out").read_text().split()[0]
    holder.report(holder.claim(job_id))
    command = f"gigafactory approve {job_id}"
    until(lambda: command in (shell.directory / "errors").read_text(), 30, "the command to type")
    shell.ok("approve", job_id)
    until(lambda: f"gigafactory ship {job_id}" in (shell.directory / "errors").read_text(), 30, "the next one")
    shell.ok("ship", job_id)
    assert waiting.wait(30) == 0


def test_no_control_sequence_of_a_title_reaches_the_terminal(shell: Shell) -> None:
    title = '"\\e]0;OWNED\\a\\e[2J red"'
    assert "\x1b" not in shell.ok("submit", str(shell.write("job.md", manifest(title=title))))


@pytest.mark.parametrize("command", ["job", "events", "logs", "explain", "ship", "approve", "cancel"])
def test_an_unknown_job_is_told(shell: Shell, command: str) -> None:
    done = shell(command, "nobody")
    assert done.returncode == REFUSED
    assert "not_found: there is no job nobody" in done.stderr


@pytest.mark.parametrize("job_id", ["../../healthz", "a/b", "a?b=c", "A#1", "%"])
def test_what_is_no_id_reaches_no_other_path(shell: Shell, job_id: str) -> None:
    done = shell("job", job_id)
    assert done.returncode == REFUSED
    assert "Traceback" not in done.stderr


def test_events_are_shown_in_order(shell: Shell, operator: Operator, holder: Holder) -> None:
    job = operator.submit(manifest())
    holder.report(holder.claim(job["id"]))
    lines = shell.ok("events", job["id"]).splitlines()
    assert [line.split()[2] for line in lines] == ["submitted", "claimed", "started", "reported"]
    assert [event["seq"] for event in shell.json("events", job["id"])["events"]] == [1, 2, 3, 4]


def test_events_are_followed_through_a_restart_without_a_gap_or_a_double(tmp_path: Path) -> None:
    tenants = Tenants()
    tenants.product("shop", ["shop-f"])
    with serving(tmp_path, tenants) as service:
        operator, holder = service.operator("shop"), Holder(service, "shop")
        shell = Shell(tmp_path, service.url, tenants.operators["shop"], "shop")
        job = operator.submit(manifest())
        following = shell.begin("events", job["id"], "-f", "--json")
        try:
            until(lambda: "submitted" in shell.out() and "-- live" in shell.errors())
            grant = holder.claim(job["id"])
            until(lambda: "claimed" in shell.out())
            service.kill()
            until(lambda: "trying again" in shell.errors())
            service.start()
            holder.report(grant)
            until(lambda: "reported" in shell.out())
            following.send_signal(signal.SIGINT)
            assert following.wait(20) == 0
        finally:
            shell.end()
        assert [orjson.loads(line)["seq"] for line in shell.out().splitlines()] == [1, 2, 3, 4]


def test_logs_are_shown_whole_and_per_term(shell: Shell, operator: Operator, holder: Holder) -> None:
    job = operator.submit(manifest())
    assert shell.ok("logs", job["id"]) == ""
    grant = holder.claim(job["id"])
    line = "ä line of the log, some sixty characters long, with a count\n"
    text = "".join(f"{number} {line}" for number in range(3000))
    encoded, at = text.encode(), 0
    while at < len(encoded):
        piece = encoded[at : at + 40_000].decode(errors="ignore")
        holder.log(grant, at, piece)
        at += len(piece.encode())
    assert shell.ok("logs", job["id"]) == text
    whole = shell.json("logs", job["id"])
    assert (whole["text"], whole["leaseEpoch"], whole["nextOffset"]) == (text, 1, len(encoded))
    assert shell.ok("logs", job["id"], "--epoch", "7") == ""


def test_logs_are_followed_until_the_term_ends(shell: Shell, operator: Operator, holder: Holder) -> None:
    job = operator.submit(manifest())
    grant = holder.claim(job["id"])
    holder.log(grant, 0, "one\n")
    following = shell.begin("logs", job["id"], "-f")
    until(lambda: shell.out() == "one\n")
    holder.log(grant, 4, "two\n")
    until(lambda: shell.out() == "one\ntwo\n")
    holder.report(grant)
    assert following.wait(20) == 0


def test_explain_says_why_and_what_would_start_it(shell: Shell, operator: Operator, product: str) -> None:
    job = operator.submit(manifest(capabilities="[gpu]"))
    lines = shell.ok("explain", job["id"]).splitlines()
    assert lines[0].startswith("No factory ")
    assert lines[1].startswith("would start if ")
    assert any(f"{product}-f" in line for line in lines)
    assert shell.json("explain", job["id"])["jobId"] == job["id"]


def test_factories_are_listed(shell: Shell, product: str) -> None:
    lines = shell.ok("factories").splitlines()
    assert len(lines) == 1, "those of other products are not shown"
    assert f"{product}-f" in lines[0]
    (row,) = shell.json("factories")["factories"]
    assert row["id"] == f"{product}-f"


def test_each_action_does_what_it_says(shell: Shell, operator: Operator, holder: Holder) -> None:
    def reported(key: str, **keys: Any) -> str:
        job_id: str = operator.submit(manifest(**keys), key)["id"]
        holder.report(holder.claim(job_id, f"of-{key}"))
        return job_id

    one = reported("one")
    assert shell.ok("approve", one, "--reason", "clean") == f"{one}  testing\n"
    assert shell.ok("ship", one) == f"{one}  shipped\n"
    two = reported("two", review=0)
    assert shell.ok("reject", two, "--reason", "no") == f"{two}  failed\n"
    assert shell.ok("requeue", two) == f"{two}  queued\n"
    assert shell.ok("cancel", two) == f"{two}  failed\n"
    answer = shell.json("requeue", two, "--key", "k")
    assert (answer["job"]["stage"], answer["repeated"]) == ("queued", False)
    assert "(done already)" in shell.ok("requeue", two, "--key", "k")
    assert [event["data"].get("reason") for event in operator.history(one)][-2:] == ["clean", None]


def test_an_action_that_the_stage_does_not_allow_is_refused_with_what_is(shell: Shell, operator: Operator) -> None:
    job = operator.submit(manifest())
    done = shell("ship", job["id"])
    assert done.returncode == REFUSED
    assert "illegal_transition: a job that is queued has no ship by operator; legal are: " in done.stderr
    assert operator.job(job["id"])["stage"] == "queued"
