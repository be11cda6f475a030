"""The walk itself: every state that a small world can come to, in layers of as many steps, so that what breaks is
shown by the fewest. A state is the stored, what each coordinator was answered so far, and the writes on their way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from chaos.history import History
from chaos.walk import invariants, verdict
from chaos.walk.as_history import RECOVERED_AFTER_S, Step, told
from chaos.walk.operations import Operation, job_key
from chaos.walk.process import BEGIN, BEGUN, CoordinatorState, CoordinatorWalk, OpResult, Work, by_hand, contradictions
from chaos.walk.start_state import lay
from chaos.walk.store_value import CONFLICT, FULL, UNKNOWN, Answer, Call, CallOutcome, Fate, Port, StoreValue, finished
from chaos.walk.worlds import SmallWorld
from coordinator.context import Context
from coordinator.loops.reaper import Reaper
from coordinator.loops.sweeper import Sweeper
from coordinator.store.port import FACTORIES, Store, StoreError
from schemas.base import Schema
from schemas.errors import ERRORS, FleetError
from schemas.ids import JobKey

FOUND_MAX = 20


class Flight(NamedTuple):
    """A write that may land at any time, or never."""

    process: int
    node: int
    op: int
    call: Call


@dataclass(eq=False, slots=True)
class State:
    """`ways`: by how many paths it is come to. `came`: by one of the shortest."""

    stored: StoreValue
    nodes: tuple[CoordinatorState, ...]
    faults: int
    flying: tuple[Flight, ...] = ()
    ways: int = 0
    came: tuple[State, tuple[int, int], str] | None = None

    def key(self) -> tuple[Any, ...]:
        flying = frozenset(flight[:3] for flight in self.flying)
        return (self.stored.number, tuple(node.number for node in self.nodes), self.faults, flying)

    @property
    def layer(self) -> int:
        """Higher after every step: a state is never come to from a later layer."""
        return 2 * sum(node.depth for node in self.nodes) - len(self.flying)

    def results(self) -> Iterator[tuple[int, int, OpResult | None]]:
        for process, node in enumerate(self.nodes):
            for op, result in enumerate(node.results):
                yield process, op, result

    @property
    def over(self) -> bool:
        return all(node.over for node in self.nodes)

    def path(self) -> list[tuple[State, tuple[int, int], str]]:
        steps, state = [], self
        while state.came is not None:
            before, who, said = state.came
            steps.append((state, who, said))
            state = before
        return steps[::-1]


@dataclass(frozen=True)
class Found:
    """A broken promise, the interleaving that breaks it, and (of a whole run) its history."""

    what: str
    path: tuple[str, ...]
    history: History | None = None

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {number:2} {step}" for number, step in enumerate(self.path, 1))])


@dataclass
class Walked:
    """`cut`: the limit was reached, so that not all was walked. Of many violations of one kind the shortest is kept."""

    world: str
    faults: int
    paths: int = 0
    states: int = 0
    ends: int = 0
    found: list[Found] = field(default_factory=list)
    cut: bool = False
    seconds: float = 0.0

    @property
    def violations(self) -> int:
        return len(self.found)


def walk(world: SmallWorld, *, faults: int, limit: int | None = None) -> Walked:
    """Every interleaving, with at most so many faults each; of at most `limit` states, and then it says so."""
    began_s = time.monotonic()
    walked = Walked(world.name, faults)
    with by_hand():
        search = _Search(world, walked)
        try:
            search.run(faults, limit)
        finally:
            search.close()
    walked.seconds = time.monotonic() - began_s
    return walked


class _Search:
    def __init__(self, world: SmallWorld, walked: Walked) -> None:
        self._world = world
        self._walked = walked
        self._laid = lay(world.start_state, atomic_then=world.atomic_then)
        self._shelves: dict[Any, StoreValue] = {}
        self._checked: set[tuple[int, int]] = set()
        self._effects: dict[tuple[int, int, int, int], tuple[Answer, StoreValue]] = {}
        self._ends: set[tuple[Any, ...]] = set()
        self._recovered: dict[int, StoreValue] = {}
        self._at = [world.of(process) for process in range(world.coordinators)]
        self._processes = [self._process(process) for process in range(world.coordinators)]

    def close(self) -> None:
        for process in self._processes:
            process.close()

    def run(self, faults: int, limit: int | None) -> None:
        roots = tuple(process.root for process in self._processes)
        first = self._quieted(State(self._known(self._laid.stored), roots, faults, ways=1))
        layers = {first.layer: {first.key(): first}}
        while layers:
            states = layers.pop(min(layers))
            for state in states.values():
                if limit is not None and self._walked.states >= limit:
                    self._walked.cut = True
                    return
                self._walked.states += 1
                self._expand(state, layers)

    def _expand(self, state: State, layers: dict[int, dict[Any, State]]) -> None:
        stands = True
        for after, who, said in self._steps(state):
            stands = False
            after = self._quieted(after)
            after.came = (state, who, said)
            self._judge_step(state, after)
            known = layers.setdefault(after.layer, {}).setdefault(after.key(), after)
            known.ways += state.ways
        if state.over:
            self._walked.paths += state.ways
            self._judge_end(state)
        elif stands:
            self._note("it stands still: everybody waits", state)

    # Steps.

    def _steps(self, state: State) -> Iterator[tuple[State, tuple[int, int], str]]:
        for process, node in enumerate(state.nodes):
            for op, call in enumerate(node.pending):
                if call is not None:
                    for outcome in self._outcomes(state, process, op, call):
                        after = self._taken(state, process, op, call, outcome)
                        yield after, (process, op), f"{self._name(process, op)}: {call}: {outcome.fate}"
        for flight in state.flying:
            left = tuple(one for one in state.flying if one is not flight)
            stored = self._effect(state.stored, flight.process, flight.node, flight.op, flight.call)[1]
            said = f"{self._name(flight.process, flight.op)}: {flight.call}: lands"
            yield (
                State(stored, state.nodes, state.faults, self._landable(stored, left)),
                (flight.process, flight.op),
                said,
            )

    def _taken(self, state: State, process: int, op: int, call: Call, outcome: CallOutcome) -> State:
        tree, node = self._processes[process], state.nodes[process]
        now = tree.dead(node) if outcome.answer is None else tree.after(node, op, outcome.answer)
        nodes = (*state.nodes[:process], now, *state.nodes[process + 1 :])
        flying = state.flying
        if outcome.flies:
            flying += (Flight(process, node.number, op, call),)
        if outcome.stored is not state.stored:
            flying = self._landable(outcome.stored, flying)
        return State(outcome.stored, nodes, state.faults - (outcome.fate is not Fate.APPLIED), flying)

    def _outcomes(self, state: State, process: int, op: int, call: Call) -> Iterator[CallOutcome]:
        if call is BEGIN:
            yield CallOutcome(Fate.APPLIED, state.stored, BEGUN)
            return
        answer, stored = self._effect(state.stored, process, state.nodes[process].number, op, call)
        yield CallOutcome(Fate.APPLIED, stored, answer)
        if not call.writes or not state.faults:
            return
        yield CallOutcome(Fate.LOST, state.stored, UNKNOWN)
        yield CallOutcome(Fate.DIED, state.stored, None)
        yield CallOutcome(Fate.REFUSED, state.stored, FULL)
        if stored is state.stored:
            return  # it was refused, or had nothing to do: whatever else becomes of it is the same
        yield CallOutcome(Fate.UNHEARD, stored, UNKNOWN)
        yield CallOutcome(Fate.LATE, state.stored, UNKNOWN, flies=True)
        yield CallOutcome(Fate.DIES, stored, None)
        if call.method != "project":
            yield CallOutcome(Fate.ECHOED, stored, CONFLICT)
            return
        for count in range(1, len(call.args[0])):
            torn = state.stored.copy()
            call.first(count).made(torn)
            yield CallOutcome(Fate.TORN, self._known(torn), UNKNOWN)

    def _effect(self, stored: StoreValue, process: int, node: int, op: int, call: Call) -> tuple[Answer, StoreValue]:
        key = (stored.number, process, node, op)
        effect = self._effects.get(key)
        if effect is None:
            after = stored.copy() if call.writes else stored
            answer = call.made(after)
            if call.writes:
                assert call.containers.isdisjoint(self._still), "a walk without moves of these moved them"
                after = self._known(after)
            effect = self._effects[key] = (answer, after)
        return effect

    def _landable(self, stored: StoreValue, flying: tuple[Flight, ...]) -> tuple[Flight, ...]:
        """Without those that came too late: an etag that moved on never comes back."""
        return tuple(
            one for one in flying if self._effect(stored, one.process, one.node, one.op, one.call)[1] is not stored
        )

    def _quieted(self, state: State) -> State:
        """After the steps whose moment makes no difference: nobody else can tell when they are taken."""
        for process, node in enumerate(state.nodes):
            for op, call in enumerate(node.pending):
                if call is None or not self._is_quiet(process, call):
                    continue
                answer = BEGUN if call is BEGIN else self._effect(state.stored, process, node.number, op, call)[0]
                nodes = list(state.nodes)
                nodes[process] = self._processes[process].after(node, op, answer)
                return self._quieted(State(state.stored, tuple(nodes), state.faults, state.flying, state.ways))
        return state

    def _is_quiet(self, process: int, call: Call) -> bool:
        if call is BEGIN:
            return len(self._at[process]) == 1
        return call.method == "partitions" or (not call.writes and call.containers <= self._still)

    @property
    def _still(self) -> frozenset[str]:
        return frozenset({FACTORIES}) - self._world.moves

    def _known(self, stored: StoreValue) -> StoreValue:
        """The one store value that stands for all its equals."""
        known = self._shelves.setdefault(stored.key(), stored)
        if known is stored:
            stored.number = len(self._shelves)
        return known

    # Coordinators.

    def _name(self, process: int, op: int) -> str:
        return f"c{process + 1} {self._at[process][op].name}"

    def _process(self, process: int) -> CoordinatorWalk:
        port = Port(atomic_then=self._world.atomic_then)
        unaware = frozenset(job_key(job) for at, job in self._world.unaware if at == process)

        def begin() -> list[Callable[[], Work]]:
            ctx = self._context(port, unaware=unaware)
            return [lambda operation=operation: _answered(operation, ctx) for operation in self._at[process]]  # type: ignore[misc]

        return CoordinatorWalk(begin)

    def _context(self, store: Store, later_s: float = 0.0, unaware: frozenset[JobKey] = frozenset()) -> Context:
        start_state = self._world.start_state
        return self._laid.context(store, start_state.at_s + later_s, budgets=start_state.budgets, unaware=unaware)

    # Verdicts.

    def _judge_step(self, before: State, after: State) -> None:
        for node, was in zip(after.nodes, before.nodes, strict=True):
            if node is not was:
                self._judge_node(node, was, after)
        pair = (before.stored.number, after.stored.number)
        if before.stored is not after.stored and pair not in self._checked:
            self._checked.add(pair)
            lenient = self._world.tries_may_win_two
            for what in invariants.broken_by(before.stored, after.stored, tries_may_win_two=lenient):
                self._note(what, after)

    def _judge_node(self, node: CoordinatorState, was: CoordinatorState, state: State) -> None:
        for what in node.wrongs[len(was.wrongs) :]:
            self._note(f"a coordinator contradicts itself: {what}", state)
        for result, before in zip(node.results, was.results, strict=True):
            if result is not before and result is not None and result.kind == "broke":
                self._note(f"a coordinator contradicts itself: {result.text.decode()}", state)

    def _judge_end(self, state: State) -> None:
        results = tuple(node.results for node in state.nodes)
        if (state.stored.number, results) in self._ends:
            return
        self._ends.add((state.stored.number, results))
        self._walked.ends += 1
        history = self._history(state)
        for violation in verdict.violations(history):
            self._note(f"{violation.checker}: {violation.what}", state, history)

    def _note(self, what: str, state: State, history: History | None = None) -> None:
        found = self._walked.found
        if len(found) < FOUND_MAX and all(one.what != what for one in found):
            found.append(Found(what, tuple(said for _, _, said in state.path()), history))

    def _history(self, state: State) -> History:
        steps = [
            Step(who, after.stored, {(process, op): result for process, op, result in after.results()})
            for after, who, _ in state.path()
        ]
        return told(self._world, self._laid, steps, self._left(state))

    def _left(self, state: State) -> StoreValue:
        """Once the loops of a coordinator that nothing happens to have run, and everybody else is gone."""
        left = self._recovered.get(state.stored.number)
        if left is None:
            left = self._recovered[state.stored.number] = state.stored.copy()
            ctx = self._context(left, RECOVERED_AFTER_S)
            finished(self._recover(ctx))
            for what in contradictions.taken():
                self._note(f"a coordinator contradicts itself afterwards: {what}", state)
        return left

    async def _recover(self, ctx: Context) -> None:
        for _ in range(2):
            await Sweeper(ctx).run_once(ctx.clock.now())
            await Reaper(ctx).run_once(ctx.clock.now())
        await Sweeper(ctx).run_once(ctx.clock.now())


async def _answered(operation: Operation, ctx: Context) -> OpResult:
    try:
        answer = await operation.act(ctx)
    except FleetError as error:
        return OpResult("refused" if ERRORS[error.code].definite else "unanswered", orjson.dumps(error.to_doc()))
    except StoreError as error:
        return OpResult("unanswered", orjson.dumps(str(error)))
    except Exception as error:
        return OpResult("broke", orjson.dumps(repr(error)))
    return OpResult("answered", orjson.dumps(answer.to_doc() if isinstance(answer, Schema) else answer))
