"""`python -m analysis compare`: who is paired with whom, the numbers against scipy, what is left out and refused."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats as reference

from analysis import gather
from analysis.__main__ import main
from analysis.report.compare import SHOWN_UNMATCHED, diverged_text, show_comparison
from analysis.stats.paired import hedges_g, holm, two_sided, two_sided_flip_p
from analysis.verdicts.compare import ALPHA, HIGHER, LOWER, OPEN, SAME, UNTESTED, Compared, compare, free_fields
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import around, dense, ladder, make_run, trial_rows

ENDPOINT = "test_accuracy"
TARGETS = (64, 87.04)


def trials(mean: float = 0.96, seeds: int = 6, **fields: Any) -> list[dict[str, Any]]:
    """Dense networks and two rungs; the fields are those of the tickets."""
    rows = trial_rows([*dense(seeds), *ladder(*TARGETS, seeds=seeds, **fields)], around(mean))
    return [row | {"sha256_metrics": sha256(f"{row['trial']} {mean}".encode()).hexdigest()} for row in rows]


def one(found: Compared, target: float | None = 64) -> Any:
    (comparison,) = [row for row in found.comparisons if row.target_sparsity_pct == target]
    return comparison


def changed(rows: Sequence[dict[str, Any]], seed: int, **changes: Any) -> list[dict[str, Any]]:
    """The rows, the tickets of one seed at 64 % with these changes."""
    return [row | changes if (row["seed"], row["target_sparsity_pct"]) == (seed, 64) else row for row in rows]


@pytest.mark.parametrize("n", [2, 5, 12])
def test_two_sided_p_values_are_those_of_scipy(n: int) -> None:
    for sign in (-1, 1):
        d = sign * np.random.default_rng(n).normal(0.3, 0.5, n)
        assert two_sided(d).p == pytest.approx(reference.ttest_1samp(d, 0).pvalue, abs=1e-10)
        flips = reference.permutation_test(
            (d,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        assert two_sided_flip_p(d) == pytest.approx(flips.pvalue, abs=1e-10)
    assert two_sided(np.zeros(n)).p == two_sided_flip_p(np.zeros(n)) == 1


def test_the_numbers_are_those_of_the_differences() -> None:
    a, b = trials(), trials(0.95, criterion="movement")
    found = compare(a, b, ENDPOINT)
    assert [(row.kind, row.target_sparsity_pct) for row in found.comparisons] == [
        ("tickets", 64.0), ("tickets", 87.04), ("dense", None),
    ]  # fmt: skip
    p = []
    for target in TARGETS:
        x, y = ([100 * r[ENDPOINT] for r in rows if r["target_sparsity_pct"] == target] for rows in (a, b))
        row, d = one(found, target), np.subtract(y, x)
        interval = reference.ttest_rel(y, x).confidence_interval(0.95)
        assert (row.effect, row.ci_low, row.ci_high) == pytest.approx((d.mean(), *interval), abs=1e-10)
        assert row.p == pytest.approx(reference.ttest_rel(y, x).pvalue, abs=1e-10)
        assert (row.mean_a, row.mean_b, row.sd) == pytest.approx((np.mean(x), np.mean(y), d.std(ddof=1)))
        assert (row.hedges_g, row.p_sign_flip) == pytest.approx((hedges_g(d), two_sided_flip_p(d)))
        assert row.test == "paired t"
        p.append(row.p)
    assert [one(found, target).p_holm for target in TARGETS] == holm(p)
    assert [one(found, target).result for target in TARGETS] == [LOWER, LOWER]
    assert one(compare(b, a, ENDPOINT)).result == HIGHER
    assert one(compare(b, a, ENDPOINT)).effect == pytest.approx(-one(found).effect)


def test_holm_goes_over_the_tickets_and_stands_between_p_and_the_result() -> None:
    d = np.array([0.1, 0.2, 0.6, 0.5, -0.05, 0.4]) / 100
    a = trials()
    b = [row | {ENDPOINT: row[ENDPOINT] + (d[row["seed"]] if row["control"] == "none" else 0)} for row in a]
    b = [row | {"criterion": "movement", "sha256_metrics": "4" * 64} if row["control"] == "none" else row for row in b]
    p = float(reference.ttest_1samp(d, 0).pvalue)
    assert ALPHA / 2 < p < ALPHA
    rows = compare(a, b, ENDPOINT).comparisons
    assert [row.p_holm for row in rows] == pytest.approx([2 * p, 2 * p, 1.0])
    assert [row.result for row in rows] == [OPEN, OPEN, SAME]
    alone = [row for row in b if row["target_sparsity_pct"] != 87.04]
    assert one(compare(a, alone, ENDPOINT)).result == HIGHER


def test_fields_without_a_common_value_are_free_and_the_others_are_matched() -> None:
    a = [*trials(rewind_epoch=0), *trials(rewind_epoch=1)[6:]]
    b = trials(rewind_epoch=1, criterion="movement", lr=0.01)
    found = compare(a, b, ENDPOINT)
    assert [(free.column, free.a, free.b) for free in found.free] == [
        ("lr", (0.0012,), (0.01,)), ("criterion", ("large_final",), ("movement",)),
    ]  # fmt: skip
    assert one(found).group_a == "digits-lenet_300_100-imp-s64-r1"
    assert one(found).group_b.startswith("digits-lenet_300_100-imp-s64-r1-")
    left = [(row.run, row.group, row.n_trials, row.why) for row in found.unmatched]
    assert left == [("A", f"digits-lenet_300_100-imp-s{t:g}-r0", 6, "none such in B") for t in TARGETS]


def test_a_group_with_several_partners_is_not_compared() -> None:
    a = trials()
    b = [*trials(criterion="movement"), *trials(criterion="random")[6:]]
    found = compare(a, b, ENDPOINT)
    assert [row.kind for row in found.comparisons] == ["dense"]
    assert {(row.run, row.n_trials) for row in found.unmatched} == {("A", 6), ("B", 6)}
    assert len(found.unmatched) == 6
    assert found.unmatched[0].why == "not one to one: 1 such in A, 2 in B"


def test_baselines_do_not_change_what_is_said_of_tickets() -> None:
    """imp against one-shot is one to one; a baseline omp beside imp makes neither two of it, nor Holm over more."""

    def tickets(schedule: str, **changes: Any) -> list[dict[str, Any]]:
        return trial_rows(ladder(64, schedule=schedule, rewind_epoch=0), around(0.9), **changes)

    a, b, omp = tickets("imp"), tickets("one_shot"), tickets("omp", role="baseline")
    alone, beside = compare(a, b, "test_accuracy"), compare([*a, *omp], b, "test_accuracy")
    assert beside.comparisons == alone.comparisons != ()
    assert [(row.kind, row.run, row.why) for row in beside.unmatched] == [("baselines", "A", "none such in B")]
    both = compare([*a, *omp], [*a, *omp], "test_accuracy")
    assert [row.kind for row in both.comparisons] == ["tickets", "baselines"]
    mixed = compare([*a, *omp], [*a, *tickets("omp")], "test_accuracy")
    assert [row.kind for row in mixed.comparisons] == ["tickets", "tickets"], "a ticket of B is asked for"


def test_many_groups_without_a_partner_are_counted() -> None:
    a, b = (trial_rows(ladder(*ts, schedule="omp"), around(0.9)) for ts in ((64,), (64, *range(5, 55))))
    console = Console(width=100, file=io.StringIO(), color_system=None)
    show_comparison(console, compare(a, b, "test_accuracy"), "a", "b")
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    left = [line for line in lines if "not compared" in line]
    assert len(left) == SHOWN_UNMATCHED + 1 and left[-1].endswith("more groups; --json lists them")


def test_targets_and_seeds_are_never_free() -> None:
    a = trial_rows(ladder(64, seeds=5), around(0.96))
    b = [row | {"seed": row["seed"] + 5} for row in trial_rows(ladder(87.04, seeds=5), around(0.96))]
    assert free_fields(a, b) == []
    assert compare(a, b, ENDPOINT).comparisons == ()


def test_what_forms_no_pair_is_counted_with_its_reason() -> None:
    a, b = trials(), trials(criterion="movement")
    a = changed(changed(a, 1, status="diverged", test_accuracy=None), 2, status="excluded")
    b = [row for row in changed(b, 5, status="failed", test_accuracy=None) if row["seed"] != 4]
    a = [row for row in a if (row["seed"], row["target_sparsity_pct"]) != (0, 64)]
    row = one(compare(a, b, ENDPOINT))
    assert (row.n_pairs, row.n_unpaired, row.n_unfinished, row.n_diverged) == (2, 4, 1, 1)
    assert row.unpaired == "no A trial (seed 0); A excluded (seed 2); no B trial (seed 4); B failed (seed 5)"
    assert (row.p is not None, row.p_holm, row.result) == (True, None, UNTESTED)
    assert one(compare(a, b, ENDPOINT), 87.04).n_pairs == 5


def test_a_diverged_trial_counts_at_chance_and_a_failed_one_leaves_the_groups_undecided() -> None:
    a, b = trials(), trials(0.90, criterion="movement")
    assert one(compare(a, b, ENDPOINT)).result == LOWER
    row = one(compare(a, changed(b, 1, status="diverged", test_accuracy=None), ENDPOINT))
    whole = one(compare(a, b, ENDPOINT))
    assert row.effect is not None and whole.effect is not None and row.effect < whole.effect - 10
    assert row.effect_finished == pytest.approx(whole.effect, abs=1)
    assert "1 of 6 pairs of" in diverged_text(row) and "at chance accuracy; without them −" in diverged_text(row)
    assert one(compare(a, changed(b, 1, status="failed", test_accuracy=None), ENDPOINT)).result == OPEN


def test_fewer_than_five_pairs_are_not_tested_and_count_in_the_family() -> None:
    a, b = trials(), trials(0.95, criterion="movement")
    few = [row for row in b if row["target_sparsity_pct"] != 64 or row["seed"] < 4]
    found = compare(a, few, ENDPOINT)
    assert (one(found).p_holm, one(found).result) == (None, UNTESTED) and one(found).p is not None
    assert one(found, 87.04).p_holm == pytest.approx(2 * one(found, 87.04).p)


def test_other_data_is_never_paired() -> None:
    b = [row | {"data_digest": "e" * 64} for row in trials()]
    assert one(compare(trials(), b, ENDPOINT)).unpaired == "other data (seeds 0, 1, 2, 3, 4, 5)"


def test_versions_and_equal_bytes_answer_for_two_versions_of_the_code() -> None:
    a = trials()
    b = [row | {"code_sha256": "f" * 64} for row in changed(a, 3, sha256_metrics="4" * 64)]
    found = compare(a, b, ENDPOINT)
    assert found.free == () and [version.column for version in found.versions] == ["code_sha256"]
    assert [(row.n_same_metrics, row.n_both) for row in found.comparisons] == [(5, 6), (6, 6), (6, 6)]
    assert [row.result for row in found.comparisons] == [OPEN, SAME, SAME]
    assert (one(found).effect, one(found).p) == (0, 1)


def test_trials_whose_metrics_were_not_recorded_are_never_the_same() -> None:
    rows = [row | {"sha256_metrics": None} for row in trials()]
    assert [(row.n_both, row.result) for row in compare(rows, rows, ENDPOINT).comparisons] == [(0, OPEN)] * 3


def test_the_terminal_shows_all_of_it_in_100_columns() -> None:
    b = [row | {"torch_version": "3.0"} for row in changed(trials(0.95, criterion="movement"), 2, status="failed")]
    a = [*trials(), *trial_rows(ladder(92.22), around(0.9))]
    console = Console(width=100, record=True, file=io.StringIO())
    show_comparison(console, compare(a, b, ENDPOINT), "runs/a", "runs/b")
    text = console.export_text()
    for part in (
        "A  runs/a", "spec: criterion: A large_final, B movement", "versions: torch_version: A 2.14.1, B 3.0", LOWER,
        "digits, LeNet-300-100: test accuracy, B minus A", "5 of 6", "identical bytes in 0 of the 17 trials",
        "1 seed of digits-lenet_300_100-imp-s64-r0 unpaired: B failed (seed 2)",
        "not compared: digits-lenet_300_100-imp-s92.22-r0 of A, 5 trials: none such in B",
    ):  # fmt: skip
        assert part in text
    table = text[text.index("trials  ") : text.index("Metrics")]
    assert "…" not in table and len(table.strip().splitlines()) == 4, "no cell is cut or wrapped"


def test_groups_come_ladder_by_ladder_the_least_sparse_first() -> None:
    a, b = trials()[::-1], trials(criterion="movement")
    assert [row.target_sparsity_pct for row in compare(a, b, ENDPOINT).comparisons] == [64, 87.04, None]


# -- the command -----------------------------------------------------------------------------------------------------


def gathered(folder: Path, specs: Sequence[TrialSpec], **plan: Any) -> str:
    run = make_run(folder, specs, around(0.96), **plan)
    gather(run, "none")
    return str(run)


def test_the_command_prints_text_or_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = gathered(tmp_path / "a", [*dense(), *ladder(64)])
    b = gathered(tmp_path / "b", [*dense(), *ladder(64, criterion="movement")])
    assert main(["compare", a, b]) == 0
    assert "criterion: A large_final, B movement" in capsys.readouterr().out
    assert main(["compare", a, b, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["run_a"], content["run_b"], content["endpoint"]) == (a, b, ENDPOINT)
    assert [(row["kind"], row["n_pairs"]) for row in content["comparisons"]] == [("tickets", 5), ("dense", 5)]


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = gathered(tmp_path / "a", ladder(64))
    refused = {
        a: "which is RUN_A; expected another run",
        gathered(
            tmp_path / "b", ladder(64), endpoint="valid_accuracy"
        ): "found the endpoint valid_accuracy; expected test",
        gathered(tmp_path / "c", ladder(87.04)): "digits-lenet_300_100-imp-s64-r0 of A: none such in B",
        str(make_run(tmp_path / "d", ladder(64), around(0.96))): "gather first: python -m analysis",
        str(tmp_path / "nowhere"): "expected the folder of a run",
    }
    for b, message in refused.items():
        assert main(["compare", a, b]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
