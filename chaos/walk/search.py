"""The walk itself: every state that a small world can come to, in layers of as many steps, so that what breaks is
shown by the fewest. A state is the shelf, what each coordinator was answered so far, and the writes on their way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from chaos.history import History
from chaos.walk import laws, verdict
from chaos.walk.ground import lay
from chaos.walk.operations import Operation, job_key
from chaos.walk.process import BEGIN, BEGUN, Node, Process, Result, Work, by_hand, contradictions
from chaos.walk.shelf import CONFLICT, FULL, UNKNOWN, Answer, Call, Fate, Outcome, Port, Shelf, finished
from chaos.walk.telling import RECOVERED_AFTER_S, Step, told
from chaos.walk.worlds import Small
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

    shelf: Shelf
    nodes: tuple[Node, ...]
    faults: int
    flying: tuple[Flight, ...] = ()
    ways: int = 0
    came: tuple[State, tuple[int, int], str] | None = None

    def key(self) -> tuple[Any, ...]:
        flying = frozenset(flight[:3] for flight in self.flying)
        return (self.shelf.number, tuple(node.number for node in self.nodes), self.faults, flying)

    @property
    def layer(self) -> int:
        """Higher after every step: a state is never come to from a later layer."""
        return 2 * sum(node.depth for node in self.nodes) - len(self.flying)

    def results(self) -> Iterator[tuple[int, int, Result | None]]:
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


def walk(world: Small, *, faults: int, limit: int | None = None) -> Walked:
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
    def __init__(self, world: Small, walked: Walked) -> None:
        self._world = world
        self._walked = walked
        self._laid = lay(world.ground, atomic_then=world.atomic_then)
        self._shelves: dict[Any, Shelf] = {}
        self._checked: set[tuple[int, int]] = set()
        self._effects: dict[tuple[int, int, int, int], tuple[Answer, Shelf]] = {}
        self._ends: set[tuple[Any, ...]] = set()
        self._recovered: dict[int, Shelf] = {}
        self._at = [world.of(process) for process in range(world.coordinators)]
        self._processes = [self._process(process) for process in range(world.coordinators)]

    def close(self) -> None:
        for process in self._processes:
            process.close()

    def run(self, faults: int, limit: int | None) -> None:
        roots = tuple(process.root for process in self._processes)
        first = self._quieted(State(self._known(self._laid.shelf), roots, faults, ways=1))
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
            shelf = self._effect(state.shelf, flight.process, flight.node, flight.op, flight.call)[1]
            said = f"{self._name(flight.process, flight.op)}: {flight.call}: lands"
            yield (
                State(shelf, state.nodes, state.faults, self._landable(shelf, left)),
                (flight.process, flight.op),
                said,
            )

    def _taken(self, state: State, process: int, op: int, call: Call, outcome: Outcome) -> State:
        tree, node = self._processes[process], state.nodes[process]
        now = tree.dead(node) if outcome.answer is None else tree.after(node, op, outcome.answer)
        nodes = (*state.nodes[:process], now, *state.nodes[process + 1 :])
        flying = state.flying
        if outcome.flies:
            flying += (Flight(process, node.number, op, call),)
        if outcome.shelf is not state.shelf:
            flying = self._landable(outcome.shelf, flying)
        return State(outcome.shelf, nodes, state.faults - (outcome.fate is not Fate.APPLIED), flying)

    def _outcomes(self, state: State, process: int, op: int, call: Call) -> Iterator[Outcome]:
        if call is BEGIN:
            yield Outcome(Fate.APPLIED, state.shelf, BEGUN)
            return
        answer, shelf = self._effect(state.shelf, process, state.nodes[process].number, op, call)
        yield Outcome(Fate.APPLIED, shelf, answer)
        if not call.writes or not state.faults:
            return
        yield Outcome(Fate.LOST, state.shelf, UNKNOWN)
        yield Outcome(Fate.DIED, state.shelf, None)
        yield Outcome(Fate.REFUSED, state.shelf, FULL)
        if shelf is state.shelf:
            return  # it was refused, or had nothing to do: whatever else becomes of it is the same
        yield Outcome(Fate.UNHEARD, shelf, UNKNOWN)
        yield Outcome(Fate.LATE, state.shelf, UNKNOWN, flies=True)
        yield Outcome(Fate.DIES, shelf, None)
        if call.method != "project":
            yield Outcome(Fate.ECHOED, shelf, CONFLICT)
            return
        for count in range(1, len(call.args[0])):
            torn = state.shelf.copy()
            call.first(count).made(torn)
            yield Outcome(Fate.TORN, self._known(torn), UNKNOWN)

    def _effect(self, shelf: Shelf, process: int, node: int, op: int, call: Call) -> tuple[Answer, Shelf]:
        key = (shelf.number, process, node, op)
        effect = self._effects.get(key)
        if effect is None:
            after = shelf.copy() if call.writes else shelf
            answer = call.made(after)
            if call.writes:
                assert call.containers.isdisjoint(self._still), "a walk without moves of these moved them"
                after = self._known(after)
            effect = self._effects[key] = (answer, after)
        return effect

    def _landable(self, shelf: Shelf, flying: tuple[Flight, ...]) -> tuple[Flight, ...]:
        """Without those that came too late: an etag that moved on never comes back."""
        return tuple(
            one for one in flying if self._effect(shelf, one.process, one.node, one.op, one.call)[1] is not shelf
        )

    def _quieted(self, state: State) -> State:
        """After the steps whose moment makes no difference: nobody else can tell when they are taken."""
        for process, node in enumerate(state.nodes):
            for op, call in enumerate(node.pending):
                if call is None or not self._is_quiet(process, call):
                    continue
                answer = BEGUN if call is BEGIN else self._effect(state.shelf, process, node.number, op, call)[0]
                nodes = list(state.nodes)
                nodes[process] = self._processes[process].after(node, op, answer)
                return self._quieted(State(state.shelf, tuple(nodes), state.faults, state.flying, state.ways))
        return state

    def _is_quiet(self, process: int, call: Call) -> bool:
        if call is BEGIN:
            return len(self._at[process]) == 1
        return call.method == "partitions" or (not call.writes and call.containers <= self._still)

    @property
    def _still(self) -> frozenset[str]:
        return frozenset({FACTORIES}) - self._world.moves

    def _known(self, shelf: Shelf) -> Shelf:
        """The one shelf that stands for all that are equal."""
        known = self._shelves.setdefault(shelf.key(), shelf)
        if known is shelf:
            shelf.number = len(self._shelves)
        return known

    # Coordinators.

    def _name(self, process: int, op: int) -> str:
        return f"c{process + 1} {self._at[process][op].name}"

    def _process(self, process: int) -> Process:
        port = Port(atomic_then=self._world.atomic_then)
        unaware = frozenset(job_key(job) for at, job in self._world.unaware if at == process)

        def begin() -> list[Callable[[], Work]]:
            ctx = self._context(port, unaware=unaware)
            return [lambda operation=operation: _answered(operation, ctx) for operation in self._at[process]]  # type: ignore[misc]

        return Process(begin)

    def _context(self, store: Store, later_s: float = 0.0, unaware: frozenset[JobKey] = frozenset()) -> Context:
        ground = self._world.ground
        return self._laid.context(store, ground.at_s + later_s, budgets=ground.budgets, unaware=unaware)

    # Verdicts.

    def _judge_step(self, before: State, after: State) -> None:
        for node, was in zip(after.nodes, before.nodes, strict=True):
            if node is not was:
                self._judge_node(node, was, after)
        pair = (before.shelf.number, after.shelf.number)
        if before.shelf is not after.shelf and pair not in self._checked:
            self._checked.add(pair)
            lenient = self._world.tries_may_win_two
            for what in laws.broken_by(before.shelf, after.shelf, tries_may_win_two=lenient):
                self._note(what, after)

    def _judge_node(self, node: Node, was: Node, state: State) -> None:
        for what in node.wrongs[len(was.wrongs) :]:
            self._note(f"a coordinator contradicts itself: {what}", state)
        for result, before in zip(node.results, was.results, strict=True):
            if result is not before and result is not None and result.kind == "broke":
                self._note(f"a coordinator contradicts itself: {result.text.decode()}", state)

    def _judge_end(self, state: State) -> None:
        results = tuple(node.results for node in state.nodes)
        if (state.shelf.number, results) in self._ends:
            return
        self._ends.add((state.shelf.number, results))
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
            Step(who, after.shelf, {(process, op): result for process, op, result in after.results()})
            for after, who, _ in state.path()
        ]
        return told(self._world, self._laid, steps, self._left(state))

    def _left(self, state: State) -> Shelf:
        """Once the loops of a coordinator that nothing happens to have run, and everybody else is gone."""
        left = self._recovered.get(state.shelf.number)
        if left is None:
            left = self._recovered[state.shelf.number] = state.shelf.copy()
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


async def _answered(operation: Operation, ctx: Context) -> Result:
    try:
        answer = await operation.act(ctx)
    except FleetError as error:
        return Result("refused" if ERRORS[error.code].definite else "unanswered", orjson.dumps(error.to_doc()))
    except StoreError as error:
        return Result("unanswered", orjson.dumps(str(error)))
    except Exception as error:
        return Result("broke", orjson.dumps(repr(error)))
    return Result("answered", orjson.dumps(answer.to_doc() if isinstance(answer, Schema) else answer))
