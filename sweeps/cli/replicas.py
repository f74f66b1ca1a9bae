"""`--replicas auto` of a command: the number that the run has, or one that is measured, chosen and kept now."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lth_trainable.spec.values import digest
from lth_trainable.stacking.shape import OF_STEP
from lth_trainable.stacking.times import Curve
from sweeps.cli.job import Job
from sweeps.planning.plan import PlannedTrial
from sweeps.running.cohorts import shapes_of
from sweeps.running.estimate import Measured
from sweeps.running.replicas import Question, choose, question
from sweeps.running.resources import OutOfTime
from sweeps.running.stack_times import Found, NotMeasured, lines_of, read_lines, request_of
from sweeps.runs.ledger import Ledger
from sweeps.runs.replica_files import CHOICE, Choice, read_choice, read_curves, write_choice, write_curve

ON_CPUS = "because trials train on the CPU, where cohorts were not faster when that was measured"
NO_TIME = "because no time is left to measure"
MEASURING = "measuring how long a step of several networks takes, in a process that needs some seconds"
OF_NETWORK = 16  # letters of its digest
NOT_COMPILED = ", measured without --compile: compiling for each number would take minutes"
OF_CURVE = "by the time of the networks' steps and validations alone"


def with_replicas(job: Job, ledger: Ledger, done: Collection[str]) -> Job:
    """The job with the number of replicas of its run. What is chosen now is kept, and is told.

    ledger: of the trials to choose for. done: names of trials that are not trained.
    """
    if job.setting.resources.stacking == "number":
        return job
    asking = _Asking(job, ledger, done)
    try:
        choice = asking.known() or asking.found()
    except OutOfTime:
        choice = Choice(replicas=1, why=NO_TIME)
    job.say(told(choice))
    return having(job, choice.replicas)


def known_choice(job: Job, done: Collection[str]) -> Choice | None:
    """What `--replicas auto` would choose, as far as that is known without measuring; nothing is written."""
    asking = _Asking(job, job.ledger, done)
    choice = asking.known()
    if choice is not None or not job.setting.here:
        return choice
    asked = asking.question
    if isinstance(asked, str):
        return Choice(replicas=1, why=asked)
    curve = asking.known_curve()
    return None if curve is None else asking.chosen(asked, curve)


def measured_pace(job: Job, done: Collection[str]) -> Measured | None:
    """The pace of cohorts of the job's size, by the curve that was measured here earlier; None without one."""
    asking = _Asking(job, job.ledger, done)
    asked, curve = asking.question, asking.known_curve()
    if curve is None or isinstance(asked, str):
        return None
    seconds = asked.epoch(curve, job.setting.resources.replicas)
    return Measured(per_epoch=seconds, bytes_per_state=None, source=f"{OF_CURVE} ({curve.file})")


def told(choice: Choice) -> str:
    """A choice as the user reads it."""
    return f"--replicas auto: {choice.replicas}, {choice.why}"


def having(job: Job, replicas: int) -> Job:
    """The job with this number of replicas."""
    resources = job.setting.resources.with_replicas(replicas)
    cluster = None if job.cluster is None else replace(job.cluster, resources=resources)
    return replace(job, setting=replace(job.setting, resources=resources), cluster=cluster)


@dataclass(frozen=True)
class _Asking:
    """What is known of the trials of a ledger that are not done, and of the device on which they train."""

    job: Job
    ledger: Ledger
    done: Collection[str]

    @functools.cached_property
    def question(self) -> Question | str:
        slots, resources = self.job.slots, self.job.setting.resources
        on_a_gpu = min(slots, resources.on_a_gpu)
        return question(self.ledger.plan, self.done, shapes_of(self.ledger), slots, on_a_gpu, self._steps_of)

    def known(self) -> Choice | None:
        """The choice that needs no measuring: the rule for CPUs, or what was chosen when the run began."""
        if not self.job.setting.resources.gpus:
            return Choice(replicas=1, why=ON_CPUS)
        found = read_choice(self.ledger.store, self.ledger.run)
        file = self.ledger.store.at(f"{self.ledger.run}/{CHOICE}")
        return None if found is None else replace(found, why=f"as when this run began ({file})")

    def found(self) -> Choice:
        """What is chosen now, which is kept if there is anything to train."""
        asked = self.question
        if isinstance(asked, str):
            choice = Choice(replicas=1, why=asked)
        else:
            self.job.say(MEASURING, "dim")
            try:
                choice = self.chosen(asked, self._curve(asked))
            except NotMeasured as error:
                choice = Choice(replicas=1, why=f"because {error}")
        if any(trial.name not in self.done for trial in self.ledger.plan.trials):
            write_choice(self.ledger.store, self.ledger.run, choice)
        return choice

    def chosen(self, asked: Question, curve: Curve) -> Choice:
        """The choice by this curve."""
        choice = choose(asked, curve)
        return replace(choice, why=choice.why + NOT_COMPILED) if self.job.setting.resources.compile else choice

    def known_curve(self) -> Curve | None:
        """The curve that was measured here earlier. It is not looked for where none is kept."""
        asked = self.question
        if isinstance(asked, str) or not self._kept(asked):
            return None
        try:
            found = self._answer(asked, numbers=())
        except NotMeasured:
            return None
        return next((curve for place, curve in self._kept(asked) if place == found.place), None)

    def _curve(self, asked: Question) -> Curve:
        """The curve of this place, measured now or earlier. Raises `NotMeasured`."""
        kept = self._kept(asked)
        found = self._answer(asked, asked.numbers)
        earlier = next((curve for place, curve in kept if place == found.place), None)
        if earlier is not None:
            return earlier
        curve = Curve(times=found.times, ended=found.ended)
        if not found.is_whole:
            return curve
        about = self._of_step(asked)
        return write_curve(self.ledger.store, self._network(asked), found.place, curve, about)

    def _answer(self, asked: Question, numbers: Sequence[int]) -> Found:
        """What a process says here, or on a worker of the cluster, where nothing is known yet."""
        budget, cluster = self.job.setting.budget, self.job.cluster
        left = budget.seconds_left()
        if left == 0:
            raise OutOfTime
        known = [place for place, _ in self._kept(asked)]
        request = request_of(asked.trial.spec, self._execution, self.job.options.data_root, numbers, known)
        return read_lines(
            lines_of(request, left) if cluster is None else cluster.of_a_worker(budget, lines_of, request, left)
        )

    def _kept(self, asked: Question) -> list[tuple[dict[str, Any], Curve]]:
        """The kept curves of this network that say enough, with their places."""
        curves = read_curves(self.ledger.store, self._network(asked))
        return [(place, curve) for place, curve in curves if curve.ended or curve.most >= asked.numbers[-1]]

    @functools.cached_property
    def _execution(self) -> dict[str, Any]:
        """Of trials that train alone and are not compiled: it is asked for before there is a number."""
        return replace(self.job.setting.resources.with_replicas(1), compile=False).execution()

    def _network(self, asked: Question) -> str:
        """A digest of everything but the place that the times may depend on."""
        spec = asked.trial.spec
        how = {"step": self._execution["step"], "trials_on_gpu": self._execution.get("trials_on_gpu", 1)}
        data = self.ledger.facts[spec.data_key].digest
        return digest({**how, "network": self._of_step(asked), "code": spec.code_digests(), "data": data})[:OF_NETWORK]

    @staticmethod
    def _of_step(asked: Question) -> dict[str, Any]:
        return {name: getattr(asked.trial.spec, name) for name in OF_STEP}

    def _steps_of(self, trial: PlannedTrial) -> int:
        return self.ledger.facts[trial.spec.data_key].steps_of(trial.spec)
