"""Pure: answers of the API -> rows, badges and sentences. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from schemas import job as jobs

BADGES = {
    "queued": "cyan",
    "blocked": "yellow",
    "assigned": "blue",
    "building": "blue",
    "review": "magenta",
    "testing": "magenta",
    "shipped": "green",
    "failed": "red",
    "dead_letter": "red",
    "healthy": "green",
    "degraded": "yellow",
    "down": "red",
}
CUT_COLUMNS = ("title",)  # where a terminal is narrow, before anything else is
WHOLE_COLUMNS = ("id", "stage", "priority", "factory", "attempt", "since")
JOB_COLUMNS = ("id", "stage", "priority", "title", "factory", "attempt", "since")
FACTORY_COLUMNS = ("id", "health", "transport", "seats", "engines", "capabilities", "session", "holding")


def clock_time(text: str | None) -> str:
    """HH:MM:SS of a timestamp, UTC; of another day than today with its date."""
    if not text:
        return "-"
    at = datetime.fromisoformat(text).astimezone(UTC)
    return at.strftime("%H:%M:%S" if at.date() == datetime.now(UTC).date() else "%Y-%m-%d %H:%M:%S")


def plain(text: str) -> str:
    """One line without control characters: what others wrote must not steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def harmless(text: str) -> str:
    """The same lines, with control characters shown instead of sent: `ESC` as its picture, a return as a new line."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(char if char in "\n\t" or char.isprintable() else _picture(char) for char in text)


def _picture(char: str) -> str:
    return chr(0x2400 + ord(char)) if ord(char) < 0x20 else "\ufffd"


def job_row(job: dict[str, Any]) -> tuple[str, ...]:
    holder = (job.get("holder") or {}).get("factoryId") or job.get("lastFactoryId") or "-"
    return (
        job["id"],
        job["stage"],
        job["priority"],
        plain(job["title"]),
        holder,
        str(job["attempt"]),
        clock_time(job["stageSince"]),
    )


def factory_row(factory: dict[str, Any]) -> tuple[str, ...]:
    return (
        factory["id"],
        factory["health"]
        + (" (draining)" if factory["draining"] else "")
        + (" (unfit)" if factory.get("unfit") else ""),
        factory["transport"],
        f"{len(factory['holding'])}/{factory['seatLimit']}",
        ", ".join(factory["engines"]) or "-",
        ", ".join(factory["capabilities"]) or "-",
        str(factory["sessionNo"]),
        ", ".join(held["jobId"] for held in factory["holding"]) or "-",
    )


RESULT_LINES = 30


def retries_used(retries: dict[str, Any]) -> str:
    """The first failure has used none yet: what is counted are charged failures, the last of which has no retry."""
    return f"{min(retries['used'], retries['max'])} of {retries['max']} used"


def result_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What was said of it line by line, with its end: that is where an error is."""
    first, *rest = [plain(line) for line in (result.get("summary") or "").strip().splitlines()] or [""]
    cut = [f"[... {len(rest) - RESULT_LINES} lines ...]"] if len(rest) > RESULT_LINES else []
    return [("result", f"{result['outcome']}: {first}"), *(("", line) for line in [*cut, *rest[-RESULT_LINES:]])]


def wanted_of_a_person(job: dict[str, Any]) -> str | None:
    """What a job waits for that a person alone can give, as the command to type."""
    if job["stage"] == "review":
        return f"a review is wanted: gigafactory approve {job['id']}"
    if job["stage"] == "testing":
        return f"it waits to be shipped: gigafactory ship {job['id']}"
    if (job.get("blockedReason") or {}).get("kind") in ("budget", "unpublished"):
        return f"{job['blockedReason']['text']}: gigafactory requeue {job['id']}"
    return None


def job_facts(job: dict[str, Any], runs: Sequence[dict[str, Any]], phase: str | None = None) -> list[tuple[str, str]]:
    """One job as lines of (name, value). `phase`: what its holder is doing."""
    result = job.get("result") or {}
    facts = [
        ("id", job["id"]),
        ("title", plain(job["title"])),
        ("stage", f"{job['stage']} since {clock_time(job['stageSince'])}"),
        *([("doing", plain(phase))] if phase else []),
        ("engine", job["engine"]),
        ("needs", ", ".join(job["capabilities"]) or "nothing in particular"),
        ("repository", plain(job.get("repo") or job.get("cwd") or "none: an empty tree")),
        ("retries", retries_used(job["retries"])),
    ]
    if job.get("blockedReason"):
        facts.append(("blocked", job["blockedReason"]["text"]))
    if job.get("checkpoint"):
        facts.append(("checkpoint", f"{job['checkpoint']['commit'][:12]} ({job['checkpoint']['ref']})"))
    if result:
        facts += result_lines(result)
        if result.get("branch"):
            facts.append(("branch", plain(result["branch"])))
        for one in result.get("verify", []):
            facts.append(("verify", f"{plain(one['command'])} -> {one['rc']}"))
            tail = one.get("tail", "").strip().splitlines() if one["rc"] else []
            facts += [("", plain(line)) for line in tail[-RESULT_LINES:]]
    facts += [
        ("run", f"term {run['leaseEpoch']} on {run['factoryId']}: {run.get('outcome') or 'running'}") for run in runs
    ]
    return facts


def event_line(event: dict[str, Any]) -> str:
    moved = event["to"] if event.get("from") in (None, event["to"]) else f"{event['from']} -> {event['to']}"
    data = event.get("data") or {}
    detail = data.get("outcome") or data.get("factoryId") or (data.get("commit") or "")[:12] or data.get("reason") or ""
    what = f"{event['seq']:>4}  {clock_time(event['at'])}  {event['type']:<18} {moved:<24} {event['actor']:<22}"
    return f"{what} {plain(detail)}".rstrip()


def explanation_lines(answer: dict[str, Any]) -> list[str]:
    lines = [answer["reason"]]
    lines += [f"would start if {condition}" for condition in answer["wouldStartIf"]]
    for row in answer["candidates"]:
        terms = "  ".join(f"{name} {value:.2f}" for name, value in row["terms"].items())
        verdict = "could run it" if row["feasible"] else "; ".join(one["text"] for one in row["obstacles"])
        lines.append(f"  {row['factoryId']:<20} {row['score']:>6.3f}  {verdict}")
        lines.append(f"  {'':<20} {'':>6}  {terms}")
    return lines


def is_finished(job: dict[str, Any]) -> bool:
    """Whether nothing will happen to it by itself any more."""
    return jobs.is_finished(job["stage"], job.get("notBefore"), (job.get("result") or {}).get("outcome"))
