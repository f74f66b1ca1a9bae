"""Trials that one process trains as one: each in a thread of its own, in turns, with their steps in one stack.

Every member of a cohort runs the ordinary code of a trial. Where its learner would train batches or measure the
validation split, its thread hands over a request and waits. When all members wait, the requests of one kind are served
together: the networks are copied into the slots of a `Stack`, which trains or measures them all in one step, and copied
back. On a GPU, members that prune at the same time get their masks in one pass. So a member keeps its own network,
optimiser, mask, states and record, and nothing in them depends on the others.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch

from lth_trainable.pruning.masks_together import masks_together
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.marks import AtMark
from lth_trainable.stacking.passes import Compiler
from lth_trainable.stacking.run import NotStackable, Run
from lth_trainable.stacking.shape import stack_shape
from lth_trainable.stacking.slots import Member
from lth_trainable.stacking.stack import Stack
from lth_trainable.stacking.template import template_of
from lth_trainable.streams import streams_put_back
from lth_trainable.training.compiled import CompiledFunction, is_compile_error, reason
from lth_trainable.training.execution import Execution, is_no_room, release
from lth_trainable.training.requests import Measuring, Pausing, Pruning, Request, Training
from lth_trainable.training.sharing import in_bounds

T = TypeVar("T")


def nothing() -> None:
    """For a cohort between whose steps nothing is to be done."""


def run_cohort(
    jobs: Sequence[Callable[[], T]], execution: Execution, spec: TrialSpec, between: Callable[[], None] = nothing
) -> list[T | BaseException]:
    """Run each job, which trains a trial with `run_trial`, as a member of one cohort; returns results or exceptions.

    Jobs: at most `execution.replicas`. spec: of any of them; they have the same shape (`stack_shape`). between: called
    in this thread whenever all members wait; what it raises ends them all. Raises `UserError` if the memory is too
    small for the stack.
    """
    if len(jobs) > execution.replicas:
        raise ValueError(f"found {len(jobs)} members; expected at most {execution.replicas}, the number of replicas")
    forget_stack(execution, unless=stack_shape(spec))
    cohort: Cohort[T] = Cohort(jobs, execution)
    with in_bounds(execution, spec):
        return cohort.run(between)


def in_cohort_of_one(job: Callable[[], T], execution: Execution, spec: TrialSpec) -> T:
    """Run a job in a stack whose other slots are idle. What it raises is raised here, SystemExit too."""
    (outcome,) = run_cohort([job], execution, spec)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def forget_stack(execution: Execution, unless: Hashable = None) -> None:
    """Free the memory of the last cohort's stack, which this process has kept. unless: it has this shape."""
    if _kept and _kept[0][0][0] != unless:
        _kept.clear()
        release(execution)


def stack_compiler(execution: Execution) -> Compiler | None:
    """What steps and evaluations of a stack go through; None: they are not compiled."""
    return functools.partial(CompiledFunction, threads=execution.threads) if execution.compile else None


def current_seat() -> Seat | None:
    """The place of this thread's trial in a cohort; None if it is trained alone."""
    return getattr(_of_thread, "seat", None)


_of_thread = threading.local()
_kept: list[tuple[Any, Stack]] = []  # the last stack of this process, with its graphs, and what it is for; at most one


def _closed() -> threading.Lock:
    """A lock that the next to acquire it waits for. Of one permit, so a semaphore, which is slower, is not needed."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class Ended(BaseException):
    """Ends the thread of a member whose cohort has ended."""


class Seat:
    """The place of a member in its cohort. slot: of its network in the stack."""

    def __init__(self, cohort: Cohort[Any], slot: int) -> None:
        self.cohort, self.slot = cohort, slot
        self.request: Request | None = None
        self.go = _closed()
        self.is_loaded = False  # whether the slot has the network's present weights

    @property
    def learn(self) -> Any:
        """The learner of the member, which waits."""
        assert self.request is not None
        return self.request.learn

    @property
    def member(self) -> Member:
        """What goes into the slot."""
        factors = self.request.factors if isinstance(self.request, Training) else {}
        return Member(model=self.learn.model, optimizer=self.learn.opt.opt, factors=factors)

    @property
    def refusal(self) -> str | None:
        """Why the cohort's networks cannot be stacked; None if they can, as far as that is known."""
        return self.cohort.refusal

    def ask(self, request: Request) -> bool:
        """Wait until the request is served. False: the networks cannot be stacked, and nothing has been done."""
        if self.cohort.is_over:
            raise Ended
        self.request = request
        # others draw meanwhile; the streams are set anew for each batch, so only within one does that matter
        with streams_put_back(request.learn.dls.device) if request.draws else contextlib.nullcontext():
            self.cohort.back.release()
            self.go.acquire()
        if self.cohort.is_over:
            raise Ended
        return self.refusal is None


class Cohort(Generic[T]):
    """The conductor of a cohort: starts its members one by one, and serves their requests."""

    def __init__(self, jobs: Sequence[Callable[[], T]], execution: Execution) -> None:
        self.jobs, self.execution = jobs, execution
        self.seats = [Seat(self, slot) for slot in range(len(jobs))]
        self.back = _closed()  # released when the member that runs waits or has ended
        self.outcomes: list[Any] = [None] * len(jobs)
        self.refusal: str | None = None
        self.is_over = False
        self._stack: Stack | None = None

    def run(self, between: Callable[[], None]) -> list[T | BaseException]:
        """Run all members to their ends."""
        threads = [threading.Thread(target=self._member, args=(seat,), daemon=True) for seat in self.seats]
        try:
            for seat, thread in zip(self.seats, threads, strict=True):
                thread.start()
                self._resume(seat)
            while waiting := [seat for seat in self.seats if seat.request is not None]:
                between()
                for seat in self._serve(waiting):
                    self._resume(seat)
        except BaseException:
            _kept.clear()  # it may be why, and its memory may be wanted
            self._end_all(threads)
            raise
        for thread in threads:
            thread.join()
        return self.outcomes

    def _member(self, seat: Seat) -> None:
        seat.go.acquire()
        _of_thread.seat = seat
        torch.set_num_threads(self.execution.threads)  # each thread has its own number
        try:
            if not self.is_over:
                self.outcomes[seat.slot] = self.jobs[seat.slot]()
        except Ended:
            pass
        except BaseException as error:  # SystemExit too: Tune ends a trial with it
            self.outcomes[seat.slot] = error
        finally:
            if not self.is_over:
                self.back.release()

    def _resume(self, seat: Seat) -> None:
        """Let a member run until it waits again or has ended."""
        seat.request, seat.is_loaded = None, False
        seat.go.release()
        self.back.acquire()

    def _end_all(self, threads: Sequence[threading.Thread]) -> None:
        """End the members one after another. One that runs (Ctrl-C comes at any time) ends where it would wait."""
        self.is_over = True
        for seat, thread in zip(self.seats, threads, strict=True):
            if seat.go.locked():
                seat.go.release()
            if thread.ident is not None:
                thread.join()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _serve(self, waiting: Sequence[Seat]) -> list[Seat]:
        """Serve what can be served together; returns those who need not wait any longer."""
        measuring = [(seat, seat.request) for seat in waiting if isinstance(seat.request, Measuring)]
        pruning = [(seat, seat.request) for seat in waiting if isinstance(seat.request, Pruning)]
        if pruning and not measuring:  # those that measure may prune next
            return self._prune(pruning)
        if pausing := [seat for seat in waiting if isinstance(seat.request, Pausing)]:
            return pausing
        if self.refusal is None and self._stack is None:
            self._make_stack(waiting[0])
        if self.refusal is not None:
            return list(waiting)
        self._load([seat for seat in waiting if not isinstance(seat.request, Pruning)])
        if measuring:
            return self._measure(measuring)
        return self._train([(seat, seat.request) for seat in waiting if isinstance(seat.request, Training)])

    def _make_stack(self, seat: Seat) -> None:
        """Take the stack of the last cohort of this process, if it has the same shape, or make one.

        Whether that succeeds must not depend on who waits, so it is tried with weights that are nobody's.
        """
        learn, execution = seat.learn, self.execution
        spec, data = learn.clock.spec, learn.dls.train.x
        key = (
            stack_shape(spec), spec.code_digests(), data.data_ptr(), tuple(data.shape), execution.replicas, Stack,
            execution.device, execution.deterministic, execution.memory_format, execution.threads, execution.compile,
        )  # fmt: skip
        if _kept and _kept[0][0] == key:
            self._stack = _kept[0][1]
            return
        _kept.clear()
        try:
            self._stack = Stack(
                template_of(spec, learn.dls.train), learn.opt.opt, learn.dls.train, learn.loss_func, spec.precision,
                execution.replicas, stack_compiler(execution),
            )  # fmt: skip
        except NotStackable as error:
            if error.__cause__ is not None and is_no_room(error.__cause__):
                raise error.__cause__ from None
            self.refusal = str(error)
        except Exception as error:
            if not execution.compile or is_no_room(error) or not is_compile_error(error):
                raise
            self.refusal = f"torch.compile cannot compile a step of it ({reason(error)})"
        else:
            if key[0] is not None:
                _kept.append((key, self._stack))

    @property
    def stack(self) -> Stack:
        assert self._stack is not None
        return self._stack

    def _load(self, seats: Sequence[Seat]) -> None:
        new = [seat for seat in seats if not seat.is_loaded]
        self.stack.load_all({seat.slot: seat.member for seat in new})
        for seat in new:
            seat.is_loaded = True

    def _measure(self, asked: Sequence[tuple[Seat, Measuring]]) -> list[Seat]:
        """Measure all networks that wait for their results on the first one's split."""
        loader = asked[0][1].loader
        together = [(seat, request) for seat, request in asked if _is_same(loader, request.loader)]
        found = self.stack.evaluate([seat.slot for seat, _ in together], loader)
        for seat, request in together:
            request.found = found[seat.slot]
        return [seat for seat, _ in together]

    def _prune(self, asked: Sequence[tuple[Seat, Pruning]]) -> list[Seat]:
        """Find the masks of all networks that are pruned now."""
        for (_, request), mask in zip(asked, masks_together([request.ranking for _, request in asked]), strict=True):
            request.found = mask
        return [seat for seat, _ in asked]

    def _train(self, asked: Sequence[tuple[Seat, Training]]) -> list[Seat]:
        """Train as many batches as all members need that wait for batches of one size."""
        by_size: dict[int, list[tuple[Seat, Training]]] = {}
        for seat, request in asked:
            by_size.setdefault(request.run.sizes[0], []).append((seat, request))
        together = max(by_size.values(), key=len)
        n = _common([request.run.sizes for _, request in together])
        split = {seat.slot: request.run.split(n) for seat, request in together}
        behind = [seat for seat, request in asked if seat.slot not in split and request.losses]
        self.stack.unload_all({seat.slot: seat.member for seat in behind})  # their slots compute along
        firsts = {slot: first for slot, (first, _) in split.items()}
        losses = self.stack.train(firsts, together[0][1].learn.dls.valid)
        for _, request in together:
            request.meanwhile()
        found = self._found(firsts, losses)
        for seat, request in together:
            request.take(*found[seat.slot], split[seat.slot][1])
        for seat in self.seats:
            seat.is_loaded = seat.is_loaded and seat.slot in split
        served = [(seat, request) for seat, request in together if request.is_served]
        self.stack.unload_all({seat.slot: seat.member for seat, _ in served})
        kept = self.stack.kept({seat.slot: request.learn.model for seat, request in served if request.keeps})
        for seat, request in served:
            request.kept = kept.get(seat.slot)
        return [seat for seat, _ in served]

    def _found(
        self, runs: Mapping[int, Run], losses: Mapping[int, torch.Tensor]
    ) -> dict[int, tuple[torch.Tensor, list[AtMark]]]:
        """The losses on the CPU, and what was found at marks, by slot. Waits for the device."""
        at_marks, on_cpu = self.stack.at_marks(runs), torch.stack([losses[slot] for slot in runs]).cpu()
        return {slot: (own, at_marks[slot]) for slot, own in zip(runs, on_cpu, strict=True)}


def _common(sizes: Sequence[tuple[int, ...]]) -> int:
    """How many batches at the start have the same size for all members."""
    if len(set(sizes)) == 1:
        return len(sizes[0])
    differ = (i for i, of_all in enumerate(zip(*sizes, strict=False)) if len(set(of_all)) > 1)
    return next(differ, min(map(len, sizes)))


def _is_same(loader: Any, other: Any) -> bool:
    """Whether two loaders have the same images in memory."""
    return bool(loader.x.data_ptr() == other.x.data_ptr() and loader.x.shape == other.x.shape)
