"""`--replicas auto` of a command: the number that the run has, or one that is measured, chosen and kept now."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
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
from sweeps.running.stack_times import NotMeasured, lines_of, place_of, read_lines, request_of
from sweeps.runs.ledger import Ledger
from sweeps.runs.replica_files import CHOICE, Choice, read_choice, read_curve, write_choice, write_curve

ON_CPUS = "because trials train on the CPU, where cohorts were not faster when that was measured"
NO_TIME = "because no time is left to measure"
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
    if job.setting.resources.gpus and not job.setting.here:
        return None
    asking = _Asking(job, job.ledger, done)
    choice = asking.known()
    if choice is not None or isinstance(asking.question, str):
        return choice or Choice(replicas=1, why=str(asking.question))
    curve = asking.curve
    return None if curve is None else choose(asking.question, curve)


def measured_pace(job: Job, done: Collection[str]) -> Measured | None:
    """The pace of cohorts of the job's size, by the curve that was measured earlier; None without one."""
    asking = _Asking(job, job.ledger, done)
    asked = asking.question
    curve = None if isinstance(asked, str) else asking.curve
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
        found = read_choice(self.ledger.store, self.ledger.run, self._device)
        file = self.ledger.store.at(f"{self.ledger.run}/{CHOICE}")
        return None if found is None else replace(found, why=f"as when this run began ({file})")

    def found(self) -> Choice:
        """What is chosen now, which is kept if there is anything to train."""
        asked = self.question
        if isinstance(asked, str):
            choice = Choice(replicas=1, why=asked)
        else:
            try:
                choice = choose(asked, self.curve or self._measured(asked))
            except NotMeasured as error:
                choice = Choice(replicas=1, why=f"because {error}")
        if any(trial.name not in self.done for trial in self.ledger.plan.trials):
            write_choice(self.ledger.store, self.ledger.run, self._device, choice)
        return choice

    @property
    def curve(self) -> Curve | None:
        """The curve that was measured earlier, if it says enough."""
        asked = self.question
        assert not isinstance(asked, str)
        curve = read_curve(self.ledger.store, self._key(asked))
        return curve if curve is not None and (curve.ended or curve.most >= asked.numbers[-1]) else None

    def _measured(self, asked: Question) -> Curve:
        job = self.job
        job.say("measuring how long a step of several networks takes, in a process that needs some seconds", "dim")
        left = job.setting.budget.seconds_left()
        if left == 0:
            raise OutOfTime
        request = request_of(asked.trial.spec, self._execution, job.options.data_root, asked.numbers)
        if job.cluster is None:
            found = read_lines(lines_of(request, left))
        else:
            found = read_lines(job.cluster.of_a_worker(job.setting.budget, lines_of, request, left))
        if not found.is_whole:
            return Curve(times=found.times, ended=found.ended)
        network = {name: getattr(asked.trial.spec, name) for name in OF_STEP}
        return write_curve(
            self.ledger.store, self._key(asked), found.times, found.ended, {**self._place, "network": network}
        )

    @functools.cached_property
    def _execution(self) -> dict[str, Any]:
        """Of trials that train alone: it is asked for before there is a number."""
        return self.job.setting.resources.with_replicas(1).execution()

    @functools.cached_property
    def _place(self) -> Mapping[str, Any]:
        job = self.job
        if job.cluster is None:
            return place_of(self._execution)
        return dict(job.cluster.of_a_worker(job.setting.budget, place_of, self._execution))

    @property
    def _device(self) -> str:
        return str(self._place["device"])

    def _key(self, asked: Question) -> str:
        """Of the curve: everything that the times may depend on."""
        spec = asked.trial.spec
        of_step = {name: getattr(spec, name) for name in OF_STEP}
        how = {"step": self._execution["step"], "trials_on_gpu": self._execution.get("trials_on_gpu", 1)}
        data = self.ledger.facts[spec.data_key].digest
        return digest({**self._place, **how, "network": of_step, "code": spec.code_digests(), "data": data})

    def _steps_of(self, trial: PlannedTrial) -> int:
        return self.ledger.facts[trial.spec.data_key].steps_of(trial.spec)
