"""What pieces must have in common is refused where they do not, in one line; what may differ is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main
from analysis.merging.merge import merge
from analysis.merging.pieces import read_piece
from analysis.merging.settings import OF_TICKETS, SETTING
from analysis.published.claims import claims_of
from analysis.tables.schema import SPEC_FIELDS
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store, to_json
from tests.support.records import dense, drops, ladder, make_run, plan, record, seal

ACCURACY = drops({None: 0.96, 64: 0.955, 87.04: 0.95})
TUNING = {
    "arms": {"dense": {"lr": 0.001}, "ticket": {"lr": 0.002}},
    "sentence": "tuned",
    "run": "t",
    "seeds": [1000000],
}


def specs(seeds: range, **fields: Any) -> list[TrialSpec]:
    trials = [*dense(seeds.stop), *ladder(64, seeds=seeds.stop)]
    return [replace(spec, **fields) for spec in trials if spec.seed in seeds]


def piece(folder: Path, seeds: range, fields: dict[str, Any] | None = None, **changes: Any) -> str:
    """A run of synthetic records; `fields`: of its specs, `changes`: of its plan."""
    return str(make_run(folder, specs(seeds, **(fields or {})), ACCURACY, **changes))


def with_records(folder: Path, seeds: range, **changes: Any) -> str:
    """A run whose records have other entries."""
    trials = specs(seeds)
    Store(folder).write("run/plan.json", to_json(plan(trials)))
    for spec in trials:
        seal(folder, spec, record(spec, ACCURACY(spec), changes))
    return str(folder / "run")


def data(digest: str) -> dict[str, Any]:
    """Plan entries with this digest of the data."""
    trials = [
        {"name": s.name, "key": s.key(digest), "spec": s.canonical(), "data": {"digest": digest, "n_train": 1150}}
        for s in specs(range(2, 4))
    ]  # fmt: skip
    return {"trials": trials}


def claims(margin: float) -> dict[str, Any]:
    return {"published": [claim.as_json() for claim in claims_of("here", {"lenet_early_stop_21": margin})]}


def refused(tmp_path: Path, *paths: str) -> str:
    with pytest.raises(UserError) as error:
        merge(paths, str(tmp_path / "merged" / "run"))
    assert not (tmp_path / "merged").exists(), "nothing is written"
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin_pp": 2.0}, "margin_pp: found 2.0; expected 1.0, as in"),
        ({"alpha": 0.01}, "alpha: found 0.01; expected 0.05"),
        ({"endpoint": "valid_accuracy"}, "endpoint: found 'valid_accuracy'; expected 'test_accuracy'"),
        ({"recipe": "another"}, "recipe: found 'another'; expected 'synthetic'"),
        ({"looks": [5, 8]}, "looks: found interim looks at 5, 8 seeds; expected none"),
        ({"tuning": TUNING}, "tuned learning rates: found dense 0.001, ticket 0.002; expected none"),
        ({"adopted": True}, "plan: found a run that was adopted; expected a run that a sweep has planned"),
        (claims(10), "published: found the claims lenet_early_stop_21; expected none"),
        (data("e" * 64), "data of digits: found the digest eeeeeeeeeeee; expected dddddddddddd"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_plan_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    first = piece(tmp_path / "a", range(2))
    text = refused(tmp_path, first, piece(tmp_path / "b", range(2, 4), **changes))
    assert message in text and str(tmp_path / "b") in text and "\n" not in text


def test_another_margin_of_a_claim_is_refused(tmp_path: Path) -> None:
    paths = [piece(tmp_path / str(n), range(n, n + 1), **claims(10.0 + n)) for n in range(2)]
    assert "lenet_early_stop_21: found margin 11.0; expected 10.0" in refused(tmp_path, *paths)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0.01}, "lr of its tickets: found 0.01; expected 0.0012"),
        ({"epochs": 10}, "epochs of its tickets: found 10; expected 20"),
        ({"batch_size": 30}, "batch_size of its tickets"),
        ({"precision": "bf16"}, "precision of its tickets: found 'bf16'; expected 'fp32'"),
        ({"validate_every": 5}, "validate_every of its tickets: found 5; expected None"),
        ({"split_seed": 1}, "split_seed: found 1; expected 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_setting_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    first = piece(tmp_path / "a", range(2))
    assert message in refused(tmp_path, first, piece(tmp_path / "b", range(2, 4), fields))


def test_every_field_of_a_trial_is_one_of_tickets_or_of_the_setting() -> None:
    assert {*OF_TICKETS} | {*SETTING} == {*SPEC_FIELDS} and not {*OF_TICKETS} & {*SETTING}
    assert {"lr", "epochs", "dataset", "model", "precision", "batch_size"} <= {*SETTING}


def test_other_tickets_are_no_other_setting(tmp_path: Path) -> None:
    run = make_run(tmp_path / "b", [*dense(2), *ladder(87.04, seeds=2)], ACCURACY)
    done = merge([piece(tmp_path / "a", range(2)), str(run)], str(tmp_path / "merged" / "run"))
    assert (done.n_trials, done.notes) == (6, ())


def test_seeds_with_splits_of_their_own_are_merged_if_all_have_them(tmp_path: Path) -> None:
    def own(folder: Path, seeds: range) -> str:
        trials = [replace(spec, split_seed=spec.seed) for spec in specs(seeds)]
        return str(make_run(folder, trials, ACCURACY))

    paths = [own(tmp_path / "a", range(2)), own(tmp_path / "b", range(2, 4))]
    done = merge(paths, str(tmp_path / "fine" / "run"))
    assert done.notes == ("each seed has a split of the data of its own, in all of them",)
    text = refused(tmp_path, paths[1], piece(tmp_path / "c", range(2)))
    assert "split_seed: found 0; expected 2, 3" in text and "each seed its own split in all of them" in text


def test_another_version_of_the_code_is_refused_and_another_machine_is_told(tmp_path: Path) -> None:
    first = with_records(tmp_path / "a", range(2))
    print_ = record(specs(range(1))[0], 0.9)["fingerprint"]
    newer = with_records(tmp_path / "b", range(2, 4), fingerprint={**print_, "code": "0.5.0"})
    text = refused(tmp_path, first, newer)
    assert "code version of its trials: found '0.5.0'; expected '0.1.0'" in text
    other = with_records(tmp_path / "c", range(2, 4), fingerprint={**print_, "device": "cuda: H200"})
    done = merge([first, other], str(tmp_path / "merged" / "run"))
    assert done.notes == ("trained with different device: cpu: test; cuda: H200",)


def test_a_seed_with_trials_of_two_machines_is_told(tmp_path: Path) -> None:
    first = with_records(tmp_path / "a", range(2))
    tickets = ladder(87.04, seeds=2)
    Store(tmp_path / "b").write("run/plan.json", to_json(plan(tickets)))
    for spec in tickets:
        made = record(spec, ACCURACY(spec))
        seal(tmp_path / "b", spec, {**made, "fingerprint": {**made["fingerprint"], "device": "cuda: H200"}})
    done = merge([first, str(tmp_path / "b" / "run")], str(tmp_path / "merged" / "run"))
    assert any("in 2 seeds trials were trained under different fingerprints" in note for note in done.notes)


def test_what_else_differs_is_told(tmp_path: Path) -> None:
    first = piece(tmp_path / "a", range(2))
    other = piece(tmp_path / "b", range(2, 4), claim="Do they, really?", versions={"torch": "2.15"})
    (tmp_path / "b" / "run" / "analysis").mkdir()
    (tmp_path / "b" / "run" / "analysis" / "barriers.parquet").write_bytes(b"")
    notes = merge([first, other], str(tmp_path / "merged" / "run")).notes
    assert f"the question (claim) differs; that of {first} is kept" in notes
    assert any(note.startswith("planned with different versions: ") and "torch 2.15" in note for note in notes)
    assert f"not merged: barriers of {other}; measure them again in the merged run" in notes


def test_a_plug_in_that_only_some_pieces_have_like_this_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_net.py").write_text("def small(shape, n_classes):\n    raise NotImplementedError\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(folder: Path, seeds: range, key: str | None) -> str:
        trials = specs(seeds, model="my_net:small")
        entries = [
            {
                "name": s.name, "key": key or s.key("d" * 64), "spec": s.canonical(),
                "data": {"digest": "d" * 64, "n_train": 1150},
            }
            for s in trials
        ]  # fmt: skip
        Store(folder).write("run/plan.json", to_json(plan(trials, trials=entries)))
        return str(folder / "run")

    same, old = run(tmp_path / "a", range(2), None), run(tmp_path / "b", range(2, 4), "0" * 64)
    assert "plug-in: found another version; expected the one that is here" in refused(tmp_path, same, old)
    both_old = [old, run(tmp_path / "c", range(2), "1" * 64)]
    assert any(
        "plug-ins of the pieces are not here, or changed" in n for n in merge(both_old, str(tmp_path / "m/run")).notes
    )


# -- what is no run to be merged, or no place for one ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("study.db", b"", "it is a search"),
        ("analysis/suggestions.parquet", b"", "it is a search"),
        ("machine.json", b"{}", "it is kept results, whose records are in their archive: unpack it"),
    ],
    ids=["search", "gathered-search", "kept"],
)
def test_what_has_no_records_of_its_own_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    paths = [piece(tmp_path / "a", range(2)), piece(tmp_path / "b", range(2, 4))]
    Store(tmp_path / "b").write(f"run/{name}", content)
    assert message in refused(tmp_path, *paths)


def test_a_place_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, into = [piece(tmp_path / "a", range(2)), piece(tmp_path / "b", range(2, 4))], str(tmp_path / "c" / "run")

    def denied(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("analysis.merging.merge.write_content", denied)
    assert main(["merge", *paths, "--into", into]) == 2
    text = capsys.readouterr().err
    assert f"--into {into}: cannot be written" in text and "Permission denied" in text and text.count("\n") == 1


def test_the_merged_run_has_a_place_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = piece(tmp_path / "a", range(2)), piece(tmp_path / "b", range(2, 4))
    planned = piece(tmp_path / "c", range(5, 7))
    (tmp_path / "d" / "run" / "trials" / "x").mkdir(parents=True)
    wrong = {
        first: "another run than the pieces", planned: "a sweep has planned it; choose another",
        str(tmp_path / "a" / "states"): "the folder of a run", f"{tmp_path}/a/.hidden": "the folder of a run",
        str(tmp_path / "d" / "run"): "it has trials, but no plan.json",
    }  # fmt: skip
    for into, message in wrong.items():
        assert main(["merge", first, other, "--into", into]) == 2
        text = capsys.readouterr().err
        assert message in text and text.count("\n") == 1, into
    for paths in ([first], [first, f"{first}/"], [first, str(tmp_path / "nowhere")]):
        assert main(["merge", *paths, "--into", str(tmp_path / "e" / "run")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "trials",
    [
        [{"name": "x", "spec": {"seed": "a", "split_seed": 0, "control": "none"}}],
        [{"name": "x", "spec": {"control": "none"}}],
    ],
    ids=["text", "none"],
)
def test_a_plan_of_a_hostile_author_is_one_line(tmp_path: Path, trials: list[Any]) -> None:
    first = piece(tmp_path / "a", range(2))
    Store(tmp_path / "b").write("run/plan.json", to_json(plan([], trials=trials)))
    assert "seed" in refused(tmp_path, first, str(tmp_path / "b" / "run"))


@pytest.mark.parametrize(
    "more",
    [{"tuning": 3}, {"tuning": {"arms": {"d": 1}}}, {"merged": [3]}, {"merged": 1}, {"published": [{"claim": 1}]}],
    ids=["tuning", "arms", "merged", "number", "claim"],
)  # fmt: skip
def test_odd_entries_of_a_plan_are_one_line(tmp_path: Path, more: dict[str, Any]) -> None:
    first, odd = piece(tmp_path / "a", range(2)), piece(tmp_path / "b", range(2, 4), **more)
    assert "\n" not in refused(tmp_path, first, odd)


def test_records_are_compared_without_their_clocks(tmp_path: Path) -> None:
    path = piece(tmp_path / "a", range(1))
    (had, _) = read_piece(path).trials.values()
    assert had.content is not None and "train_seconds" not in had.content and "epochs" not in had.content
    assert {"sha256", "result", "right", "key", "spec"} <= had.content.keys()
