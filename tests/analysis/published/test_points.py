"""Published figures as data, and claims that are fixed in the plan before the first trial."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from analysis.published.claims import MARGIN, claims_of, read_claims
from analysis.published.points import COLUMNS, Point, point_of, points
from analysis.tables.run_plan import PUBLISHED, read_plan
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.json_files import seal_json, unseal_json
from lth_trainable.store.store import Store
from sweeps.experiments.experiment import prepare
from sweeps.experiments.imported_tickets import Files
from sweeps.experiments.recipe_files import as_yaml, read_recipe, recipe_of
from sweeps.experiments.recipes import Sweep
from sweeps.planning.plan import Facts
from sweeps.runs.ledger import Ledger
from tests.support.runs import plan_of

FILES = sorted((Path(__file__).parents[3] / "results" / "published").glob("*.csv"))
ONE = "lenet_early_stop_21"


def row(**changes: Any) -> dict[str, Any]:
    point = points()[ONE]
    return {name: getattr(point, name) for name in COLUMNS} | changes


def sweep(**margins: float) -> Sweep:
    return Sweep(name="digits", claim="Do they?", axes={"target_sparsity_pct": (64.0,)}, published=margins)


def ledger(store: Store) -> Ledger:
    plan = plan_of([TrialSpec(control="dense", epochs=1)])
    return Ledger(store=store, run="run", plan=plan, facts={("digits", 0): Facts(digest="d", n_train=1150)})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_row_of_every_file_is_a_point_of_its_paper(file: Path) -> None:
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert rows and all(row["paper"] == file.stem for row in rows)
    for row in rows:
        point = points()[row["claim"]]
        assert {name: str(getattr(point, name)) for name in ("arm", "how_read", "quantity")} == {
            name: row[name] for name in ("arm", "how_read", "quantity")
        }
        assert float(row["value"]) == point.value


def test_the_points_of_the_papers_are_there() -> None:
    found = {name: (p.arm, p.against, p.weights_left_pct, p.relation, p.value) for name, p in points().items()}
    assert found[ONE] == ("ticket", "dense", 21.1, "equals", -38)
    assert found["lenet_accuracy_13"] == ("ticket", "dense", 13.5, "more_than", 0.3)
    assert found["lenet_reinit_speed_21"] == ("reinit", "ticket", 21.1, "equals", 2.51)
    assert found["lenet_tickets_fall_below"][-1] == 2.9
    assert found["supermask_cifar10_raw"][-1] == 24
    assert found["resnet20_weight_rewinding_21"] == ("ticket", None, 21, "equals", 91.67)
    assert (points()["resnet20_dense"].spread, points()["resnet20_dense"].n) == (0.23, 246)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantity": "speed"}, "quantity: found 'speed'"),
        ({"value": "many"}, "value: found 'many'; expected a number"),
        ({"value": "nan"}, "value: found 'nan'"),
        ({"unit": "pp"}, "unit: found 'pp'; expected %"),
        ({"against": ""}, "against: found None; expected what the arm is compared with"),
        ({"at": "end"}, "at: found 'end'; expected one of None"),
        ({"spread": 0.2}, "spread_kind: found None; expected one of sd"),
        ({"weights_left_pct": 0.0}, "weights_left_pct: found 0.0"),
        ({"fields": "sparsty=3"}, "fields: found 'sparsty'"),
        ({"claim": "A b"}, "claim: found 'A b'"),
        ({"n": "0"}, "n: found '0'"),
        ({"images": "some"}, "images: found 'some'; expected one of other, same"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_mistake_in_a_row_is_named_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        point_of("file, line 2", row(**changes))
    assert str(error.value).startswith("file, line 2") and message in str(error.value)


def test_a_point_survives_the_plan() -> None:
    claims = claims_of("here", {ONE: 10, "lenet_accuracy_13": 0})
    assert read_claims("plan", [claim.as_json() for claim in claims]) == claims
    assert isinstance(claims[0].point, Point)
    for entries in ([3], [{**claims[0].as_json(), MARGIN: -1}], [{"claim": ONE}]):
        with pytest.raises(UserError):
            read_claims("plan", entries)


def test_a_bound_has_no_margin() -> None:
    for margin in (0.2, -0.2, None, True, math.nan):
        with pytest.raises(UserError, match=r"expected 0: more than 0\.3 pp is a bound"):
            claims_of("here", {"lenet_accuracy_13": margin})  # type: ignore[dict-item]
    (claim,) = claims_of("here", {"lenet_accuracy_13": 0})
    assert claim.bounds == (0, math.inf)
    (older,) = read_claims("plan", [{**claim.as_json(), MARGIN: 0.2}])
    assert older.bounds == (-0.2, math.inf), "what an older plan has fixed stays"


def test_a_recipe_names_claims_and_margins(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(as_yaml(sweep(**{ONE: 10.0})))
    assert read_recipe(file).published == {ONE: 10.0}
    for published in ({ONE: 0}, {"lenet_early": 1}, [ONE], {ONE: "far"}):
        with pytest.raises(UserError, match="published"):
            recipe_of("here", "my", {"axes": {"sparsity": [50]}, "published": published})


def test_a_claim_that_nobody_knows_is_refused_before_anything_is_planned(store: Store) -> None:
    with pytest.raises(UserError, match="did you mean lenet_early_stop_21"):
        prepare(sweep(lenet_early_stop=10), Files(tickets=(), masks=()), store, None)


def test_claims_and_margins_are_fixed_before_the_first_trial(store: Store) -> None:
    run = ledger(store)
    run.write_plan(sweep(**{ONE: 10}), ["first"])
    (claim,) = read_claims("plan", read_plan(store, "run").published)
    assert (claim.point, claim.margin) == (points()[ONE], 10)
    run.write_plan(sweep(**{ONE: 10}), ["again"])
    with pytest.raises(UserError, match=r"margin 20.0; expected 10.0, as it was fixed before the first trial"):
        run.write_plan(sweep(**{ONE: 20}), ["wider"])
    with pytest.raises(UserError, match="found the claims none; expected lenet_early_stop_21"):
        run.write_plan(sweep(), ["without"])
    store.delete("run/plan.json")
    with pytest.raises(UserError, match="margin 20"):
        run.write_plan(sweep(**{ONE: 20}), ["the plan is lost, the terms are there"])


def test_a_run_that_was_planned_without_claims_stays_without(store: Store) -> None:
    run = ledger(store)
    run.write_plan(sweep(), ["first"])
    before = store.read("run/plan.json")
    assert PUBLISHED not in unseal_json(before)
    run.write_plan(sweep(**{ONE: 10}), ["first"])
    assert store.read("run/plan.json") == before


def test_another_margin_in_the_plan_than_in_the_terms_is_refused(store: Store) -> None:
    ledger(store).write_plan(sweep(**{ONE: 10}), ["first"])
    content = unseal_json(store.read("run/plan.json"))
    for changed in ({**content, PUBLISHED: []}, {k: v for k, v in content.items() if k != PUBLISHED}):
        store.write("run/plan.json", seal_json(changed))
        with pytest.raises(UserError, match=r"found other claims or margins than in terms.json"):
            read_plan(store, "run")
