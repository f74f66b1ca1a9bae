"""Decide which trial to start next. These rules need no Ray, so tests run them on a simulated clock.

A trial is held back while a running trial is about to produce a deeper state on its chain. Trials that are ready start
in the order of their seeds, so that a sweep that is cut short has complete seeds. But a chain that is so long that it
would finish last starts first.

With replicas, a worker trains several trials at once, a cohort: `next` gives the first of them, `more_like` the others.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Sequence

from sweeps.planning.plan import Node, Plan, PlannedTrial
from sweeps.planning.work import needed_by

Rank = Callable[[PlannedTrial], int]
Shape = Callable[[PlannedTrial], Hashable]  # trials of equal shapes can be trained as one; None: it trains alone
URGENT = 0.75  # a chain longer than this fraction of the least time for all work starts before its turn
SHARE = 0.25  # one trial takes at most this fraction of that time at once, so that all slots are busy until the end


class Dispatcher:
    """Hands out the trials of a plan one at a time, as the states they start from are produced.

    done: names of recorded trials. stored: keys of stored states. slots: trials that run at once. rank_of: trials with
    the lowest rank start first; by default the rank is the position of the seed in the plan. replicas: most trials that
    a slot trains at once; if there are several, each ends as early as it can, so that new cohorts are made of all that
    is ready then.
    """

    def __init__(
        self,
        plan: Plan,
        done: Collection[str],
        stored: Collection[str],
        slots: int,
        rank_of: Rank | None = None,
        *,
        replicas: int = 1,
    ) -> None:
        self.slots, self.rank_of, self.replicas = max(1, slots), rank_of, max(1, replicas)
        self.done, self.stored = set(done), set(stored)
        self.stopped: set[str] = set()  # trials that have ended for this command only
        self.running: dict[str, list[Node]] = {}
        self._lay_out(plan)

    def extend(self, plan: Plan) -> None:
        """Continue with a plan that has grown; running trials still produce what they were about to produce."""
        running = list(self.running)
        self.running = {}
        self._lay_out(plan)
        for name in running:
            self._run(self.waiting[name], needed_by(self.waiting[name], self.stored))

    def _lay_out(self, plan: Plan) -> None:
        done, stored = self.done, self.stored
        self.plan = plan
        self.waiting = {trial.name: trial for trial in plan.trials if trial.name not in done}
        self._making: dict[int, str] = {}  # node -> trial that is about to produce it
        self._passed: set[int] = set()  # nodes that no trial waits for: stored, or everything below them is
        self._open: dict[int, int] = defaultdict(int)  # node -> unfinished trials that end there or below
        self._waiters: dict[int, list[Node]] = defaultdict(list)
        for node in plan.nodes:
            for other in node.waits_for.path() if node.waits_for is not None else ():
                self._waiters[id(other)].append(node)
        rank_of = self.rank_of or _seed_order(plan)
        for trial in plan.trials:
            if trial.name in self.waiting:
                for node in trial.end.path():
                    self._open[id(node)] += 1
        self._longest: dict[int, int] = {}
        self._rank: dict[int, int] = {}
        for node in reversed(plan.nodes):  # children come after their parents
            below = max((self._longest[id(child)] for child in node.children), default=0)
            self._longest[id(node)] = (node.epochs + below) if self._open[id(node)] else 0
            self._rank[id(node)] = min(
                [*(self._rank[id(child)] for child in node.children), *map(rank_of, node.trials)]
            )
        needed = {id(node) for trial in self.waiting.values() for node in needed_by(trial, stored)}
        self._passed = {id(node) for node in plan.nodes if id(node) not in needed}
        self.epochs_left = sum(node.epochs for node in plan.nodes if id(node) in needed)
        self._by_key = plan.by_key()
        self._by_length: list[tuple[int, int, int, Node]] = []
        self._by_rank: list[tuple[int, int, int, Node]] = []
        self._ready: dict[int, Node] = {}
        self._loose: deque[PlannedTrial] = deque()  # nothing is left to train, but they are not recorded yet
        self._number = {id(node): index for index, node in enumerate(plan.nodes)}
        for node in plan.nodes:
            self._offer(node)
        self._loose.extend(trial for trial in self.waiting.values() if trial.end.key in stored)

    # -- events ------------------------------------------------------------------------------------------------------

    def reached(self, key: str) -> list[PlannedTrial]:
        """Note that a state is stored; returns the waiting trials that end in it, to be recorded without a run."""
        self.stored.add(key)
        node = self._by_key.get(key)
        if node is None:
            return []
        self._pass(node)
        ended = [trial for trial in node.trials if self._can_start(trial)]
        self._loose.extend(ended)
        return ended

    def finished(self, name: str, recorded: bool = True) -> None:
        """Note that a trial is recorded, or has failed for good: it is not handed out again.

        The states that a recorded trial was to produce exist, even if this was not reported. What a failed trial was
        producing is free for other trials.
        """
        trial = self.waiting.pop(name, None)
        nodes = self.running.pop(name, [])
        self.done.add(name)
        self.stored.update(node.key for node in nodes if recorded)
        if trial is not None:
            for node in trial.end.path():
                self._open[id(node)] -= 1
        for node in nodes if recorded else ():
            self._pass(node)
        self._free(name, nodes)

    def put_back(self, name: str) -> None:
        """Note that a trial has ended without a result, through no fault of its own: it is handed out again."""
        nodes = self.running.pop(name, [])
        self._free(name, nodes)
        if self.waiting[name].end.key in self.stored:
            self._loose.append(self.waiting[name])

    def _free(self, name: str, nodes: Sequence[Node]) -> None:
        """Let other trials train the nodes that a trial was to train, or start from them."""
        for node in nodes:
            if self._making.get(id(node)) == name:
                del self._making[id(node)]
        for node in nodes:
            for freed in (node, *self._waiters[id(node)]):
                self._offer(freed)

    def next(self) -> PlannedTrial | None:
        """The trial to start now; None while all are held back, or if none is left (see `over`)."""
        while self._loose:
            trial = self._loose.popleft()
            if trial.name in self.waiting and trial.name not in self.running:
                self.running[trial.name] = []
                return trial
        node = self._best()
        if node is None:
            return None if self.running else self.any()
        return self._begin(node, self._choose(node))

    def more_like(self, trial: PlannedTrial, number: int, shape_of: Shape) -> list[PlannedTrial]:
        """Up to `number` further trials of this trial's shape that can start now, in the order of `next`.

        They are to be trained together with it. Trials that need no training are not among them.
        """
        shape, found = shape_of(trial), list[PlannedTrial]()
        if shape is None or number < 1:
            return []
        for node in sorted(self._ready.values(), key=self._turn):
            if not (self._can_begin(node) and self._startable_below(node)):
                continue
            path = self._choose(node)
            if shape_of(self._ends_in(path)) == shape:
                found.append(self._begin(node, path))
            if len(found) == number:
                break
        return found

    def _begin(self, node: Node, path: list[Node]) -> PlannedTrial:
        """Start the trial that ends with this path from the node on."""
        trial = self._ends_in(path)
        self._run(trial, self._before(node) + path)
        return trial

    def _ends_in(self, path: Sequence[Node]) -> PlannedTrial:
        return next(trial for trial in path[-1].trials if self._can_start(trial))

    def any(self) -> PlannedTrial | None:
        """A trial that is held back, or whose states are not where the plan expects them.

        It finds its own starting point, and may train what another trial is about to store.
        """
        trial = next(filter(self._can_start, self.waiting.values()), None)
        if trial is not None:
            self._run(trial, [])
        return trial

    def _run(self, trial: PlannedTrial, nodes: list[Node]) -> None:
        """Note that the trial runs and is about to produce these nodes."""
        self.running[trial.name] = nodes
        for node in nodes:
            self._making[id(node)] = trial.name
            self._withdraw(node)

    @property
    def over(self) -> bool:
        """Whether every trial is recorded or has failed."""
        return not self.waiting

    @property
    def all_started(self) -> bool:
        """Whether every trial runs, is recorded or has failed."""
        return len(self.waiting) == len(self.running)

    # -- the choice --------------------------------------------------------------------------------------------------

    def _best(self) -> Node | None:
        longest = self._top(self._by_length)
        if longest is not None and self._is_urgent(longest):
            return longest
        return self._top(self._by_rank)

    def _turn(self, node: Node) -> tuple[int, int, int, int]:
        """The place of a ready node in the order in which `_best` gives them."""
        rank, length, number = self._rank[id(node)], self._longest[id(node)], self._number[id(node)]
        return (0, -length, rank, number) if self._is_urgent(node) else (1, rank, -length, number)

    def _is_urgent(self, node: Node) -> bool:
        return self._longest[id(node)] > URGENT * self._least_time

    @property
    def _least_time(self) -> float:
        """In which all that is left could be trained, in epochs of a trial."""
        return self.epochs_left / (self.slots * self.replicas)

    def _top(self, heap: list[tuple[int, int, int, Node]]) -> Node | None:
        while heap:
            node = heap[0][-1]
            if id(node) in self._ready and self._can_begin(node) and self._startable_below(node):
                return node
            heapq.heappop(heap)
            self._ready.pop(id(node), None)
        return None

    def _startable_below(self, node: Node) -> bool:
        nodes = [node]
        while nodes:  # no recursion: a chain may have a node for each of a thousand epochs
            node = nodes.pop()
            if any(self._can_start(trial) for trial in node.trials):
                return True
            nodes += filter(self._is_free, node.children)
        return False

    def _choose(self, node: Node) -> list[Node]:
        """The longest path down from `node` within one trial's share of time; it ends where a trial ends.

        With replicas it ends at the first such place.
        """
        path, epochs = [node], node.epochs
        best: list[Node] = []
        while True:
            if any(self._can_start(trial) for trial in path[-1].trials):
                if best and epochs > SHARE * self._least_time:
                    return best
                best = list(path)
                if self.replicas > 1:
                    return best
            below = [child for child in path[-1].children if self._is_free(child) and self._startable_below(child)]
            if not below:
                return best
            path.append(max(below, key=lambda child: (self._longest[id(child)], -self._number[id(child)])))
            epochs += path[-1].epochs

    def _can_start(self, trial: PlannedTrial) -> bool:
        return trial.name in self.waiting and trial.name not in self.running

    def _is_free(self, node: Node) -> bool:
        return self._open[id(node)] > 0 and id(node) not in self._making and id(node) not in self._passed

    # -- the nodes that could be started ------------------------------------------------------------------------------

    def _offer(self, node: Node) -> None:
        """Add a node to the ready ones if it can start."""
        if self._can_begin(node) and id(node) not in self._ready:
            number, rank = self._number[id(node)], self._rank[id(node)]
            self._ready[id(node)] = node
            heapq.heappush(self._by_length, (-self._longest[id(node)], rank, number, node))
            heapq.heappush(self._by_rank, (rank, -self._longest[id(node)], number, node))

    def _can_begin(self, node: Node) -> bool:
        held = any(id(other) in self._making for other in self._before(node))
        has_start = node.parent is None or id(node.parent) in self._passed
        return has_start and not held and self._is_free(node)

    def _before(self, node: Node) -> list[Node]:
        """The nodes to train again for the rewind at the start of this node, if its rewind point is not stored."""
        return [] if node.waits_for is None else [n for n in node.waits_for.path() if id(n) not in self._passed]

    def _withdraw(self, node: Node) -> None:
        self._ready.pop(id(node), None)

    def _pass(self, node: Node) -> None:
        self._making.pop(id(node), None)
        if id(node) in self._passed:
            return
        self.epochs_left -= node.epochs
        self._passed.add(id(node))
        self._withdraw(node)
        for other in (*node.children, *self._waiters[id(node)]):
            self._offer(other)


def _seed_order(plan: Plan) -> Rank:
    """Rank by the position of a trial's seed in the plan."""
    order: dict[int, int] = {}
    for trial in plan.trials:
        order.setdefault(trial.spec.seed, len(order))
    return lambda trial: order[trial.spec.seed]
