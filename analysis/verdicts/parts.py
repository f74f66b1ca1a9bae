"""The single tests that claims are made of: which column, which pairs, which bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.labels import control_label
from analysis.tables.run_plan import Rule
from analysis.verdicts.baselines import DENSE_KINDS, Baseline, Candidate
from analysis.verdicts.groups import pair_up
from analysis.verdicts.questions import ITERATIONS, Part, resolution

AT_EARLY_STOP, ITERATION = "early_stop_test_accuracy", "early_stop_iteration"


@dataclass(frozen=True)
class Parts:
    """Tests of a candidate against a baseline under the rule of a run."""

    rule: Rule

    def matches(self, candidate: Candidate, baseline: Baseline) -> Part:
        """Non-inferior by the margin, on the endpoint."""
        return self._non_inferior(candidate, baseline, self.rule.endpoint)

    def matches_at_early_stop(self, candidate: Candidate) -> Part:
        """Non-inferior to the primary dense network by the margin, on test accuracy at early stop."""
        return self._non_inferior(candidate, candidate.dense, AT_EARLY_STOP)

    def falls_short(self, candidate: Candidate, baseline: Baseline) -> Part:
        """Below by more than the margin: the reverse of `matches`."""
        margin, name = self.rule.margin_pp, _called(baseline)
        return self._accuracy(
            candidate, baseline, self.rule.endpoint, bound=-margin, sign=-1,
            words=(f"more than {margin:g} pp below {name}", f"at most {margin:g} pp below {name}"),
        )  # fmt: skip

    def beats(self, candidate: Candidate, baseline: Baseline, by: float = 0.0) -> Part:
        """Above by more than `by` percentage points, on the endpoint."""
        return self._superior(candidate, baseline, self.rule.endpoint, by)

    def beats_at_early_stop(self, candidate: Candidate, baseline: Baseline) -> Part:
        """Above, on test accuracy at early stop."""
        return self._superior(candidate, baseline, AT_EARLY_STOP, 0.0)

    def beats_constant(self, candidate: Candidate, column: str, name: str) -> Part:
        """Above a constant of the trial's own data, on the endpoint."""
        itself = Baseline(name=name, kind=name, group=candidate.group.name, rows=candidate.group.members)
        return Part(
            baseline=itself, endpoint=self.rule.endpoint, shown=f"better than {name}", refuted=f"worse than {name}",
            pairs=pair_up(itself.rows, itself.rows, self.rule.endpoint, name, column),
            resolution=resolution(candidate, self.rule.endpoint), lacks=_lacks(candidate, itself, column),
        )  # fmt: skip

    def faster(self, candidate: Candidate) -> Part:
        """The least validation loss after fewer iterations since the last prune."""
        return self._iterations(candidate, 0.0, "earlier than {}", "later than {}")

    def not_later(self, candidate: Candidate) -> Part:
        """Later by less than one validation interval: what a single early stop cannot tell apart."""
        interval = validation_interval(candidate)
        words = f"{interval:,} iterations" if interval else "a validation interval"
        return self._iterations(
            candidate, interval or 0.0, f"less than {words} later than {{}}", f"more than {words} later than {{}}"
        )  # fmt: skip

    def _non_inferior(self, candidate: Candidate, baseline: Baseline, endpoint: str) -> Part:
        margin, name = self.rule.margin_pp, _called(baseline) + _where(endpoint)
        return self._accuracy(
            candidate, baseline, endpoint, bound=-margin, sign=1,
            words=(f"at most {margin:g} pp below {name}", f"more than {margin:g} pp below {name}"),
        )  # fmt: skip

    def _superior(self, candidate: Candidate, baseline: Baseline, endpoint: str, by: float) -> Part:
        name = _called(baseline) + _where(endpoint)
        shown = f"more than {by:g} pp above {name}" if by else f"better than {name}"
        refuted = f"less than {by:g} pp above {name}" if by else f"worse than {name}"
        return self._accuracy(candidate, baseline, endpoint, bound=by, sign=1, words=(shown, refuted))

    def _accuracy(
        self,
        candidate: Candidate,
        baseline: Baseline,
        endpoint: str,
        *,
        bound: float,
        sign: int,
        words: tuple[str, str],
    ) -> Part:
        """words: the claim and its reverse."""
        return Part(
            baseline=baseline, endpoint=endpoint, bound=bound, sign=sign, shown=words[0], refuted=words[1],
            pairs=pair_up(candidate.group.members, baseline.rows, endpoint, _called(baseline)),
            resolution=resolution(candidate, endpoint), lacks=_lacks(candidate, baseline, endpoint),
        )  # fmt: skip

    def _iterations(self, candidate: Candidate, bound: float, shown: str, refuted: str) -> Part:
        baseline = candidate.dense
        name = _called(baseline)
        interval = validation_interval(candidate)
        return Part(
            baseline=baseline, endpoint=ITERATION, unit=ITERATIONS, bound=bound, sign=-1,
            shown=shown.format(name), refuted=refuted.format(name),
            pairs=pair_up(candidate.group.members, baseline.rows, ITERATION, name),
            resolution=interval, lacks=_lacks(candidate, baseline, ITERATION),
        )  # fmt: skip


def validation_interval(candidate: Candidate) -> int | None:
    """Iterations between two validations of a ticket: `validate_every`, or those of an epoch; None while unknown."""
    spec = candidate.group.spec
    if spec.get("validate_every") is not None:
        return int(spec["validate_every"])
    sizes = {row["n_train"] for row in candidate.group.done} - {None}
    return math.ceil(max(sizes) / spec["batch_size"]) if sizes else None


def _called(baseline: Baseline) -> str:
    return baseline.said or control_label(baseline.name)


def _where(endpoint: str) -> str:
    return " at early stop" if endpoint == AT_EARLY_STOP else ""


def _lacks(candidate: Candidate, baseline: Baseline, endpoint: str) -> str | None:
    """Why there can be no pairs: no such trials, or no such figures of those that are done."""
    if not baseline.rows:
        if baseline.kind == "dense":
            return f"the run has no dense baseline of {baseline.name.removeprefix('dense-e')} epochs"
        noun = _called(baseline)
        return f"the run has no {noun}{'' if baseline.kind in DENSE_KINDS else ' trials'} of these tickets"
    done = [row for row in (*candidate.group.done, *baseline.rows) if row["status"] == "done"]
    if done and all(row.get(endpoint) is None for row in done):
        what = "early stop" if endpoint in (AT_EARLY_STOP, ITERATION) else endpoint.replace("_", " ")
        return f"the trials have no {what} on record"
    return None
