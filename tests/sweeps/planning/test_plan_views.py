"""What the user sees of a plan: its tree and numbers as text, and its figure."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread
from rich.console import Console, RenderableType

from analysis.text import human_bytes
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.experiments.expand import expand
from sweeps.experiments.recipes import RECIPES
from sweeps.planning.outline import trees
from sweeps.planning.plan import Facts, Plan, make_plan
from sweeps.planning.plan_figure import draw_plan, place
from sweeps.planning.plan_text import plan_summary, plan_tree
from sweeps.planning.work import work_left
from tests.support.svg import texts

FACTS = {("digits", 0): Facts(digest="d", n_train=1200)}


def digits(seeds: int = 8) -> tuple[TrialSpec, ...]:
    return expand(replace(RECIPES["digits"](), seeds=tuple(range(seeds)), controls=())).trials


def planned(specs: Sequence[TrialSpec], policy: str = "needed") -> Plan:
    return make_plan(specs, FACTS, policy)


def shown(renderable: RenderableType, width: int = 120) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def tree_of(plan: Plan, done: Collection[str] = (), stored: Collection[str] = (), width: int = 120) -> list[str]:
    return shown(plan_tree(plan, work_left(plan, done, stored), done, stored), width)


def drawn(plan: Plan, path: Path, done: Collection[str] = (), stored: Collection[str] = ()) -> list[str]:
    """The texts in the figure."""
    draw_plan(plan, work_left(plan, done, stored), done, stored, str(path))
    return texts(path.read_bytes())


def finished(plan: Plan, names: Collection[str]) -> set[str]:
    """Keys of the states on the path of these trials."""
    return {node.key for trial in plan.trials if trial.name in names for node in trial.end.path()}


# -- the tree as text --------------------------------------------------------------------------------------------------


def test_seeds_alike_are_shown_once() -> None:
    lines = tree_of(planned(digits(8)))
    assert [re.split(r"(?<=\S) {2,}", line)[0] for line in lines[:10]] == [
        "digits · LeNet-300-100 · seeds 0 to 7, each: 7 trials, 215 epochs",
        "training",
        "● dense to epoch 1",
        "● dense to epoch 20",
        "├─● prune → 40 → 64 %, rewind to 0, retrain to 20",
        "│ ● prune → 78.4 → 87.04 %",
        "│ ● prune → 92.22 %",
        "└─● prune → 40 → 64 %, rewind to 1, retrain to 20",
        "  ● prune → 78.4 → 87.04 %",
        "  ● prune → 92.22 %",
    ]
    assert [re.split(r" {2,}", line)[-2:] for line in lines[3:6]] == [
        ["19", "dense"], ["40", "64 % · rewind 0"], ["40", "87.04 % · rewind 0"],
    ]  # fmt: skip


def test_one_seed_has_the_names_of_its_trials_where_they_fit() -> None:
    plan = planned(digits(1))
    wide, narrow = "\n".join(tree_of(plan, width=140)), "\n".join(tree_of(plan, width=80))
    assert all(trial.name in wide for trial in plan.trials)
    assert plan.trials[0].name not in narrow
    assert "64 % · rewind 0" in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_partly_done_seeds_are_counted() -> None:
    plan = planned(digits(8))
    done = {t.name for t in plan.trials if t.spec.seed < 3 and t.spec.rewind_epoch in (None, 0)}
    lines = tree_of(plan, done, finished(plan, done))
    assert lines[0].startswith("digits · LeNet-300-100 · seeds 0 to 7, each:")
    dense, rewound_0, rewound_1 = (next(s for s in lines if t in s) for t in ("epoch 20", "rewind to 0", "rewind to 1"))
    for line in (dense, rewound_0):
        assert "◐" in line
        assert line.endswith("done in 3 of 8 seeds")
    assert "●" in rewound_1
    assert "seeds" not in rewound_1
    assert any("dense to epoch 1 " in line and line.endswith("stored in 3 of 8 seeds") for line in lines)


def test_done_stored_and_to_train_are_marked() -> None:
    plan = planned(digits(2))
    everything = {trial.name for trial in plan.trials}
    assert {line.split()[0] for line in tree_of(plan, everything)[2:4]} == {"✓"}
    stored = {trial.end.key for trial in plan.trials if trial.spec.is_dense}
    lines = tree_of(plan, (), stored)
    assert lines[3].startswith("○ dense to epoch 20")
    assert lines[4].startswith("├─● prune")
    assert lines[2].startswith("● dense to epoch 1")  # rewound to


def test_seeds_whose_trials_differ_are_shown_apart() -> None:
    lines = tree_of(planned([s for s in digits(5) if s.seed != 3 or s.rewind_epoch != 1]))
    assert [line for line in lines if " · seed" in line] == [
        "digits · LeNet-300-100 · seeds 0 to 2, 4, each: 7 trials, 215 epochs",
        "digits · LeNet-300-100 · seed 3: 4 trials, 120 epochs",
    ]


@pytest.mark.parametrize(
    ("change", "label"),
    [({"lr": 0.01}, "learning rate 0.01"), ({"optimizer": "sgd"}, "SGD"), ({"order_seed": 7}, "data order 7"),
     ({"batch_size": 30}, "batch 30"), ({"lr_policy": "cosine"}, "cosine learning rate")],
)  # fmt: skip
def test_cohorts_are_labelled_by_what_differs(change: dict[str, object], label: str) -> None:
    specs = digits(2)
    lines = tree_of(planned([*specs, *(replace(spec, **change) for spec in specs)]))  # type: ignore[arg-type]
    titles = [line for line in lines if "each:" in line]
    assert len(titles) == 2
    assert titles[1] == f"digits · LeNet-300-100 · {label} · seeds 0, 1, each: 7 trials, 215 epochs"
    assert label not in titles[0]


def test_branches_and_trials_are_labelled_by_what_tells_them_apart() -> None:
    tickets = [
        TrialSpec(target_sparsity_pct=64.0, schedule=schedule, retrain=retrain)
        for schedule in ("imp", "omp") for retrain in ("weight_rewinding", "lr_rewinding")
    ]  # fmt: skip
    special = [replace(tickets[0], reset_end=True), replace(tickets[0], criterion="random")]
    text = "\n".join(tree_of(planned([TrialSpec(control="dense"), *tickets, *special]), width=160))
    assert "IMP: prune → 40 → 64 %, LR rewinding, retrain to 20" in text
    assert "OMP: prune → 64 %, rewind to 0" in text
    assert "IMP · random: prune → 40 → 64 %" in text
    assert "64 % · OMP · LR rewinding" in text
    assert "64 % · IMP · rewind 0, 64 % · IMP · rewind 0 · supermask" in text


def test_within_a_fit_dense_training_goes_on_below_its_branches() -> None:
    lines = tree_of(planned(expand(RECIPES["digits_tutorial"]()).trials))
    assert "├─● prune → 16.67 → 33.33 → 50 %, rewind to 0, from epoch 5 on" in lines[4]
    trunk = [line for line in lines if line.startswith("● dense")]
    assert [re.split(r" {2,}", line)[-1] for line in trunk[1:]] == ["dense, 5 epochs", "dense, 20 epochs"]
    assert not any("└" in line for line in lines)


def ladder(**fields: object) -> list[TrialSpec]:
    """Twenty-one levels of 20 %, every one of them a trial's, from four rewind epochs."""
    return [
        TrialSpec(target_sparsity_pct=round(100 - 100 * 0.8**level, 4), prune_rate_pct=20.0, rewind_epoch=k, **fields)  # type: ignore[arg-type]
        for level in range(1, 22) for k in range(4)
    ]  # fmt: skip


def test_long_ladders_fold() -> None:
    lines = tree_of(planned(ladder()))
    assert len(lines) < 45
    (first, *_) = (line for line in lines if "more" in line)
    assert re.search(r"… 16 more, to 98\.85 % +320 +16 trials", first)
    assert sum("→ 99.08 %" in line for line in lines) == 4  # the last level is always there


@pytest.mark.parametrize("policy", ["needed", pytest.param("none", marks=pytest.mark.slow)])
def test_ten_thousand_trials_stay_readable(policy: str) -> None:
    specs = [spec for seed in range(40) for lr in (1e-3, 2e-3, 3e-3) for spec in ladder(seed=seed, lr=lr)]
    assert len(specs) > 10_000
    plan = planned(specs, policy)
    assert len(tree_of(plan)) < 135
    assert sum(len(tree.trials) * len(tree.seeds) for tree in trees(plan, most=10**6)[0]) == len(specs)


def test_a_wide_fan_folds_and_says_how_much() -> None:
    lines = tree_of(planned([TrialSpec(schedule="omp", target_sparsity_pct=float(s)) for s in range(10, 95)]))
    assert len(lines) < 45
    counted = sum("prune" in line for line in lines)
    assert f"… {85 - counted} more branches" in "\n".join(lines)


def test_without_sharing_a_tree_is_a_trial() -> None:
    lines = tree_of(planned(digits(2), policy="none"))
    assert "digits · LeNet-300-100 · 64 % · rewind to 1 · seeds 0, 1, each: 1 trial, 58 epochs" in lines
    assert any("prune → 40 → 64 %, rewind to 1, retrain to 20" in line for line in lines)
    assert "digits · LeNet-300-100 · dense · seeds 0, 1, each: 1 trial, 20 epochs" in lines


def test_a_network_pruned_before_training_is_a_tree_of_its_own() -> None:
    specs = [TrialSpec(schedule="one_shot", start_pct=0.0, retrain="none", target_sparsity_pct=s) for s in (50.0, 80.0)]
    lines = tree_of(planned([*specs, TrialSpec(control="dense")]), width=80)
    assert [line.split()[:4] for line in lines if line.startswith("●")][:3] == [
        ["●", "prune", "→", "50"], ["●", "prune", "→", "80"], ["●", "dense", "to", "epoch"],
    ]  # fmt: skip


def test_an_empty_plan_has_a_view() -> None:
    assert "to train" in tree_of(planned([]))[-1]


FOUR = ("random_mask", "layerwise_shuffle", "reinit", "random_sparse")


def branched(**changes: object) -> Plan:
    return planned(expand(replace(RECIPES["digits"](), seeds=(0, 1), **changes)).trials)  # type: ignore[arg-type]


def test_controls_part_from_their_tickets_ladder_which_goes_on() -> None:
    axes = {"target_sparsity_pct": (64.0, 87.04), "rewind_epoch": (0,)}
    lines = tree_of(branched(axes=axes, controls=FOUR))
    assert [re.split(r" {2,}", line.strip()) for line in lines[2:9]] == [
        ["● dense to epoch 20", "20", "dense"],
        ["└─● prune → 40 %, rewind to 0, retrain to 20", "20"],
        ["├─● random mask, shuffled mask, reinitialisation, random sparse network", "80", "controls of 64 %"],
        ["● prune → 64 %", "20", "64 %"],
        ["● prune → 78.4 %", "20"],
        ["├─● random mask, shuffled mask, reinitialisation, random sparse network", "80", "controls of 87.04 %"],
        ["● prune → 87.04 %", "20", "87.04 %"],
    ]


def test_a_control_alone_is_a_branch_that_says_what_it_is() -> None:
    axes = {"target_sparsity_pct": (64.0,), "rewind_epoch": (0, 1)}
    text = "\n".join(tree_of(branched(axes=axes, controls=("reinit",))))
    assert "reinitialisation: prune → 64 %, retrain to 20" in text, "a new initialisation is rewound to nothing"
    assert "64 % · reinitialisation · rewind 1" in text


def test_restarts_and_narrow_networks_are_told_as_what_they_are() -> None:
    axes = {"target_sparsity_pct": (64.0,), "retrain": ("lr_rewinding",)}
    text = "\n".join(tree_of(branched(axes=axes, baselines=("dense_restarts", "small_dense")), width=150))
    assert "dense with restarts: restart 2 times, nothing pruned, LR rewinding, retrain to 20" in text
    assert "digits · LeNet-300-100 · dense · 50.84 % wide · seeds 0, 1, each: 1 trial, 20 epochs" in text


def test_many_trials_that_end_in_one_node_are_counted() -> None:
    axes = {"target_sparsity_pct": (64.0,), "rewind_epoch": (0,), "reset_end": (False, True)}
    text = "\n".join(tree_of(branched(axes=axes, controls=("layerwise_shuffle", "sign_shuffle"))))
    assert re.search(r"prune → 64 % +20  64 %.*, 3 more\n", text)


# -- the figures -------------------------------------------------------------------------------------------------------


def test_summary_has_the_plans_figures() -> None:
    plan = planned(digits(8))
    done = {trial.name for trial in plan.trials if trial.spec.is_dense}
    work = work_left(plan, done, finished(plan, done))
    text = shown(plan_summary(plan, work, done, seconds=3905, slots=4, bytes_=38_400_000))
    rows = {name: rest for name, *rest in (re.split(r" {2,}", line) for line in text)}
    assert rows["trials"] == ["56", "8 done"]
    assert rows["segments"] == [str(len(plan.nodes)), f"{len(work.nodes)} to train"]
    assert rows["epochs requested"][0] == f"{plan.epochs_requested:,}" == "4,552"
    assert rows["epochs to train"] == [f"{work.epochs:,}", f"of {plan.epochs_distinct:,}, each once"]
    assert rows["saved"] == ["2,832", "2.65 times less, by sharing"]
    assert rows["critical path"][0] == str(work.critical_path)
    assert rows["disk"] == ["38.4 MB"]
    assert rows["time"] == ["1:05:05", "4 at a time"]
    unknown = shown(plan_summary(plan, work, done, seconds=None, slots=4, bytes_=None))
    assert sum("unknown" in line for line in unknown) == 2


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (999_600, "999.6 kB"), (123_456_789_012, "123.5 GB")],
)
def test_bytes_are_in_human_units(count: int, text: str) -> None:
    assert human_bytes(count) == text


# -- the picture -------------------------------------------------------------------------------------------------------


def test_svg_is_xml_with_the_labels(tmp_path: Path) -> None:
    texts = drawn(planned(digits(8)), tmp_path / "plan.svg")
    assert "56 trials, 4,552 epochs requested, 1,720 trained once: 2.65 times" in texts
    for label in ("dense", "rewind to 0", "rewind to 1", "to train", "epochs from initialisation"):
        assert texts.count(label) == 1
    assert [texts.count(sparsity) for sparsity in ("64 %", "87.04 %", "92.22 %")] == [2, 2, 2]
    assert "stored or done" not in texts
    again = tmp_path / "again.svg"
    drawn(planned(digits(8)), again)
    assert again.read_bytes() == (tmp_path / "plan.svg").read_bytes()


def test_what_is_stored_is_drawn_in_grey(tmp_path: Path) -> None:
    plan = planned(digits(2))
    done = {trial.name for trial in plan.trials if trial.spec.rewind_epoch != 1}
    assert {"to train", "stored or done"} <= set(drawn(plan, tmp_path / "some.svg", done, finished(plan, done)))
    assert "to train" not in drawn(plan, tmp_path / "all.svg", {trial.name for trial in plan.trials})


def test_distinct_trees_are_panels_and_very_many_are_counted(tmp_path: Path) -> None:
    specs = [replace(spec, lr=1e-3 * rate) for rate in range(1, 10) for spec in digits(1)]
    texts = drawn(planned(specs), tmp_path / "plan.svg")
    assert sum("learning rate" in text for text in texts) == 6
    assert "… 3 more distinct trees" in texts
    fan = [TrialSpec(schedule="omp", target_sparsity_pct=float(s)) for s in range(10, 95)]
    assert "… 56 more branches" in drawn(planned(fan), tmp_path / "fan.svg")


def test_lines_to_branches_do_not_cross() -> None:
    specs = [
        TrialSpec(epochs=epochs, target_sparsity_pct=target, schedule=schedule)
        for epochs in (10, 20, 40) for target in (64.0, 87.04) for schedule in ("imp", "one_shot")
    ]  # fmt: skip
    (tree,), _ = trees(planned(specs))
    layout = place(tree.strand)
    assert [placed.row for placed in layout] == list(range(len(layout)))
    assert max(len(placed.strand.path) for placed in layout) > 1
    for placed in layout:
        if placed.parent_row is None:
            continue
        start = placed.strand.path[0][0].above
        for between in layout[placed.parent_row + 1 : placed.row]:  # all that the line down passes by
            assert between.strand.path[0][0].above >= start


def test_each_control_is_drawn(tmp_path: Path) -> None:
    axes = {"target_sparsity_pct": (64.0,), "rewind_epoch": (0,)}
    found = drawn(branched(axes=axes, controls=FOUR, baselines=("small_dense",)), tmp_path / "plan.svg")
    labels = ["random mask · rewind to 0", "shuffled mask · rewind to 0", "reinitialisation", "random sparse network"]
    assert [text for text in found if text in labels] == labels and found.count("64 %") == 5
    assert any(text.startswith("digits · LeNet-300-100 · dense · 50.84 % wide") for text in found)


@pytest.mark.parametrize("suffix", ["pdf", "PNG"])
def test_other_kinds_of_picture(tmp_path: Path, suffix: str) -> None:
    plan, path = planned(digits(1)), tmp_path / f"plan.{suffix}"
    draw_plan(plan, work_left(plan, (), ()), (), (), str(path))
    if suffix == "pdf":
        assert path.read_bytes().startswith(b"%PDF")
    else:
        assert imread(io.BytesIO(path.read_bytes())).shape[1] > 1000


@pytest.mark.parametrize("name", ["plan.jpg", "plan", "missing/plan.svg", "."])
def test_a_path_that_will_not_do_is_refused(tmp_path: Path, name: str) -> None:
    plan = planned(digits(1))
    with pytest.raises(UserError, match="plan_figure: "):
        draw_plan(plan, work_left(plan, (), ()), (), (), str(tmp_path / name))
    assert not list(tmp_path.iterdir())
