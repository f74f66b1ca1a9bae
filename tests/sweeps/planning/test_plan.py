"""The tree of a sweep's training: what is shared, what is stored, what is left to train."""

from __future__ import annotations

from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.planning.plan import Facts, Plan, PlannedTrial, make_plan
from sweeps.planning.work import as_json, needed_by, work_left
from tests.support.plans import (
    FACTS,
    GRIDS,
    dense,
    find,
    imp,
    keys_on_path,
    lr_rewinding,
    one_shot,
    planned,
    rung,
    states_of,
)

SHORT: dict[str, Any] = {"epochs": 20, "seeds": 1}


def nodes_of(plan: Plan) -> list[tuple[int, int, int]]:
    """For each node: the level of its last part, the epochs above it and its own epochs."""
    return sorted((node.level, node.above, node.epochs) for node in plan.nodes)


def left(specs: list[TrialSpec], stored: set[str], done: tuple[TrialSpec, ...] | list[TrialSpec] = ()) -> int:
    return work_left(planned(specs), {spec.name for spec in done}, stored).epochs


# -- what is shared ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "trials", "alone", "distinct", "longest"),
    [
        ("imp", 100, 184_480, 63_200, 160 + 20 * 160),
        ("imp, one-shot and lr rewinding", 225, 263_280, 94_800, 160 + 20 * 160),
        ("all 20 levels", 400, 719_200, 63_200, 160 + 20 * 160),
        ("one-shot", 100, 31_600, 16_400, 160 + 160),
    ],
)
def test_the_grids_of_the_literature(grid: str, trials: int, alone: int, distinct: int, longest: int) -> None:
    plan = planned(GRIDS[grid])
    work = work_left(plan, (), ())
    assert len(plan.trials) == len(work.of_trial) == trials
    assert plan.epochs_requested == sum(spec.epochs_alone() for spec in GRIDS[grid]) == alone
    assert plan.epochs_distinct == work.epochs == distinct
    assert work.critical_path == longest
    assert len(set().union(*(keys_on_path(trial) for trial in plan.trials))) == distinct, (
        "as many epochs have a key of their own"
    )


def test_a_trial_is_the_path_from_a_root_to_its_node() -> None:
    plan = planned([*dense(2), *imp((3, 6), (0, 5), 2)])
    assert len(plan.roots) == 2
    for trial in plan.trials:
        path = trial.end.path()
        assert path[0] in plan.roots and trial in path[-1].trials
        assert sum(node.epochs for node in path) == trial.spec.epochs_alone() == len(keys_on_path(trial))
        assert [node.above for node in path] == [sum(n.epochs for n in path[:i]) for i in range(len(path))]
        keys = keys_on_path(trial)
        assert [keys[node.above + node.epochs - 1] for node in path] == [node.key for node in path]
    assert [plan.nodes.index(node) > plan.nodes.index(node.parent) for node in plan.nodes if node.parent] == (
        [True] * (len(plan.nodes) - 2)
    ), "parents come before children"


def test_levels_that_nobody_needs_apart_are_one_node() -> None:
    assert nodes_of(planned(imp((3,), (0,), **SHORT))) == [(3, 0, 80)]
    assert nodes_of(planned([*dense(**SHORT), *imp((3,), (0,), **SHORT)])) == [(0, 0, 20), (3, 20, 60)]
    assert nodes_of(planned(imp((3,), (1,), **SHORT))) == [(0, 0, 1), (3, 1, 19 + 3 * 19)], "cut where it is rewound to"
    assert nodes_of(planned(imp((1, 3), (0,), **SHORT))) == [(1, 0, 40), (3, 40, 40)]
    assert nodes_of(planned(imp((3,), (0, 5), **SHORT))) == [
        (0, 0, 5), (0, 5, 15), (3, 20, 45), (3, 20, 60),
    ], "cut where they part"  # fmt: skip


def test_a_merged_node_knows_its_parts() -> None:
    (node,) = planned(imp((3,), (0,), **SHORT)).nodes
    assert [(segment.level, start, end) for segment, start, end in node.parts] == [
        (0, 0, 20), (1, 0, 20), (2, 0, 20), (3, 0, 20),
    ]  # fmt: skip
    assert [segment.key_at(e) for segment, start, end in node.parts for e in range(start + 1, end + 1)] == keys_on_path(
        node.trials[0]
    )


def test_a_rewind_waits_for_the_node_that_it_returns_to() -> None:
    plan = planned(imp((1, 2), (0, 5), **SHORT))
    waiting = [node for node in plan.nodes if node.waits_for is not None]
    point = next(node for node in plan.nodes if (node.above, node.epochs) == (0, 5))
    assert [(node.level, node.epochs, node.waits_for) for node in waiting] == [(1, 15, point)], "its first level alone"


def test_learning_rates_share_the_initial_state_alone() -> None:
    specs = [spec for lr in (1e-3, 1e-2) for spec in imp((3,), (0, 5), 1, lr=lr)]
    plan = planned(specs)
    assert plan.epochs_distinct == 2 * planned(specs[:2]).epochs_distinct
    assert len(plan.roots) == 2
    one, other = ({s.key for t in plan.trials if t.spec.lr == lr for s in t.chain} for lr in (1e-3, 1e-2))
    assert one & other == {plan.trials[0].chain[0].key} and plan.trials[0].chain[0].kind == "init"


def test_schedules_within_a_fit_share_what_is_before_the_first_prune() -> None:
    within = [TrialSpec(schedule="iterative", start_pct=0.25, target_sparsity_pct=s, rewind_epoch=0) for s in (50, 80)]
    baselines = [TrialSpec(control="dense", epochs=epochs) for epochs in (5, 20)]
    plan = planned([*baselines, *within])
    assert nodes_of(plan) == [(0, 0, 5), (0, 5, 15), (3, 5, 15), (3, 5, 15)]
    assert (plan.epochs_requested, plan.epochs_distinct) == (5 + 20 + 20 + 20, 5 + 3 * 15)
    assert nodes_of(planned(within[:1])) == [(3, 0, 20)]


def test_a_supermask_ends_with_its_ticket_and_is_no_state_of_training() -> None:
    plan = planned([*imp((2,), (1,), **SHORT), *imp((2,), (1,), **SHORT, reset_end=True)])
    ticket, supermask = plan.trials
    assert supermask.end is ticket.end and plan.epochs_distinct == plan.epochs_requested // 2
    assert (ticket.is_end_of_node, supermask.is_end_of_node) == (True, False)


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_needed_states_are_kept_and_measured_where_a_trial_ends() -> None:
    plan = planned([*dense(**SHORT), *imp((2, 4), (1,), **SHORT)])
    trial = find(plan, target_sparsity_pct=rung(4))
    keys = keys_on_path(trial)
    assert plan.keep(trial) == {
        keys[0]: False, keys[19]: True, keys[20 + 2 * 19 - 1]: True, keys[20 + 4 * 19 - 1]: True,
    }  # fmt: skip


def test_with_levels_every_level_is_kept() -> None:
    specs = [*dense(**SHORT), *imp((2, 4), (1,), **SHORT)]
    plan = planned(specs, "levels")
    trial = find(plan, target_sparsity_pct=rung(4))
    keys = keys_on_path(trial)
    assert plan.keep(trial) == {
        keys[0]: False, keys[19]: True,
        **{keys[20 + level * 19 - 1]: level in (2, 4) for level in (1, 2, 3, 4)},
    }  # fmt: skip
    assert plan.epochs_distinct == planned(specs).epochs_distinct
    assert len(plan.nodes) == len(planned(specs).nodes) + 2, "levels 1 and 3"


def test_with_none_nothing_is_kept_and_every_trial_is_a_tree_of_its_own() -> None:
    plan = planned([*dense(**SHORT), *imp((2, 4), (1, "30it"), **SHORT)], "none")
    assert len(plan.roots) == len(plan.trials) == 5
    assert plan.epochs_distinct == plan.epochs_requested == work_left(plan, (), ()).epochs
    assert all(plan.keep(trial) == plan.rewind_steps(trial) == {} for trial in plan.trials)


def test_a_state_in_which_only_a_supermask_ends_is_not_measured() -> None:
    plan = planned(imp((2, 4), (1,), **SHORT, reset_end=True))
    assert set(plan.keep(plan.trials[1]).values()) == {False}


# -- marks: rewind points within an epoch ------------------------------------------------------------------------------


def test_whoever_passes_by_makes_the_mark() -> None:
    plan = planned([*dense(2, epochs=20), *imp((2,), ("30it", 0), 2, epochs=20)])
    ticket = find(plan, rewind_step=30, seed=0)
    point = ticket.mid_epoch_point
    assert point is not None and (point.epochs_done, point.epochs_started) == (1, 2)
    for trial in plan.trials:
        steps = plan.rewind_steps(trial)
        assert list(steps) == [30]
        assert (steps[30] == point.key) == (trial.spec.seed == 0)
    assert find(plan, rewind_epoch=0, seed=0).mid_epoch_point is None


def test_iterations_are_of_the_trials_own_batches() -> None:
    specs = [
        spec for batch in (60, 30, 29)
        for spec in (*dense(1, epochs=20, batch_size=batch), *imp((1,), (1, "35it"), **SHORT, batch_size=batch))
    ]  # fmt: skip
    plan = planned(specs)
    points = {t.spec.batch_size: t.mid_epoch_point for t in plan.trials if t.mid_epoch_point is not None}
    assert {batch: (point.epochs_done, point.epochs_started) for batch, point in points.items()} == {
        60: (1, 2), 30: (0, 1), 29: (0, 1),
    }  # fmt: skip
    assert {batch: (point.node.above, point.node.epochs) for batch, point in points.items()} == {
        60: (1, 19), 30: (0, 1), 29: (0, 1),
    }, "another ticket cuts the dense network at epoch 1"  # fmt: skip
    assert {key: dict(found) for key, found in plan.mid_epoch_points.items()} == {
        point.node.key: {35: point.key} for point in points.values()
    }
    assert len(plan.roots) == 3
    assert [FACTS["digits", 0].steps_of(spec) for spec in specs[::3]] == [20, 40, 42]
    of_level = {t.spec.batch_size: len(keys_on_path(t)) - 20 for t in plan.trials if t.mid_epoch_point is not None}
    assert of_level == {60: 19, 30: 20, 29: 20}, "the epoch in which the iteration lies counts as one"


def remade(stored: set[str], k: str = "30it", *more: TrialSpec) -> int:
    """Epochs left for a ticket of two levels, without these levels."""
    specs = [*dense(**SHORT), *imp((2,), (k,), **SHORT), *more]
    plan = planned(specs)
    levels = len(keys_on_path(plan.trials[1])) - 20
    return work_left(plan, {plan.trials[0].name}, stored).epochs - levels


def trunk(*epochs: int) -> set[str]:
    """Keys of the dense network's states after these epochs."""
    keys = keys_on_path(planned(dense(**SHORT)).trials[0])
    return {keys[epoch - 1] for epoch in epochs}


def point_key(k: str = "30it") -> str:
    point = planned(imp((2,), (k,), **SHORT)).trials[0].mid_epoch_point
    assert point is not None
    return point.key


def test_a_point_that_is_not_stored_is_made_again_from_the_deepest_state_before_it() -> None:
    assert remade(set()) == 20, "on the way"
    assert remade(trunk(20) | {point_key()}) == 0
    assert remade(trunk(20)) == 2, "the epoch in which it lies counts as one"
    assert remade(trunk(1, 20)) == 1
    assert remade(trunk(2, 20)) == 2, "a state behind it does not help"
    assert remade(trunk(1)) == 19, "on the way"
    assert remade(trunk(13)) == 7 + 2, "a killed trial left a state after the point, but not the point itself"
    assert remade(trunk(1, 13)) == 7 + 1
    assert remade(trunk(13) | {point_key()}) == 7


def test_a_mark_at_the_end_of_an_epoch_is_the_state_there() -> None:
    assert remade(trunk(20), "40it") == 2
    assert remade(trunk(1, 20), "40it") == 1
    assert remade(trunk(2, 20), "40it") == 0


def test_a_mark_is_made_again_once_for_all_trials_and_alone_for_each() -> None:
    specs = [*dense(2, epochs=20), *imp((1, 2), ("30it", "35it"), 2, epochs=20)]
    plan = planned(specs)
    ends = {t.end.key for t in plan.trials if t.spec.is_dense}
    work = work_left(plan, (), ends)
    assert work.epochs == 2 * (2 * (19 + 19) + 2 * 2), "two seeds of two points, each for a ladder with two tickets"
    assert {n: e for n, e in work.of_trial.items() if "seed0" in n} == {
        find(plan, seed=0, control="dense").name: 0,
        **{find(plan, seed=0, target_sparsity_pct=rung(level), rewind_step=step).name: 2 + 19 * level
           for level in (1, 2) for step in (30, 35)},
    }  # fmt: skip
    assert work.critical_path == 2 + 2 * 19
    first = {t.name for t in plan.trials if t.spec.rewind_step in (None, 30)}
    assert work_left(plan, first, ends).epochs == 2 * (2 * 19 + 2)
    everything = {trial.name for trial in plan.trials}
    assert work_left(plan, everything, ends).epochs == 0, "nobody needs it"


def test_a_mark_is_made_on_the_way_where_another_trial_trains_the_dense_network_yet() -> None:
    plan = planned([*dense(**SHORT), *imp((1, 2), ("30it",), **SHORT)])
    first, second = (find(plan, target_sparsity_pct=rung(level)) for level in (1, 2))
    stored = {first.end.key}
    assert work_left(plan, (), stored).epochs == 20 + 19, "the dense baseline passes by"
    done = {trial.name for trial in plan.trials if trial.spec.is_dense}
    assert work_left(plan, done, stored).of_trial == {first.name: 2, second.name: 2 + 19}


# -- what is left ------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_not_trained() -> None:
    specs = [*dense(**SHORT), *imp((1, 2, 3), (0,), **SHORT)]
    keys = keys_on_path(find(planned(specs), target_sparsity_pct=rung(3)))
    prefixes = [set(keys[:epochs]) for epochs in (0, 20, 40, 60, 80)]
    assert [left(specs, stored) for stored in prefixes] == [80, 60, 40, 20, 0]
    assert left(specs, {keys[59]}, specs[:1]) == 40 + 20, "a trial that ends before a stored state cannot use it"
    assert left(specs, set(), specs) == 0, "everything is recorded"
    assert left(specs, set(), specs[1:]) == 20
    assert left(specs, set(), specs[:3]) == 80, "its states are gone"


def test_a_rewind_epoch_added_later_costs_the_way_to_it_and_its_levels() -> None:
    first = [*dense(**SHORT), *imp((3,), (0,), **SHORT)]
    stored = states_of(planned(first))
    more = [*first, *imp((3,), (5,), **SHORT)]
    assert left(more, stored, first) == 5 + 3 * 15
    assert left(more, stored | trunk(5), first) == 3 * 15
    assert left(more, stored | trunk(3), first) == 2 + 3 * 15, "from a state on the way"
    work = work_left(planned(more), {spec.name for spec in first}, stored)
    assert (work.critical_path, len(work.nodes)) == (5 + 3 * 15, 2)


def test_new_seeds_cost_their_own_training() -> None:
    stored = states_of(planned(imp(seeds=2)))
    assert left(imp(seeds=3), stored, imp(seeds=2)) == planned(imp(seeds=1)).epochs_distinct == 63_200 // 5


def test_deeper_targets_cost_the_levels_below() -> None:
    first, more = imp((3, 6), (1,), **SHORT), imp((3, 4, 6, 8), (1,), **SHORT)
    stored = states_of(planned(first))
    assert left(more, stored, first) == 19 + 2 * 19, "one that lies between was not kept, and is trained from its level"
    levels = states_of(make_plan(first, FACTS, "levels"))
    assert left(more, levels, first) == 2 * 19, "there it was"


def test_other_ways_to_retrain_cost_their_levels() -> None:
    first = imp((3,), (0,), **SHORT)
    stored = states_of(planned([*dense(**SHORT), *first]))
    more = [*first, *lr_rewinding((2,), **SHORT), *one_shot((3,), (0,), **SHORT)]
    assert left(more, stored, first) == 2 * 20 + 20


def test_a_state_within_a_node_counts() -> None:
    specs = imp((3,), (0,), **SHORT)
    keys = keys_on_path(planned(specs).trials[0])
    assert [left(specs, {keys[epochs - 1]}) for epochs in (1, 13, 20, 33, 79)] == [79, 67, 60, 47, 1]
    assert left(specs, {keys[12], keys[32], keys[50]}) == 29, "the deepest"
    both = [*dense(**SHORT), *specs]
    assert left(both, {keys[12], keys[40]}) == 7 + 39, "each node from its own"


def test_the_training_of_one_trial_and_of_all() -> None:
    plan = planned([*dense(**SHORT), *imp((1, 2), (0, 5), **SHORT)])
    work = work_left(plan, (), ())
    assert work.epochs == 20 + 2 * 20 + 2 * 15
    assert [work.of_trial[trial.name] for trial in plan.trials] == [20, 40, 60, 35, 50]
    assert set(work.nodes) == set(plan.nodes)
    deep: PlannedTrial = plan.trials[-1]
    assert [node.epochs for node in needed_by(deep, {deep.end.path()[1].key})] == [5, 15, 15], "its rewind point first"
    assert as_json(plan, work) == {
        "trials": 5, "segments": 6, "epochs_requested": 205, "epochs_distinct": 90, "epochs_to_train": 90,
        "segments_to_train": 6, "critical_path_epochs": 60,
    }  # fmt: skip


def test_data_of_another_digest_share_nothing() -> None:
    (spec,) = imp((1,), (0,), **SHORT)
    one, other = (make_plan([spec], {("digits", 0): Facts(digest=d, n_train=1200)}) for d in "ab")
    assert (
        not set(keys_on_path(one.trials[0])) & set(keys_on_path(other.trials[0]))
        and one.trials[0].key != other.trials[0].key
    )
