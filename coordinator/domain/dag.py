"""Jobs that wait for other jobs. Only `shipped` satisfies, and it is final."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.job import BlockedReason, Job, Stage


def waits_for(deps_mode: str, deps: Sequence[Job]) -> BlockedReason | None:
    """Why a job with these deps is blocked; None when it can be queued."""
    unmet = [dep for dep in deps if dep.stage is not Stage.SHIPPED]
    met = not unmet if deps_mode == "all" else len(unmet) < len(deps) or not deps
    if met:
        return None
    lost = [dep for dep in unmet if finally_failed(dep)]
    hopeless = bool(lost) if deps_mode == "all" else len(lost) == len(deps)
    if hopeless:
        names = ", ".join(f"{dep.id} ({dep.stage})" for dep in lost)
        return BlockedReason(kind="dep_failed", text=f"a dep failed for good: {names}; requeue it, or cancel this job")
    names = ", ".join(dep.id for dep in unmet)
    return BlockedReason(kind="deps", text=f"waits for {'all' if deps_mode == 'all' else 'any'} of: {names}")


def finally_failed(job: Job) -> bool:
    return job.is_finished and job.stage is not Stage.SHIPPED


def first_cycle(needs: Mapping[int, Sequence[int]]) -> list[int]:
    """The members of one cycle among the items, in order; empty when there is none. Depth first, iterative."""
    state: dict[int, str] = {}
    for root in needs:
        path: list[int] = []
        stack: list[tuple[int, bool]] = [(root, False)]
        while stack:
            item, left = stack.pop()
            if left:
                state[item] = "done"
                path.pop()
                continue
            if state.get(item) == "done":
                continue
            if state.get(item) == "open":
                return path[path.index(item) :]
            state[item] = "open"
            path.append(item)
            stack.append((item, True))
            stack.extend((dep, False) for dep in needs[item])
    return []
