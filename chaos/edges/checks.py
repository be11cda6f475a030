"""What a played seed shows to be broken: by every ref of the source, by every other tree, and by the charges."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from chaos.checkers import blame
from chaos.edges import truth
from chaos.edges.plan import JobPlan
from chaos.edges.sources import Source
from chaos.edges.world import CANARY, PRODUCT, Played, Said, owned_bytes
from chaos.history import History

Doc = dict[str, Any]
LOSES = re.compile(r"not saved|could not be saved|not all of the work|is kept on|damaged|could not be restored")
FLEETS = re.compile(r"refs/(gigafactory|heads/fleet)/([a-z0-9]+)/[0-9]+")
PUSHED = re.compile(r"refs/(heads/feature/|tags/release-)")
TROUBLE = frozenset({"broken-disk", "full-disk", "cut", "kill"})


class Broken(NamedTuple):
    """`promise`: its number in the specification."""

    promise: str
    what: str


@dataclass(frozen=True)
class Term:
    """A term as it was told of: what was begun with, left, and said at its end."""

    job: JobPlan
    job_id: str
    epoch: int
    machine: str
    begun: Doc | None
    left: Doc | None
    end: Doc | None
    kept: bool
    checkpoint: Doc | None

    @property
    def outcome(self) -> str | None:
        if self.end is None:
            return None
        return str(self.end["result"]["outcome"] if "result" in self.end else self.end.get("outcome"))

    @property
    def summary(self) -> str:
        if self.end is None:
            return ""
        return str((self.end.get("result") or {}).get("summary") or self.end.get("reason") or "")

    @property
    def tells(self) -> tuple[str, ...]:
        return tuple(word for deed in self.job.deeds for word in deed.tells)

    def __str__(self) -> str:
        return f"{self.job.name} term {self.epoch} on {self.machine}"


def broken(played: Played) -> list[Broken]:
    if played.gave_up is not None:
        return [Broken("4", f"not over after a minute: {played.gave_up}"), *_blame(played)]
    terms = list(_terms(played))
    left = [Broken("16", f"it still runs, and nobody waits for it: {command}") for command in played.left_running]
    found = [*left, *_blame(played), *_strangers(played, terms), *_untouched(played)]
    for term in terms:
        found += _kept(played, term)
    return found


def _terms(played: Played) -> Iterator[Term]:
    by_id = {played.ids[job.name]: job for job in played.plan.jobs}
    keys = dict.fromkeys((one.told["jobId"], one.told["leaseEpoch"]) for one in played.said if "leaseEpoch" in one.told)
    for job_id, epoch in keys:
        if job_id not in by_id:
            continue
        said = [one for one in played.said if (one.told.get("jobId"), one.told.get("leaseEpoch")) == (job_id, epoch)]
        checkpoint = _last(said, "checkpoint")
        end = _last(said, "report") or _last(said, "release")
        yield Term(
            job=by_id[job_id],
            job_id=job_id,
            epoch=epoch,
            machine=said[0].machine,
            begun=_last(said, "begun"),
            left=next((one.told for one in said if one.what == "left"), None),
            end=end,
            kept=any((played.machine_data(said[0].machine) / "work" / "quarantine" / job_id).glob(f"{epoch}*")),
            checkpoint=(end or {}).get("checkpoint") or checkpoint,
        )


def _last(said: list[Said], what: str) -> Doc | None:
    return next((one.told for one in reversed(said) if one.what == what), None)


# -- 14: nothing of a term's own is lost --


def _kept(played: Played, term: Term) -> Iterator[Broken]:
    """Of a term that came to an end of its own. One whose machine was killed has its checkpoint, and its tree aside."""
    if term.left is None or term.end is None:
        return
    if term.outcome == "machine_failed" or LOSES.search(term.summary):
        expected = any(word in term.summary for word in term.tells)
        if term.outcome != "machine_failed" and not expected and not TROUBLE & played.faults.keys():
            yield Broken("14", f"{term} says that it lost something: {term.summary[:300]}")
        if not term.kept:
            yield Broken("14", f"{term} says that not all is saved, and its tree is not kept: {term.summary[:300]}")
        return
    git_dir, origins = _source_of(played, term)
    names = [f"refs/gigafactory/{term.job_id}", f"refs/heads/fleet/{term.job_id}", "refs/heads", "refs/tags"]
    there = truth.objects_of(git_dir, *names)
    left = term.left["truth"]
    told = any(word in term.summary for word in term.tells)
    if not told:
        given = set(term.begun["beginning"]["refs"].values()) if term.begun is not None else set()
        lost = [commit for commit in left["commits"] if commit not in there and commit not in given]
        if lost:
            yield Broken(
                "14", f"{term} made {len(lost)} commits that no ref of the source reaches: {', '.join(lost[:3])}"
            )
    yield from _files(term, left, there, git_dir)
    for path, files in left["worktrees"].items():
        missing = [name for _, blob, name in files if blob not in there]
        if missing:
            yield Broken("14", f"{term} left files in the worktree {Path(path).name} that are not saved: {missing[:4]}")
    if left["inner"] and not told:
        yield from _inner(played, term, left["inner"], there, git_dir, origins)


def _files(term: Term, left: Doc, there: dict[str, str], git_dir: Path) -> Iterator[Broken]:
    missing = [name for _, blob, name in left["files"] if blob not in there]
    if missing:
        yield Broken("14", f"{term} left files that no ref of the source reaches: {missing[:4]}")
    commit = (term.end or {}).get("result", {}).get("commit") or (term.checkpoint or {}).get("commit")
    if commit is None:
        return
    listed = set()
    for entry in truth.git(git_dir, "ls-tree", "-r", "-z", str(commit)).split(b"\0"):
        about, _, name = entry.partition(b"\t")
        if name:
            mode, _, blob = about.decode().split(" ")
            listed.add((mode, blob, name.decode("latin-1")))
    wrong = [name for mode, blob, name in left["files"] if (mode, blob, name) not in listed]
    if wrong:
        yield Broken("14", f"the work of {term} is not in {str(commit)[:12]} as it was left: {wrong[:4]}")
    expected = {name for _, _, name in left["files"]}
    inner = tuple(f"{path}/" for path in (*left["inner"], *(Path(one).name for one in left["worktrees"])))
    more = [
        name for mode, _, name in listed if mode != "160000" and name not in expected and not name.startswith(inner)
    ]
    more = [name for name in more if "build/" in name or "private" in name]
    if more:
        yield Broken("14", f"{str(commit)[:12]} of {term} has what it did not leave: {more[:4]}")
    secret = [blob for blob in left["secrets"] if blob in there]
    if secret:
        yield Broken("14", f"{term} hid a file, and it is published: {there[secret[0]]}")


def _inner(
    played: Played, term: Term, inner: Doc, there: dict[str, str], git_dir: Path, origins: list[Path]
) -> Iterator[Broken]:
    tmp = played.folder / "checks"
    tmp.mkdir(exist_ok=True)
    bundled = truth.bundled(git_dir, origins, term.job_id, tmp)
    for origin in origins:
        bundled |= set(truth.objects_of(origin, "refs"))
    for path, told in inner.items():
        lost = [commit for commit in told["commits"] if commit not in bundled and commit not in there]
        if lost:
            yield Broken("14", f"{term}: commits of the repository {path} are nowhere: {lost[:3]}")
        missing = [name for _, blob, name in told["files"] if blob not in bundled and blob not in there]
        if missing:
            yield Broken("14", f"{term}: files of the repository {path} are nowhere: {missing[:3]}")


def _source_of(played: Played, term: Term) -> tuple[Path, list[Path]]:
    source = played.source
    if source is None:
        return played.machine_data(term.machine) / "work" / "repos" / "own", []
    return source.git_dir, list(source.origins)


# -- 16: jobs are strangers --


def _strangers(played: Played, terms: list[Term]) -> Iterator[Broken]:
    for term in terms:
        text = played.texts.get((term.job_id, term.epoch), "")
        if "LEAK" in text or CANARY in text:
            line = next(one for one in text.splitlines() if "LEAK" in one or CANARY in one)
            yield Broken("16", f"{term} was given a secret: {line}")
        if term.begun is not None:
            yield from _beginning(played, term, term.begun)
    for job in played.plan.jobs:
        for path in played.folder.glob(f"evil-{job.name}-*"):
            if not any(deed.name.startswith("evil") for deed in job.deeds):
                continue
            yield Broken("16", f"a program that {job.name} left was run for the factory: {path.name}")


def _beginning(played: Played, term: Term, begun: Doc) -> Iterator[Broken]:
    beginning, source = begun["beginning"], played.source
    others = [played.ids[job.name] for job in played.plan.jobs if played.ids[job.name] != term.job_id]
    foreign = [name for name in beginning["refs"] if any(other in name for other in others)]
    if foreign:
        yield Broken("16", f"{term} began with refs of another job: {foreign[:3]}")
    hooks = [name for name in beginning["hooks"] if not name.endswith(".sample")]
    if hooks:
        yield Broken("16", f"{term} began with hooks: {hooks[:3]}")
    for word in ("evil", "job-", "fsmonitor", "sshcommand"):
        if word in beginning["config"].lower():
            yield Broken("16", f"{term} began with settings of another: {word}")
    if begun["resumed"]:
        return
    if beginning["status"]:
        yield Broken("16", f"{term} began in a tree that is not clean: {beginning['status'][:200]}")
    if source is not None and beginning["head"] != played.before["refs/heads/main"]:
        yield Broken("16", f"{term} began at {beginning['head'][:12]}, which is not the source's main")
    own = [name for name in beginning["refs"] if name.startswith(("refs/heads/", "refs/stash", "refs/tags/"))]
    known = {"refs/heads/main", "refs/heads/master", "refs/tags/v1.0", f"refs/heads/fleet/{term.job_id}/{term.epoch}"}
    odd = [name for name in own if name not in known and not PUSHED.match(name)]
    if odd:
        yield Broken("16", f"{term} began with refs that nobody gave it: {odd[:3]}")


def _untouched(played: Played) -> Iterator[Broken]:
    """Of the source only what is a job's own may have changed."""
    source = played.source
    if source is None:
        return
    now = truth.refs_of(source.git_dir)
    yield from _refs(played, source, now)
    for name, data in owned_bytes(source).items():
        if played.bytes_before.get(name) != data:
            yield Broken("16", f"{name} of the source is not what it was")
    gone = played.bytes_before.keys() - owned_bytes(source).keys()
    if gone:
        yield Broken("16", f"of the source is gone: {sorted(gone)[:3]}")


def _refs(played: Played, source: Source, now: dict[str, str]) -> Iterator[Broken]:
    for name, commit in played.before.items():
        if now.get(name) != commit:
            yield Broken("16", f"{name} of the source was {commit[:12]}, and is {now.get(name, 'gone')[:12]}")
    ids = {played.ids[job.name] for job in played.plan.jobs}
    for name in now.keys() - played.before.keys():
        match = FLEETS.fullmatch(name)
        if not (match and match[2] in ids) and not PUSHED.match(name):
            yield Broken("16", f"a ref came to the source that is no job's: {name}")
    for job in played.plan.jobs:
        branches = [name for name in now if name.startswith(f"refs/heads/fleet/{played.ids[job.name]}/")]
        ended = played.jobs[job.name]
        shipped = ended.result.branch if ended.result is not None and str(ended.stage) == "shipped" else None
        if source.kind != "nowhere" and str(ended.stage) == "shipped" and f"refs/heads/{shipped}" not in branches:
            yield Broken("14", f"{job.name} is shipped, and its branch {shipped} is not at the source")


# -- 17: blame is right --


def _blame(played: Played) -> Iterator[Broken]:
    docs: dict[str, list[Doc]] = {"fleet_jobs": [], "fleet_events": [], "fleet_leases": [], "fleet_factories": []}
    for name, job in played.jobs.items():
        docs["fleet_jobs"].append(job.to_doc() | {"id": job.id, "productId": PRODUCT})
        docs["fleet_events"] += played.events[name]
    for violation in blame.check(History(documents=docs)):
        yield Broken("17", violation.what)
    for plan in played.plan.jobs:
        for event in played.events.get(plan.name, ()):
            if event["type"] == "reported":
                yield from _fair(played, plan, event)
        ended = played.jobs.get(plan.name)
        wanted = "shipped" if plan.fails <= plan.retries else "dead_letter"
        more_tries = (
            wanted == "dead_letter" and TROUBLE & played.faults.keys()
        )  # terms that were lost count as attempts
        if ended is not None and played.gave_up is None and str(ended.stage) != wanted and not more_tries:
            why = ended.result.summary if ended.result is not None else ""
            yield Broken("17", f"{plan.name} is {ended.stage}, and should be {wanted}: {str(why)[:300]}")


def _fair(played: Played, job: JobPlan, event: Doc) -> Iterator[Broken]:
    outcome, summary = event["data"]["outcome"], str((event["data"].get("result") or {}).get("summary") or "")
    mended = played.faults.keys()
    if outcome == "engine_failed":
        attempt = _attempt(played, job, event)
        if attempt > job.fails or "FAILED" in summary:
            yield Broken(
                "17", f"{job.name} was blamed for attempt {attempt}, of which {job.fails} fail: {summary[-500:]}"
            )
    elif outcome == "unpublished":
        if not mended & {"refuse", "cut", "kill", "full-disk", "broken-disk"}:
            yield Broken("17", f"{job.name} is unpublished without a reason: {summary[:300]}")
        if "refuse" in mended and not mended & {"cut", "full-disk", "broken-disk"} and "POLICY-7" not in summary:
            yield Broken("17", f"the server's reason is not told: {summary[:300]}")
    elif outcome == "machine_failed":
        if not mended & TROUBLE:
            yield Broken("17", f"{job.name} met no trouble, and its machine failed: {summary[:400]}")
    elif outcome != "ok":
        yield Broken("17", f"{job.name} ended as {outcome}: {summary[:300]}")


def _attempt(played: Played, job: JobPlan, event: Doc) -> int:
    """Of the term that this event ends."""
    claims = [one for one in played.events[job.name] if one["type"] == "claimed" and one["seq"] < event["seq"]]
    return int(claims[-1]["data"]["attempt"]) if claims else 0
