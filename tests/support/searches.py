"""Searches that are run without Ray: what is common to those that train trial by trial and those with cohorts."""

from __future__ import annotations

import functools
from typing import Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.store.trials import finished_trials
from sweeps.planning.plan import Facts
from sweeps.search.study import Study

RUN = "search"


@functools.cache
def facts_of(spec: TrialSpec) -> Facts:
    data = load_dataset(spec.dataset, None, spec.split_seed)
    return Facts(digest=data.digest, n_train=len(data.train))


class Searched:
    """What a search was told, and the records of its trials by name."""

    store: Store
    study: Study

    @property
    def told(self) -> list[tuple[int, str, Any, Any]]:
        return [(t.number, t.state.name, t.params, t.values) for t in self.study.trials()]

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        return {record["trial"]: record for _, record in finished_trials(self.store, RUN)}
